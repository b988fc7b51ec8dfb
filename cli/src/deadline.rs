//! Waiting for a condition, never for luck: the one place that sleeps.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// Calls `look` until it returns something or `limit` has passed; at least once.
pub fn poll<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(INTERVAL);
    }
}
