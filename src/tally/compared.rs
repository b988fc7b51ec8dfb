//! What a reconcile has done, and why it could not judge what it left (pure).

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Why a row could not be judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// spock.rescue_conflict_resolution leaves the clock out of it.
    Policy,
    /// One of the nodes does not keep commit times.
    NoCommitTimestamps,
    /// The source does not receive what the target has.
    SourceLags,
    /// The target does not receive what the source has: a disabled subscription, a dead node, a partial stop.
    TargetLags,
    /// The target does not replicate the table from the node that has written the source's version.
    NotReplicated,
    /// The rows differ, and of neither the age is known.
    UnknownAge,
    /// The row is there more than once, or cannot be written in this database's encoding.
    NotComparable,
    /// The source does not show the row, or the target does not take it.
    Refused,
    /// It changed each time it was looked at.
    Busy,
    /// The source was lost before it could be asked.
    SourceLost,
    /// It was kept, and what kept it is gone.
    Lost,
}

impl Why {
    /// The word for it, in the report and in recovery_unjudged().
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

    /// Nodes that catch up, or are recovered, are enough.
    pub fn passes_by_itself(self) -> bool {
        matches!(self, Why::SourceLags | Why::TargetLags | Why::Busy | Why::SourceLost)
    }

    /// It may be judged another time: when a node has caught up, was recovered itself, or was seen to.
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
    /// Inserted or updated.
    pub updated: u64,
    pub deleted: u64,
    /// Not judged.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unjudged: BTreeMap<Why, u64>,
    /// Tables of which a node has refused rows, the first of them, and what it has told. Everybody can read it: no row value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// Subscriptions of the source that could not apply what others had, and for which it was not waited.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stuck: BTreeSet<String>,
}

/// So many tables are told of.
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

    /// It counts as many that were left, for the same reasons.
    pub fn has(&self, again: &Counts) -> bool {
        let passing = |counts: &Counts| -> BTreeMap<Why, u64> {
            counts.unjudged.iter().filter(|(why, _)| why.may_pass()).map(|(why, rows)| (*why, *rows)).collect()
        };
        passing(self) == passing(again)
    }

    /// How many of them are kept, to be judged another time.
    pub fn kept(&self) -> u64 {
        self.unjudged.iter().filter(|(why, _)| why.may_pass()).map(|(_, rows)| rows).sum()
    }

    /// Those that are gone with what kept them.
    pub fn lost(&self) -> u64 {
        self.unjudged.get(&Why::Lost).copied().unwrap_or(0)
    }

    /// Those that were kept have been looked at again.
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
