//! The verdicts (pure), divided by what they judge.

mod peers;
mod recovery;
mod server;
mod slot;

pub use peers::{
    AskerHealth, NO_ROUTE, OWN_ERROR, PeerHealth, UnknownOriginFacts, asker, failing, peer, returned, source,
    unknown_origin,
};
pub use recovery::{RecoveryHealth, recovery};
pub use server::{
    Capacity, ManagerFacts, ServerSettings, apply_workers, capacity, commit_timestamps, copy, invalidation, manager,
    output_plugin, standby, wal_level,
};
pub use slot::{CloneHealth, SlotHealth, WaitingFacts, clone, retention, slot, vouching};

use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Healthy,
    Warning,
    Missing,
    Disabled,
    Critical,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Status::Healthy => "HEALTHY",
            Status::Warning => "WARNING",
            Status::Missing => "MISSING",
            Status::Disabled => "DISABLED",
            Status::Critical => "CRITICAL",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub details: String,
}

/// A name as an identifier, quoted whatever it is: this file is pure, and core's rule is core's.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What to type where a node may be dropped; else which document must be mended first, for node_drop() is refused until then.
fn dropping(node: &str, unreadable: Option<&str>) -> String {
    match unreadable {
        None => format!("SELECT spock.node_drop('{}')", node.replace('\'', "''")),
        Some(document) => {
            format!("it can be dropped once document {document} can be read: that one's row here says what to mend")
        }
    }
}

pub(super) fn check(name: &str, status: Status, details: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, details: details.into() }
}
