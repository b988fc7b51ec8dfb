//! Triggers that do not fire do not slow COPY down (utils/reltrigger.h; commands/copyfrom.c).
//!
//! Core's COPY stores rows one by one, each with its own record of WAL, if the table has a trigger BEFORE INSERT FOR EACH ROW,
//! whether or not it fires: such a trigger might look at the rows before. A parked table has one
//! (src/rebuild/park.rs). In a process that is a replica for all of its life most triggers do not fire, and the table's entry
//! in the relation cache of this process may say that there are none.

use super::guarded;
use pgrx::pg_sys;

unsafe extern "C-unwind" {
    /// catalog/pg_inherits.h
    fn find_all_inheritors(
        parent: pg_sys::Oid,
        mode: pg_sys::LOCKMODE,
        counts: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
}

/// Lets COPY store the rows of a table and of its partitions together, where no trigger of a replica looks at each before it
/// is stored. The entries of the relation cache serve until they are read anew, which costs time and nothing else.
/// The process must be a replica until it ends.
///
/// # Safety
/// An open table, within a transaction.
pub(super) unsafe fn overlook(table: pg_sys::Relation) {
    // SAFETY: the caller guarantees an open table. Partitions are locked as COPY locks them, and stay so.
    unsafe {
        if pg_sys::SessionReplicationRole != pg_sys::SESSION_REPLICATION_ROLE_REPLICA as i32 {
            return;
        }
        overlook_in(table);
        if (*(*table).rd_rel).relkind as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return;
        }
        let mode = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
        let all = guarded!(find_all_inheritors((*table).rd_id, mode, std::ptr::null_mut()));
        for place in 0..pg_sys::list_length(all) as usize {
            let partition = pg_sys::relation_open((*(*all).elements.add(place)).oid_value, pg_sys::NoLock as i32);
            overlook_in(partition);
            pg_sys::relation_close(partition, pg_sys::NoLock as i32);
        }
    }
}

unsafe fn overlook_in(table: pg_sys::Relation) {
    const BEFORE_EACH_INSERTED_ROW: u32 =
        pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSERT;
    // SAFETY: the caller guarantees an open table; its triggers are an array of that length.
    unsafe {
        let triggers = (*table).trigdesc;
        if triggers.is_null() {
            return;
        }
        let fires = |place: usize| {
            let trigger = (*triggers).triggers.add(place);
            let (kind, enabled) = ((*trigger).tgtype as u32, (*trigger).tgenabled as u8);
            kind & BEFORE_EACH_INSERTED_ROW == BEFORE_EACH_INSERTED_ROW
                && (enabled == pg_sys::TRIGGER_FIRES_ALWAYS || enabled == pg_sys::TRIGGER_FIRES_ON_REPLICA)
        };
        (*triggers).trig_insert_before_row = (0..(*triggers).numtriggers as usize).any(fires);
    }
}
