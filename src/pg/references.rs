//! References to large objects (access/htup.h, catalog/indexing.h).
//!
//! vacuumlo removes every large object to which no column of type oid in a table or materialized view refers. A table
//! of the extension would be published by FOR ALL TABLES; a materialized view is not. The view's query returns what the
//! journal names, so REFRESH changes nothing. Here its rows are kept up to date without the lock of REFRESH, in the
//! transaction that creates or removes the large objects.

use super::compat;
use pgrx::pg_sys::{self, Oid};
use std::collections::BTreeSet;

/// The materialized view in the extension's schema. It does not exist in an older version of the extension's SQL.
const VIEW: &std::ffi::CStr = c"recovery_kept_objects";

/// Makes the view refer to exactly these objects. Takes effect with the commit of the present transaction.
pub fn refer_to(schema: Oid, objects: &BTreeSet<u32>) {
    let lock = pg_sys::RowExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: within a transaction; the relation is closed here or by the abort. It has the one column that is read and
    // written, no index and no trigger.
    unsafe {
        let view = pg_sys::get_relname_relid(VIEW.as_ptr(), schema);
        if view == Oid::INVALID {
            return;
        }
        let view = pg_sys::relation_open(view, lock);
        if is_ours(view) {
            let mut missing = objects.clone();
            let no_keys = std::ptr::null_mut();
            let scan = pg_sys::systable_beginscan(view, Oid::INVALID, false, std::ptr::null_mut(), 0, no_keys);
            loop {
                let row = pg_sys::systable_getnext(scan);
                if row.is_null() {
                    break;
                }
                let (mut object, mut is_null) = (pg_sys::Datum::from(0), false);
                pg_sys::heap_deform_tuple(row, (*view).rd_att, &mut object, &mut is_null);
                if is_null || !missing.remove(&(object.value() as u32)) {
                    pg_sys::simple_heap_delete(view, &mut (*row).t_self);
                }
            }
            pg_sys::systable_endscan(scan);
            for object in missing {
                let value = pg_sys::Datum::from(Oid::from_u32(object));
                let row = pg_sys::heap_form_tuple((*view).rd_att, &value, &false);
                pg_sys::simple_heap_insert(view, row);
                pg_sys::heap_freetuple(row);
            }
            pg_sys::CommandCounterIncrement();
        }
        pg_sys::relation_close(view, pg_sys::NoLock as pg_sys::LOCKMODE);
    }
}

/// Whether the view is the one that the extension has created.
unsafe fn is_ours(view: pg_sys::Relation) -> bool {
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        let columns = (*view).rd_att;
        (*(*view).rd_rel).relkind as u8 == pg_sys::RELKIND_MATVIEW
            && (*columns).natts == 1
            && (*compat::attribute(columns, 0)).atttypid == pg_sys::OIDOID
            && !(*(*view).rd_rel).relhasindex
    }
}
