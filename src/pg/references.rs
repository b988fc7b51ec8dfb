//! Large objects that something refers to (access/htup.h, catalog/indexing.h).
//!
//! vacuumlo removes every large object to which no column of type oid refers, in a table or materialized view. A table of the
//! extension's would be published by FOR ALL TABLES; a materialized view is not. Its query tells what the journal names, so
//! that REFRESH changes nothing; here its rows are kept up to date without the lock that REFRESH takes, in the transaction
//! that makes or removes the large objects.

use super::compat;
use pgrx::pg_sys::{self, Oid};
use std::collections::BTreeSet;

/// The materialized view in the extension's schema. An older version of the extension's SQL has none.
const VIEW: &std::ffi::CStr = c"recovery_kept_objects";

/// From the commit of the present transaction on the view refers to these and no others.
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

/// Whether it is what the extension has made.
unsafe fn is_ours(view: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise: an open relation.
    unsafe {
        let columns = (*view).rd_att;
        (*(*view).rd_rel).relkind as u8 == pg_sys::RELKIND_MATVIEW
            && (*columns).natts == 1
            && (*compat::attribute(columns, 0)).atttypid == pg_sys::OIDOID
            && !(*(*view).rd_rel).relhasindex
    }
}
