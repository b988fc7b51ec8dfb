//! When a worker that has ended is started again (pure).

use std::time::Duration;

/// The longest wait between two starts: an outage that has lasted long is noticed within a minute of its end.
const LONGEST: Duration = Duration::from_secs(60);

/// A worker that ran this long has not failed at its start.
const SOUND: Duration = Duration::from_secs(60);

/// The failures in a row after a run of this length: none after a sound one.
pub fn failures_after(run: Duration, failures: u32) -> u32 {
    if run >= SOUND { 0 } else { failures.saturating_add(1) }
}

/// How long to wait before the next start: not at all after one failure (a worker that an administrator ended comes
/// back at once), then one second, doubled each time.
pub fn delay(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_secs(1 << (failures - 2).min(6)).min(LONGEST),
    }
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
    fn a_sound_run_forgets_the_failures_before_it() {
        assert_eq!(failures_after(Duration::from_secs(1), 3), 4);
        assert_eq!(failures_after(SOUND, 3), 0);
        assert_eq!(failures_after(Duration::ZERO, u32::MAX), u32::MAX);
    }
}
