//! How far the making of a node has come, in a file beside its data directory.
//!
//! A step is entered when it is done and lasting: whoever finds the file does the next one, which may have been begun already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use spock_recovery_cluster::ServerUser;

use super::error::Result;
use crate::backup::repository;
use crate::lsn::Lsn;
use crate::restore::paths::{Paths, beside};
use crate::restore::server::Managed;

/// The layout of the file; a greater number is refused.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Everything was checked; nothing was touched.
    Planned,
    /// The replaced node's loss is recovered everywhere: what belongs to it is being removed.
    Clearing,
    /// Nothing of the replaced node is left on the others.
    Cleared,
    /// Every provider has a slot for the new node, and keeps what it needs.
    Slots,
    /// The living node is past the beginning of every slot.
    Passed,
    /// The base backup is whole.
    Fetched,
    Configured,
    /// It has ended its recovery, closed, and has said how far it has what.
    Promoted,
    /// It is stopped, and has a system identifier of its own.
    Identified,
    /// It has its own name and subscriptions, and a slot for every peer.
    Wired,
    /// Its settings are its own.
    Settled,
    Open,
    /// Every peer receives from it.
    Joined,
    Done,
    Cancelling,
    Cancelled,
}

impl Step {
    pub const ALL: [Step; 14] = [
        Step::Planned,
        Step::Clearing,
        Step::Cleared,
        Step::Slots,
        Step::Passed,
        Step::Fetched,
        Step::Configured,
        Step::Promoted,
        Step::Identified,
        Step::Wired,
        Step::Settled,
        Step::Open,
        Step::Joined,
        Step::Done,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Step::Planned => "planned, nothing touched",
            Step::Clearing => "the replaced node is being taken out of the mesh",
            Step::Cleared => "the replaced node is out of the mesh",
            Step::Slots => "every node has a slot for it",
            Step::Passed => "the slots begin before the base backup",
            Step::Fetched => "its base backup fetched",
            Step::Configured => "its base backup configured",
            Step::Promoted => "recovered, closed",
            Step::Identified => "a server of its own, closed",
            Step::Wired => "subscribed, with slots for its peers, closed",
            Step::Settled => "its settings as they are to be",
            Step::Open => "open",
            Step::Joined => "open, and received by every peer",
            Step::Done => "done",
            Step::Cancelling => "being taken back",
            Step::Cancelled => "taken back",
        }
    }

    pub fn is_over(self) -> bool {
        matches!(self, Step::Done | Step::Cancelled)
    }

    /// As the journal has it.
    pub fn name(self) -> String {
        let name = serde_json::to_value(self).ok();
        name.and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The commands that bring it on from here.
    pub fn next_command(self) -> &'static str {
        match self {
            Step::Done | Step::Cancelled => "-",
            Step::Cancelling => "cancel",
            step if step < Step::Open => "create (or cancel)",
            _ => "create",
        }
    }
}

/// How one node subscribes to another: everything but the names, the connection and the slot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Quoted, in their order.
    pub publications: String,
    /// What stands in WITH, quoted.
    pub options: String,
    /// Who owns the subscription.
    pub owner: String,
    pub failover: bool,
}

/// What ties the new node to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub peer: String,
    /// The new node's subscription.
    pub subscription: String,
    /// Its slot, on the peer.
    pub slot: String,
    /// What that subscription is called in the base backup; None: it is made anew, for the peer is the living node itself.
    pub inherited: Option<String>,
    /// How the new node subscribes.
    pub terms: Terms,
    /// The peer's subscription.
    pub their_subscription: String,
    /// Its slot, on the new node.
    pub their_slot: String,
    pub their_terms: Terms,
    /// Where the slot on the peer begins.
    pub begins: Option<Lsn>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    pub version: u32,
    pub name: String,
    pub replaces: Option<String>,
    pub step: Step,
    /// The living node.
    pub source: String,
    /// How it is reached, without its password.
    pub from: String,
    pub database: String,
    /// Who connects to the closed server.
    pub superuser: String,
    pub pgdata: PathBuf,
    pub bin_folder: PathBuf,
    pub port: u16,
    /// How the others reach it, without its password.
    pub dsn: String,
    /// Arguments of the server beside -D.
    pub options: Vec<String>,
    pub log: PathBuf,
    /// What postgresql.auto.conf of the open node has behind that of the living one.
    pub settings: Vec<(String, String)>,
    /// What the living node preloads.
    pub libraries: String,
    /// Folders of the living node's tablespaces, and where they are to be.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// Decided at the beginning, so that a step that is repeated gives it the same one.
    pub system_identifier: u64,
    pub segment_bytes: u64,
    pub links: Vec<Link>,
    /// Peers with a connection string of their own at the living node, without the strings.
    pub known_peers: Vec<String>,
    /// By node, the slot there from which the replaced node received.
    #[serde(default)]
    pub old_slots: BTreeMap<String, String>,
    /// The greatest position that anybody has of the replaced node.
    pub beyond: Lsn,
    /// Where the living node's WAL ends in the base backup.
    pub end: Option<Lsn>,
    pub timeline: u32,
    /// How far the base backup has what each provider wrote.
    pub vector: BTreeMap<String, Lsn>,
    /// How far it had come when it was taken back.
    #[serde(default)]
    pub cancelled_at: Option<Step>,
    pub begun_at: u64,
    /// Seconds that steps took, by the step they led to.
    pub seconds: BTreeMap<String, f64>,
    /// Of the base backup.
    pub bytes: u64,
}

impl Journal {
    /// None where there is none.
    pub fn read(pgdata: &Path) -> Result<Option<Journal>> {
        let path = paths(pgdata).journal();
        if !path.exists() {
            return Ok(None);
        }
        let journal: Journal = repository::read_document(&path)?;
        if journal.version > VERSION {
            let reason = format!("it has version {}", journal.version);
            return Err(crate::backup::Error::Document { path, reason }.into());
        }
        Ok(Some(journal))
    }

    pub fn write(&self, user: &ServerUser) -> Result<()> {
        Ok(repository::write_document(&self.paths().journal(), self, user)?)
    }

    pub fn paths(&self) -> Paths {
        paths(&self.pgdata)
    }
}

/// Everything of ours: `<pgdata>.node`.
pub fn paths(pgdata: &Path) -> Paths {
    Paths { folder: beside(pgdata, ".node") }
}

impl Managed for Journal {
    fn node(&self) -> &str {
        &self.name
    }

    fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    fn bin_folder(&self) -> &Path {
        &self.bin_folder
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn database(&self) -> &str {
        &self.database
    }

    fn superuser(&self) -> &str {
        &self.superuser
    }

    fn socket_folder(&self, user: &ServerUser) -> crate::restore::Result<PathBuf> {
        self.paths().socket(user)
    }
}

#[cfg(test)]
mod tests {
    use super::Step;

    #[test]
    fn steps_are_in_the_order_in_which_they_are_done() {
        assert!(Step::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(Step::Wired.next_command(), "create (or cancel)");
        assert_eq!(Step::Open.next_command(), "create");
        assert!(Step::Cancelled.is_over() && !Step::Cancelling.is_over());
        assert_eq!(Step::Passed.name(), "passed");
    }
}
