//! Saves the recovery slot's files in a large object, and reads them back. The journal names the object, so that the
//! view that refers to what the journal names keeps vacuumlo from removing it (src/pg/references.rs).
//!
//! The object is written over in place: its oid stays, and the journal is written only once. All of this takes effect
//! with the commit of the caller's transaction, so a backup never has a half of it.

use super::on_disk::{self, State};
use super::record_storage;
use super::saved::Saved;
use crate::document::{DocumentError, DocumentKind, Unreadable};
use crate::error::SqlError;
use crate::intent::document::Journal;
use crate::intent::{IntentError, storage};
use crate::lsn::LocalLsn;
use crate::node::error::RegistryError;
use crate::node::servers;
use crate::pg::{interrupts, large_object, latch, role, slot, slot_files, transaction};
use pgrx::PgSqlErrorCode;
use std::time::{Duration, Instant};

/// A slot that moves is looked at again. Core writes the state file within milliseconds after the slot has moved.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("file \"{path}\" cannot be read: {reason}")]
    File { path: String, reason: String },
    #[error("recovery slot \"{slot}\" has no snapshot file of {restart}")]
    NoSnapshot { slot: String, restart: LocalLsn },
    #[error("recovery slot \"{slot}\" does not stand still")]
    Moves { slot: String },
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("a query of the catalogs failed: {0}")]
    Spi(#[from] pgrx::spi::Error),
}

impl SqlError for SaveError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            SaveError::File { .. } => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            SaveError::NoSnapshot { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_FILE,
            SaveError::Moves { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            SaveError::Intent(error) => error.sqlstate(),
            SaveError::Registry(error) => error.sqlstate(),
            SaveError::Spi(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            SaveError::File { .. } | SaveError::Moves { .. } => {
                Some("The files that were saved before stay as they are.".to_owned())
            }
            SaveError::NoSnapshot { .. } => Some(
                "Without it, decoding from the slot would silently leave out transactions. The files that were saved \
                 before stay as they are."
                    .to_owned(),
            ),
            SaveError::Intent(error) => error.detail(),
            SaveError::Registry(error) => error.detail(),
            SaveError::Spi(_) => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            SaveError::File { .. } | SaveError::NoSnapshot { .. } => Some(
                "The slot is created anew after SELECT spock.drop_recovery_slot(); what it keeps is lost then."
                    .to_owned(),
            ),
            SaveError::Moves { .. } => Some("Call it again.".to_owned()),
            SaveError::Intent(error) => error.hint(),
            SaveError::Registry(error) => error.hint(),
            SaveError::Spi(_) => None,
        }
    }
}

/// The files of a slot as they are on disk, and what the state file says.
struct Files {
    state: State,
    state_file: Vec<u8>,
    snap_file: Option<Vec<u8>>,
}

/// Reads the files of a slot, both of the same position. The state file counts and not the slot in memory, because it is
/// what the server will start with. Returns None if the slot has moved each time that its files were read, until
/// `patience` was over. Needs a snapshot.
///
/// # Errors
/// If a file is damaged.
fn read_files(name: &str, patience: Duration) -> Result<Option<Files>, SaveError> {
    let begun = Instant::now();
    loop {
        if let Some(files) = read_files_once(name)? {
            return Ok(Some(files));
        }
        if begun.elapsed() >= patience {
            return Ok(None);
        }
        interrupts::check();
        latch::wait(Some(LOOK_AGAIN), latch::WaitEvent::SlotRequest);
    }
}

/// None: the slot has moved meanwhile.
fn read_files_once(name: &str) -> Result<Option<Files>, SaveError> {
    let damaged = |path: &str, reason| SaveError::File { path: path.to_owned(), reason };
    let state_path = slot_files::state_path(name);
    let Some(state_file) = read(&state_path)? else { return Ok(None) };
    let state = on_disk::parse_state(&state_file).map_err(|reason| damaged(&state_path, reason))?;
    let snap_path = slot_files::snap_path(&on_disk::snap_name(state.restart));
    let snap_file = read(&snap_path)?;
    // A checkpoint removes the snapshot files before the slot's position in memory, which moves first. So the file of a
    // slot that has moved meanwhile may be gone, although the state file still has that position.
    let in_memory = slot::find_here(name)?.map(|slot| slot.restart);
    if in_memory != Some(state.restart) || read(&state_path)?.as_ref() != Some(&state_file) {
        return Ok(None);
    }
    if let Some(snap_file) = &snap_file {
        on_disk::check_snap(snap_file).map_err(|reason| damaged(&snap_path, reason))?;
    }
    Ok(Some(Files { state, state_file, snap_file }))
}

fn read(path: &str) -> Result<Option<Vec<u8>>, SaveError> {
    slot_files::read(path).map_err(|error| SaveError::File { path: path.to_owned(), reason: error.to_string() })
}

/// What has become of an attempt to save the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SaveOutcome {
    Written,
    /// These files were saved before.
    Unchanged,
    /// The slot moves, or another session writes.
    Busy,
}

/// Who saves the files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Saver {
    /// It does not wait for other sessions. It writes only if decoding begins elsewhere than with the saved files: a
    /// later confirmed position alone, which core writes to disk with a checkpoint, saves nothing after a restore.
    Manager,
    Session,
}

/// Saves the files of the slot, and returns them as they were read. Nothing is written if these files are saved already.
/// Needs a snapshot; what is written takes effect with the commit.
///
/// # Errors
/// If the files cannot be read; if what was saved before cannot be read, which is then not written over; or if the slot's
/// snapshot file is missing.
pub fn save(name: &str, generation: u64, saver: Saver) -> Result<(SaveOutcome, Option<Saved>), SaveError> {
    let (may_wait, patience) = match saver {
        Saver::Manager => (false, Duration::ZERO),
        Saver::Session => (true, PATIENCE),
    };
    role::as_superuser(|| {
        let known = storage::read()?.slot_files;
        if let Some(object) = known
            && !large_object::lock(object, may_wait)
        {
            return Ok((SaveOutcome::Busy, None));
        }
        // The files are read under the lock, so that older ones are never written over newer ones.
        let Some(Files { state, state_file, snap_file }) = read_files(name, patience)? else {
            return Ok((SaveOutcome::Busy, None));
        };
        let saved = Saved::new(servers::here(), generation, &state, state_file, snap_file);
        Ok((store(&saved, known, saver)?, Some(saved)))
    })
}

/// A session that has saved the files first at the same time wins once.
const TRIES: u32 = 3;

/// Saves the files of this database's recovery slot for a session. Returns the slot's name and what is saved. The latter
/// is None if there is no slot, or only an invalidated one: then there is nothing to save. Needs a snapshot; what is
/// written takes effect with the commit.
///
/// # Errors
/// As [`save`]; or if the slot does not stand still.
pub fn save_now() -> Result<(Option<String>, Option<Saved>), SaveError> {
    let Some(record) = record_storage::read()? else { return Ok((None, None)) };
    let name = record.slot;
    if slot::find_here(&name)?.is_none_or(|found| found.is_invalid) {
        return Ok((Some(name), None));
    }
    for _ in 0..TRIES {
        let outcome = save(&name, record.generation, Saver::Session)?;
        if let (SaveOutcome::Written | SaveOutcome::Unchanged, Some(saved)) = outcome {
            return Ok((Some(name), Some(saved)));
        }
    }
    Err(SaveError::Moves { slot: name })
}

/// Stores what is to be saved. `known`: the object that the journal names, which is locked.
fn store(saved: &Saved, known: Option<u32>, saver: Saver) -> Result<SaveOutcome, SaveError> {
    let found = match known {
        // By a snapshot that was taken under the lock.
        Some(object) => transaction::step(|| content_of(object))?.map(|(before, length)| (object, before, length)),
        None => None,
    };
    let bytes = saved.to_bytes();
    match found {
        Some((_, Some(before), _)) if before == *saved => Ok(SaveOutcome::Unchanged),
        Some((_, Some(before), _)) if saver == Saver::Manager && saved.begins_as(&before.head) => {
            Ok(SaveOutcome::Unchanged)
        }
        Some((_, Some(before), _)) if !saved.may_replace(&before.head) => {
            Err(SaveError::NoSnapshot { slot: saved.head.slot.clone(), restart: saved.head.restart })
        }
        Some((object, _, length)) => {
            transaction::commit_locally_if_alone();
            write(object, &bytes)?;
            if bytes.len() < length || transaction::has_one_snapshot() {
                large_object::truncate(object, bytes.len() as i64)?;
            }
            Ok(SaveOutcome::Written)
        }
        None => create(&bytes, known, saver),
    }
}

/// Stores the bytes in a new object, and names it in the journal.
fn create(bytes: &[u8], known: Option<u32>, saver: Saver) -> Result<SaveOutcome, SaveError> {
    let change = |journal: &mut Journal| -> Result<SaveOutcome, SaveError> {
        if journal.slot_files != known {
            // Another session has saved the files meanwhile.
            return Ok(SaveOutcome::Busy);
        }
        transaction::commit_locally_if_alone();
        let object = large_object::create()?;
        write(object, bytes)?;
        journal.slot_files = Some(object);
        Ok(SaveOutcome::Written)
    };
    match saver {
        Saver::Session => storage::update(change),
        Saver::Manager => Ok(storage::try_update(change)?.unwrap_or(SaveOutcome::Busy)),
    }
}

fn write(object: u32, bytes: &[u8]) -> Result<(), pgrx::spi::Error> {
    for (index, piece) in bytes.chunks(large_object::PIECE).enumerate() {
        large_object::put(object, (index * large_object::PIECE) as i64, piece)?;
    }
    Ok(())
}

/// What is saved in the object, and the object's length. None: there is no such object. The first is None if the object
/// was written in another database or on another server.
fn content_of(object: u32) -> Result<Option<(Option<Saved>, usize)>, RegistryError> {
    let Some(bytes) = large_object::pages(object, 0, i32::MAX)? else { return Ok(None) };
    let saved = Saved::read(&bytes, servers::here()).own().map_err(|error| unreadable(object, error))?;
    Ok(Some((saved, bytes.len())))
}

fn unreadable(object: u32, error: DocumentError) -> RegistryError {
    Unreadable { kind: DocumentKind::SlotFiles, object: object.to_string(), error }.into()
}

/// The saved files, if there are any; also on a server that is in recovery, and in a read-only transaction.
///
/// # Errors
/// If the journal or the object cannot be read.
pub fn saved() -> Result<Option<Saved>, RegistryError> {
    let Some(object) = storage::read_by_snapshot()?.slot_files else { return Ok(None) };
    Ok(role::as_superuser(|| content_of(object))?.and_then(|(saved, _)| saved))
}

/// The error to report if the object cannot be read.
pub fn unreadable_object() -> Option<Unreadable> {
    match saved() {
        Err(RegistryError::Unreadable(unreadable)) if unreadable.kind == DocumentKind::SlotFiles => Some(unreadable),
        _ => None,
    }
}

/// Removes the saved files of a slot that is not wanted any more. Returns false if another session holds the journal's
/// lock. Needs a snapshot.
///
/// # Errors
/// If the journal cannot be read.
pub fn forget() -> Result<bool, RegistryError> {
    if storage::read()?.slot_files.is_none() {
        return Ok(true);
    }
    let removed = storage::try_update(|journal| -> Result<(), SaveError> {
        if let Some(object) = journal.slot_files.take() {
            large_object::remove(object)?;
        }
        Ok(())
    });
    match removed {
        Ok(removed) => Ok(removed.is_some()),
        Err(SaveError::Registry(error)) => Err(error),
        Err(SaveError::Spi(error)) => Err(error.into()),
        // There is no schema any more, and hence no journal.
        Err(_) => Ok(true),
    }
}
