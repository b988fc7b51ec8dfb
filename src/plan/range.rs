//! The range of a failed node's transactions that a target is to replay, and whether the source still has it (pure).

use crate::lsn::OriginLsn;
use serde::Serialize;

/// How far target and source are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Positions {
    /// What the target has applied, and what it has durably passed; the former is never beyond the latter.
    pub target_applied: OriginLsn,
    pub target_passed: OriginLsn,
    pub source_applied: OriginLsn,
    /// The position up to which the source may have released transactions.
    pub released: OriginLsn,
}

/// The range to be replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Range {
    /// Exclusive.
    #[serde(rename = "skip_lsn")]
    pub skip: OriginLsn,
    /// Inclusive.
    #[serde(rename = "stop_lsn")]
    pub stop: OriginLsn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    SourceBehind { theirs: OriginLsn, ours: OriginLsn },
    SkipBelowApplied { skip: OriginLsn, applied: OriginLsn },
    StopBeyondSource { stop: OriginLsn, applied: OriginLsn },
    StopBeforeSkip { skip: OriginLsn, stop: OriginLsn },
    Released { released: OriginLsn, passed: OriginLsn },
}

/// The range that is asked for, within what is possible.
///
/// # Errors
/// The source is behind the target, has released part of the range, or the bounds do not lie between the two positions.
pub fn range(skip: Option<OriginLsn>, stop: Option<OriginLsn>, positions: Positions) -> Result<Range, RangeError> {
    let Positions { target_applied, target_passed, source_applied, released } = positions;
    if source_applied < target_applied {
        return Err(RangeError::SourceBehind { theirs: source_applied, ours: target_applied });
    }
    let skip = skip.unwrap_or(target_applied);
    let stop = stop.unwrap_or(source_applied);
    if skip < target_applied {
        return Err(RangeError::SkipBelowApplied { skip, applied: target_applied });
    }
    if stop > source_applied {
        return Err(RangeError::StopBeyondSource { stop, applied: source_applied });
    }
    if stop < skip {
        return Err(RangeError::StopBeforeSkip { skip, stop });
    }
    // The source need not have what the caller explicitly skips. If the range is empty, the source needs nothing.
    let needed_from = target_passed.max(skip);
    if released > needed_from && needed_from < stop {
        return Err(RangeError::Released { released, passed: needed_from });
    }
    Ok(Range { skip, stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(applied: u64, passed: u64, source: u64, released: u64) -> Positions {
        Positions {
            target_applied: OriginLsn(applied),
            target_passed: OriginLsn(passed),
            source_applied: OriginLsn(source),
            released: OriginLsn(released),
        }
    }

    fn ask(skip: Option<u64>, stop: Option<u64>, positions: Positions) -> Result<(u64, u64), &'static str> {
        range(skip.map(OriginLsn), stop.map(OriginLsn), positions).map(|range| (range.skip.0, range.stop.0)).map_err(
            |error| match error {
                RangeError::SourceBehind { .. } => "SourceBehind",
                RangeError::SkipBelowApplied { .. } => "SkipBelowApplied",
                RangeError::StopBeyondSource { .. } => "StopBeyondSource",
                RangeError::StopBeforeSkip { .. } => "StopBeforeSkip",
                RangeError::Released { .. } => "Released",
            },
        )
    }

    #[test]
    fn by_itself_it_is_what_the_target_lacks_of_what_the_source_has() {
        assert_eq!(ask(None, None, positions(20, 20, 90, 10)), Ok((20, 90)));
        assert_eq!(ask(None, None, positions(90, 90, 90, 10)), Ok((90, 90)));
        assert_eq!(ask(None, None, positions(91, 91, 90, 10)), Err("SourceBehind"));
    }

    #[test]
    fn bounds_by_hand_are_taken_up_to_the_very_ends() {
        let known = positions(20, 20, 90, 10);
        assert_eq!(ask(Some(20), Some(90), known), Ok((20, 90)));
        assert_eq!(ask(Some(19), None, known), Err("SkipBelowApplied"));
        assert_eq!(ask(Some(21), None, known), Ok((21, 90)));
        assert_eq!(ask(None, Some(91), known), Err("StopBeyondSource"));
        assert_eq!(ask(None, Some(89), known), Ok((20, 89)));
        assert_eq!(ask(Some(50), Some(50), known), Ok((50, 50)));
        assert_eq!(ask(Some(50), Some(49), known), Err("StopBeforeSkip"));
        assert_eq!(ask(None, Some(19), known), Err("StopBeforeSkip"));
    }

    #[test]
    fn what_the_source_may_have_let_go_must_be_passed() {
        for (released, passed, expected) in
            [(19, 20, true), (20, 20, true), (21, 20, false), (21, 21, true), (22, 21, false)]
        {
            assert_eq!(ask(None, None, positions(20, passed, 90, released)).is_ok(), expected, "{released} {passed}");
        }
        assert_eq!(ask(None, None, positions(20, 20, 90, u64::MAX)), Err("Released"));
        // The transactions are skipped explicitly, or the range is empty.
        assert_eq!(ask(Some(30), None, positions(20, 20, 90, 30)), Ok((30, 90)));
        assert_eq!(ask(Some(29), None, positions(20, 20, 90, 30)), Err("Released"));
        assert_eq!(ask(None, None, positions(90, 90, 90, u64::MAX)), Ok((90, 90)));
    }
}
