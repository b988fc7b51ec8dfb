//! How quickly rows may be read (pure).

use std::time::Duration;

/// The shortest span that is read at once at a slow pace, as a part of a second.
const SPANS_PER_SECOND: u64 = 2;

/// A limit to the bytes of rows that are read per second on each node; 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pace {
    bytes_per_second: u64,
}

impl Pace {
    /// A pace in MB (1,048,576 bytes) per second; 0: no limit.
    pub fn of(mb_per_second: u32) -> Pace {
        Pace { bytes_per_second: u64::from(mb_per_second) << 20 }
    }

    /// How many of `bytes` are to be read at once, so that the waits in between are short.
    pub fn at_once(self, bytes: u64) -> u64 {
        match self.bytes_per_second {
            0 => bytes,
            pace => bytes.min(pace / SPANS_PER_SECOND),
        }
    }

    /// How long to wait after so many bytes were read in so much time.
    pub fn rest(self, bytes: u64, took: Duration) -> Duration {
        match self.bytes_per_second {
            0 => Duration::ZERO,
            pace => Duration::from_secs_f64(bytes as f64 / pace as f64).saturating_sub(took),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_too_quickly_is_waited_for_and_nothing_else() {
        let second = Duration::from_secs(1);
        assert_eq!(Pace::of(10).rest(10 << 20, second / 4), second * 3 / 4);
        assert_eq!(Pace::of(10).rest(10 << 20, second * 2), Duration::ZERO);
        assert_eq!(Pace::of(0).rest(u64::MAX, Duration::ZERO), Duration::ZERO);
        assert_eq!((Pace::of(1).at_once(8 << 20), Pace::of(0).at_once(8 << 20)), (512 << 10, 8 << 20));
    }
}
