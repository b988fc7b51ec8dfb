//! The command line of spockctl.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use spockctl::demo;

#[derive(Parser)]
#[command(name = "spockctl", version, about = "Starts and wires PostgreSQL servers, and shows spock_recovery at work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts three servers that replicate to each other and shows that a row written on any of them arrives on all
    Demo(DemoArguments),
}

#[derive(Args)]
struct DemoArguments {
    /// The server to use; without it SPOCK_RECOVERY_PG_CONFIG, else PostgreSQL 17 from the cache
    #[arg(long, value_name = "PATH")]
    pg_config: Option<PathBuf>,
    /// The port of the first server; the others take the ports after it
    #[arg(long, default_value_t = 5451)]
    port: u16,
    /// Leaves the servers running and says how to connect and how to stop them
    #[arg(long)]
    keep: bool,
    /// Native replication alone, without the extension
    #[arg(long, hide = true)]
    plain: bool,
}

fn main() -> ExitCode {
    let Command::Demo(arguments) = Cli::parse().command;
    let options = demo::Options {
        pg_config: arguments.pg_config,
        port: arguments.port,
        keep: arguments.keep,
        with_extension: !arguments.plain,
    };
    match demo::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spockctl: {error}");
            ExitCode::FAILURE
        }
    }
}
