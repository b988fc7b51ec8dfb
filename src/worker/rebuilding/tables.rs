//! The tables of a rebuild, one after the other. A table that cannot be rebuilt does not keep the others from it.

use super::super::rescue::{Rescue, goes_on, with_entry};
use super::super::trouble::Trouble;
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Method, Pinned, Rebuild, Table, TablePhase};
use crate::pg::clock::Monotonic;
use crate::pg::{interrupts, process, transaction, wal};
use crate::recover::error::RecoverError;
use crate::recover::rebuild;
use crate::recover::rebuild_error::RebuildError;
use crate::shmem::FillingEntry;

/// What was done with one table.
pub(super) struct Filled {
    pub method: Method,
    pub rows: u64,
    pub differing: u64,
    pub bytes: u64,
}

impl Rescue {
    /// Brings every table that is not ready to the snapshot, each in commits of its own.
    ///
    /// # Errors
    /// [`Trouble::MustStop`] if the rebuild is to be aborted; otherwise why the first of the tables that could not be
    /// rebuilt was not.
    pub(super) fn fill_tables(&mut self) -> Result<(), Trouble> {
        let state: Rebuild = self.intent().rebuild.clone().unwrap_or_default();
        let Some(pinned) = state.pinned.clone() else { return Err(Trouble::MustStop) };
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
            let outcome = interrupts::catch(|| self.fill(table, &pinned)).unwrap_or_else(|report| {
                transaction::abort_current();
                Err(Trouble::Raised { report, relation: Some(table.shown()), origin_lsn: None })
            });
            process::keep_books();
            match outcome {
                Ok(()) => failpoint::hit(names::REBUILD_TABLE_READY),
                Err(Trouble::MustStop) => return Err(Trouble::MustStop),
                Err(trouble) => first = first.or(Some(trouble)),
            }
        }
        with_entry(self.index, |entry| entry.filling = FillingEntry::NONE);
        first.map_or(Ok(()), Err)
    }
}
