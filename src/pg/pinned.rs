//! A transaction that only holds tables and a snapshot for others (utils/snapmgr.h, ExportSnapshot; catalog/pg_inherits.h).

use super::guarded;
use super::owned_table::OwnedTableError;
use super::relation_name::name_of;
use super::text::to_server;
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

unsafe extern "C-unwind" {
    /// catalog/pg_inherits.h
    fn find_all_inheritors(parent: Oid, mode: pg_sys::LOCKMODE, counts: *mut *mut pg_sys::List) -> *mut pg_sys::List;
}

const LOCK: pg_sys::LOCKMODE = pg_sys::AccessShareLock as pg_sys::LOCKMODE;

/// Begins a transaction that has one snapshot from its first query on, and writes nothing. It stays open until
/// [`super::transaction::abort_current`].
pub fn begin() {
    // SAFETY: called by a worker outside a transaction; the two variables belong to the transaction and no snapshot was
    // taken yet, as for SET TRANSACTION.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
        pg_sys::XactIsoLevel = pg_sys::XACT_REPEATABLE_READ as core::ffi::c_int;
        pg_sys::XactReadOnly = true;
    }
}

/// Locks a table and all its partitions (ACCESS SHARE), so that none is dropped, truncated or written anew while the
/// transaction lasts. `name` is qualified and quoted. Takes no snapshot. Returns the oids of the locked relations.
///
/// # Errors
/// If there is no such table, if its rows do not stand in this database, or if its owner cannot read all of them.
pub fn lock_table(name: &str) -> Result<Vec<u32>, OwnedTableError> {
    let missing = || OwnedTableError::Missing(name.to_owned());
    let text = to_server(name).ok_or_else(missing)?;
    let mut relations = Vec::new();
    // SAFETY: within a transaction. Names are looked up as in a statement; what is locked stays so until its end. A name that
    // is malformed raises an ERROR.
    unsafe {
        let parts = pg_sys::stringToQualifiedNameList(text.as_ptr(), std::ptr::null_mut());
        if pg_sys::list_length(parts) != 2 {
            return Err(missing());
        }
        let range = pg_sys::makeRangeVarFromNameList(parts);
        let flags = pg_sys::RVROption::RVR_MISSING_OK;
        let oid = pg_sys::RangeVarGetRelidExtended(range, LOCK, flags, None, std::ptr::null_mut());
        if oid == Oid::INVALID {
            return Err(missing());
        }
        let is_partitioned = pg_sys::get_rel_relkind(oid) as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
        let all = if is_partitioned {
            guarded!(find_all_inheritors(oid, LOCK, std::ptr::null_mut()))
        } else {
            pg_sys::list_make1_impl(pg_sys::NodeTag::T_OidList, pg_sys::ListCell { oid_value: oid })
        };
        for place in 0..pg_sys::list_length(all) {
            let oid = (*(*all).elements.add(place as usize)).oid_value;
            require_whole(oid)?;
            relations.push(oid.to_u32());
        }
        Ok(relations)
    }
}

/// Whether a locked relation is a table of this database that its owner can read, all of its rows.
unsafe fn require_whole(oid: Oid) -> Result<(), OwnedTableError> {
    // SAFETY: the caller guarantees a locked relation, within a transaction.
    unsafe {
        let relation = pg_sys::relation_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let form = (*relation).rd_rel;
        let (kind, owner, name) = ((*form).relkind as u8, (*form).relowner, name_of(relation));
        let is_local = (*form).relpersistence as u8 != pg_sys::RELPERSISTENCE_TEMP
            && (kind == pg_sys::RELKIND_RELATION || kind == pg_sys::RELKIND_PARTITIONED_TABLE)
            && !pg_sys::IsCatalogRelation(relation);
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        if !is_local {
            return Err(OwnedTableError::NoTable(name));
        }
        if pg_sys::pg_class_aclcheck(oid, owner, pg_sys::ACL_SELECT.into()) != pg_sys::AclResult::ACLCHECK_OK {
            return Err(OwnedTableError::NotReadable(name));
        }
        if pg_sys::check_enable_rls(oid, owner, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
            return Err(OwnedTableError::RowSecurity(name));
        }
        Ok(())
    }
}

/// Takes the transaction's snapshot and exports it: other transactions of this database can import it for as long as
/// this one lasts. Returns its name, and the oldest transaction that it does not see as over.
pub fn export_snapshot() -> (String, u32) {
    // SAFETY: within a transaction without subtransactions. The snapshot is registered by the export until the end of the
    // transaction; the one that is active serves this transaction's queries.
    unsafe {
        let snapshot = pg_sys::GetTransactionSnapshot();
        pg_sys::PushActiveSnapshot(snapshot);
        let name = pg_sys::ExportSnapshot(snapshot);
        (CStr::from_ptr(name).to_string_lossy().into_owned(), (*snapshot).xmin.into_inner())
    }
}
