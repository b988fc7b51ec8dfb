//! The conflicts that a recovery has met, and how they were resolved, counted (pure).
//!
//! The kinds have PostgreSQL's own names (documentation, "Conflicts" in logical replication).

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConflictKind {
    InsertExists,
    UpdateExists,
    MultipleUniqueConflicts,
    UpdateOriginDiffers,
    UpdateMissing,
    DeleteOriginDiffers,
    DeleteMissing,
    /// A TRUNCATE that found rows that were committed after it. PostgreSQL has no name for this conflict.
    TruncateOriginDiffers,
}

impl ConflictKind {
    pub fn name(self) -> &'static str {
        match self {
            ConflictKind::InsertExists => "insert_exists",
            ConflictKind::UpdateExists => "update_exists",
            ConflictKind::MultipleUniqueConflicts => "multiple_unique_conflicts",
            ConflictKind::UpdateOriginDiffers => "update_origin_differs",
            ConflictKind::UpdateMissing => "update_missing",
            ConflictKind::DeleteOriginDiffers => "delete_origin_differs",
            ConflictKind::DeleteMissing => "delete_missing",
            ConflictKind::TruncateOriginDiffers => "truncate_origin_differs",
        }
    }

    /// Whether another row has the key that the change would bring.
    pub fn is_about_a_unique_key(self) -> bool {
        matches!(self, ConflictKind::InsertExists | ConflictKind::UpdateExists | ConflictKind::MultipleUniqueConflicts)
    }
}

/// What was done with a change that met a conflict.
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
    /// The table's oid on this node; 0 stands for all tables beyond those that are counted separately.
    pub relation: u32,
    pub kind: ConflictKind,
    pub resolution: Resolution,
    pub count: u64,
}

/// How many combinations of table, kind and resolution are counted separately: the record of a recovery is bounded.
const TOLD_APART: usize = 128;

impl Tally {
    /// Adds this count to `tallies`.
    pub fn add_to(self, tallies: &mut Vec<Tally>) {
        let same = |known: &Tally, relation| {
            (known.relation, known.kind, known.resolution) == (relation, self.kind, self.resolution)
        };
        let place = tallies.iter().position(|known| same(known, self.relation));
        let place = place.or_else(|| {
            (tallies.len() >= TOLD_APART).then(|| tallies.iter().position(|known| same(known, 0))).flatten()
        });
        match place {
            Some(place) => tallies[place].count = tallies[place].count.saturating_add(self.count),
            None if tallies.len() >= TOLD_APART => tallies.push(Tally { relation: 0, ..self }),
            None => tallies.push(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_the_same_kind_are_one_and_their_number_is_bounded() {
        let tally =
            |relation, count| Tally { relation, kind: ConflictKind::InsertExists, resolution: Resolution::Skip, count };
        let mut tallies = Vec::new();
        for relation in 1..=1000 {
            tally(relation, 2).add_to(&mut tallies);
            tally(relation, 1).add_to(&mut tallies);
        }
        assert_eq!(tallies.len(), TOLD_APART + 1);
        assert_eq!(tallies[0], tally(1, 3));
        assert_eq!(tallies.iter().map(|known| known.count).sum::<u64>(), 3000);
        assert_eq!(tallies[TOLD_APART], tally(0, 3 * (1000 - TOLD_APART as u64)));
    }
}
