//! The message of a change of one row.

use super::large_row;
use crate::pg::compat;
use pgrx::pg_sys;

/// A change of a row to be sent, in the columns of an open relation. A null slot: the change has no such version of the
/// row.
pub(super) struct RowChange {
    pub(super) action: pg_sys::ReorderBufferChangeType::Type,
    pub(super) target: pg_sys::Relation,
    pub(super) old: *mut pg_sys::TupleTableSlot,
    pub(super) new: *mut pg_sys::TupleTableSlot,
}

impl RowChange {
    /// Writes all values as text.
    pub(super) unsafe fn write_text(&self, out: pg_sys::StringInfo) {
        use pg_sys::ReorderBufferChangeType::{
            REORDER_BUFFER_CHANGE_DELETE as DELETE, REORDER_BUFFER_CHANGE_INSERT as INSERT,
            REORDER_BUFFER_CHANGE_UPDATE as UPDATE,
        };
        let RowChange { action, target, old, new } = *self;
        // SAFETY: the caller's promise: rows of an open relation, in a transaction.
        unsafe {
            match action {
                INSERT => compat::logicalrep_write_insert(out, target, new),
                UPDATE => compat::logicalrep_write_update(out, target, old, new),
                // The old key is missing if the table has no replica identity, and then the row cannot be found.
                // pgoutput leaves such a DELETE out; a rescue must not. It is sent with a key of nulls, and the table's
                // description has no key, so that the receiver reports that it cannot apply the DELETE.
                DELETE => compat::logicalrep_write_delete(out, target, old),
                // Speculative insertions that were not confirmed never get here.
                _ => (),
            }
        }
    }

    /// Writes long values in binary form, if that form is the same on every server.
    pub(super) unsafe fn write_binary(&self, out: pg_sys::StringInfo) {
        use pg_sys::ReorderBufferChangeType::{
            REORDER_BUFFER_CHANGE_INSERT as INSERT, REORDER_BUFFER_CHANGE_UPDATE as UPDATE,
        };
        let RowChange { action, target, old, new } = *self;
        // SAFETY: as above.
        unsafe {
            match action {
                INSERT => large_row::insert(out, target, new),
                UPDATE => large_row::update(out, target, old, new),
                _ => large_row::delete(out, target, old),
            }
        }
    }
}
