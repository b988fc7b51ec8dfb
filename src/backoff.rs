//! When a worker that has ended is started again (pure).

use std::time::Duration;

/// The longest wait between two starts: so the end of a long outage is noticed within a minute.
const LONGEST: Duration = Duration::from_secs(60);

/// A worker that ran this long has not failed at its start.
const SOUND: Duration = Duration::from_secs(60);

/// Returns the number of failures in a row after a run of this length: none after a sound run.
pub fn failures_after(run: Duration, failures: u32) -> u32 {
    if run >= SOUND { 0 } else { failures.saturating_add(1) }
}

/// Returns how long to wait before the next start: not at all after one failure (a worker that an administrator has
/// ended is back at once), then one second, doubled with each further failure.
pub fn delay(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_secs(1 << (failures - 2).min(6)).min(LONGEST),
    }
}

/// Returns how long a recovery waits after failed attempts. `stood_still`: the last attempt has failed because another
/// session held a lock, and it had kept the subscriptions to the other survivors suspended for so long. The wait is
/// then at least as long, so that they can catch up, and one step longer than after other failures, because a lock that
/// was held for so long may be held for longer; but at most a minute.
pub fn delay_of_attempt(failures: u32, stood_still: Option<Duration>) -> Duration {
    match stood_still {
        Some(stood_still) if failures > 0 => delay(failures.saturating_add(1)).max(stood_still).min(LONGEST),
        _ => delay(failures),
    }
}

/// Returns what is left of that wait when the last attempt has ended `ended_for` ago.
pub fn left_of_attempt(failures: u32, stood_still: Option<Duration>, ended_for: Duration) -> Duration {
    delay_of_attempt(failures, stood_still).saturating_sub(ended_for)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_minute() {
        let delays: Vec<u64> = (0..10).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(delays, [0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(delay(u32::MAX), LONGEST);
    }

    #[test]
    fn after_a_lock_the_living_have_as_long_as_they_stood_still_up_to_a_minute() {
        let after = |failures, seconds| delay_of_attempt(failures, Some(Duration::from_secs(seconds))).as_secs();
        assert_eq!([1, 2, 3, 6, 9].map(|failures| after(failures, 30)), [30, 30, 30, 32, 60]);
        // The suspension itself had to wait: no subscription stood still, and yet the wait grows with each attempt.
        assert_eq!([1, 2, 3].map(|failures| after(failures, 0)), [1, 2, 4]);
        assert_eq!(after(1, 3600), LONGEST.as_secs());
        assert_eq!(after(u32::MAX, 0), LONGEST.as_secs());
    }

    #[test]
    fn a_word_of_a_user_is_heard_at_once_and_other_kinds_of_failures_are_as_ever() {
        assert_eq!(delay_of_attempt(0, Some(Duration::from_secs(30))), Duration::ZERO);
        for failures in 0..10 {
            assert_eq!(delay_of_attempt(failures, None), delay(failures));
        }
    }

    #[test]
    fn what_is_left_of_a_wait_never_goes_below_nothing() {
        let left =
            |ended_for| left_of_attempt(1, Some(Duration::from_secs(30)), Duration::from_secs(ended_for)).as_secs();
        assert_eq!([0, 10, 30, 90].map(left), [30, 20, 0, 0]);
    }

    #[test]
    fn a_sound_run_forgets_the_failures_before_it() {
        assert_eq!(failures_after(Duration::from_secs(1), 3), 4);
        assert_eq!(failures_after(SOUND, 3), 0);
        assert_eq!(failures_after(Duration::ZERO, u32::MAX), u32::MAX);
    }
}
