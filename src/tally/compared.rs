//! What reconciling has done, and why it could not judge the rows that it left (pure).

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why a row could not be judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// spock.rescue_conflict_resolution does not decide by commit time.
    Policy,
    /// One of the nodes does not track commit timestamps.
    NoCommitTimestamps,
    /// The source does not receive what the target has.
    SourceLags,
    /// The target does not receive what the source has, because of a disabled subscription, a dead node, or a recovery
    /// up to an earlier position.
    TargetLags,
    /// The target does not replicate the table from the node that has written the source's version.
    NotReplicated,
    /// The rows differ, and the age of neither is known.
    UnknownAge,
    /// The row exists more than once, or cannot be written in this database's encoding.
    NotComparable,
    /// The source refuses to show the row, or the target refuses to take it.
    Refused,
    /// The row changed each time it was looked at.
    Busy,
    /// The source was lost before it could be asked for the row.
    SourceLost,
    /// It cannot be found out any more which row it was, or the large object that kept the row is gone.
    Lost,
}

impl Why {
    /// The word for the reason, in the report and in recovery_unjudged().
    pub fn name(self) -> &'static str {
        match self {
            Why::Policy => "policy",
            Why::NoCommitTimestamps => "no_commit_timestamps",
            Why::SourceLags => "source_lags",
            Why::TargetLags => "target_lags",
            Why::NotReplicated => "not_replicated",
            Why::UnknownAge => "unknown_age",
            Why::NotComparable => "not_comparable",
            Why::Refused => "refused",
            Why::Busy => "busy",
            Why::SourceLost => "source_lost",
            Why::Lost => "lost",
        }
    }

    /// Whether it is enough that nodes catch up or are recovered.
    pub fn passes_by_itself(self) -> bool {
        matches!(self, Why::SourceLags | Why::TargetLags | Why::Busy | Why::SourceLost)
    }

    /// Whether the row may be judged another time: when a node has caught up, was recovered itself, or was repaired.
    pub fn may_pass(self) -> bool {
        match self {
            Why::SourceLags | Why::TargetLags | Why::NotReplicated | Why::Refused | Why::Busy | Why::SourceLost => true,
            Why::Policy | Why::NoCommitTimestamps | Why::UnknownAge | Why::NotComparable | Why::Lost => false,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub compared: u64,
    /// Rows that were inserted or updated.
    pub updated: u64,
    pub deleted: u64,
    /// Rows that could not be judged, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unjudged: BTreeMap<Why, u64>,
    /// The first tables of which a node has refused rows, with the node and the error. Everybody can read this, so it
    /// holds no row value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// Subscriptions of the source that could not apply what others had sent, and that were not waited for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stuck: BTreeSet<String>,
}

/// How many tables and subscriptions are named at most.
pub const TOLD: usize = 10;

impl Counts {
    pub fn leave(&mut self, why: Why, rows: usize) {
        if rows > 0 {
            *self.unjudged.entry(why).or_default() += rows as u64;
        }
    }

    pub fn refuse(&mut self, table: String, told: String) {
        if self.refused.len() < TOLD || self.refused.contains_key(&table) {
            self.refused.insert(table, told);
        }
    }

    pub fn unjudged(&self) -> u64 {
        self.unjudged.values().sum()
    }

    /// Whether `again` has left as many rows for the same reasons, of the reasons that may pass.
    pub fn has(&self, again: &Counts) -> bool {
        let passing = |counts: &Counts| -> BTreeMap<Why, u64> {
            counts.unjudged.iter().filter(|(why, _)| why.may_pass()).map(|(why, rows)| (*why, *rows)).collect()
        };
        passing(self) == passing(again)
    }

    /// How many of these rows are kept, to be judged another time.
    pub fn kept(&self) -> u64 {
        self.unjudged.iter().filter(|(why, _)| why.may_pass()).map(|(_, rows)| rows).sum()
    }

    /// How many of these rows are lost.
    pub fn lost(&self) -> u64 {
        self.unjudged.get(&Why::Lost).copied().unwrap_or(0)
    }

    /// Replaces what was counted of kept rows by what another comparison of them has found, and adds what that has
    /// written.
    pub fn look_again(&mut self, again: Counts) {
        self.unjudged.retain(|why, _| !why.may_pass());
        self.stuck = again.stuck;
        self.compared += again.compared;
        self.updated += again.updated;
        self.deleted += again.deleted;
        self.refused = again.refused;
        for (why, rows) in again.unjudged {
            *self.unjudged.entry(why).or_default() += rows;
        }
    }
}
