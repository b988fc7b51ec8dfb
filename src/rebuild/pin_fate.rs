//! How long a pin is held (pure).

use crate::shmem::TargetSays;
use std::time::Duration;

/// Why a pin ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinEnd {
    /// release_pin() was called.
    Released,
    /// The target says that the intent is over, or that it knows of none.
    IntentOver,
    /// The target has not said for too long that the intent is unfinished.
    TargetSilent,
    Expired,
    /// The place in shared memory was given away: this database is not a node any more.
    NoNode,
}

/// What is known of a pin at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinSeen {
    pub is_released: bool,
    pub says: TargetSays,
    pub held_for: Duration,
    pub silent_for: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinLimits {
    pub lifetime: Duration,
    /// spock.rebuild_pin_silence.
    pub silence: Duration,
}

/// Decides whether the pin is held on; the value is the time after which that must be decided again at the latest.
///
/// # Errors
/// Why it ends.
pub fn fate(seen: Option<PinSeen>, limits: &PinLimits) -> Result<Duration, PinEnd> {
    let seen = seen.ok_or(PinEnd::NoNode)?;
    if seen.is_released {
        return Err(PinEnd::Released);
    }
    if seen.says == TargetSays::Ended {
        return Err(PinEnd::IntentOver);
    }
    let left = |limit: Duration, passed| limit.checked_sub(passed).filter(|left| !left.is_zero());
    let of_lifetime = left(limits.lifetime, seen.held_for).ok_or(PinEnd::Expired)?;
    let of_silence = left(limits.silence, seen.silent_for).ok_or(PinEnd::TargetSilent)?;
    Ok(of_lifetime.min(of_silence))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const LIMITS: PinLimits = PinLimits { lifetime: Duration::from_secs(100), silence: Duration::from_secs(10) };
    const SEEN: PinSeen = PinSeen {
        is_released: false,
        says: TargetSays::Unfinished,
        held_for: Duration::ZERO,
        silent_for: Duration::ZERO,
    };

    #[test]
    fn a_pin_is_held_while_its_target_goes_on_and_its_time_is_not_over() {
        assert_eq!(fate(Some(SEEN), &LIMITS), Ok(10 * S));
        assert_eq!(fate(Some(PinSeen { silent_for: 9 * S, ..SEEN }), &LIMITS), Ok(S));
        assert_eq!(fate(Some(PinSeen { held_for: 99 * S, ..SEEN }), &LIMITS), Ok(S));
        assert_eq!(fate(Some(PinSeen { says: TargetSays::Nothing, ..SEEN }), &LIMITS), Ok(10 * S));
    }

    #[test]
    fn each_reason_alone_ends_it() {
        for (seen, end) in [
            (None, PinEnd::NoNode),
            (Some(PinSeen { is_released: true, ..SEEN }), PinEnd::Released),
            (Some(PinSeen { says: TargetSays::Ended, ..SEEN }), PinEnd::IntentOver),
            (Some(PinSeen { held_for: 100 * S, ..SEEN }), PinEnd::Expired),
            (Some(PinSeen { silent_for: 10 * S, ..SEEN }), PinEnd::TargetSilent),
        ] {
            assert_eq!(fate(seen, &LIMITS), Err(end), "{seen:?}");
        }
    }
}
