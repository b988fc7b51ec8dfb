//! Which of two versions of a row stays (pure): the later commit wins, whoever wrote it, unless the administrator has said
//! otherwise.
//!
//! The failed node's transactions arrive late: the row may have been changed since by somebody who commits after them.
//! PostgreSQL's own names for the kinds (documentation, "Conflicts" in logical replication).

use crate::pg::clock::Timestamp;
use pgrx::PostgresGucEnum;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    InsertExists,
    UpdateExists,
    MultipleUniqueConflicts,
    UpdateOriginDiffers,
    UpdateMissing,
    DeleteOriginDiffers,
    DeleteMissing,
    /// A TRUNCATE that found rows which were committed after it. PostgreSQL has no name for it.
    TruncateOriginDiffers,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::InsertExists => "insert_exists",
            Kind::UpdateExists => "update_exists",
            Kind::MultipleUniqueConflicts => "multiple_unique_conflicts",
            Kind::UpdateOriginDiffers => "update_origin_differs",
            Kind::UpdateMissing => "update_missing",
            Kind::DeleteOriginDiffers => "delete_origin_differs",
            Kind::DeleteMissing => "delete_missing",
            Kind::TruncateOriginDiffers => "truncate_origin_differs",
        }
    }

    /// Another row has the key that the change is to bring.
    pub fn is_about_a_unique_key(self) -> bool {
        matches!(self, Kind::InsertExists | Kind::UpdateExists | Kind::MultipleUniqueConflicts)
    }
}

/// `spock.rescue_conflict_resolution`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum Policy {
    #[name = c"last_update_wins"]
    LastUpdateWins,
    /// The failed node's change, however old.
    #[name = c"apply_remote"]
    ApplyRemote,
    /// What others have written here, however old.
    #[name = c"keep_local"]
    KeepLocal,
    /// The rescue waits at the first conflict.
    #[name = c"error"]
    Error,
}

/// What has become of a change that met a conflict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    ApplyRemote,
    KeepLocal,
    /// There was no row to change.
    Skip,
}

impl Resolution {
    pub fn name(self) -> &'static str {
        match self {
            Resolution::ApplyRemote => "apply_remote",
            Resolution::KeepLocal => "keep_local",
            Resolution::Skip => "skip",
        }
    }
}

/// How often a kind of conflict was met on a table, and how it was resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tally {
    /// The table's oid here; 0 stands for all tables beyond those that are told apart.
    pub relation: u32,
    pub kind: Kind,
    pub resolution: Resolution,
    pub count: u64,
}

/// Tables, kinds and resolutions that are told apart: what is written down of a recovery is bounded.
const TOLD_APART: usize = 128;

/// Adds a tally to others.
pub fn add(tallies: &mut Vec<Tally>, new: Tally) {
    let same = |known: &Tally, relation| {
        (known.relation, known.kind, known.resolution) == (relation, new.kind, new.resolution)
    };
    let place = tallies.iter().position(|known| same(known, new.relation));
    let place = place
        .or_else(|| (tallies.len() >= TOLD_APART).then(|| tallies.iter().position(|known| same(known, 0))).flatten());
    match place {
        Some(place) => tallies[place].count = tallies[place].count.saturating_add(new.count),
        None if tallies.len() >= TOLD_APART => tallies.push(Tally { relation: 0, ..new }),
        None => tallies.push(new),
    }
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

/// How a conflict of that kind with a row that is there is resolved. Where the policy is to wait, this is what would be done.
pub fn resolve(policy: Policy, kind: Kind, incoming: Incoming<'_>, existing: Existing<'_>) -> Resolution {
    let applies = match (policy, existing) {
        // Its transactions come in their own order.
        (_, Existing::OfTheFailedNode) | (Policy::ApplyRemote, _) => true,
        // Only a row that stands in the way of another is known to be somebody else's.
        (Policy::KeepLocal, Existing::OfUnknownAge) => !kind.is_about_a_unique_key(),
        (Policy::KeepLocal, Existing::Of { .. }) => false,
        (Policy::LastUpdateWins | Policy::Error, _) => replaces(incoming, existing),
    };
    if applies { Resolution::ApplyRemote } else { Resolution::KeepLocal }
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
    fn the_policy_decides_between_what_comes_and_what_others_wrote() {
        use Existing::{OfTheFailedNode, OfUnknownAge};
        use Kind::{DeleteOriginDiffers, InsertExists, TruncateOriginDiffers, UpdateExists, UpdateOriginDiffers};
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
    fn tallies_of_the_same_kind_are_one_and_their_number_is_bounded() {
        let tally = |relation, count| Tally { relation, kind: Kind::InsertExists, resolution: Resolution::Skip, count };
        let mut tallies = Vec::new();
        for relation in 1..=1000 {
            add(&mut tallies, tally(relation, 2));
            add(&mut tallies, tally(relation, 1));
        }
        assert_eq!(tallies.len(), TOLD_APART + 1);
        assert_eq!(tallies[0], tally(1, 3));
        assert_eq!(tallies.iter().map(|known| known.count).sum::<u64>(), 3000);
        assert_eq!(tallies[TOLD_APART], tally(0, 3 * (1000 - TOLD_APART as u64)));
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
