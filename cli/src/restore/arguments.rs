//! The command line of `spockctl restore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::check::Options;
use super::error::Result;
use super::instant::Instant;
use super::journal::Step;
use super::target::Moment;
use super::{Error, cancel, check, finish, start, status};
use crate::screen::Screen;

#[derive(Subcommand)]
pub enum RestoreCommand {
    /// Says whether a restore would work, from which backups and WAL, and how long it would take; changes nothing
    Check(Begin),
    /// Stops every node of this machine, and brings it to that moment: paused, to be looked at
    Start(Begin),
    /// Shows how far each node has come, from its journal alone
    Status(Show),
    /// Promotes the restored nodes, has every subscription go on where it stood, and verifies them
    Finish(Go),
    /// Puts the old data directories back, as long as no node was promoted
    Cancel(Go),
}

#[derive(Args)]
pub struct Begin {
    /// The repository of the backups
    #[arg(long, value_name = "FOLDER")]
    repo: PathBuf,
    /// This node alone, on its own host
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// To a restore point
    #[arg(long, value_name = "NAME", group = "moment")]
    point: Option<String>,
    /// To an instant, for instance "2026-11-26 23:30:00+01:00"
    #[arg(long, value_name = "TIME", group = "moment")]
    time: Option<String>,
    /// To the last moment of which everything is there
    #[arg(long, group = "moment")]
    latest: bool,
    /// Beside the living nodes, which go on: folders of the nodes' names in this one, for looking only
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

#[derive(Args)]
pub struct Go {
    /// The repository of the backups
    #[arg(long, value_name = "FOLDER")]
    repo: PathBuf,
    /// This node alone, on its own host
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The folder that was given to start
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

#[derive(Args)]
pub struct Show {
    /// The repository of the backups
    #[arg(long, value_name = "FOLDER", required_unless_present = "pgdata")]
    repo: Option<PathBuf>,
    /// The data directory of one node, where there is no repository
    #[arg(long, value_name = "FOLDER", conflicts_with = "repo")]
    pgdata: Vec<PathBuf>,
    /// The folder that was given to start
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
}

impl Begin {
    fn options(self) -> Result<Options> {
        let moment = match (self.point, self.time) {
            (Some(name), _) => Some(Moment::Point(name)),
            (None, Some(time)) => {
                Instant::parse(&time).ok_or_else(|| Error::Time(time.clone()))?;
                Some(Moment::Time(time))
            }
            (None, None) => self.latest.then_some(Moment::Latest),
        };
        Ok(Options { repository: self.repo, node: self.node, moment, into: self.into, end_after: end_after() })
    }
}

impl Go {
    fn options(self) -> Options {
        Options { repository: self.repo, node: self.node, moment: None, into: self.into, end_after: end_after() }
    }
}

/// Of builds for tests alone: `SPOCKCTL_END_AFTER=n2:renamed`.
fn end_after() -> Option<(String, Step)> {
    let text = cfg!(debug_assertions).then(|| std::env::var("SPOCKCTL_END_AFTER").ok()).flatten()?;
    let (node, step) = text.split_once(':')?;
    Some((node.to_owned(), serde_json::from_value(step.into()).ok()?))
}

pub fn run(command: RestoreCommand, screen: &Screen) -> Result<()> {
    match command {
        RestoreCommand::Check(begin) => check::run(&begin.options()?, screen),
        RestoreCommand::Start(begin) => start::run(&begin.options()?, screen),
        RestoreCommand::Status(show) => {
            status::run(&status::Options { repository: show.repo, pgdata: show.pgdata, into: show.into }, screen)
        }
        RestoreCommand::Finish(go) => finish::run(&go.options(), screen),
        RestoreCommand::Cancel(go) => cancel::run(&go.options(), screen),
    }
}
