//! The comparison of tables that a database runs, as the worker, the session that has called it, and the manager share
//! it.

use super::{JobError, JobState, ShortText};
use crate::pg::clock::Monotonic;
use crate::pg::process;
use std::time::Duration;

/// A session that watches a comparison renews its claim to it every time it looks. A worker whose session has ended, or
/// has not looked for this long, ends.
const CLAIM: Duration = Duration::from_secs(10);

/// A worker that has not begun within this time after it was asked for never will.
const START_LIMIT: Duration = Duration::from_secs(60);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComparisonEntry {
    pub state: JobState,
    pub run: [u8; 16],
    pub asked_at: Monotonic,
    pub worker_pid: i32,
    /// The manager has asked for it, by spock.compare_interval.
    pub is_automatic: bool,
    pub pace_mb_per_s: u32,
    /// The session that has called it, and when that has last looked.
    pub claimed_by: i32,
    pub claimed_at: Monotonic,
    pub must_stop: bool,
    /// The table at hand, and how far it is.
    pub relation: ShortText,
    pub tables_done: u32,
    pub tables: u32,
    pub ranges_done: u64,
    pub ranges_total: u64,
    pub rows: u64,
    pub bytes: u64,
    /// When this worker began with that table, and with how many ranges done.
    pub table_began_at: Monotonic,
    pub ranges_before: u64,
    pub error: JobError,
}

impl ComparisonEntry {
    pub const FREE: ComparisonEntry = ComparisonEntry {
        state: JobState::None,
        run: [0; 16],
        asked_at: Monotonic::NEVER,
        worker_pid: 0,
        is_automatic: false,
        pace_mb_per_s: 0,
        claimed_by: 0,
        claimed_at: Monotonic::NEVER,
        must_stop: false,
        relation: ShortText::EMPTY,
        tables_done: 0,
        tables: 0,
        ranges_done: 0,
        ranges_total: 0,
        rows: 0,
        bytes: 0,
        table_began_at: Monotonic::NEVER,
        ranges_before: 0,
        error: JobError::NONE,
    };

    /// Whether a worker compares, or is about to.
    pub fn is_under_way(&self) -> bool {
        match self.state {
            JobState::Asked => Monotonic::now().since(self.asked_at) < START_LIMIT,
            JobState::Running => process::is_backend(self.worker_pid),
            JobState::None | JobState::Done | JobState::Failed => false,
        }
    }

    /// Whether the worker is to go on.
    pub fn goes_on(&self) -> bool {
        let is_claimed = || process::is_backend(self.claimed_by) && Monotonic::now().since(self.claimed_at) < CLAIM;
        !self.must_stop && (self.is_automatic || is_claimed())
    }

    /// How long the table at hand will still take, at the speed of this worker.
    pub fn time_left(&self) -> Option<Duration> {
        let done = self.ranges_done.checked_sub(self.ranges_before).filter(|done| *done > 0)?;
        let left = self.ranges_total.saturating_sub(self.ranges_done);
        let took = Monotonic::now().since(self.table_began_at).as_secs_f64();
        Some(Duration::from_secs_f64(took * left as f64 / done as f64))
    }
}
