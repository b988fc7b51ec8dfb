//! Which of two versions of a row stays (pure): the later commit wins, whoever wrote it.
//!
//! The failed node's transactions arrive late: the row may have been changed since by somebody who commits after them.
//! PostgreSQL's own names for the kinds (documentation, "Conflicts" in logical replication).

use crate::pg::clock::Timestamp;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    InsertExists,
    MultipleUniqueConflicts,
    UpdateOriginDiffers,
    UpdateMissing,
    DeleteOriginDiffers,
    DeleteMissing,
    /// A TRUNCATE that found rows which were committed after it.
    LateTruncate,
}

/// The version of a row that is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing<'a> {
    /// The failed node wrote it too: its transactions come in their own order, whatever their clocks say.
    OfTheFailedNode,
    /// Too old for its age to be known, or commit times are not kept.
    OfUnknownAge,
    Of {
        committed_at: Timestamp,
        node: &'a str,
    },
}

/// What comes from the failed node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incoming<'a> {
    pub committed_at: Timestamp,
    pub node: &'a str,
}

/// Whether what comes replaces what is there. At the same microsecond the higher node name wins, on every node alike.
pub fn replaces(incoming: Incoming<'_>, existing: Existing<'_>) -> bool {
    match existing {
        Existing::OfTheFailedNode | Existing::OfUnknownAge => true,
        Existing::Of { committed_at, node } => (incoming.committed_at, incoming.node) > (committed_at, node),
    }
}

/// Whether changing the row is a conflict at all: it is where another node is known to have written its last version.
pub fn differs(existing: Existing<'_>) -> bool {
    matches!(existing, Existing::Of { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn incoming(at: i64) -> Incoming<'static> {
        Incoming { committed_at: Timestamp(at), node: "n1" }
    }

    fn of(at: i64, node: &str) -> Existing<'_> {
        Existing::Of { committed_at: Timestamp(at), node }
    }

    #[test]
    fn the_later_commit_wins_at_every_boundary() {
        for (there, node, expected) in
            [(9, "n3", true), (10, "n0", true), (10, "n1", false), (10, "n2", false), (11, "n0", false)]
        {
            assert_eq!(replaces(incoming(10), of(there, node)), expected, "{there} of {node}");
        }
    }

    #[test]
    fn what_the_failed_node_wrote_itself_follows_its_own_order() {
        assert!(replaces(incoming(i64::MIN), Existing::OfTheFailedNode));
        assert!(!differs(Existing::OfTheFailedNode));
        assert!(!differs(Existing::OfUnknownAge));
        assert!(differs(of(0, "n3")));
    }

    #[test]
    fn unknown_age_loses_to_a_known_one() {
        assert!(replaces(incoming(i64::MIN), Existing::OfUnknownAge));
    }

    proptest! {
        #[test]
        fn of_two_versions_exactly_one_wins_whichever_comes_late(a: i64, b: i64) {
            let first = replaces(Incoming { committed_at: Timestamp(a), node: "n1" }, of(b, "n2"));
            let second = replaces(Incoming { committed_at: Timestamp(b), node: "n2" }, of(a, "n1"));
            prop_assert!(first != second);
        }
    }
}
