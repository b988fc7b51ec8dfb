//! How often and how far the slot is moved (pure).
//!
//! Moving a slot decodes all WAL from its restart_lsn on. While an open transaction pins restart_lsn, each move would
//! decode the same WAL again: so the moves grow apart.

use crate::lsn::LocalLsn;
use std::time::Duration;

/// WAL that one move decodes at most, at first. Doubled after a quick move.
const FIRST_STEP_BYTES: u64 = 256 << 20;

/// A move that took less was a quick one.
const QUICK: Duration = Duration::from_secs(2);

/// A move that decoded less costs nothing, whatever it left pinned: a WAL segment.
const CHEAP_BYTES: u64 = 16 << 20;

/// While restart_lsn is pinned, moves grow apart up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// A move frees little where less than this stands before its target: the record of each move is WAL itself (about 1 kB),
/// and an idle server would move its slot past its own footprints for ever.
const LITTLE_BYTES: u64 = 64 << 10;

/// Moves that free little come this many times less often.
const LITTLE_FACTOR: u32 = 12;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    step_bytes: u64,
    /// Costly moves in a row that left restart_lsn where it was.
    pinned_moves: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { step_bytes: FIRST_STEP_BYTES, pinned_moves: 0 }
    }
}

impl Pace {
    /// The least time between the last move and the next, which may free up to so many bytes. `is_pinned`: what pinned
    /// restart_lsn is still open.
    pub fn wait(&self, interval: Duration, frees: u64, is_pinned: bool) -> Duration {
        if frees < LITTLE_BYTES {
            return interval.saturating_mul(LITTLE_FACTOR);
        }
        if !is_pinned {
            return interval;
        }
        interval.saturating_mul(1u32.checked_shl(self.pinned_moves).unwrap_or(u32::MAX)).min(LONGEST_WAIT.max(interval))
    }

    /// How far the next move goes on its way to `target`.
    pub fn next_stop(&self, confirmed: LocalLsn, target: LocalLsn) -> LocalLsn {
        target.min(LocalLsn(confirmed.0.saturating_add(self.step_bytes)))
    }

    /// Takes a move into account that decoded so many bytes.
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
