//! Whether a source can supply what a target lacks of a failed node, and which range that is (pure).

use super::error::RecoverError;
use crate::intent::document::Request;
use crate::lsn::OriginLsn;

/// How far both have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Positions {
    /// What the target has applied, and what it is durably past; the first is never beyond the second.
    pub target_applied: OriginLsn,
    pub target_passed: OriginLsn,
    pub source_applied: OriginLsn,
    /// Up to where the source may have let go.
    pub released: OriginLsn,
}

/// What is to be replayed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Exclusive.
    pub skip: OriginLsn,
    /// Inclusive.
    pub stop: OriginLsn,
}

/// The range that the request asks for, within what is possible.
pub fn range(request: &Request, positions: Positions) -> Result<Range, RecoverError> {
    let Positions { target_applied, target_passed, source_applied, released } = positions;
    let failed = || request.failed.clone();
    let source_node = || request.source.clone();
    if source_applied < target_applied {
        return Err(RecoverError::SourceBehind {
            source_node: source_node(),
            failed: failed(),
            theirs: source_applied,
            ours: target_applied,
        });
    }
    let skip = request.skip.unwrap_or(target_applied);
    let stop = request.stop.unwrap_or(source_applied);
    if skip < target_applied {
        return Err(RecoverError::SkipBelowApplied { failed: failed(), skip, applied: target_applied });
    }
    if stop > source_applied {
        return Err(RecoverError::StopBeyondSource {
            source_node: source_node(),
            failed: failed(),
            stop,
            applied: source_applied,
        });
    }
    if stop < skip {
        return Err(RecoverError::StopBeforeSkip { skip, stop });
    }
    // What the caller skips by his own word need not be there; where nothing is wanted nothing need be.
    let needed_from = target_passed.max(skip);
    if released > needed_from && needed_from < stop {
        return Err(RecoverError::Released {
            source_node: source_node(),
            failed: failed(),
            released,
            passed: needed_from,
        });
    }
    Ok(Range { skip, stop })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(skip: Option<u64>, stop: Option<u64>) -> Request {
        Request {
            failed: "n1".to_owned(),
            source: "n3".to_owned(),
            target: "n2".to_owned(),
            clone: None,
            skip: skip.map(OriginLsn),
            stop: stop.map(OriginLsn),
            stop_timestamp: None,
        }
    }

    fn positions(applied: u64, passed: u64, source: u64, released: u64) -> Positions {
        Positions {
            target_applied: OriginLsn(applied),
            target_passed: OriginLsn(passed),
            source_applied: OriginLsn(source),
            released: OriginLsn(released),
        }
    }

    fn ask(skip: Option<u64>, stop: Option<u64>, positions: Positions) -> Result<(u64, u64), String> {
        range(&request(skip, stop), positions)
            .map(|range| (range.skip.0, range.stop.0))
            .map_err(|error| format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned())
    }

    #[test]
    fn by_itself_it_is_what_the_target_lacks_of_what_the_source_has() {
        assert_eq!(ask(None, None, positions(20, 20, 90, 10)), Ok((20, 90)));
        assert_eq!(ask(None, None, positions(90, 90, 90, 10)), Ok((90, 90)));
        assert_eq!(ask(None, None, positions(91, 91, 90, 10)), Err("SourceBehind".to_owned()));
    }

    #[test]
    fn bounds_by_hand_are_taken_up_to_the_very_ends() {
        let known = positions(20, 20, 90, 10);
        assert_eq!(ask(Some(20), Some(90), known), Ok((20, 90)));
        assert_eq!(ask(Some(19), None, known), Err("SkipBelowApplied".to_owned()));
        assert_eq!(ask(Some(21), None, known), Ok((21, 90)));
        assert_eq!(ask(None, Some(91), known), Err("StopBeyondSource".to_owned()));
        assert_eq!(ask(None, Some(89), known), Ok((20, 89)));
        assert_eq!(ask(Some(50), Some(50), known), Ok((50, 50)));
        assert_eq!(ask(Some(50), Some(49), known), Err("StopBeforeSkip".to_owned()));
        assert_eq!(ask(None, Some(19), known), Err("StopBeforeSkip".to_owned()));
    }

    #[test]
    fn what_the_source_may_have_let_go_must_be_passed() {
        for (released, passed, expected) in
            [(19, 20, true), (20, 20, true), (21, 20, false), (21, 21, true), (22, 21, false)]
        {
            assert_eq!(ask(None, None, positions(20, passed, 90, released)).is_ok(), expected, "{released} {passed}");
        }
        assert_eq!(ask(None, None, positions(20, 20, 90, u64::MAX)), Err("Released".to_owned()));
        // Given up explicitly, or nothing wanted.
        assert_eq!(ask(Some(30), None, positions(20, 20, 90, 30)), Ok((30, 90)));
        assert_eq!(ask(Some(29), None, positions(20, 20, 90, 30)), Err("Released".to_owned()));
        assert_eq!(ask(None, None, positions(90, 90, 90, u64::MAX)), Ok((90, 90)));
    }
}
