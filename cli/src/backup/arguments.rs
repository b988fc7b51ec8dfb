//! The command line of `spockctl backup`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::base::Kind;
use super::command::Templates;
use super::error::Result;
use super::repository::DriverName;
use super::{check, expire, list, setup, take};
use crate::screen::Screen;

#[derive(Subcommand)]
pub enum BackupCommand {
    /// Makes the repository, and has every node of this machine archive into it; says which servers must be restarted
    Setup(Box<Setup>),
    /// Takes and verifies a base backup of every node of this machine, incremental where that is possible
    Take(Take),
    /// Shows the complete backups, and what each can restore to
    List(List),
    /// Verifies backups and archive: a line for each finding, and exit status 1
    Check(Check),
    /// Removes what is older than the newest backups, and that nothing which is kept needs
    Expire(Expire),
}

#[derive(Args)]
pub struct Where {
    /// The folder of the repository
    #[arg(long, value_name = "FOLDER")]
    repo: PathBuf,
    /// This node alone
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

#[derive(Args)]
pub struct Setup {
    #[command(flatten)]
    place: Where,
    /// Any node, as a superuser; the others are found from it
    #[arg(long, value_name = "DSN")]
    dsn: String,
    /// Which program takes the backups; dir, core's own, where no other is named
    #[arg(long, value_enum)]
    driver: Option<Driver>,
    /// Archive by a shell command even where the module basic_archive is installed
    #[arg(long)]
    archive_by_command: bool,
    /// archive_timeout of the servers, for instance 30s; without it one that is set stays, and 0 becomes 60s
    #[arg(long, value_name = "TIME")]
    archive_timeout: Option<String>,
    #[command(flatten)]
    commands: Commands,
}

/// The driver command: docs/backup.md has what each must do, and an example
#[derive(Args)]
#[group(id = "commands", multiple = true)]
pub struct Commands {
    /// archive_command, of {path} and {file}
    #[arg(long, value_name = "COMMAND", requires_all = ["take_command", "list_command", "list_wal_command", "fetch_base_command", "fetch_wal_command"])]
    archive_command: Option<String>,
    /// Takes a backup of {node}; {kind} is full or incremental
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    take_command: Option<String>,
    /// Prints the backups as JSON
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    list_command: Option<String>,
    /// Prints the names of the archived files
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    list_wal_command: Option<String>,
    /// Writes backup {label} into the folder {target}
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    fetch_base_command: Option<String>,
    /// Writes the archived {file} to {target}
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    fetch_wal_command: Option<String>,
    /// Fails if backup {label} is damaged
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    verify_command: Option<String>,
    /// Removes backup {label} and what only it needs
    #[arg(long, value_name = "COMMAND", requires = "archive_command")]
    remove_command: Option<String>,
}

impl Commands {
    /// None without any: clap wants all or none of those that must be there.
    fn templates(self) -> Option<Templates> {
        Some(Templates {
            archive: self.archive_command?,
            take: self.take_command?,
            list: self.list_command?,
            list_wal: self.list_wal_command?,
            fetch_base: self.fetch_base_command?,
            fetch_wal: self.fetch_wal_command?,
            verify: self.verify_command,
            remove: self.remove_command,
        })
    }
}

#[derive(Args)]
pub struct Take {
    #[command(flatten)]
    place: Where,
    /// Any node, as a superuser; without it those that the repository knows are tried
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
    /// A full backup
    #[arg(long, conflicts_with = "incremental")]
    full: bool,
    /// An incremental backup, or an error that says why there can be none
    #[arg(long)]
    incremental: bool,
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    place: Where,
    /// A table for people, or JSON whose names are stable
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Args)]
pub struct Check {
    #[command(flatten)]
    place: Where,
    /// Any node, as a superuser; without it those that the repository knows are tried
    #[arg(long, value_name = "DSN")]
    dsn: Option<String>,
}

#[derive(Args)]
pub struct Expire {
    #[command(flatten)]
    place: Where,
    /// How many backups of each node are kept; what an incremental one refers to is kept besides
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    keep: u16,
    /// Says what would be removed, and removes nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Driver {
    Dir,
    Barman,
    Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub fn run(command: BackupCommand, screen: &Screen) -> Result<()> {
    match command {
        BackupCommand::Setup(arguments) => {
            let driver = arguments.driver.map(|driver| match driver {
                Driver::Dir => DriverName::Dir,
                Driver::Barman => DriverName::Barman,
                Driver::Command => DriverName::Command,
            });
            let options = setup::Options {
                dsn: arguments.dsn,
                repository: arguments.place.repo,
                driver,
                node: arguments.place.node,
                by_command: arguments.archive_by_command,
                archive_timeout: arguments.archive_timeout,
                command: arguments.commands.templates(),
            };
            setup::run(&options, screen)
        }
        BackupCommand::Take(arguments) => {
            let kind = match (arguments.full, arguments.incremental) {
                (true, _) => Some(Kind::Full),
                (_, true) => Some(Kind::Incremental),
                _ => None,
            };
            let Where { repo, node } = arguments.place;
            take::run(&take::Options { repository: repo, dsn: arguments.dsn, node, kind }, screen)
        }
        BackupCommand::List(arguments) => {
            let format = match arguments.format {
                Format::Table => list::Format::Table,
                Format::Json => list::Format::Json,
            };
            let Where { repo, node } = arguments.place;
            list::run(&list::Options { repository: repo, node, format }, screen)
        }
        BackupCommand::Check(arguments) => {
            let Where { repo, node } = arguments.place;
            check::run(&check::Options { repository: repo, dsn: arguments.dsn, node }, screen)
        }
        BackupCommand::Expire(arguments) => {
            let Where { repo, node } = arguments.place;
            let (keep, dry_run) = (usize::from(arguments.keep), arguments.dry_run);
            expire::run(&expire::Options { repository: repo, node, keep, dry_run }, screen)
        }
    }
}
