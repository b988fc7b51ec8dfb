//! Rows that differ, until they are judged.

use super::rows::KeyText;

/// Rows that differ and are looked at closer together, for each closer look waits for both nodes; and what they take in memory,
/// once and as a copy.
const CLOSER: usize = 5_000;
const CLOSER_BYTES: usize = 8 << 20;

/// A row that differs.
pub(super) struct Difference {
    pub(super) relation: u32,
    pub(super) key: KeyText,
    /// What both nodes' rows took in memory when they were compared.
    pub(super) rows_bytes: usize,
}

#[derive(Default)]
pub(super) struct Differences {
    pub(super) rows: Vec<Difference>,
    bytes: usize,
}

impl Differences {
    pub(super) fn push(&mut self, difference: Difference) {
        self.bytes += difference.rows_bytes;
        self.rows.push(difference);
    }

    /// No more are to be looked at together.
    pub(super) fn are_many(&self) -> bool {
        self.rows.len() >= CLOSER || self.bytes >= CLOSER_BYTES
    }
}
