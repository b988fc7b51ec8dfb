//! How a comparison is kept: the list of its tables in one large object, which is written over, and the keys that differ
//! in another one, to which lines are added. The journal names both. The list says how many bytes of the keys count, and
//! both are written in one transaction.

use super::difference::Difference;
use super::error::ComparisonError;
use super::list::ComparisonList;
use crate::document::{self, DocumentError, DocumentKind, Unreadable};
use crate::intent::document::ComparisonRecord;
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::node::error::RegistryError;
use crate::pg::clock::Timestamp;
use crate::pg::{large_object, role};

/// The number of pages of a large object that are read at once.
const PAGES: i32 = 512;

/// The record of a comparison; None: it is not known, or not any more. Needs a transaction with a snapshot.
///
/// # Errors
/// The journal cannot be read.
pub fn record(id: IntentId) -> Result<Option<ComparisonRecord>, ComparisonError> {
    Ok(storage::read_by_snapshot()?.comparisons.into_iter().find(|record| record.id == id))
}

/// The list of a comparison's tables. Needs a transaction with a snapshot, as a superuser.
///
/// # Errors
/// The large object is gone, or cannot be read.
pub fn list(record: &ComparisonRecord) -> Result<ComparisonList, ComparisonError> {
    let object = record.progress_object;
    let bytes = large_object::pages(object, 0, i32::MAX)?.ok_or(ComparisonError::Lost { object })?;
    let malformed = || DocumentError::Malformed("it is not a list of tables".to_owned());
    let text = String::from_utf8(bytes).map_err(|_| unreadable(object, malformed()))?;
    document::parse(&text).map_err(|error| unreadable(object, error))
}

/// The error to report for a list that cannot be read; None if it can be, or is gone. Needs a transaction with a snapshot.
pub fn unreadable_list(record: &ComparisonRecord) -> Option<Unreadable> {
    match role::as_superuser(|| list(record)) {
        Err(ComparisonError::Registry(RegistryError::Unreadable(unreadable))) => Some(unreadable),
        _ => None,
    }
}

fn unreadable(object: u32, error: DocumentError) -> ComparisonError {
    RegistryError::from(Unreadable { kind: DocumentKind::Comparison, object: object.to_string(), error }).into()
}

/// Writes the list into its large object, and the new keys after those that are there. Takes effect with the commit.
pub fn write(record: &ComparisonRecord, list: &mut ComparisonList, keys: &[Difference]) -> Result<(), ComparisonError> {
    let mut lines = Vec::new();
    for difference in keys {
        // Serializing strings and numbers cannot fail.
        lines.extend(serde_json::to_vec(difference).unwrap_or_default());
        lines.push(b'\n');
    }
    put(record.keys_object, list.listed_bytes, &lines)?;
    list.listed_bytes += lines.len() as i64;
    list.written_at = Timestamp::now();
    let text = document::to_text(list);
    put(record.progress_object, 0, text.as_bytes())?;
    Ok(large_object::truncate(record.progress_object, text.len() as i64)?)
}

fn put(object: u32, offset: i64, bytes: &[u8]) -> Result<(), pgrx::spi::Error> {
    for (index, piece) in bytes.chunks(large_object::PIECE).enumerate() {
        large_object::put(object, offset + (index * large_object::PIECE) as i64, piece)?;
    }
    Ok(())
}

/// Passes each listed key to `see`. Needs a transaction with a snapshot, as a superuser.
///
/// # Errors
/// The large object holds something that this version does not write.
pub fn each_key(
    record: &ComparisonRecord,
    list: &ComparisonList,
    mut see: impl FnMut(Difference),
) -> Result<(), ComparisonError> {
    let (object, mut left, mut rest) = (record.keys_object, list.listed_bytes, Vec::new());
    for first in (0_i32..).step_by(PAGES as usize) {
        let Some(mut pages) = large_object::pages(object, first, PAGES)? else { break };
        pages.truncate(usize::try_from(left).unwrap_or_default());
        left -= pages.len() as i64;
        rest.extend(pages);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Keys are data of the tables, and a message of serde's might quote one.
            let malformed = |_| DocumentError::Malformed("one of its lines is not a key".to_owned());
            see(serde_json::from_slice(line).map_err(|error| unreadable(object, malformed(error)))?);
        }
        rest.drain(..whole);
    }
    Ok(())
}

/// Makes the objects of a new comparison, which takes the place of the last one with the same node that was begun in
/// the same way. Takes effect with the commit. The current role must be the bootstrap superuser.
///
/// # Errors
/// The journal cannot be read.
pub fn create(list: &mut ComparisonList, is_automatic: bool, peers: &[String]) -> Result<(), ComparisonError> {
    let record = ComparisonRecord {
        id: list.id,
        other: list.other.clone(),
        is_automatic,
        is_partial: list.is_selected,
        begun_at: list.begun_at,
        ended_at: None,
        progress_object: large_object::create()?,
        keys_object: large_object::create()?,
        differing: 0,
        undecided: 0,
        incomparable: 0,
    };
    write(&record, list, &[])?;
    storage::update(|journal| -> Result<(), ComparisonError> {
        let is_kept = |known: &ComparisonRecord| {
            peers.contains(&known.other) && (known.other != record.other || known.is_automatic != is_automatic)
        };
        let (kept, replaced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut journal.comparisons).into_iter().partition(is_kept);
        for known in replaced {
            large_object::remove(known.progress_object)?;
            large_object::remove(known.keys_object)?;
        }
        journal.comparisons = kept;
        journal.comparisons.push(record);
        Ok(())
    })
}

/// Writes the list and new keys, and notes in the journal what was found so far if that has changed there: at the end,
/// and when the comparison is broken off. Takes effect with the commit. Returns false if another comparison has taken
/// the place of this one.
///
/// # Errors
/// The journal cannot be read.
pub fn note(
    record: &ComparisonRecord,
    list: &mut ComparisonList,
    keys: &[Difference],
    is_last: bool,
) -> Result<bool, ComparisonError> {
    if !storage::read()?.comparisons.iter().any(|known| known.id == record.id) {
        return Ok(false);
    }
    write(record, list, keys)?;
    if is_last {
        storage::update(|journal| -> Result<(), ComparisonError> {
            if let Some(known) = journal.comparisons.iter_mut().find(|known| known.id == record.id) {
                known.ended_at = list.ended_at;
                known.differing = list.differing();
                known.undecided = list.undecided();
                known.incomparable = list.incomparable();
            }
            Ok(())
        })?;
    }
    Ok(true)
}
