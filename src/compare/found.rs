//! The keys that were found to differ.

use super::question::KeyText;
use crate::pg::spill::Spill;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

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

/// What was found out about keys, in the order in which it was. Much of it is kept in a temporary file.
pub struct Keys<K> {
    spill: Spill,
    of: PhantomData<K>,
}

/// Keys that differ.
pub type FoundKeys = Keys<Found>;

impl<K> Default for Keys<K> {
    fn default() -> Keys<K> {
        Keys { spill: Spill::default(), of: PhantomData }
    }
}

impl<K: Serialize + DeserializeOwned> Keys<K> {
    pub fn push(&mut self, key: &K) {
        // Serializing strings and numbers cannot fail.
        self.spill.push(&serde_json::to_vec(key).unwrap_or_default());
    }

    pub fn count(&self) -> u64 {
        self.spill.count
    }

    /// Goes back to the first key. No key may be pushed afterwards.
    pub fn rewind(&mut self) {
        self.spill.rewind();
    }

    /// The next key; None at the end. For reading after `rewind`.
    pub fn next(&mut self) -> Option<K> {
        serde_json::from_slice(&self.spill.next()?).ok()
    }

    /// The next keys, at most so many; none at the end.
    pub fn next_batch(&mut self, most: usize) -> Vec<K> {
        std::iter::from_fn(|| self.next()).take(most).collect()
    }
}
