//! The content of the journal, as the document that is written to the label (pure).
//!
//! Everybody can read labels, so the document holds no connection string and no row value. Of a failure it holds the
//! SQLSTATE, the relation and the position; the server's message, which may quote a value, goes to the log.

use super::rebuild::{Rebuild, Wanted};
use crate::document::{self, Document, Stored};
use crate::identity::DatabaseIdentity;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::tally::compared::Counts;
use crate::tally::replayed::Totals;
use serde::{Deserialize, Serialize};

/// What a recovery is to do, as its caller has requested it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub failed: String,
    pub source: String,
    pub target: String,
    /// The clone on the source, if it was made by hand; None: the recovery makes its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<String>,
    /// Where the range begins, exclusive; None: at what the target has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<OriginLsn>,
    /// Where the range ends, inclusive; None: at what the source has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<OriginLsn>,
    /// The range ends before the first transaction, in LSN order, that was committed later than this, in microseconds
    /// since 2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timestamp: Option<Timestamp>,
    /// The target's tables are to be rebuilt from the source, and nothing is replayed. `failed` is empty then if no
    /// node has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<Wanted>,
}

impl Request {
    /// What it is, as messages name it.
    pub fn title(&self) -> String {
        match self.rebuild {
            Some(_) => format!("rebuild from node \"{}\"", self.source),
            None => format!("recovery of node \"{}\"", self.failed),
        }
    }
}

/// The phase that a recovery has reached. The variants are in the order in which a recovery passes through them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The target's subscriptions are disabled, and their processes waited for.
    Suspending,
    /// The missing transactions are replayed.
    Replaying,
    /// Everything is replayed; the subscriptions are enabled again.
    Resuming,
    /// The rows that the replay has touched are compared with the source's.
    Reconciling,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Suspending => "suspending",
            Phase::Replaying => "replaying",
            Phase::Resuming => "resuming",
            Phase::Reconciling => "reconciling",
        }
    }
}

/// A point that a recovery has reached. Checkpoints are numbered from 1; each is durable before what follows it is
/// done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    pub number: u32,
    pub phase: Phase,
    pub at: Timestamp,
    /// The range, which the first checkpoint fixes, because both nodes may have moved on when they are asked again.
    pub skip: OriginLsn,
    pub stop: OriginLsn,
    pub totals: Totals,
}

/// When a phase was first reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    pub phase: Phase,
    pub at: Timestamp,
}

/// Why the last attempt has failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub sqlstate: String,
    /// In our own words, without any row value.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// The column of `relation` that the error names. It is recorded only if it exists, because an error may name any
    /// text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The constraint of `relation`, or of a type, that the error names; recorded only if it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    /// Where the transaction that could not be applied ended at the failed node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_lsn: Option<OriginLsn>,
    pub at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndOutcome {
    Completed,
    Aborted,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    pub outcome: EndOutcome,
    pub at: Timestamp,
    /// Where the target's replication origin stood when the recovery was completed; None if it was aborted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<OriginLsn>,
}

/// The durable record of one recovery.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub id: IntentId,
    /// The oid of the rescue subscription, which has no row in pg_subscription.
    pub subscription: u32,
    pub request: Request,
    /// The clone that the recovery has made for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<String>,
    /// Whether the caller has given a connection string to the source, which is removed when the recovery ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_own_dsn: bool,
    /// How far the target had applied and passed the failed node when the recovery began. While the recovery is open,
    /// the target reports no more than this to its peers, so that their slots do not release what is still needed.
    pub applied_before: OriginLsn,
    pub passed_before: OriginLsn,
    pub begun_at: Timestamp,
    /// The first transaction id on the target that may belong to this recovery, or to earlier ones that were aborted
    /// and whose rows this one compares.
    pub since_transaction: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// When each phase was first reached: at most one entry for each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Where earlier recoveries of the failed node began that were aborted and whose rows nobody has compared: this
    /// recovery compares those rows, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched_from: Option<OriginLsn>,
    /// What reconciling has done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Counts>,
    /// The large object that keeps the rows that reconciling could not judge (src/reconcile/kept.rs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_rows: Option<u32>,
    /// The transactions that recover_skip() has given up, by where they ended at the failed node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skips: Vec<OriginLsn>,
    /// An attempt is running, or has ended without recording how.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_attempted: bool,
    /// How many attempts in a row have ended without recording how.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut_short: u32,
    /// recover_abort() was called: the rescue worker ends the recovery.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_abort: bool,
    /// How far a rebuild has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<Rebuild>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Intent {
    pub fn is_unfinished(&self) -> bool {
        self.end.is_none()
    }

    /// Whether peers must keep their WAL from where this recovery began. It may still be read while the recovery is
    /// open, and then, for kept rows, until the nodes have caught up with each other. Rows that wait only for an
    /// administrator hold no WAL.
    pub fn holds_wal(&self) -> bool {
        let waits = |counts: &Counts| counts.unjudged.keys().any(|why| why.passes_by_itself());
        self.is_unfinished() || self.kept_rows.is_some() && self.reconciled.as_ref().is_some_and(waits)
    }

    /// Whether each row that the recovery has touched was compared, or is kept until it can be.
    pub fn has_kept_all(&self) -> bool {
        self.reconciled.as_ref().is_some_and(|counts| counts.lost() == 0)
    }

    pub fn totals(&self) -> Totals {
        self.checkpoint.as_ref().map_or_else(Totals::default, |checkpoint| checkpoint.totals.clone())
    }

    /// Describes why the recovery waits: the reason, with the relation, the failed node, the position and the SQLSTATE.
    pub fn describe(&self, failure: &Failure) -> String {
        let mut text = failure.reason.clone();
        if let Some(relation) = &failure.relation {
            text.push_str(&format!(", relation {relation}"));
        }
        for (what, name) in [("column", &failure.column), ("constraint", &failure.constraint)] {
            if let Some(name) = name {
                text.push_str(&format!(", {what} \"{name}\""));
            }
        }
        if let Some(lsn) = failure.origin_lsn {
            text.push_str(&format!(", transaction of node \"{}\" that ended at {lsn}", self.request.failed));
        }
        format!("{text} (SQLSTATE {})", failure.sqlstate)
    }

    /// The name of the clone on the source; None: there is none yet.
    pub fn clone_name(&self) -> Option<&str> {
        self.request.clone.as_deref().or(self.clone.as_deref())
    }

    /// The word for the recovery's phase or outcome in recovery_intents().
    pub fn phase_name(&self) -> &'static str {
        match (&self.end, &self.checkpoint) {
            (Some(End { outcome: EndOutcome::Completed, .. }), _) => "completed",
            (Some(End { outcome: EndOutcome::Aborted, .. }), _) => "aborted",
            (None, None) => "begun",
            (None, Some(checkpoint)) if self.is_rebuild() && checkpoint.phase == Phase::Replaying => "rebuilding",
            (None, Some(checkpoint)) => checkpoint.phase.name(),
        }
    }
}

/// Until when a subscription stays disabled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Until everything is replayed, or the attempt has failed.
    Replayed,
    /// Until the failed node, from which the subscription comes, is back and was judged.
    Returned,
}

/// A subscription that was enabled, and that was disabled by a recovery or because its provider is back from an older
/// copy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Suspension {
    pub subscription: u32,
    /// The node that the subscription comes from; empty if the subscription waits for no node.
    pub origin: String,
    pub until: Until,
    /// The system identifier and the timeline of that node, as they were last known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// When that node's run began that was known when this was written, by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Timestamp>,
    /// Why the node may not go on; None: the node was not judged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

impl Suspension {
    pub fn new(subscription: u32, origin: String, until: Until) -> Suspension {
        Suspension { subscription, origin, until, system_identifier: None, timeline: None, run: None, verdict: None }
    }
}

/// A clone of this node's recovery slot, for a rescue on another node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloneRecord {
    pub slot: String,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The intent on the target that has claimed the clone; None: the clone was made by hand, and is dropped after
    /// spock.rescue_clone_ttl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentId>,
}

/// The last comparison of tables with another node: of those that sessions have called, or of those that the manager
/// has begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ComparisonRecord {
    pub id: IntentId,
    pub other: String,
    /// The manager has begun it, by spock.compare_interval.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_automatic: bool,
    /// Whether only some of the tables are compared.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    pub begun_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The large object with the tables and how far each has got, and the one with the keys that differ
    /// (src/comparing/storage.rs).
    pub progress_object: u32,
    pub keys_object: u32,
    /// What was found so far: keys that differ and were not repaired, keys that could not be judged, and tables that
    /// could not be compared.
    pub differing: u64,
    pub undecided: u64,
    pub incomparable: u64,
}

/// The manifest of a rebuild's copies (src/rebuild/copy/manifest.rs).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ManifestRecord {
    pub intent: IntentId,
    /// The large object that contains it.
    pub object: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    system_identifier: u64,
    database: u32,
    pub intents: Vec<Intent>,
    pub suspensions: Vec<Suspension>,
    pub clones: Vec<CloneRecord>,
    /// The large object in which the recovery slot's files are saved (src/slot/saved.rs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_files: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparisons: Vec<ComparisonRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<ManifestRecord>,
}

impl Journal {
    pub fn new(here: DatabaseIdentity) -> Journal {
        Journal {
            version: Journal::VERSION,
            system_identifier: here.system_identifier,
            database: here.database,
            intents: Vec::new(),
            suspensions: Vec::new(),
            clones: Vec::new(),
            slot_files: None,
            comparisons: Vec::new(),
            manifests: Vec::new(),
        }
    }

    /// Reads the journal from the text of the schema's label.
    pub fn read(text: Option<&str>, here: DatabaseIdentity) -> Stored<Journal> {
        document::read(text, here)
    }

    #[cfg(test)]
    pub fn to_text(&self) -> String {
        document::to_text(self)
    }
}

impl Document for Journal {
    const VERSION: u32 = 1;
}
