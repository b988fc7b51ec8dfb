//! The server's clock (utils/timestamp.h).

use pgrx::pg_sys;
use std::time::Duration;

/// A `timestamptz` as shared memory holds it: microseconds since 2000-01-01 00:00 UTC. Zero means never.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
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

    /// Time from `earlier` to `self`; zero if the clock was set back.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    pub fn is_never(self) -> bool {
        self == Timestamp::NEVER
    }
}

impl From<Timestamp> for pgrx::datum::TimestampWithTimeZone {
    fn from(timestamp: Timestamp) -> Self {
        // A clock reading is within timestamptz's range; the epoch stands in for what is not.
        pgrx::datum::TimestampWithTimeZone::try_from(timestamp.0).unwrap_or_else(|_| Timestamp::NEVER.into())
    }
}

impl From<pgrx::datum::TimestampWithTimeZone> for Timestamp {
    fn from(value: pgrx::datum::TimestampWithTimeZone) -> Self {
        Timestamp(pg_sys::TimestampTz::from(value))
    }
}
