//! Waiting for a condition, never for luck: the one place that sleeps.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;

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

/// Calls `look` until it returns something. Fails with its error, or once `limit` has passed with `what` was waited for and
/// what `look` saw last, which it writes into its argument.
pub fn wait<T, E: From<Error>>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut(&mut String) -> Result<Option<T>, E>,
) -> Result<T, E> {
    let mut last = String::new();
    poll(limit, || look(&mut last).transpose())
        .unwrap_or_else(|| Err(Error::Timeout { what: what.to_owned(), waited: limit, last }.into()))
}
