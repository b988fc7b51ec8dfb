//! How far the restore of one node has come, in a file beside its data directory.
//!
//! A step is entered when it is done and lasting: whoever finds the file does the next one, which may have been begun already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spock_recovery_cluster::ServerUser;

use super::error::{Error, Result};
use super::paths::Paths;
use super::target::{Moment, Target};
use crate::backup::repository::{self, Repository};
use crate::lsn::Lsn;

/// The layout of the file; a greater number is refused.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Nothing was touched.
    Planned,
    Stopped,
    /// The data directory has its new name.
    Renamed,
    Fetched,
    Configured,
    /// At the target, readable, closed to everybody but its owner.
    Paused,
    /// The recovery slot's files are out of the database.
    SlotSaved,
    /// Files and WAL of the slot are in the data directory.
    Installed,
    /// Paused at the target again, with the slot.
    Ready,
    /// From here on there is no way back.
    Promoting,
    Promoted,
    /// Every subscription has its slot.
    Wired,
    /// The settings are those of before.
    Settled,
    Open,
    Done,
    Cancelling,
    Cancelled,
}

impl Step {
    pub fn words(self) -> &'static str {
        match self {
            Step::Planned => "planned, nothing touched",
            Step::Stopped => "stopped",
            Step::Renamed => "its data directory renamed",
            Step::Fetched => "its base backup fetched",
            Step::Configured => "its base backup configured",
            Step::Paused => "paused at its target",
            Step::SlotSaved => "its recovery slot read",
            Step::Installed => "its recovery slot installed",
            Step::Ready => "ready to be promoted",
            Step::Promoting => "being promoted",
            Step::Promoted => "promoted",
            Step::Wired => "promoted, with slots for its subscribers",
            Step::Settled => "its settings as before",
            Step::Open => "open",
            Step::Done => "done",
            Step::Cancelling => "being put back",
            Step::Cancelled => "put back",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Step::Done | Step::Cancelled)
    }

    /// The commands that bring a node from here on.
    pub fn next_command(self) -> &'static str {
        match self {
            Step::Done | Step::Cancelled => "-",
            Step::Cancelling => "cancel",
            step if step < Step::Paused => "start (or cancel)",
            step if step < Step::Promoting => "finish (or cancel)",
            _ => "finish",
        }
    }
}

/// A subscription as the restored node has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    pub name: String,
    /// Of the replication origin.
    pub origin: String,
    /// The node it receives from; None: not known.
    pub provider: Option<String>,
    pub slot: Option<String>,
    pub enabled: bool,
    pub two_phase: bool,
    pub failover: bool,
    /// Only what the provider's own users write (origin = none).
    pub own_only: bool,
    /// How far the provider's transactions were applied; 0/0: none yet.
    pub applied: Lsn,
}

/// The recovery slot as it is saved in the restored node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSlot {
    pub name: String,
    pub restart: Lsn,
    pub confirmed: Lsn,
    pub snap: Option<String>,
}

/// What the paused node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub subscriptions: Vec<Subscription>,
    pub slot: Option<SavedSlot>,
    /// Names of prepared transactions.
    pub prepared: Vec<String>,
    /// The failed nodes of its unfinished recoveries; empty of a rebuild.
    #[serde(default)]
    pub intents: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    pub version: u32,
    pub node: String,
    pub moment: Moment,
    pub step: Step,
    /// Where the restored node is.
    pub pgdata: PathBuf,
    /// The data directory as it was, under the name that it gets; None: it was lost, or the restore is beside the living node.
    pub before: Option<PathBuf>,
    /// Beside the living node, for looking only.
    pub beside: bool,
    pub was_running: bool,
    /// What the postmaster was started with, beside -D.
    pub options: Vec<String>,
    /// Where its stderr went.
    pub log: Option<PathBuf>,
    pub superuser: String,
    pub database: String,
    pub port: u16,
    pub bin_folder: PathBuf,
    /// None until the cut is computed.
    pub target: Option<Target>,
    /// Whether it is proved that nothing was in flight.
    pub drained: bool,
    /// Where every node of the restore stops.
    pub cut: BTreeMap<String, Lsn>,
    pub seen: Option<Seen>,
    /// What is preloaded once the node may be promoted: all but our own library.
    #[serde(default)]
    pub libraries: String,
    /// Slots of the former node that nothing here makes again: their consumers are ahead.
    pub foreign_slots: Vec<String>,
    /// A fetch has begun in the place of the data directory, which was free: what it has left there may be removed.
    #[serde(default)]
    pub fetching: bool,
    pub begun_at: u64,
    /// Seconds that steps took, by the step they led to.
    pub seconds: BTreeMap<String, f64>,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// Where the replay begins.
    pub replay_from: Option<Lsn>,
}

impl Journal {
    /// None where there is none.
    pub fn read(pgdata: &Path) -> Result<Option<Journal>> {
        Journal::read_file(&Paths::of(pgdata).journal())
    }

    fn read_file(path: &Path) -> Result<Option<Journal>> {
        if !path.exists() {
            return Ok(None);
        }
        let journal: Journal = repository::read_document(path)?;
        if journal.version > VERSION {
            let reason = format!("it has version {}", journal.version);
            return Err(crate::backup::Error::Document { path: path.into(), reason }.into());
        }
        Ok(Some(journal))
    }

    /// The copy in the repository, for hosts from which the data directory cannot be seen.
    pub fn of_repository(repository: &Repository, node: &str) -> Result<Option<Journal>> {
        Journal::read_file(&copy(repository, node))
    }

    pub fn write(&self, user: &ServerUser, repository: Option<&Repository>) -> Result<()> {
        let paths = Paths::of(&self.pgdata);
        if !paths.folder.is_dir() {
            user.make_folder(&paths.folder)?;
        }
        repository::write_document(&paths.journal(), self, user)?;
        if let Some(repository) = repository {
            // For others to see; what counts is beside the data directory.
            let _ = repository::write_document(&copy(repository, &self.node), self, user);
        }
        Ok(())
    }

    pub fn paths(&self) -> Paths {
        Paths::of(&self.pgdata)
    }

    pub fn position(&self) -> Option<Lsn> {
        self.target.as_ref().map(|target| target.stop.position())
    }

    /// Where the replay begins, and how many bytes it has.
    pub fn replays(&self) -> Option<(Lsn, u64)> {
        let from = self.replay_from?;
        Some((from, self.position()?.0.saturating_sub(from.0)))
    }

    /// The same restore, which goes on; another one must not begin.
    pub fn require_same(&self, moment: Option<&Moment>) -> Result<()> {
        match moment {
            Some(moment) if !self.step.is_over() && *moment != self.moment => {
                Err(Error::Other { under_way: self.moment.to_string() })
            }
            _ => Ok(()),
        }
    }
}

fn copy(repository: &Repository, node: &str) -> PathBuf {
    repository.node_folder(node).join("restore.json")
}

#[cfg(test)]
mod tests {
    use super::Step;

    #[test]
    fn steps_are_in_the_order_in_which_they_are_done() {
        assert!(Step::Renamed < Step::Paused && Step::Paused < Step::Promoting && Step::Promoting < Step::Done);
        assert_eq!(Step::Ready.next_command(), "finish (or cancel)");
        assert_eq!(Step::Promoting.next_command(), "finish");
        assert!(Step::Cancelled.is_over() && !Step::Cancelling.is_over());
    }
}
