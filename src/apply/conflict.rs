//! Which of two versions of a row stays (pure): the later commit wins, whichever node made it, unless the administrator
//! has set something else.
//!
//! The failed node's transactions arrive late, so another node may have changed the row since, with a later commit. The
//! names of the kinds are PostgreSQL's own (documentation, "Conflicts" in logical replication).

use crate::guc::Policy;
use crate::pg::clock::Timestamp;
use crate::tally::conflict::{ConflictKind, Resolution};

/// The existing version of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing<'a> {
    /// The failed node wrote this version too. Its transactions arrive in the order in which it committed them,
    /// whatever their commit times are.
    OfTheFailedNode,
    /// The version is too old for its commit time to be known, or commit times are not tracked.
    OfUnknownAge,
    Of {
        committed_at: Timestamp,
        node: &'a str,
    },
}

/// The version that the failed node sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incoming<'a> {
    pub committed_at: Timestamp,
    pub node: &'a str,
}

/// Whether the incoming version replaces the existing one. At the same microsecond the node with the higher name wins,
/// which every node decides alike.
pub fn replaces(incoming: Incoming<'_>, existing: Existing<'_>) -> bool {
    match existing {
        Existing::OfTheFailedNode | Existing::OfUnknownAge => true,
        Existing::Of { committed_at, node } => (incoming.committed_at, incoming.node) > (committed_at, node),
    }
}

/// How a conflict of this kind with an existing row is resolved. If the policy is to wait, this is what would be done.
pub fn resolve(policy: Policy, kind: ConflictKind, incoming: Incoming<'_>, existing: Existing<'_>) -> Resolution {
    let applies = match (policy, existing) {
        // The failed node's transactions arrive in the order in which it committed them.
        (_, Existing::OfTheFailedNode) | (Policy::ApplyRemote, _) => true,
        // Of rows of unknown age, only one that is in the way of another row is known to be another node's.
        (Policy::KeepLocal, Existing::OfUnknownAge) => !kind.is_about_a_unique_key(),
        (Policy::KeepLocal, Existing::Of { .. }) => false,
        (Policy::LastUpdateWins | Policy::Error, _) => replaces(incoming, existing),
    };
    if applies { Resolution::ApplyRemote } else { Resolution::KeepLocal }
}

/// Whether changing the row is a conflict at all: it is one if another node is known to have written its last version.
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
    fn the_policy_decides_between_what_comes_and_what_others_wrote() {
        use ConflictKind::{
            DeleteOriginDiffers, InsertExists, TruncateOriginDiffers, UpdateExists, UpdateOriginDiffers,
        };
        use Existing::{OfTheFailedNode, OfUnknownAge};
        use Policy::{ApplyRemote, Error, KeepLocal, LastUpdateWins};
        let (older, newer) = (of(9, "n3"), of(11, "n3"));
        for (policy, kind, existing, expected) in [
            (LastUpdateWins, InsertExists, older, true),
            (LastUpdateWins, InsertExists, newer, false),
            (LastUpdateWins, UpdateExists, OfUnknownAge, true),
            (LastUpdateWins, TruncateOriginDiffers, newer, false),
            (ApplyRemote, UpdateOriginDiffers, newer, true),
            (ApplyRemote, InsertExists, newer, true),
            (ApplyRemote, TruncateOriginDiffers, newer, true),
            (KeepLocal, UpdateOriginDiffers, older, false),
            (KeepLocal, DeleteOriginDiffers, older, false),
            (KeepLocal, InsertExists, OfUnknownAge, false),
            (KeepLocal, UpdateExists, OfUnknownAge, false),
            (KeepLocal, TruncateOriginDiffers, OfUnknownAge, true),
            (KeepLocal, UpdateOriginDiffers, OfUnknownAge, true),
            (KeepLocal, InsertExists, OfTheFailedNode, true),
            (Error, UpdateOriginDiffers, older, true),
            (Error, UpdateOriginDiffers, newer, false),
        ] {
            let expected = if expected { Resolution::ApplyRemote } else { Resolution::KeepLocal };
            assert_eq!(resolve(policy, kind, incoming(10), existing), expected, "{policy:?} {kind:?} {existing:?}");
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
