//! Updates and deletes of rows that were found without being locked (the counterpart of execReplication.c's
//! ExecSimpleRelationUpdate and -Delete, which change rows that their caller has locked).
//!
//! Core locks the row that it has found, judges it, and changes it: two changes of the page and two WAL records. Here
//! the change itself detects whether the row is still the one that was judged. This is only for rows of a plain table
//! without triggers that fire. If the row was changed or deleted in between, nothing is done, and the caller finds it
//! again with a lock.

use super::executor::{Change, Leaf, Row};
use super::table_kind::Lifetime;
use pgrx::pg_sys;

impl Change {
    /// Whether rows need not be locked before they are changed, because no code of users reads them in between.
    pub fn may_be_unlocked(&self) -> bool {
        self.table.lifetime > Lifetime::Change
    }

    /// Finds the row that an update or delete affects, without locking it. None: there is no such row, or the table is
    /// one for which [`Change::find`] must be called.
    pub fn find_unlocked(&mut self, leaf: &Leaf, key: Row) -> Option<Row> {
        if !self.may_be_unlocked() {
            return None;
        }
        self.require_privilege(leaf, pg_sys::ACL_SELECT);
        let slot = self.new_slot(leaf);
        (self.table.find(key.0, slot) == Some(true)).then_some(Row(slot))
    }

    /// Updates a row that was found without a lock. Returns false if it has changed meanwhile; nothing was done then.
    pub fn update_unlocked(&mut self, leaf: &Leaf, found: Row, row: Row) -> bool {
        self.require_privilege(leaf, pg_sys::ACL_UPDATE);
        let (info, table, estate) = (leaf.info, leaf.table(), self.table.estate);
        let mut failure = pg_sys::TM_FailureData::default();
        let (mut lock_mode, mut indexes) =
            (pg_sys::LockTupleMode::LockTupleExclusive, pg_sys::TU_UpdateIndexes::TU_None);
        let none = std::ptr::null_mut;
        // SAFETY: rows of an open table, whose indexes are open; no triggers, no partitions, no generated columns.
        unsafe {
            pg_sys::CheckCmdReplicaIdentity(table, pg_sys::CmdType::CMD_UPDATE);
            if !(*(*table).rd_att).constr.is_null() {
                pg_sys::ExecConstraints(info, row.0, estate);
            }
            let result = pg_sys::table_tuple_update(
                table,
                &mut (*found.0).tts_tid,
                row.0,
                pg_sys::GetCurrentCommandId(true),
                none(),
                none(),
                true,
                &mut failure,
                &mut lock_mode,
                &mut indexes,
            );
            if result != pg_sys::TM_Result::TM_Ok {
                return false;
            }
            if (*info).ri_NumIndices > 0 && indexes != pg_sys::TU_UpdateIndexes::TU_None {
                let is_summary_alone = indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing;
                let (conflict, arbiters) = (std::ptr::null_mut(), std::ptr::null_mut());
                pg_sys::ExecInsertIndexTuples(info, row.0, estate, true, false, conflict, arbiters, is_summary_alone);
            }
        }
        true
    }

    /// Deletes a row that was found without a lock. Returns false if it has changed meanwhile; nothing was done then.
    pub fn delete_unlocked(&mut self, leaf: &Leaf, found: Row) -> bool {
        self.require_privilege(leaf, pg_sys::ACL_DELETE);
        let mut failure = pg_sys::TM_FailureData::default();
        let none = std::ptr::null_mut;
        // SAFETY: a row of an open table without triggers.
        unsafe {
            let table = leaf.table();
            pg_sys::CheckCmdReplicaIdentity(table, pg_sys::CmdType::CMD_DELETE);
            let command = pg_sys::GetCurrentCommandId(true);
            let place = &mut (*found.0).tts_tid;
            let result = pg_sys::table_tuple_delete(table, place, command, none(), none(), true, &mut failure, false);
            result == pg_sys::TM_Result::TM_Ok
        }
    }
}
