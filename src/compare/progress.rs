//! How far the comparison of a table has got (pure).

use super::question::{KeyText, ROWS};
use serde::{Deserialize, Serialize};

/// The figures of a comparison, and the position from which it goes on if it was broken off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The last key that was compared; None: none yet.
    pub after: Option<KeyText>,
    pub is_over: bool,
    pub ranges_done: u64,
    /// As the planner estimates the rows, and never less than `ranges_done`.
    pub ranges_total: u64,
    /// The rows that were compared: those of the node that has more of them.
    pub rows: u64,
    /// The keys that were found to differ.
    pub differing: u64,
    /// The length of the rows as text on the node that has more of them.
    pub bytes: u64,
}

impl Progress {
    pub(super) fn begin(&mut self, estimated_rows: u64) {
        self.ranges_total = self.ranges_done.max(estimated_rows.div_ceil(ROWS)).max(1);
    }

    /// Notes ranges that were compared, the last of which has ended with `end`.
    pub(super) fn add(&mut self, ranges: usize, rows: u64, bytes: u64, end: Option<KeyText>) {
        self.ranges_done += ranges as u64;
        self.rows += rows;
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_over = end.is_none();
        self.after = end;
        self.ranges_total = if self.is_over { self.ranges_done } else { self.ranges_total.max(self.ranges_done + 1) };
    }
}
