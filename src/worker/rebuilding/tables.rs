//! The tables of a rebuild, one after the other. A table that cannot be rebuilt does not keep the others from it.

use super::super::rescue::{Rescue, goes_on, with_entry};
use super::super::trouble::Trouble;
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Cut, Method, Pinned, Rebuild, Table, TablePhase};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::pg::clock::Monotonic;
use crate::pg::{interrupts, origin, process, transaction};
use crate::reconcile::write::end_writing;
use crate::recover::error::RecoverError;
use crate::recover::rebuild_error::RebuildError;
use crate::shmem::FillingEntry;
use std::rc::Rc;

/// What was done with one table.
pub(super) struct Filled {
    pub method: Method,
    pub rows: u64,
    pub differing: u64,
    pub bytes: u64,
}

/// Why a table is not compared.
pub(super) enum Unfit {
    /// It can only be copied.
    Incomparable(String),
    /// Copying is quicker.
    MostlyDifferent,
    /// A node refuses to show its rows.
    Refused(String),
}

impl Rescue {
    /// Brings every table that is not ready to the snapshot, each in commits of its own.
    ///
    /// # Errors
    /// [`Trouble::MustStop`] if the rebuild is to be aborted; otherwise why the first of the tables that could not be
    /// rebuilt was not.
    pub(super) fn fill_tables(&mut self) -> Result<(), Trouble> {
        let intent: &Intent = &self.intent();
        let state: Rebuild = intent.rebuild.clone().unwrap_or_default();
        let (Some(pinned), Some(cut)) = (state.pinned.clone(), state.cut.clone()) else {
            return Err(Trouble::MustStop);
        };
        let mut first = None;
        for table in state.tables.iter().filter(|table| table.phase != TablePhase::Ready) {
            if !goes_on(self.index) {
                return Err(Trouble::MustStop);
            }
            interrupts::check();
            process::report_activity(&format!("rebuilding {}", table.shown()));
            let since = Monotonic::now();
            with_entry(self.index, |entry| {
                entry.filling = FillingEntry { table: table.oid, since, ..FillingEntry::NONE };
            });
            let outcome = interrupts::catch(|| self.fill(intent, table, (&pinned, &cut))).unwrap_or_else(|report| {
                origin::forget_stamp();
                transaction::abort_current();
                end_writing();
                Err(Trouble::Raised { report, relation: Some(table.shown()), origin_lsn: None })
            });
            process::keep_books();
            match outcome {
                Ok(()) => failpoint::hit(names::REBUILD_TABLE_READY),
                Err(Trouble::MustStop) => return Err(Trouble::MustStop),
                // Without the snapshot no other table can be rebuilt either.
                Err(trouble @ Trouble::Recover(RecoverError::Rebuild(RebuildError::PinLost { .. }))) => {
                    return Err(trouble);
                }
                Err(trouble) => first = first.or(Some(trouble)),
            }
        }
        with_entry(self.index, |entry| entry.filling = FillingEntry::NONE);
        first.map_or(Ok(()), Err)
    }
    fn fill(&mut self, intent: &Intent, table: &Table, pins: (&Pinned, &Cut)) -> Result<(), Trouble> {
        match self.rebuild_by_comparing(intent, table, pins)? {
            Ok(_) => Ok(()),
            Err(Unfit::Refused(reason) | Unfit::Incomparable(reason)) => {
                Err(RecoverError::from(RebuildError::NotRebuilt { table: table.shown(), reason }).into())
            }
            Err(Unfit::MostlyDifferent) => Err(Trouble::MustStop),
        }
    }

    /// Records that a table is ready, in the caller's transaction.
    pub(super) fn note_ready(id: IntentId, table: u32, done: &Filled) -> Result<(), RecoverError> {
        storage::update(|journal| {
            Ok(journal.rebuild(id, |state| {
                if let Some(known) = state.table(table) {
                    known.phase = TablePhase::Ready;
                    known.method = Some(done.method);
                    (known.rows, known.differing, known.bytes) = (done.rows, done.differing, done.bytes);
                }
            })?)
        })
    }

    /// Reads the intent again, which something else than [`Rescue::write`] has changed.
    pub(super) fn look_again(&mut self) -> Result<(), RecoverError> {
        let id = self.intent().id;
        let journal = transaction::run(storage::read)?;
        if let Some(now) = journal.intent(id) {
            self.intent = Some(Rc::new(now.clone()));
        }
        Ok(())
    }
}
