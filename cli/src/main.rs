//! The command line of spockctl.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use spock_recovery_cluster::{ServerUser, interrupt};
use spockctl::backup::arguments::{self as backup, BackupCommand};
use spockctl::demo::{self, Scenario};
use spockctl::error::{Error, Result};
use spockctl::node::arguments::{self as node, NodeCommand};
use spockctl::record::Kept;
use spockctl::restore::arguments::{self as restore, RestoreCommand};
use spockctl::{Screen, cluster, status};

#[derive(Parser)]
#[command(name = "spockctl", version, about = "Starts and wires PostgreSQL servers, and shows spock_recovery at work")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts servers that replicate, kills n1 when n2 lacks some of its rows, recovers n2, and verifies the result
    Demo(DemoArguments),
    /// Servers that stay: a mesh of nodes to try things with
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Backups of every node, from which all of them can be restored to one moment
    #[command(subcommand)]
    Backup(BackupCommand),
    /// All nodes back to one moment
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// One more node, or another one in the place of a lost one
    #[command(subcommand)]
    Node(NodeCommand),
}

#[derive(Args)]
struct ServerArguments {
    /// The server to use; without it SPOCK_RECOVERY_PG_CONFIG, else the newest that has the extension
    #[arg(long, value_name = "PATH")]
    pg_config: Option<PathBuf>,
    /// The port of n1; n2 and the others take those after it. Their sockets are in the cluster's own folder: no two clusters meet
    #[arg(long, default_value_t = 5451, value_name = "PORT")]
    port: u16,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,
}

#[derive(Args)]
struct DemoArguments {
    #[command(flatten)]
    server: ServerArguments,
    /// All subscriptions are enabled when n1 dies (this is the default)
    #[arg(long, conflicts_with = "crash2")]
    crash: bool,
    /// Every subscription but that of n3 to n2 is suspended once n1 is dead
    #[arg(long)]
    crash2: bool,
    /// Another scene: a table is dropped by mistake under load, and all nodes come back to a restore point before that
    #[arg(long, conflicts_with_all = ["crash", "crash2"])]
    restore: bool,
    /// Another scene: what n2 lacks is in no WAL when n1 dies; n2 is rebuilt under load, and a new n1 takes the old one's place
    #[arg(long, conflicts_with_all = ["crash", "crash2", "restore"])]
    rebuild: bool,
    /// Transactions, of one row each, that n2 lacks when n1 dies
    #[arg(long, default_value_t = 70, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Leaves the servers running and says how to connect and how to stop them
    #[arg(long)]
    keep: bool,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Starts a mesh, or the stopped nodes of those that are there
    Up(ServerArguments),
    /// Shows how far each node has applied the others
    Status,
    /// Stops and removes one
    Down {
        /// Its folder, as status shows it; may be left out where there is one alone
        folder: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let ended = interrupt::watch().map_err(Into::into).and_then(|()| run(command));
    let usage = ended.as_ref().is_err_and(Error::is_usage);
    let status = interrupt::conclude(ended);
    // As clap ends for what it refuses itself.
    if usage { ExitCode::from(2) } else { status }
}

fn run(command: Command) -> Result<()> {
    let screen = Screen::stdout();
    match command {
        Command::Demo(arguments) if arguments.restore || arguments.rebuild => {
            let options = demo::scene::Options {
                pg_config: arguments.server.pg_config,
                first_port: arguments.server.port,
                nodes: usize::from(arguments.server.nodes),
                keep: arguments.keep,
            };
            let scene = if arguments.restore { demo::restore::run } else { demo::rebuild::run };
            scene(&options, &screen)
        }
        Command::Demo(arguments) => demo::run(
            &demo::Options {
                pg_config: arguments.server.pg_config,
                first_port: arguments.server.port,
                nodes: usize::from(arguments.server.nodes),
                rows: arguments.rows,
                scenario: if arguments.crash2 { Scenario::Crash2 } else { Scenario::Crash },
                keep: arguments.keep,
            },
            &screen,
        ),
        Command::Cluster(ClusterCommand::Up(arguments)) => up(arguments, &screen),
        Command::Cluster(ClusterCommand::Status) => {
            let there = Kept::all()?;
            there.iter().for_each(|kept| status::show(&screen, kept));
            if there.is_empty() {
                screen.line("there is no cluster; spockctl cluster up starts one");
            }
            Ok(())
        }
        Command::Cluster(ClusterCommand::Down { folder }) => down(folder.as_deref(), &screen),
        Command::Backup(command) => Ok(backup::run(command, &screen)?),
        Command::Restore(command) => Ok(restore::run(command, &screen)?),
        Command::Node(command) => Ok(node::run(command, &screen)?),
    }
}

fn up(arguments: ServerArguments, screen: &Screen) -> Result<()> {
    let there = Kept::all()?;
    if !there.is_empty() {
        let user = ServerUser::find()?;
        for kept in there {
            let started = kept.start_stopped(&user)?;
            let what =
                if started.is_empty() { "all its nodes run".into() } else { format!("started {}", started.join(", ")) };
            screen.line(format!("the cluster in {} is there: {what}", kept.folder.display()));
        }
        return Ok(());
    }
    let cluster = cluster::start(
        &cluster::Options {
            pg_config: arguments.pg_config,
            first_port: arguments.port,
            nodes: usize::from(arguments.nodes),
            stays: true,
        },
        screen,
    )?;
    for node in cluster.servers() {
        node.query(cluster::DATABASE, demo::TABLE)?;
    }
    cluster.publish()?;
    cluster.subscribe(&cluster.pairs())?;
    screen.line("  each is subscribed to all others, with origin = none; table crash_test is replicated");
    cluster::keep(cluster, screen)
}

fn down(folder: Option<&Path>, screen: &Screen) -> Result<()> {
    let Some(kept) = Kept::chosen(Kept::all()?, folder)? else {
        screen.line("there is no cluster");
        return Ok(());
    };
    let step = screen.spinner("stopping servers");
    kept.remove()?;
    drop(step);
    screen.line(format!("removed the cluster in {}", kept.folder.display()));
    Ok(())
}
