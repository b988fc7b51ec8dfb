//! The rows that a replay has touched, by their keys.
//!
//! The keys are collected while the replay runs, each about once. An attempt that takes over from another one collects
//! them again from the source's clone.

use crate::pg::logicalproto::Tuple;
use crate::pg::logicalrep::{self, Missing, TableKey};
use crate::pg::spill::Spill;
use pgrx::pg_sys::Oid;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// The number of keys that are remembered by their hashes, so that a row that is changed again and again is noted about
/// once. It must be a power of two.
const REMEMBERED: usize = 1 << 17;

/// The most keys that are sorted together; this bounds the memory that they take.
const SORTED: usize = 100_000;
/// The most bytes of keys that are sorted together.
const SORTED_BYTES: usize = 16 << 20;

/// A table of the source's, as the source has announced it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub schema: String,
    pub name: String,
    pub columns: Vec<String>,
}

/// The key of a row: the values of the key's columns, as text in this database's encoding.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    pub relation: u32,
    pub values: Vec<Vec<u8>>,
}

/// Writes the beginning of a key in its stored form.
fn begin_bytes(bytes: &mut Vec<u8>, relation: u32) {
    bytes.clear();
    bytes.extend_from_slice(&relation.to_ne_bytes());
}

fn add_value(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&(value.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(value);
}

impl Key {
    /// The order of keys: by table, and then about as in an index. Values are compared by length and then by text,
    /// which is right for numbers of the same sign, times and identifiers.
    fn in_order(one: &Key, other: &Key) -> Ordering {
        let table = one.relation.cmp(&other.relation);
        let lengths = || one.values.iter().map(Vec::len).cmp(other.values.iter().map(Vec::len));
        table.then_with(lengths).then_with(|| one.values.cmp(&other.values))
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
    /// The local tables and their keys, by the source's tables; None if a table's rows cannot be told apart.
    keys: HashMap<u32, Result<Option<TableKey>, Missing>>,
    /// The number of touched rows of tables that have changed here or are missing, by the source's tables.
    of_missing: HashMap<u32, usize>,
    remembered: Remembered,
    /// The key at hand, in its stored form.
    bytes: Vec<u8>,
    store: Spill,
}

impl Touched {
    /// Notes a table that the source has announced, perhaps with other columns than before.
    pub fn note_relation(&mut self, id: u32, relation: Relation) {
        self.relations.insert(id, relation);
        self.keys.remove(&id);
    }

    /// Notes the row of a change, if its local table `is_wanted`. Needs a transaction with an active snapshot.
    pub fn note(&mut self, relation: u32, row: &Tuple, is_wanted: impl Fn(Oid) -> bool) {
        if self.read_key(relation, row).is_some_and(is_wanted) {
            self.note_bytes();
        } else if matches!(self.keys.get(&relation), Some(Err(Missing))) {
            *self.of_missing.entry(relation).or_default() += 1;
        }
    }

    /// Tables that are missing here or have changed, with the number of their touched rows, at most.
    pub fn of_missing(&self) -> impl Iterator<Item = (&Relation, usize)> {
        self.of_missing.iter().filter_map(|(relation, rows)| Some((self.relations.get(relation)?, *rows)))
    }

    fn note_bytes(&mut self) {
        if self.remembered.is_new(&self.bytes) {
            self.store.push(&self.bytes);
        }
    }

    /// The local table, and the key of a row of the source's. None if the table has no key, or if not all of the key
    /// was sent: then it has not changed, and the old row, which was sent, has it. Needs a transaction with an active
    /// snapshot.
    pub fn key_of(&mut self, relation: u32, row: &Tuple) -> Option<(Oid, Vec<u8>)> {
        self.read_key(relation, row).map(|table| (table, self.bytes.clone()))
    }

    /// Like `key_of`, but leaves the key in `bytes`.
    fn read_key(&mut self, relation: u32, row: &Tuple) -> Option<Oid> {
        let key = learn_key(&mut self.keys, relation)?;
        begin_bytes(&mut self.bytes, relation);
        for column in &key.columns {
            add_value(&mut self.bytes, row.text(*column)?);
        }
        Some(key.table)
    }

    /// The local table and its key, for a table of the source's. Needs a transaction with an active snapshot.
    pub fn learn_key(&mut self, relation: u32) -> Option<&TableKey> {
        learn_key(&mut self.keys, relation)
    }

    pub fn push_key(&mut self, relation: u32, values: Vec<Vec<u8>>) {
        begin_bytes(&mut self.bytes, relation);
        values.iter().for_each(|value| add_value(&mut self.bytes, value));
        self.note_bytes();
    }

    pub fn push(&mut self, bytes: Vec<u8>) {
        if self.remembered.is_new(&bytes) {
            self.store.push(&bytes);
        }
    }

    /// The local table and its key, as far as they have been looked up.
    pub fn key(&self, relation: u32) -> Option<&TableKey> {
        self.keys.get(&relation)?.as_ref().ok()?.as_ref()
    }

    /// The positions of the key's columns in the source's rows.
    pub fn key_columns(&self, relation: u32) -> Option<&[usize]> {
        self.key(relation).map(|key| key.columns.as_slice())
    }

    /// The oid of the local table for a table of the source's.
    pub fn table(&self, relation: u32) -> Option<u32> {
        self.key(relation).map(|key| key.table.to_u32())
    }

    pub fn count(&self) -> u64 {
        self.store.count
    }

    pub fn rewind(&mut self) {
        self.remembered = Remembered::default();
        self.store.rewind();
    }

    pub fn next(&mut self) -> Option<Key> {
        Key::of_bytes(&self.next_bytes()?)
    }

    /// The next keys, sorted: those of one table are together, and neighbours are beside each other. Empty at the end.
    pub fn next_sorted(&mut self) -> Vec<Key> {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        while keys.len() < SORTED && bytes < SORTED_BYTES {
            let Some(key) = self.next() else { break };
            bytes += key.values.iter().map(Vec::len).sum::<usize>();
            keys.push(key);
        }
        keys.sort_unstable_by(Key::in_order);
        keys
    }

    /// The next key in its stored form, which is that of `key_of`.
    pub fn next_bytes(&mut self) -> Option<Vec<u8>> {
        self.store.next()
    }
}

/// The local table and the positions of its key's columns in the source's rows. They are looked up the first time.
fn learn_key(keys: &mut HashMap<u32, Result<Option<TableKey>, Missing>>, relation: u32) -> Option<&TableKey> {
    keys.entry(relation).or_insert_with(|| logicalrep::key_of(relation)).as_ref().ok()?.as_ref()
}

/// The hashes of keys. Each has one place, where a later hash replaces it. Two keys with the same 64 bits, one seen
/// right after the other, would be taken for one; nobody can provoke that, because each process hashes with a key of
/// its own.
#[derive(Default)]
struct Remembered {
    hashes: Vec<u64>,
    hasher: RandomState,
}

impl Remembered {
    /// Whether the key was not remembered. It is from now on.
    fn is_new(&mut self, bytes: &[u8]) -> bool {
        if self.hashes.is_empty() {
            self.hashes = vec![0; REMEMBERED];
        }
        let hash = self.hasher.hash_one(bytes);
        std::mem::replace(&mut self.hashes[hash as usize & (REMEMBERED - 1)], hash) != hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(relation: u32, values: Vec<Vec<u8>>) {
            let mut bytes = b"of the key before".to_vec();
            begin_bytes(&mut bytes, relation);
            values.iter().for_each(|value| add_value(&mut bytes, value));
            prop_assert_eq!(Key::of_bytes(&bytes), Some(Key { relation, values }));
        }

        #[test]
        fn numbers_are_in_order_within_their_table(mut numbers: Vec<(u32, u32)>) {
            let key = |(relation, number): &(u32, u32)| Key {
                relation: *relation,
                values: vec![number.to_string().into_bytes()],
            };
            let mut keys: Vec<Key> = numbers.iter().map(key).collect();
            keys.sort_unstable_by(Key::in_order);
            numbers.sort_unstable();
            prop_assert_eq!(keys, numbers.iter().map(key).collect::<Vec<_>>());
        }

        #[test]
        fn a_key_is_new_once_and_no_other_is_taken_for_it(keys: std::collections::HashSet<Vec<u8>>) {
            let mut remembered = Remembered::default();
            for key in &keys {
                prop_assert!(remembered.is_new(key));
                prop_assert!(!remembered.is_new(key));
            }
        }
    }
}
