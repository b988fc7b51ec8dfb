//! The judgements of the health check (pure), one file for each subject.

mod comparison;
mod incomplete;
mod peers;
mod pin;
mod recovery;
mod server;
mod slot;

pub use comparison::{ComparisonHealth, comparison};
pub use incomplete::incomplete;
pub use peers::{
    AskerHealth, NO_ROUTE, OWN_ERROR, PeerHealth, UnknownOriginFacts, asker, failing, peer, returned, source,
    unknown_origin,
};
pub use pin::{PinHealth, pin};
pub use recovery::{RecoveryHealth, recovery};
pub use server::{
    Capacity, ManagerFacts, ServerSettings, apply_workers, automatic_points, capacity, commit_timestamps, copy,
    invalidation, manager, no_node, output_plugin, standby, wal_level,
};
pub use slot::{CloneHealth, SlotHealth, WaitingFacts, clone, retention, slot, vouching};

use crate::quoted::literal;
use std::fmt;

/// How serious the finding is.
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

/// The command that drops a node. While a document is unreadable, which one to repair first, because node_drop() is
/// refused until then.
fn dropping(node: &str, unreadable: Option<&str>) -> String {
    match unreadable {
        None => format!("SELECT spock.node_drop({})", literal(node)),
        Some(document) => {
            format!(
                "it can be dropped once document {document} can be read: the row of that document says how to repair it"
            )
        }
    }
}

pub(super) fn check(name: &str, status: Status, details: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, details: details.into() }
}
