//! Rows that differ, until they are judged.

use super::rows::KeyText;

/// The most rows that are looked at closer together: each closer look waits for both nodes.
const CLOSER: usize = 5_000;
/// The most bytes of memory that such rows take. They are held once and as a copy.
const CLOSER_BYTES: usize = 8 << 20;

/// A row that differs.
pub(super) struct Difference {
    pub(super) relation: u32,
    pub(super) key: KeyText,
    /// The bytes of memory that both nodes' rows took when they were compared.
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

    /// Whether there are as many rows as may be looked at together.
    pub(super) fn are_many(&self) -> bool {
        self.rows.len() >= CLOSER || self.bytes >= CLOSER_BYTES
    }
}
