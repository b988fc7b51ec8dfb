//! The protocol in which nodes ask each other and answer (pure).
//!
//! A protocol has a number. The number changes when an older library would misunderstand a question, an answer, or the
//! stream of a recovery. It does not change when a field or column that may be ignored is added at the end. Each
//! library also speaks the protocol before its own, so that the nodes of a mesh can be upgraded one after the other.
//! Two nodes that are further apart refuse each other, and the error says which of them has to be upgraded.

use std::cmp::Ordering;

/// The protocol of this library.
pub const OURS: u32 = 2;

/// The protocol of version 0.1.0, which does not report a number.
pub const UNTOLD: u32 = 1;

/// The oldest protocol that a library with the given protocol still speaks.
fn oldest_spoken_by(protocol: u32) -> u32 {
    protocol.saturating_sub(1).max(UNTOLD)
}

/// Which of two nodes must be upgraded before they understand each other: Less for `one`, Greater for `other`, Equal
/// for neither.
pub fn lags(one: u32, other: u32) -> Ordering {
    if one < oldest_spoken_by(other) {
        Ordering::Less
    } else if other < oldest_spoken_by(one) {
        Ordering::Greater
    } else {
        Ordering::Equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_understand_each_other_and_of_others_the_older_one_is_to_be_upgraded() {
        for one in UNTOLD..9 {
            for other in UNTOLD..9 {
                let expected = if one.abs_diff(other) <= 1 { Ordering::Equal } else { one.cmp(&other) };
                assert_eq!(lags(one, other), expected, "{one} and {other}");
            }
        }
        assert_eq!(lags(UNTOLD, OURS), Ordering::Equal, "a mesh of 0.1.0 can be upgraded node by node");
    }
}
