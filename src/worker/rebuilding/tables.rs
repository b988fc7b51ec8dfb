//! The tables of a rebuild, one after the other. A table that cannot be rebuilt does not keep the others from it.

use super::super::rescue::{Rescue, goes_on, with_entry};
use super::super::trouble::Trouble;
use crate::failpoint::{self, names};
use crate::intent::document::{Intent, Journal};
use crate::intent::rebuild::{Cut, Method, Pinned, Rebuild, Table, TablePhase};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::pg::clock::Monotonic;
use crate::pg::{interrupts, large_object, origin, process, transaction};
use crate::reconcile::kept::KeptRows;
use crate::reconcile::write::end_writing;
use crate::recover::error::RecoverError;
use crate::recover::rebuild_error::RebuildError;
use crate::shmem::FillingEntry;
use crate::tally::compared::Why;
use std::rc::Rc;

/// What was done with one table.
pub(super) struct Filled {
    pub method: Method,
    pub rows: u64,
    pub differing: u64,
    pub bytes: u64,
}

/// How one table is rebuilt.
type Fill = fn(&mut Rescue, &Intent, &Table, (&Pinned, &Cut)) -> Result<(), Trouble>;

/// Why a table is not compared.
pub(super) enum Unfit {
    /// It can only be copied, or that is quicker, and the method may be chosen.
    BetterCopied,
    /// It cannot be compared, and the reason.
    Refused(String),
}

impl Rescue {
    /// Compares every table that waits for it, and brings it to the snapshot, each in one commit. Tables that can only be
    /// copied, or are better copied, are set aside for that. Returns why the first of the tables that could not be
    /// rebuilt was not.
    ///
    /// # Errors
    /// [`Trouble::MustStop`] if the rebuild is to be aborted, or that the snapshot is lost.
    pub(super) fn compare_tables(&mut self) -> Result<Option<Trouble>, Trouble> {
        self.each_table(TablePhase::Waiting, Self::fill_by_comparing)
    }

    /// Copies every table that was set aside for that. Returns what [`Rescue::compare_tables`] returns.
    ///
    /// # Errors
    /// As [`Rescue::compare_tables`].
    pub(super) fn copy_tables(&mut self) -> Result<Option<Trouble>, Trouble> {
        self.each_table(TablePhase::Copying, Self::rebuild_by_copying)
    }

    fn each_table(&mut self, phase: TablePhase, fill: Fill) -> Result<Option<Trouble>, Trouble> {
        let intent: &Intent = &self.intent();
        let state: Rebuild = intent.rebuild.clone().unwrap_or_default();
        let (Some(pinned), Some(cut)) = (state.pinned.clone(), state.cut.clone()) else {
            return Err(Trouble::MustStop);
        };
        let mut first = None;
        for table in state.tables.iter().filter(|table| table.phase == phase) {
            if !goes_on(self.index) {
                return Err(Trouble::MustStop);
            }
            interrupts::check();
            self.wait_for_room()?;
            process::report_activity(&format!("rebuilding {}", table.shown()));
            let since = Monotonic::now();
            with_entry(self.index, |entry| {
                entry.filling = FillingEntry { table: table.oid, since, ..FillingEntry::NONE };
            });
            let outcome = interrupts::catch(|| {
                self.prepare_catch_up(table, &pinned.vector)?;
                fill(self, intent, table, (&pinned, &cut))
            })
            .unwrap_or_else(|report| {
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
        Ok(first)
    }

    fn fill_by_comparing(&mut self, intent: &Intent, table: &Table, pins: (&Pinned, &Cut)) -> Result<(), Trouble> {
        match self.rebuild_by_comparing(intent, table, pins)? {
            Ok(_) => Ok(()),
            Err(Unfit::BetterCopied) => self.park(intent, std::slice::from_ref(table), Some(pins.0.pin.as_str())),
            Err(Unfit::Refused(reason)) => {
                Err(RecoverError::from(RebuildError::NotRebuilt { table: table.shown(), reason }).into())
            }
        }
    }

    /// Records that a table is ready and which of its rows are to be compared again, in the caller's transaction.
    pub(super) fn note_ready(id: IntentId, table: u32, done: &Filled, kept: &mut KeptRows) -> Result<(), RecoverError> {
        storage::update(|journal| {
            Self::enter_ready(journal, id, table, done)?;
            if kept.count() == 0 {
                return Ok(());
            }
            let (mut counts, before) = journal
                .intent(id)
                .map_or_else(Default::default, |now| (now.reconciled.clone().unwrap_or_default(), now.kept_rows));
            counts.leave(Why::Busy, kept.count() as usize);
            before.map_or(Ok(()), |object| kept.add_stored(object))?;
            let object = kept.store()?;
            Ok(journal.note_reconciled(id, counts, object)?.map_or(Ok(()), large_object::remove)?)
        })
    }

    /// Enters in the journal that a table is ready.
    pub(super) fn enter_ready(
        journal: &mut Journal,
        id: IntentId,
        table: u32,
        done: &Filled,
    ) -> Result<(), RecoverError> {
        Ok(journal.rebuild(id, |state| {
            if let Some(known) = state.table(table) {
                known.phase = TablePhase::Ready;
                known.method = Some(done.method);
                (known.rows, known.differing, known.bytes) = (done.rows, done.differing, done.bytes);
            }
        })?)
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
