//! The manifest of a rebuild's copies: which chunks of which tables are there. It is a large object of the target that the
//! journal names; each entry is a line of JSON, and is committed with what it tells.

use super::error::CopyError;
use super::layout::Layout;
use crate::intent::document::{Journal, ManifestRecord};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::pg::clock::Timestamp;
use crate::pg::{large_object, role, transaction};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A chunk that is there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopiedChunk {
    pub number: u64,
    /// Where its rows stand on the source.
    pub schema: String,
    pub name: String,
    pub from_block: u64,
    pub to_block: u64,
    pub rows: u64,
    pub bytes: u64,
    /// Of the bytes of its rows, in hexadecimal digits.
    pub checksum: String,
    pub at: Timestamp,
}

/// The begin of a copy: the table was emptied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Begun {
    /// The pin whose snapshot is copied.
    pub pin: String,
    pub layout: Layout,
    pub at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Begun(Begun),
    Chunk(CopiedChunk),
}

#[derive(Serialize, Deserialize)]
struct Line {
    /// Schema and name of the table on the target.
    table: (String, String),
    event: Event,
}

/// The copy of one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableCopy {
    pub begun: Begun,
    /// By their numbers.
    pub chunks: BTreeMap<u64, CopiedChunk>,
}

/// What a manifest says, by schema and name of the tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    pub tables: BTreeMap<(String, String), TableCopy>,
}

impl Manifest {
    /// Reads the lines (pure). A copy that begins anew voids the chunks before. None: it is malformed.
    fn parse(bytes: &[u8]) -> Option<Manifest> {
        let mut manifest = Manifest::default();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Line { table, event } = serde_json::from_slice(line).ok()?;
            match event {
                Event::Begun(begun) => {
                    manifest.tables.insert(table, TableCopy { begun, chunks: BTreeMap::new() });
                }
                Event::Chunk(chunk) => {
                    manifest.tables.get_mut(&table)?.chunks.insert(chunk.number, chunk);
                }
            }
        }
        Some(manifest)
    }
}

/// How many pages are read at once.
const PAGES: i32 = 4_096;

fn object_of(journal: &Journal, intent: IntentId) -> Option<u32> {
    journal.manifests.iter().find(|manifest| manifest.intent == intent).map(|manifest| manifest.object)
}

/// The manifest of an intent, as the active snapshot sees it; an empty one if nothing was copied.
///
/// # Errors
/// If it cannot be read.
pub fn read(intent: IntentId) -> Result<Manifest, CopyError> {
    match object_of(&storage::read()?, intent) {
        Some(object) => content(object, intent),
        None => Ok(Manifest::default()),
    }
}

fn content(object: u32, intent: IntentId) -> Result<Manifest, CopyError> {
    role::as_superuser(|| {
        let (mut bytes, mut page) = (Vec::new(), 0);
        while let Some(more) = large_object::pages(object, page, PAGES)? {
            bytes.extend_from_slice(&more);
            page += PAGES;
        }
        Manifest::parse(&bytes).ok_or_else(|| CopyError::BadManifest { intent: intent.to_string() })
    })
}

/// Enters that the copy of a table begins. Takes effect with the commit.
pub fn begin(intent: IntentId, table: (String, String), begun: Begun) -> Result<(), CopyError> {
    role::as_superuser(|| {
        let known = object_of(&storage::read()?, intent);
        let object = match known {
            Some(object) => object,
            None => storage::update(|journal| {
                // Another session may have been quicker.
                if let Some(object) = object_of(journal, intent) {
                    return Ok(object);
                }
                let object = large_object::create()?;
                journal.manifests.push(ManifestRecord { intent, object });
                Ok::<_, CopyError>(object)
            })?,
        };
        large_object::lock(object, true);
        append(object, &Line { table, event: Event::Begun(begun) })
    })
}

/// Enters a chunk, if the copy is still the one of this pin and does not have the chunk. Returns false if it has: then
/// the caller's transaction must not be committed. The lock on the manifest is held until the caller's transaction ends,
/// so two workers never commit the same chunk.
///
/// # Errors
/// If the copy was begun anew, or the manifest cannot be read.
pub fn enter(intent: IntentId, table: (String, String), pin: &str, chunk: CopiedChunk) -> Result<bool, CopyError> {
    let superseded = || CopyError::Superseded { table: format!("{}.{}", table.0, table.1) };
    role::as_superuser(|| {
        let object = object_of(&storage::read()?, intent).ok_or_else(superseded)?;
        large_object::lock(object, true);
        // By a snapshot that was taken under the lock.
        let manifest = transaction::step(|| content(object, intent))?;
        let copy = manifest.tables.get(&table).filter(|copy| copy.begun.pin == pin).ok_or_else(superseded)?;
        if copy.chunks.contains_key(&chunk.number) {
            return Ok(false);
        }
        append(object, &Line { table: table.clone(), event: Event::Chunk(chunk) })?;
        Ok(true)
    })
}

fn append(object: u32, line: &Line) -> Result<(), CopyError> {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    let end = transaction::step(|| large_object::length(object))?;
    for (place, piece) in text.chunks(large_object::PIECE).enumerate() {
        large_object::put(object, end + (place * large_object::PIECE) as i64, piece)?;
    }
    Ok(())
}

/// Removes the manifest of an intent that is over. Takes effect with the commit.
pub fn forget(intent: IntentId) -> Result<(), CopyError> {
    role::as_superuser(|| {
        storage::update(|journal| {
            if let Some(object) = object_of(journal, intent) {
                large_object::remove(object)?;
                journal.manifests.retain(|manifest| manifest.intent != intent);
            }
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(table: &str, event: Event) -> Vec<u8> {
        let mut text = serde_json::to_vec(&Line { table: ("s".to_owned(), table.to_owned()), event }).expect("JSON");
        text.push(b'\n');
        text
    }

    fn begun(pin: &str) -> Event {
        let layout = Layout { columns: vec!["id".to_owned()], leaves: Vec::new() };
        Event::Begun(Begun { pin: pin.to_owned(), layout, at: Timestamp(1) })
    }

    fn chunk(number: u64) -> Event {
        Event::Chunk(CopiedChunk {
            number,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            from_block: 0,
            to_block: 1,
            rows: 2,
            bytes: 3,
            checksum: "ab".to_owned(),
            at: Timestamp(2),
        })
    }

    #[test]
    fn a_copy_that_begins_anew_has_no_chunks() {
        let bytes = [line("t", begun("a")), line("u", begun("a")), line("t", chunk(0)), line("u", chunk(1))].concat();
        let manifest = Manifest::parse(&bytes).expect("well formed");
        let of = |manifest: &Manifest, table: &str| {
            let copy = &manifest.tables[&("s".to_owned(), table.to_owned())];
            (copy.begun.pin.clone(), copy.chunks.keys().copied().collect::<Vec<_>>())
        };
        assert_eq!(of(&manifest, "t"), ("a".to_owned(), vec![0]));
        let again = Manifest::parse(&[bytes, line("t", begun("b"))].concat()).expect("well formed");
        assert_eq!(of(&again, "t"), ("b".to_owned(), Vec::new()));
        assert_eq!(of(&again, "u"), ("a".to_owned(), vec![1]));
    }

    #[test]
    fn what_is_malformed_is_not_taken_for_less() {
        assert_eq!(Manifest::parse(b""), Some(Manifest::default()));
        assert_eq!(Manifest::parse(&line("t", chunk(0))), None, "a chunk of a copy that has not begun");
        let whole = line("t", begun("a"));
        assert_eq!(Manifest::parse(&whole[..whole.len() - 5]), None);
    }
}
