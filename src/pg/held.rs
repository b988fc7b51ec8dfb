//! Inserts of one transaction into one table that are held back and stored together (table_multi_insert in
//! access/tableam.h, which COPY uses as well).
//!
//! This changes only the moment at which rows are stored, and only if no code can see the difference: the table has no
//! triggers that fire, and no code of users that reads other rows. Held rows are stored before anything else is done.
//! It does not decide what happens to a row that conflicts with another: in that case none of the held rows is stored,
//! and the caller inserts each one separately.

use super::executor::{Change, Row};
use super::logicalproto::Tuple;
use super::open_table::OpenTable;
use super::row_slots::{Slots, new_slot};
use super::table_kind::Lifetime;
use super::{transaction, tuple};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgSqlErrorCode, pg_sys};

/// The same number as in COPY.
const MOST_ROWS: usize = 1_000;

/// The limit of the bytes that were sent, so that a transaction of large rows does not keep much of itself in memory.
const MOST_BYTES: usize = 256 << 10;

/// For fewer rows a subtransaction does not pay.
const FEWEST_ROWS: usize = 8;

#[derive(Default)]
pub(super) struct Held {
    rows: Slots,
    bytes: usize,
    context: Option<pg_sys::MemoryContext>,
    /// Some held rows have conflicted with others, which is likely to happen again in this transaction.
    pub(super) is_refused: bool,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.count() == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.count() >= MOST_ROWS || self.bytes >= MOST_BYTES
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.bytes = 0;
        if let Some(context) = self.context {
            // SAFETY: the values of the slots that were cleared.
            unsafe { pg_sys::MemoryContextReset(context) };
        }
    }
}

impl Change {
    pub fn may_hold(&self) -> bool {
        self.table.may_batch && !self.table.held.is_refused
    }

    /// Holds back the row that an insert brings, until it is stored with others.
    pub fn hold(&mut self, new: &Tuple) {
        self.require_insert_privilege();
        let columns = self.table.columns();
        let OpenTable { estate, descriptor, held, .. } = &mut *self.table;
        // SAFETY: slot and context live as long as the executor state, the values as long as they are held.
        unsafe {
            let slot = held.rows.next(|| new_slot(*estate, *descriptor, &pg_sys::TTSOpsVirtual));
            let context = *held.context.get_or_insert_with(|| {
                pg_sys::AllocSetContextCreateInternal(
                    (**estate).es_query_cxt,
                    c"spock_recovery held rows".as_ptr(),
                    pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                    pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
                )
            });
            let previous = pg_sys::MemoryContextSwitchTo(context);
            tuple::store(slot, columns, new);
            pg_sys::MemoryContextSwitchTo(previous);
        }
        held.bytes += new.bytes();
    }

    /// A held row, by its place.
    pub fn held(&mut self, place: usize) -> Option<Row> {
        self.table.held.rows.used().get(place).copied().map(Row)
    }

    pub fn let_held_go(&mut self) {
        self.table.held.clear();
    }

    /// Stores the held rows. Returns false if one of them conflicts with another row, or if there are too few for this
    /// to pay; all of them are then still held.
    pub fn insert_held(&mut self) -> bool {
        let is_unique = self.table.is_unique;
        if is_unique && self.table.held.rows.count() < FEWEST_ROWS {
            return false;
        }
        let table = &mut self.table;
        let stored = if is_unique {
            transaction::nested(|| store(table))
        } else {
            store(table);
            Ok(())
        };
        match stored {
            Ok(()) => {
                self.table.held.clear();
                true
            }
            Err(cause) => {
                let in_the_way = PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION;
                match *cause {
                    CaughtError::PostgresError(report) if report.sql_error_code() == in_the_way => {
                        self.table.held.is_refused = true;
                        false
                    }
                    other => other.rethrow(),
                }
            }
        }
    }
}

/// Like ExecSimpleRelationInsert, for all held rows.
fn store(table: &mut OpenTable) {
    debug_assert!(table.lifetime > Lifetime::Change);
    let (root, estate) = (table.root, table.estate);
    let rows = table.held.rows.used();
    // SAFETY: an open table with open indexes, and rows of it, whose slots exist until they are released.
    unsafe {
        let relation = (*root).ri_RelationDesc;
        if !(*(*relation).rd_att).constr.is_null() {
            for row in rows.iter() {
                pg_sys::ExecConstraints(root, *row, estate);
            }
        }
        let (command, count) = (pg_sys::GetCurrentCommandId(true), rows.len() as core::ffi::c_int);
        pg_sys::table_multi_insert(relation, rows.as_mut_ptr(), count, command, 0, std::ptr::null_mut());
        if (*root).ri_NumIndices > 0 {
            for row in rows.iter() {
                let none = (std::ptr::null_mut(), std::ptr::null_mut());
                pg_sys::ExecInsertIndexTuples(root, *row, estate, false, false, none.0, none.1, false);
            }
        }
    }
}
