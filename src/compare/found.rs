//! The keys that were found to differ.

use super::question::KeyText;
use crate::pg::spill::Spill;
use serde::{Deserialize, Serialize};

/// How the two nodes differ in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    MissingHere,
    MissingThere,
    Different,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::MissingHere => "missing_here",
            Kind::MissingThere => "missing_there",
            Kind::Different => "different",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub key: KeyText,
    pub kind: Kind,
}

/// Keys that differ, in the order in which they were found. Many of them are kept in a temporary file.
#[derive(Default)]
pub struct FoundKeys(Spill);

impl FoundKeys {
    pub fn push(&mut self, found: &Found) {
        // Serializing strings cannot fail.
        self.0.push(&serde_json::to_vec(found).unwrap_or_default());
    }

    pub fn count(&self) -> u64 {
        self.0.count
    }

    /// Goes back to the first key. No key may be pushed afterwards.
    pub fn rewind(&mut self) {
        self.0.rewind();
    }

    /// The next key; None at the end. For reading after `rewind`.
    pub fn next(&mut self) -> Option<Found> {
        serde_json::from_slice(&self.0.next()?).ok()
    }
}
