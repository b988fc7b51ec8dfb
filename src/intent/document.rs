//! What the journal holds, as the document that is written (pure).
//!
//! Labels are world-readable: it holds no connection string and no row value. A failure is kept as its SQLSTATE, relation
//! and position; the server's message, which may quote a value, goes to the log.

use crate::document::{self, Document, Stored};
use crate::identity::DatabaseIdentity;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::tally::compared::Counts;
use crate::tally::replayed::Totals;
use serde::{Deserialize, Serialize};

/// What a recovery is to do, as it was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub failed: String,
    pub source: String,
    pub target: String,
    /// The clone on the source, made by hand; None: the recovery makes its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<String>,
    /// Exclusive; None: from what the target has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip: Option<OriginLsn>,
    /// Inclusive; None: to what the source has applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<OriginLsn>,
    /// Microseconds since 2000: before the first transaction in LSN order that committed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timestamp: Option<i64>,
}

/// How far a recovery has come. The order is that of its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The target's subscriptions are disabled, and their processes are waited for.
    Suspending,
    /// Missing transactions are replayed.
    Replaying,
    /// All are replayed; subscriptions are enabled again.
    Resuming,
    /// The rows that were touched are compared with the source's.
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

/// Numbered from 1; each is durable before what follows it is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Checkpoint {
    pub number: u32,
    pub phase: Phase,
    /// Microseconds since 2000.
    pub at: i64,
    /// The range, fixed with the first checkpoint: what is asked later may have moved on.
    pub skip: OriginLsn,
    pub stop: OriginLsn,
    pub totals: Totals,
}

/// When a phase was first come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    pub phase: Phase,
    /// Microseconds since 2000.
    pub at: i64,
}

/// Why the last attempt ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub sqlstate: String,
    /// In words of ours: it holds no row value.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// Of the relation, and of its constraints or its type's: names of what is there, for others might be any text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constraint: Option<String>,
    /// The transaction that could not be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_lsn: Option<OriginLsn>,
    pub at: i64,
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
    pub at: i64,
    /// Where the target's origin stood; None where nothing was replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<OriginLsn>,
}

/// One recovery.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    pub id: IntentId,
    /// The oid of the rescue subscription, which has no row in pg_subscription.
    pub subscription: u32,
    pub request: Request,
    /// The clone that the recovery has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clone: Option<String>,
    /// The caller has given a connection string to the source, which goes with the recovery.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_own_dsn: bool,
    /// How far the target had applied and passed the failed node before: it reports no more to its peers meanwhile, so
    /// that nobody lets go of what is still needed.
    pub applied_before: OriginLsn,
    pub passed_before: OriginLsn,
    pub begun_at: i64,
    /// The first transaction here that may have replayed something of it, or of aborted ones before it.
    pub since_transaction: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// At most one of each phase.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Where earlier recoveries of the failed node began that were aborted half-way: what they have touched is compared with
    /// this one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub touched_from: Option<OriginLsn>,
    /// What the reconcile has done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconciled: Option<Counts>,
    /// The large object that keeps the rows which the reconcile could not judge (src/reconcile/kept.rs).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_rows: Option<u32>,
    /// Transactions to give up, by recover_skip().
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skips: Vec<OriginLsn>,
    /// An attempt goes on, or has ended without a word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_attempted: bool,
    /// Attempts in a row that have ended without a word.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut_short: u32,
    /// recover_abort() was called; who carries the recovery ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_abort: bool,
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

    /// Peers keep the WAL that it began with: it may still be read there, also for rows that are kept until the nodes have caught
    /// up with each other. What waits for an administrator alone does not hold it.
    pub fn holds_wal(&self) -> bool {
        let waits = |counts: &Counts| counts.unjudged.keys().any(|why| why.passes_by_itself());
        self.is_unfinished() || self.kept_rows.is_some() && self.reconciled.as_ref().is_some_and(waits)
    }

    /// Of the rows that it has touched each was compared, or is kept until it can be.
    pub fn has_kept_all(&self) -> bool {
        self.reconciled.as_ref().is_some_and(|counts| counts.lost() == 0)
    }

    pub fn totals(&self) -> Totals {
        self.checkpoint.as_ref().map_or_else(Totals::default, |checkpoint| checkpoint.totals.clone())
    }

    /// Why a recovery waits: relation, failed node, position and SQLSTATE.
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

    /// The clone on the source, once there is one.
    pub fn clone_name(&self) -> Option<&str> {
        self.request.clone.as_deref().or(self.clone.as_deref())
    }

    /// The word for it in recovery_intents().
    pub fn phase_name(&self) -> &'static str {
        match (&self.end, &self.checkpoint) {
            (Some(End { outcome: EndOutcome::Completed, .. }), _) => "completed",
            (Some(End { outcome: EndOutcome::Aborted, .. }), _) => "aborted",
            (None, None) => "begun",
            (None, Some(checkpoint)) => checkpoint.phase.name(),
        }
    }
}

/// Until when a subscription stays disabled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// The replay is over, or waits for a cause to be mended.
    Replayed,
    /// The failed node, from which it comes, is back and was judged.
    Returned,
}

/// A subscription that was enabled, and that a recovery has disabled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Suspension {
    pub subscription: u32,
    /// The node it comes from.
    pub origin: String,
    pub until: Until,
    /// Of the node that it comes from, as it was last known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// When the run of that node began that was known when this was written: microseconds since 2000, by its clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<i64>,
    /// Why the node may not go on; None: it was not judged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
}

impl Suspension {
    pub fn new(subscription: u32, origin: String, until: Until) -> Suspension {
        Suspension { subscription, origin, until, system_identifier: None, timeline: None, run: None, verdict: None }
    }
}

/// A clone of this node's recovery slot, for a rescue elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CloneRecord {
    pub slot: String,
    /// Microseconds since 2000.
    pub created_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The intent on the target; None: made by hand, and dropped after spock.rescue_clone_ttl.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<IntentId>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Journal {
    version: u32,
    system_identifier: u64,
    database: u32,
    pub intents: Vec<Intent>,
    pub suspensions: Vec<Suspension>,
    pub clones: Vec<CloneRecord>,
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
        }
    }

    /// What stands in the label of the schema.
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
