//! The rows that a replay has touched, by their keys.
//!
//! They are collected while the replay goes on, each about once, and re-collected from the source's clone by an attempt
//! that takes over from another.

use crate::pg::logicalrep::{self, Tuple};
use crate::pg::spill::Spill;
use pgrx::pg_sys::Oid;
use std::collections::{HashMap, HashSet};

/// Bytes of keys that are remembered so that a row that is changed again and again is noted once.
const REMEMBERED: usize = 4 << 20;

/// One of the source's tables as it tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub schema: String,
    pub name: String,
    pub columns: Vec<String>,
}

/// The row with these values in the key's columns, as text in this database's encoding.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub relation: u32,
    pub values: Vec<Vec<u8>>,
}

impl Key {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.relation.to_ne_bytes().to_vec();
        for value in &self.values {
            bytes.extend_from_slice(&(value.len() as u32).to_ne_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }

    fn of_bytes(bytes: &[u8]) -> Option<Key> {
        let (relation, mut rest) = bytes.split_first_chunk::<4>()?;
        let mut values = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (value, after) = after.split_at_checked(u32::from_ne_bytes(*length) as usize)?;
            values.push(value.to_vec());
            rest = after;
        }
        Some(Key { relation: u32::from_ne_bytes(*relation), values })
    }
}

#[derive(Default)]
pub struct Touched {
    pub relations: HashMap<u32, Relation>,
    /// Where the key is in the source's rows, by its table; None where rows cannot be told apart.
    keys: HashMap<u32, Option<(Oid, Vec<usize>)>>,
    remembered: HashSet<Vec<u8>>,
    remembered_bytes: usize,
    store: Spill,
}

impl Touched {
    /// The source has told a table, maybe with other columns than before.
    pub fn note_relation(&mut self, id: u32, relation: Relation) {
        self.relations.insert(id, relation);
        self.keys.remove(&id);
    }

    /// Notes the row of a change, if our table `is_wanted`. Needs a transaction with an active snapshot.
    pub fn note(&mut self, relation: u32, row: &Tuple, is_wanted: impl Fn(Oid) -> bool) {
        if let Some((table, key)) = self.key_of(relation, row)
            && is_wanted(table)
        {
            self.push(key);
        }
    }

    /// Our table, and the key of the source's row; None where it has none, or not all of it was sent: then it is the old
    /// one, which was. Needs a transaction with an active snapshot.
    pub fn key_of(&mut self, relation: u32, row: &Tuple) -> Option<(Oid, Vec<u8>)> {
        let (table, columns) = self.learn_key(relation)?;
        let values: Option<Vec<Vec<u8>>> = columns.iter().map(|column| row.text(*column).map(<[u8]>::to_vec)).collect();
        Some((*table, Key { relation, values: values? }.to_bytes()))
    }

    /// Our table, and where its key is in the source's rows. Needs a transaction with an active snapshot.
    pub fn learn_key(&mut self, relation: u32) -> Option<(&Oid, &[usize])> {
        let key = self.keys.entry(relation).or_insert_with(|| logicalrep::key_of(relation));
        key.as_ref().map(|(table, columns)| (table, columns.as_slice()))
    }

    pub fn push_key(&mut self, relation: u32, values: Vec<Vec<u8>>) {
        self.push(Key { relation, values }.to_bytes());
    }

    pub fn push(&mut self, bytes: Vec<u8>) {
        if self.remembered.contains(&bytes) {
            return;
        }
        self.store.push(&bytes);
        self.remembered_bytes += bytes.len();
        if self.remembered_bytes > REMEMBERED {
            self.remembered.clear();
            self.remembered_bytes = bytes.len();
        }
        self.remembered.insert(bytes);
    }

    /// Columns of the key in the source's rows.
    pub fn key_columns(&self, relation: u32) -> Option<&[usize]> {
        self.keys.get(&relation)?.as_ref().map(|(_, columns)| columns.as_slice())
    }

    /// Our table for the source's.
    pub fn table(&self, relation: u32) -> Option<u32> {
        self.keys.get(&relation)?.as_ref().map(|(table, _)| table.to_u32())
    }

    pub fn count(&self) -> u64 {
        self.store.count
    }

    pub fn rewind(&mut self) {
        self.remembered = HashSet::new();
        self.store.rewind();
    }

    pub fn next(&mut self) -> Option<Key> {
        Key::of_bytes(&self.next_bytes()?)
    }

    /// The next key as it is kept, and as `key_of` gives it.
    pub fn next_bytes(&mut self) -> Option<Vec<u8>> {
        self.store.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(relation: u32, values: Vec<Vec<u8>>) {
            let key = Key { relation, values };
            prop_assert_eq!(Key::of_bytes(&key.to_bytes()), Some(key));
        }
    }
}
