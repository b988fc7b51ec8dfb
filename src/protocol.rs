//! Which questions nodes ask each other, and how they answer (pure).
//!
//! A protocol has a number. It changes when an older library would misunderstand a question, an answer or the stream of a
//! recovery; a field or a column that may be ignored is added at the end without. Each library also speaks the protocol before its
//! own, so that the nodes of a mesh may be upgraded one after the other. What differs by more is refused, and it is said
//! which node is to be upgraded.

use std::cmp::Ordering;

/// The protocol of this library.
pub const OURS: u32 = 2;

/// That of version 0.1.0, which does not tell its number.
pub const UNTOLD: u32 = 1;

/// The oldest protocol that a library of that protocol speaks.
fn oldest_spoken_by(protocol: u32) -> u32 {
    protocol.saturating_sub(1).max(UNTOLD)
}

/// Which of two nodes must be upgraded before they understand each other; Equal: neither.
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
