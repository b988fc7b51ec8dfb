//! The two clocks: the time of day (utils/timestamp.h), and a monotonic clock for durations, which setting the former
//! does not affect.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A reading of the monotonic clock, in microseconds; every wait uses this clock. All processes of a machine share it,
/// and it starts anew when the machine does. Zero means never.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub struct Monotonic(pub u64);

impl Monotonic {
    pub const NEVER: Monotonic = Monotonic(0);

    pub fn now() -> Monotonic {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to a local struct; the clock exists on every system that PostgreSQL runs on.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        Monotonic(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000)
    }

    /// The time from `earlier` to `self`.
    pub fn since(self, earlier: Monotonic) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    pub fn is_never(self) -> bool {
        self == Monotonic::NEVER
    }
}

/// A `timestamptz` in shared memory and in documents: microseconds since 2000-01-01 00:00 UTC. Zero means never.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[repr(transparent)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const NEVER: Timestamp = Timestamp(0);

    pub fn now() -> Timestamp {
        // SAFETY: reads the clock.
        Timestamp(unsafe { pg_sys::GetCurrentTimestamp() })
    }

    /// When the postmaster was started.
    pub fn of_server_start() -> Timestamp {
        // SAFETY: set before any of our code runs.
        Timestamp(unsafe { pg_sys::PgStartTime })
    }

    /// The time from `earlier` to `self`, which both come from catalogs or from core. It is zero if the clock was set
    /// back, and wrong if the clock was set otherwise. For waits of this library use [`Monotonic`].
    pub fn by_the_wall_since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    pub fn is_never(self) -> bool {
        self == Timestamp::NEVER
    }

    /// The second in UTC, such as `20261126T235501Z`, for a name.
    pub fn in_a_name(self) -> String {
        /// From 1970-01-01 to 2000-01-01, in seconds.
        const EPOCH: i64 = 946_684_800;
        let seconds: libc::time_t = self.0.div_euclid(1_000_000) + EPOCH;
        // SAFETY: writes a struct of integers, for which zeros are valid, and reads a local.
        let time = unsafe {
            let mut time = std::mem::zeroed();
            libc::gmtime_r(&seconds, &mut time);
            time
        };
        let [year, month] = [time.tm_year + 1900, time.tm_mon + 1];
        let [day, hour, minute, second] = [time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec];
        format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
    }
}

impl From<Timestamp> for pgrx::datum::TimestampWithTimeZone {
    fn from(timestamp: Timestamp) -> Self {
        // A clock reading is within the range of timestamptz. Any other value is shown as the epoch.
        pgrx::datum::TimestampWithTimeZone::try_from(timestamp.0).unwrap_or_else(|_| Timestamp::NEVER.into())
    }
}

impl From<pgrx::datum::TimestampWithTimeZone> for Timestamp {
    fn from(value: pgrx::datum::TimestampWithTimeZone) -> Self {
        Timestamp(pg_sys::TimestampTz::from(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_a_name_is_in_utc() {
        for (at, name) in [
            (0, "20000101T000000Z"),
            (849_052_501_999_999, "20261126T235501Z"),
            (-1, "19991231T235959Z"),
            (5_097_599_000_000, "20000228T235959Z"),
        ] {
            assert_eq!(Timestamp(at).in_a_name(), name);
        }
    }
}
