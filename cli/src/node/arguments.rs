//! The command line of `spockctl node`.

use std::io;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::create::Options;
use super::error::{Error, Result};
use super::journal::{Journal, Step};
use super::{cancel, create, status};
use crate::screen::Screen;

#[derive(Subcommand)]
pub enum NodeCommand {
    /// Makes a node from a base backup of a living one, also in the place of a lost one; the same command again goes on
    Create(Box<Create>),
    /// Shows how far the making of a node has come, from its journal alone
    Status(At),
    /// Takes back a node that is not open yet
    Cancel(Cancel),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Table,
    /// One document on stdout; progress goes to stderr
    Json,
}

#[derive(Args)]
pub struct Create {
    /// A living node, which is copied: a connection string of a superuser
    #[arg(long, value_name = "DSN")]
    from: String,
    /// The data directory of the new node: absent or empty
    #[arg(long, value_name = "FOLDER")]
    pgdata: PathBuf,
    /// The name of the new node
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The lost node whose place it takes, recovered on all others; what the others have of it is removed
    #[arg(long, value_name = "NAME")]
    replaces: Option<String>,
    /// How the other nodes reach the new one; without it as the replaced one, or as the living one with the port of --port
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// The port of the new server; without it that of --dsn
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The folder of its socket; without it that of the living one
    #[arg(long, value_name = "FOLDER")]
    socket: Option<PathBuf>,
    /// The addresses on which it listens; without it those of the living one
    #[arg(long, value_name = "ADDRESSES")]
    listen: Option<String>,
    /// The folder of the server's programs; without it that of the living one
    #[arg(long, value_name = "FOLDER")]
    bin_folder: Option<PathBuf>,
    /// Its configuration, where that lies outside the data directory
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Where the open server logs until something else starts it; without it beside its data directory
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Where the copy of a tablespace is to be; once for each
    #[arg(long, value_name = "FROM=TO")]
    tablespace: Vec<String>,
    /// A further setting of the new server; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// How subscriptions are named, where the mesh's own do not show it: with {target} and {source}
    #[arg(long, value_name = "PATTERN")]
    subscription_names: Option<String>,
    /// How slots are named
    #[arg(long, value_name = "PATTERN")]
    slot_names: Option<String>,
    /// Looks at everything, and changes nothing
    #[arg(long)]
    check: bool,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Args)]
pub struct At {
    /// The data directory of the new node
    #[arg(long, value_name = "FOLDER")]
    pgdata: PathBuf,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Args)]
pub struct Cancel {
    #[command(flatten)]
    at: At,
    /// A living node; without it the one that was given to create, without its password
    #[arg(long, value_name = "DSN")]
    from: Option<String>,
}

impl Create {
    fn options(self) -> Result<Options> {
        let tablespaces = pairs("--tablespace", "FROM=TO", &self.tablespace)?;
        Ok(Options {
            from: self.from,
            pgdata: self.pgdata,
            name: self.name,
            replaces: self.replaces,
            dsn: self.dsn,
            port: self.port,
            socket: self.socket,
            listen: self.listen,
            bin_folder: self.bin_folder,
            config_file: self.config_file,
            log: self.log,
            tablespaces: tablespaces.into_iter().map(|(from, to)| (from, to.into())).collect(),
            settings: pairs("--set", "NAME=VALUE", &self.set)?,
            subscription_names: self.subscription_names,
            slot_names: self.slot_names,
            end_after: end_after(),
        })
    }
}

fn pairs(option: &'static str, form: &'static str, texts: &[String]) -> Result<Vec<(String, String)>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').ok_or_else(|| Error::Pair { option, text: text.clone(), form })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

/// Of builds for tests alone: `SPOCKCTL_END_AFTER=fetched`.
fn end_after() -> Option<Step> {
    let text = cfg!(debug_assertions).then(|| std::env::var("SPOCKCTL_END_AFTER").ok()).flatten()?;
    serde_json::from_value(text.into()).ok()
}

pub fn run(command: NodeCommand, screen: &Screen) -> Result<()> {
    let format = match &command {
        NodeCommand::Create(create) => create.format,
        NodeCommand::Status(at) => at.format,
        NodeCommand::Cancel(cancel) => cancel.at.format,
    };
    let progress = if format == Format::Json { &Screen::plain(io::stderr()) } else { screen };
    let journal = match command {
        NodeCommand::Create(given) if given.check => create::check(&given.options()?, progress)?,
        NodeCommand::Create(given) => create::run(&given.options()?, progress)?,
        NodeCommand::Status(at) => status::run(&at.pgdata, progress)?,
        NodeCommand::Cancel(given) => cancel::run(&given.at.pgdata, given.from.as_deref(), None, progress)?,
    };
    if format == Format::Json {
        screen.line(document(&journal));
    }
    Ok(())
}

/// What scripts rely on: names and types stay.
pub fn document(journal: &Journal) -> String {
    json!({
        "node": journal.name,
        "replaces": journal.replaces,
        "source": journal.source,
        "pgdata": journal.pgdata,
        "step": journal.step,
        "system_identifier": journal.system_identifier.to_string(),
        "end": journal.end,
        "vector": journal.vector,
        "bytes": journal.bytes,
        "seconds": journal.seconds,
    })
    .to_string()
}
