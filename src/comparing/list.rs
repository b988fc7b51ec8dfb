//! The tables of a comparison, and how far each has got (pure).

use super::difference::Difference;
use crate::compare::found::Kind;
use crate::compare::progress::Progress;
use crate::document::Document;
use crate::intent_id::IntentId;
use crate::pg::clock::Timestamp;
use crate::reconcile::comparing::{Finding, Outcome};
use crate::tally::compared::Why;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most keys that are listed of one table and of one comparison. Further ones are only counted.
pub const LISTED_OF_TABLE: u64 = 10_000;
pub const LISTED: u64 = 100_000;

/// What has become of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    Waiting,
    Running,
    Compared,
    NotComparable,
}

/// What was found in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub missing_here: u64,
    pub missing_there: u64,
    pub different: u64,
    /// How many of these were repaired.
    pub repaired: u64,
    /// Keys that could not be judged, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undecided: BTreeMap<Why, u64>,
}

impl Tally {
    fn add(&mut self, kind: Kind, outcome: Outcome) {
        if let Outcome::Undecided(why) = outcome {
            *self.undecided.entry(why).or_default() += 1;
            return;
        }
        *match kind {
            Kind::MissingHere => &mut self.missing_here,
            Kind::MissingThere => &mut self.missing_there,
            Kind::Different => &mut self.different,
        } += 1;
        self.repaired += u64::from(outcome == Outcome::Repaired);
    }

    /// The keys that differ, repaired or not.
    pub fn found(&self) -> u64 {
        self.missing_here + self.missing_there + self.different
    }

    /// The keys that still differ.
    pub fn differing(&self) -> u64 {
        self.found() - self.repaired
    }

    pub fn undecided(&self) -> u64 {
        self.undecided.values().sum()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedTable {
    pub schema: String,
    pub name: String,
    pub state: TableState,
    /// Why it cannot be compared, or why its comparison has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default)]
    pub progress: Progress,
    #[serde(default)]
    pub tally: Tally,
    /// How many of its keys are listed.
    #[serde(default)]
    pub listed: u64,
    /// The columns of its key, in the order of the key.
    #[serde(default)]
    pub key: Vec<String>,
}

/// The tables of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparisonList {
    version: u32,
    pub id: IntentId,
    pub other: String,
    pub repair: bool,
    /// Whether the caller has named the tables.
    pub is_selected: bool,
    pub begun_at: Timestamp,
    /// When this was last written.
    pub written_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// What the hashes are seeded with.
    pub seed: i64,
    pub tables: Vec<ComparedTable>,
    /// How many keys are listed, and how many bytes their list has.
    pub listed: u64,
    pub listed_bytes: i64,
}

impl Document for ComparisonList {
    const VERSION: u32 = 1;
}

impl ComparisonList {
    pub fn new(
        (id, now): (IntentId, Timestamp),
        other: &str,
        repair: bool,
        is_selected: bool,
        tables: Vec<(String, String)>,
        seed: i64,
    ) -> ComparisonList {
        let waiting = |(schema, name)| ComparedTable {
            schema,
            name,
            state: TableState::Waiting,
            reason: None,
            progress: Progress::default(),
            tally: Tally::default(),
            listed: 0,
            key: Vec::new(),
        };
        ComparisonList {
            version: ComparisonList::VERSION,
            id,
            other: other.to_owned(),
            repair,
            is_selected,
            begun_at: now,
            written_at: now,
            ended_at: None,
            seed,
            tables: tables.into_iter().map(waiting).collect(),
            listed: 0,
            listed_bytes: 0,
        }
    }

    /// Whether a call for these tables goes on with this comparison.
    pub fn is_of(&self, repair: bool, selected: Option<&[(String, String)]>) -> bool {
        let are_named = |wanted: &[(String, String)]| {
            let names = self.tables.iter().map(|table| (table.schema.clone(), table.name.clone()));
            self.is_selected && names.eq(wanted.iter().cloned())
        };
        self.repair == repair && selected.map_or(!self.is_selected, are_named)
    }

    /// Counts a finding in a table. Returns the line of the list of keys, if it is to be listed.
    pub fn note(&mut self, place: usize, finding: Finding) -> Option<Difference> {
        let table = self.tables.get_mut(place)?;
        table.tally.add(finding.kind, finding.outcome);
        if table.listed >= LISTED_OF_TABLE || self.listed >= LISTED {
            return None;
        }
        table.listed += 1;
        self.listed += 1;
        Some(Difference::of(place, finding))
    }

    pub fn differing(&self) -> u64 {
        self.tables.iter().map(|table| table.tally.differing()).sum()
    }

    pub fn undecided(&self) -> u64 {
        self.tables.iter().map(|table| table.tally.undecided()).sum()
    }

    pub fn incomparable(&self) -> u64 {
        self.tables.iter().filter(|table| table.state == TableState::NotComparable).count() as u64
    }

    /// The tables with which nothing is left to be done.
    pub fn done(&self) -> usize {
        let is_done = |table: &&ComparedTable| !matches!(table.state, TableState::Waiting | TableState::Running);
        self.tables.iter().filter(is_done).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn list() -> ComparisonList {
        let names = |name: &str| ("public".to_owned(), name.to_owned());
        ComparisonList::new((IntentId([7; 16]), Timestamp(9)), "n2", false, false, vec![names("a"), names("b")], -3)
    }

    fn finding(kind: Kind, outcome: Outcome) -> Finding {
        Finding { key: vec!["ö".to_owned()], kind, here: Some((Timestamp(5), None)), there: None, outcome }
    }

    #[test]
    fn what_differs_what_was_repaired_and_what_is_undecided_is_counted_apart() {
        let mut list = list();
        for (kind, outcome) in [
            (Kind::MissingHere, Outcome::There),
            (Kind::MissingHere, Outcome::Repaired),
            (Kind::MissingThere, Outcome::Here),
            (Kind::Different, Outcome::UnknownAge),
            (Kind::Different, Outcome::Undecided(Why::Busy)),
        ] {
            assert!(list.note(1, finding(kind, outcome)).is_some());
        }
        let tally = &list.tables[1].tally;
        assert_eq!((tally.found(), tally.differing(), tally.undecided()), (4, 3, 1));
        assert_eq!((list.differing(), list.undecided(), list.listed), (3, 1, 5));
    }

    #[test]
    fn beyond_the_limit_keys_are_only_counted() {
        let mut list = list();
        list.tables[0].listed = LISTED_OF_TABLE;
        assert_eq!(list.note(0, finding(Kind::Different, Outcome::Here)), None);
        assert!(list.note(1, finding(Kind::Different, Outcome::Here)).is_some());
        list.listed = LISTED;
        assert_eq!(list.note(1, finding(Kind::Different, Outcome::Here)), None);
        assert_eq!(list.differing(), 3);
    }

    #[test]
    fn a_call_goes_on_only_with_the_same_tables_and_purpose() {
        let mut list = list();
        let names = [("public".to_owned(), "a".to_owned()), ("public".to_owned(), "b".to_owned())];
        assert!(list.is_of(false, None) && !list.is_of(true, None) && !list.is_of(false, Some(&names)));
        list.is_selected = true;
        assert!(list.is_of(false, Some(&names)) && !list.is_of(false, Some(&names[..1])) && !list.is_of(false, None));
    }

    #[test]
    fn the_list_is_read_as_it_was_written() {
        let mut list = list();
        list.note(0, finding(Kind::Different, Outcome::Undecided(Why::SourceLags)));
        list.tables[0].progress.after = Some(vec!["5".to_owned()]);
        let text = document::to_text(&list);
        assert!(text.is_ascii(), "{text}");
        assert_eq!(document::parse::<ComparisonList>(&text), Ok(list));
    }
}
