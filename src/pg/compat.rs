//! Differences between the supported major versions, and values of C constants that the bindings do not contain.

use pgrx::pg_sys;

/// `SubscriptionRelationId` (catalog/pg_subscription.h): fixed since PostgreSQL 10.
pub const SUBSCRIPTION_RELATION_ID: pg_sys::Oid = pg_sys::Oid::from_u32(6100);

/// `LargeObjectRelationId` (catalog/pg_largeobject.h): the class of a large object in dependencies and locks.
pub const LARGE_OBJECT_RELATION_ID: pg_sys::Oid = pg_sys::Oid::from_u32(2613);

/// `USER_TIMEOUT` (utils/timeout.h), the first id that RegisterTimeout assigns; the same in 17 and 18.
pub const USER_TIMEOUT: core::ffi::c_int = 13;

const _: () = assert!(
    pg_sys::PG_VERSION_NUM >= 170_000 && pg_sys::PG_VERSION_NUM < 190_000,
    "utils/timeout.h must be looked at again for a new major"
);

/// Installs a handler for a signal.
///
/// # Safety
/// `handler` must be safe to run in a signal handler.
pub unsafe fn signal_handler(signal: core::ffi::c_int, handler: unsafe extern "C-unwind" fn(core::ffi::c_int)) {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller guarantees that the handler is safe.
    unsafe {
        pg_sys::pqsignal(signal, Some(handler))
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller guarantees that the handler is safe.
    unsafe {
        pg_sys::pqsignal_be(signal, Some(handler))
    };
}

/// Acquires a replication slot. Raises an ERROR if another process has it, or if it is invalid (the latter only on 18;
/// on 17 the caller checks it).
///
/// # Safety
/// The process must hold no slot, and must release this one.
pub unsafe fn acquire_slot(name: &std::ffi::CStr) {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true)
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true, true)
    };
}

/// idle_replication_slot_timeout, which 17 does not have. None: no limit.
pub fn idle_slot_timeout() -> Option<std::time::Duration> {
    #[cfg(feature = "pg17")]
    return None;
    #[cfg(feature = "pg18")]
    {
        // SAFETY: a setting of this process.
        let seconds = unsafe { pg_sys::idle_replication_slot_timeout_secs };
        (seconds > 0).then(|| std::time::Duration::from_secs(u64::from(seconds.unsigned_abs())))
    }
}

/// Ends the process. The bindings of 17 and 18 declare different return types.
pub fn proc_exit(code: i32) -> ! {
    // SAFETY: does not return; runs the exit callbacks.
    #[allow(unreachable_code)]
    unsafe {
        pg_sys::proc_exit(code);
        unreachable!("proc_exit does not return")
    }
}

/// Returns a column of a descriptor.
///
/// # Safety
/// `index` must be below the descriptor's `natts`.
pub unsafe fn attribute(descriptor: pg_sys::TupleDesc, index: i32) -> pg_sys::Form_pg_attribute {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    return unsafe { (*descriptor).attrs.as_mut_ptr().add(index as usize) };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise: the attributes follow the compact ones (access/tupdesc.h, TupleDescAttr).
    unsafe {
        let compact = (*descriptor).compact_attrs.as_mut_ptr();
        compact.add((*descriptor).natts as usize).cast::<pg_sys::FormData_pg_attribute>().add(index as usize)
    }
}

/// Which generated columns 18 sends: none, as on 17.
#[cfg(feature = "pg18")]
const NO_GENERATED_COLUMNS: pg_sys::PublishGencolsType::Type = pg_sys::PublishGencolsType::PUBLISH_GENCOLS_NONE;

/// # Safety
/// An open relation, in a transaction.
pub unsafe fn logicalrep_write_rel(out: pg_sys::StringInfo, relation: pg_sys::Relation) {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise; null means all columns.
    unsafe {
        pg_sys::logicalrep_write_rel(out, pg_sys::InvalidTransactionId, relation, std::ptr::null_mut())
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise; null means all columns.
    unsafe {
        let xid = pg_sys::InvalidTransactionId;
        pg_sys::logicalrep_write_rel(out, xid, relation, std::ptr::null_mut(), NO_GENERATED_COLUMNS)
    };
}

/// # Safety
/// An open relation and a row of it.
pub unsafe fn logicalrep_write_insert(
    out: pg_sys::StringInfo,
    relation: pg_sys::Relation,
    new: *mut pg_sys::TupleTableSlot,
) {
    let (xid, all) = (pg_sys::InvalidTransactionId, std::ptr::null_mut());
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::logicalrep_write_insert(out, xid, relation, new, false, all)
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::logicalrep_write_insert(out, xid, relation, new, false, all, NO_GENERATED_COLUMNS)
    };
}

/// # Safety
/// An open relation, a row of it, and the row's old version or null.
pub unsafe fn logicalrep_write_update(
    out: pg_sys::StringInfo,
    relation: pg_sys::Relation,
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
) {
    let (xid, all) = (pg_sys::InvalidTransactionId, std::ptr::null_mut());
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::logicalrep_write_update(out, xid, relation, old, new, false, all)
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::logicalrep_write_update(out, xid, relation, old, new, false, all, NO_GENERATED_COLUMNS)
    };
}

/// # Safety
/// An open relation and a row's old version.
pub unsafe fn logicalrep_write_delete(
    out: pg_sys::StringInfo,
    relation: pg_sys::Relation,
    old: *mut pg_sys::TupleTableSlot,
) {
    let (xid, all) = (pg_sys::InvalidTransactionId, std::ptr::null_mut());
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::logicalrep_write_delete(out, xid, relation, old, false, all)
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::logicalrep_write_delete(out, xid, relation, old, false, all, NO_GENERATED_COLUMNS)
    };
}

/// # Safety
/// An executor state and a range table of one entry, with its permissions.
pub unsafe fn exec_init_range_table(
    estate: *mut pg_sys::EState,
    tables: *mut pg_sys::List,
    permissions: *mut pg_sys::List,
) {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ExecInitRangeTable(estate, tables, permissions)
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise; the one entry is not pruned.
    unsafe {
        pg_sys::ExecInitRangeTable(estate, tables, permissions, pg_sys::bms_make_singleton(1))
    };
}

/// Whether a new row violates none of the given unique indexes. If it violates one, `conflict` is set to the
/// conflicting row.
///
/// # Safety
/// A row of the table, whose indexes are open and prepared for speculation.
pub unsafe fn exec_check_index_constraints(
    info: *mut pg_sys::ResultRelInfo,
    row: *mut pg_sys::TupleTableSlot,
    estate: *mut pg_sys::EState,
    conflict: &mut pg_sys::ItemPointerData,
    indexes: *mut pg_sys::List,
) -> bool {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    return unsafe { pg_sys::ExecCheckIndexConstraints(info, row, estate, conflict, indexes) };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise; no row of the table is left out of the check.
    unsafe {
        let mut none = pg_sys::ItemPointerData::default();
        pg_sys::ItemPointerSetInvalid(&mut none);
        pg_sys::ExecCheckIndexConstraints(info, row, estate, conflict, &mut none, indexes)
    }
}

/// Whether a column is a virtual generated column, which 17 does not have.
///
/// # Safety
/// An attribute of a descriptor.
pub unsafe fn is_virtual(attribute: *const pg_sys::FormData_pg_attribute) -> bool {
    #[cfg(feature = "pg17")]
    {
        let _ = attribute;
        false
    }
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        (*attribute).attgenerated as u8 == pg_sys::ATTRIBUTE_GENERATED_VIRTUAL
    }
}

/// Begins a scan of an index.
///
/// # Safety
/// Open relations and a snapshot that live as long as the scan.
pub unsafe fn index_beginscan(
    table: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
    keys: core::ffi::c_int,
) -> pg_sys::IndexScanDesc {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    return unsafe { pg_sys::index_beginscan(table, index, snapshot, keys, 0) };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise; null means that no statistics are collected.
    unsafe {
        pg_sys::index_beginscan(table, index, snapshot, std::ptr::null_mut(), keys, 0)
    }
}

/// Whether any column is generated.
///
/// # Safety
/// The constraints of an open table.
pub unsafe fn has_generated_columns(constraints: *const pg_sys::TupleConstr) -> bool {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    return unsafe { (*constraints).has_generated_stored };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        (*constraints).has_generated_stored || (*constraints).has_generated_virtual
    }
}
