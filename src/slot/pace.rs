//! How often and how far the slot is moved (pure).
//!
//! Moving a slot decodes all WAL from its restart_lsn on. While an open transaction pins restart_lsn, each move would
//! decode the same WAL again. The time between moves therefore grows.

use crate::lsn::LocalLsn;
use std::time::Duration;

/// The most that a move advances the slot at first, in bytes. The step is doubled after a quick move.
const FIRST_STEP_BYTES: u64 = 256 << 20;

/// A move that took less time than this was quick.
const QUICK: Duration = Duration::from_secs(2);

/// A move that decoded less than this (one WAL segment) was cheap, even if restart_lsn stayed pinned.
const CHEAP_BYTES: u64 = 16 << 20;

/// The longest time between moves while restart_lsn is pinned.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A move that frees fewer bytes than this frees little. Each move writes WAL itself (its retention record, about 1
/// kB), so an idle server would otherwise keep moving its slot past that WAL for ever.
const LITTLE_BYTES: u64 = 64 << 10;

/// The time between moves is this many times longer if the next move frees little.
const LITTLE_FACTOR: u32 = 12;

/// What the last moves tell about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    step_bytes: u64,
    /// How many moves in a row were costly and left restart_lsn where it was.
    pinned_moves: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { step_bytes: FIRST_STEP_BYTES, pinned_moves: 0 }
    }
}

impl Pace {
    /// The least time between the last move and the next. `frees`: how many bytes of WAL the next move may free.
    /// `is_pinned`: the transaction that pinned restart_lsn is still open.
    pub fn wait(&self, interval: Duration, frees: u64, is_pinned: bool) -> Duration {
        if frees < LITTLE_BYTES {
            return interval.saturating_mul(LITTLE_FACTOR);
        }
        if !is_pinned {
            return interval;
        }
        interval.saturating_mul(1u32.checked_shl(self.pinned_moves).unwrap_or(u32::MAX)).min(LONGEST_WAIT.max(interval))
    }

    /// Where the next move stops on its way from `confirmed` to `target`.
    pub fn next_stop(&self, confirmed: LocalLsn, target: LocalLsn) -> LocalLsn {
        target.min(LocalLsn(confirmed.0.saturating_add(self.step_bytes)))
    }

    /// Takes a finished move into account. `decoded`: how many bytes of WAL it decoded.
    pub fn moved(&mut self, took: Duration, restart_moved: bool, decoded: u64) {
        let is_pinned = !restart_moved && decoded >= CHEAP_BYTES;
        self.pinned_moves = if is_pinned { self.pinned_moves.saturating_add(1) } else { 0 };
        self.step_bytes = if took < QUICK { self.step_bytes.saturating_mul(2) } else { FIRST_STEP_BYTES };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn a_slot_that_follows_is_moved_every_interval() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.moved(Duration::from_millis(5), true, 1 << 30);
            pace.moved(Duration::from_millis(5), false, CHEAP_BYTES - 1);
            assert_eq!(pace.wait(INTERVAL, LITTLE_BYTES, true), INTERVAL);
        }
    }

    #[test]
    fn a_pinned_slot_is_moved_less_and_less_often_and_at_once_again_when_it_follows() {
        let mut pace = Pace::default();
        let waits: Vec<u64> = (0..7)
            .map(|_| {
                pace.moved(Duration::from_secs(1), false, CHEAP_BYTES);
                pace.wait(INTERVAL, LITTLE_BYTES, true).as_secs()
            })
            .collect();
        assert_eq!(waits, [20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(pace.wait(INTERVAL, LITTLE_BYTES, false), INTERVAL);
        pace.moved(Duration::from_secs(1), true, CHEAP_BYTES);
        assert_eq!(pace.wait(INTERVAL, LITTLE_BYTES, true), INTERVAL);
    }

    #[test]
    fn steps_grow_while_they_are_quick_and_never_pass_the_target() {
        let mut pace = Pace::default();
        let far = LocalLsn(1 << 50);
        assert_eq!(pace.next_stop(LocalLsn(100), LocalLsn(200)), LocalLsn(200));
        assert_eq!(pace.next_stop(LocalLsn(0), far), LocalLsn(FIRST_STEP_BYTES));
        pace.moved(Duration::from_millis(1), true, 1);
        assert_eq!(pace.next_stop(LocalLsn(0), far), LocalLsn(FIRST_STEP_BYTES * 2));
        pace.moved(Duration::from_secs(10), true, 1);
        assert_eq!(pace.next_stop(LocalLsn(0), far), LocalLsn(FIRST_STEP_BYTES));
    }

    #[test]
    fn a_slot_that_keeps_next_to_nothing_is_moved_seldom() {
        let pace = Pace::default();
        assert_eq!(pace.wait(INTERVAL, LITTLE_BYTES - 1, false), INTERVAL * LITTLE_FACTOR);
        assert_eq!(pace.wait(INTERVAL, LITTLE_BYTES, false), INTERVAL);
    }
}
