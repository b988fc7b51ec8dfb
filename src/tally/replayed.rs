//! What a recovery has replayed (pure).

use super::conflict::Tally;
use serde::{Deserialize, Serialize};

/// How much a recovery has replayed until now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    pub transactions: u64,
    pub rows: u64,
    pub bytes: u64,
    pub conflicts: u64,
    /// Transactions given up by recover_skip().
    pub skipped: u64,
    /// The conflicts, by table, kind and resolution.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tallies: Vec<Tally>,
}

impl std::ops::AddAssign for Totals {
    /// Saturates, so that no figure falls, whatever the document holds.
    fn add_assign(&mut self, other: Totals) {
        self.transactions = self.transactions.saturating_add(other.transactions);
        self.rows = self.rows.saturating_add(other.rows);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.conflicts = self.conflicts.saturating_add(other.conflicts);
        self.skipped = self.skipped.saturating_add(other.skipped);
        for tally in other.tallies {
            tally.add_to(&mut self.tallies);
        }
    }
}
