//! The range of a failed node's transactions that a target is to replay (pure).

use crate::lsn::OriginLsn;
use serde::Serialize;

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
    SkipBelowApplied { skip: OriginLsn, applied: OriginLsn },
    StopBeyondSource { stop: OriginLsn, applied: OriginLsn },
    StopBeforeSkip { skip: OriginLsn, stop: OriginLsn },
}

/// The range that is asked for, within what the target lacks. `target`, `source`: how far they have applied the failed
/// node; the source at least as far. Whether the source has released any of it is a condition of the proof, and no
/// error here.
///
/// # Errors
/// The bounds do not lie between the two positions.
pub fn range(
    skip: Option<OriginLsn>,
    stop: Option<OriginLsn>,
    target: OriginLsn,
    source: OriginLsn,
) -> Result<Range, RangeError> {
    let (skip, stop) = (skip.unwrap_or(target), stop.unwrap_or(source));
    if skip < target {
        return Err(RangeError::SkipBelowApplied { skip, applied: target });
    }
    if stop > source {
        return Err(RangeError::StopBeyondSource { stop, applied: source });
    }
    if stop < skip {
        return Err(RangeError::StopBeforeSkip { skip, stop });
    }
    Ok(Range { skip, stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a target that has applied up to 20, and a source that has up to 90.
    fn ask(skip: Option<u64>, stop: Option<u64>) -> Result<(u64, u64), &'static str> {
        range(skip.map(OriginLsn), stop.map(OriginLsn), OriginLsn(20), OriginLsn(90))
            .map(|range| (range.skip.0, range.stop.0))
            .map_err(|error| match error {
                RangeError::SkipBelowApplied { .. } => "SkipBelowApplied",
                RangeError::StopBeyondSource { .. } => "StopBeyondSource",
                RangeError::StopBeforeSkip { .. } => "StopBeforeSkip",
            })
    }

    #[test]
    fn by_itself_it_is_what_the_target_lacks_of_what_the_source_has() {
        assert_eq!(ask(None, None), Ok((20, 90)));
        let nothing = range(None, None, OriginLsn(90), OriginLsn(90));
        assert_eq!(nothing, Ok(Range { skip: OriginLsn(90), stop: OriginLsn(90) }));
    }

    #[test]
    fn bounds_by_hand_are_taken_up_to_the_very_ends() {
        assert_eq!(ask(Some(20), Some(90)), Ok((20, 90)));
        assert_eq!(ask(Some(19), None), Err("SkipBelowApplied"));
        assert_eq!(ask(Some(21), None), Ok((21, 90)));
        assert_eq!(ask(None, Some(91)), Err("StopBeyondSource"));
        assert_eq!(ask(None, Some(89)), Ok((20, 89)));
        assert_eq!(ask(Some(50), Some(50)), Ok((50, 50)));
        assert_eq!(ask(Some(50), Some(49)), Err("StopBeforeSkip"));
        assert_eq!(ask(None, Some(19)), Err("StopBeforeSkip"));
    }
}
