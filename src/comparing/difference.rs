//! A key that differs, as a comparison lists it (pure): a line of JSON.

use crate::pg::clock::Timestamp;
use crate::reconcile::comparing::{Finding, Stamp};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The place of its table in the comparison's list of tables.
    pub table: usize,
    pub key: Vec<String>,
    pub kind: String,
    pub here: Option<(Timestamp, Option<String>)>,
    pub there: Option<(Timestamp, Option<String>)>,
    pub verdict: String,
}

impl Difference {
    pub fn of(table: usize, finding: Finding) -> Difference {
        let Finding { key, kind, here, there, outcome } = finding;
        Difference { table, key, kind: kind.name().to_owned(), here, there, verdict: outcome.name().to_owned() }
    }

    /// The name of the node that has committed a version.
    pub fn author(stamp: &Stamp) -> Option<String> {
        stamp.as_ref().and_then(|(_, author)| author.clone())
    }
}
