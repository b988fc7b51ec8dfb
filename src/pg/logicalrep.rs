//! Core's functions for a logical replication subscriber: the subscription, and the map from the sender's tables to the
//! local ones (replication/logicalrelation.h; core's counterpart of the whole is worker.c).
//!
//! pgrx's bindings do not contain the functions that are declared here, so each call is in guarded!.

use super::apply_as::ApplyAs;
use super::owned_table::Owner;
use super::untrusted_user::AppliesAs;
use super::{guarded, transaction};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};

thread_local! {
    /// What the sender has told about each table. Core's map is private, and opening one of its tables is the only way
    /// to see it.
    static TOLD: RefCell<HashMap<u32, ToldRelation>> = RefCell::default();
}

#[derive(Clone)]
struct ToldRelation {
    /// In this database's encoding.
    schema: CString,
    name: CString,
    columns: Vec<CString>,
    types: Vec<Oid>,
    /// The positions of the key's columns.
    key: Vec<core::ffi::c_int>,
    identity: core::ffi::c_char,
    kind: core::ffi::c_char,
    /// Whether the sender's old rows contain all columns because its table has no key. If the local table has no key
    /// either, core searches for a usable index.
    is_full: bool,
}

/// `Subscription` (catalog/pg_subscription.h), the same in 17 and 18.
#[repr(C)]
struct SubscriptionData {
    oid: Oid,
    dbid: Oid,
    skiplsn: pg_sys::XLogRecPtr,
    name: *mut core::ffi::c_char,
    owner: Oid,
    ownersuperuser: bool,
    enabled: bool,
    binary: bool,
    stream: core::ffi::c_char,
    twophasestate: core::ffi::c_char,
    disableonerr: bool,
    passwordrequired: bool,
    runasowner: bool,
    failover: bool,
    conninfo: *mut core::ffi::c_char,
    slotname: *mut core::ffi::c_char,
    synccommit: *mut core::ffi::c_char,
    publications: *mut pg_sys::List,
    origin: *mut core::ffi::c_char,
}

/// `LogicalRepRelMapEntry` (replication/logicalrelation.h), the same in 17 and 18.
#[repr(C)]
pub struct RelMapEntry {
    pub remoterel: pg_sys::LogicalRepRelation,
    localrelvalid: bool,
    pub localreloid: Oid,
    pub localrel: pg_sys::Relation,
    pub attrmap: *mut pg_sys::AttrMap,
    pub updatable: bool,
    pub localindexoid: Oid,
    state: core::ffi::c_char,
    statelsn: pg_sys::XLogRecPtr,
}

const _: () = assert!(size_of::<SubscriptionData>() == 80, "catalog/pg_subscription.h must be looked at again");
const _: () = assert!(size_of::<RelMapEntry>() == 112, "replication/logicalrelation.h must be looked at again");

unsafe extern "C-unwind" {
    static mut MySubscription: *mut SubscriptionData;
    fn GetSubscription(subscription: Oid, missing_ok: bool) -> *mut SubscriptionData;
    fn logicalrep_relmap_update(relation: *mut pg_sys::LogicalRepRelation);
    fn logicalrep_partmap_reset_relmap(relation: *mut pg_sys::LogicalRepRelation);
    fn logicalrep_rel_open(relation: u32, lock: pg_sys::LOCKMODE) -> *mut RelMapEntry;
    fn logicalrep_partition_open(
        root: *mut RelMapEntry,
        partition: pg_sys::Relation,
        map: *mut pg_sys::AttrMap,
    ) -> *mut RelMapEntry;
    fn GetRelationIdentityOrPK(relation: pg_sys::Relation) -> Oid;
    fn logicalrep_rel_close(relation: *mut RelMapEntry, lock: pg_sys::LOCKMODE);
}

/// Makes this process an applier for the subscription, whose table states core's relation map looks up. None if the
/// subscription was dropped. Needs a transaction.
pub fn become_applier_of(subscription: Oid) -> Option<ApplyAs> {
    // SAFETY: the result is palloc'd in the context that is current, here one that lives as long as the process.
    unsafe {
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let data = guarded!(GetSubscription(subscription, true));
        pg_sys::MemoryContextSwitchTo(previous);
        if data.is_null() {
            return None;
        }
        MySubscription = data;
        Some(ApplyAs { owner: (*data).owner, run_as_owner: (*data).runasowner })
    }
}

/// Enters a table that was described into core's map and into this file's.
pub(super) unsafe fn keep(relation: *mut pg_sys::LogicalRepRelation) {
    // SAFETY: the caller guarantees a table with its names; core's map copies all of it.
    unsafe {
        let copy = |text: *mut core::ffi::c_char| CStr::from_ptr(text).to_owned();
        let count = (*relation).natts as usize;
        let mut key = Vec::new();
        let mut place = pg_sys::bms_next_member((*relation).attkeys, -1);
        while place >= 0 {
            key.push(place);
            place = pg_sys::bms_next_member((*relation).attkeys, place);
        }
        let told = ToldRelation {
            schema: copy((*relation).nspname),
            name: copy((*relation).relname),
            columns: (0..count).map(|index| copy(*(*relation).attnames.add(index))).collect(),
            types: (0..count).map(|index| *(*relation).atttyps.add(index)).collect(),
            key,
            identity: (*relation).replident,
            kind: (*relation).relkind,
            is_full: (*relation).replident as u8 == pg_sys::REPLICA_IDENTITY_FULL,
        };
        guarded!(logicalrep_relmap_update(relation));
        guarded!(logicalrep_partmap_reset_relmap(relation));
        TOLD.with_borrow_mut(|all| all.insert((*relation).remoteid, told));
    }
}

/// Enters a table into core's map once more: if opening it has raised an ERROR, its entry would stay open in that map
/// for ever.
fn tell_again(relation: u32) {
    let Some(told) = TOLD.with_borrow(|all| all.get(&relation).cloned()) else { return };
    let mut names: Vec<*mut core::ffi::c_char> = told.columns.iter().map(|name| name.as_ptr().cast_mut()).collect();
    let mut types = told.types.clone();
    // SAFETY: arrays of that length; the map copies all of it.
    unsafe {
        let attkeys =
            told.key.iter().fold(std::ptr::null_mut(), |members, place| pg_sys::bms_add_member(members, *place));
        let mut again = pg_sys::LogicalRepRelation {
            remoteid: relation,
            nspname: told.schema.as_ptr().cast_mut(),
            relname: told.name.as_ptr().cast_mut(),
            natts: names.len() as core::ffi::c_int,
            attnames: names.as_mut_ptr(),
            atttyps: types.as_mut_ptr(),
            replident: told.identity,
            relkind: told.kind,
            attkeys,
        };
        guarded!(logicalrep_relmap_update(&raw mut again));
    }
}

/// A table that is locked, with the user as whom its code may be run; the switch to that user happens before any of it
/// is opened.
pub struct Opened {
    pub entry: *mut RelMapEntry,
    pub user: AppliesAs,
}

/// Locks the local table for the sender's, switches to the user who applies its changes, and opens it. Raises an ERROR
/// if the table or one of its columns is missing, or if the subscription's owner may not become the table's owner.
///
/// If a table has no key and the sender's rows contain all columns, core's map searches all indexes for a usable one.
/// It reads the expressions and predicates of each with their constants folded, which runs functions of the table's
/// owner (IsIndexUsableForReplicaIdentityFull). In that case the table is opened as its owner. Otherwise it is opened
/// as the subscription's owner, as in core's apply worker, who needs only his own rights on the schema.
///
/// # Safety
/// In a transaction; the entry is valid until [`close`].
pub unsafe fn open(relation: u32, lock: u32, apply_as: ApplyAs) -> Opened {
    let open = || unsafe { guarded!(logicalrep_rel_open(relation, lock as pg_sys::LOCKMODE)) };
    // SAFETY: the caller guarantees a transaction; the lock that `lock_table` has taken is kept.
    unsafe {
        if let Some(Locked { owner, is_searched: true, .. }) = lock_table(relation, lock) {
            let user = AppliesAs::begin(apply_as, owner);
            let entry = open();
            let opened = (*(*(*entry).localrel).rd_rel).relowner;
            if opened == owner {
                return Opened { entry, user };
            }
            // Core's map uses the oid that it knows, but a schema can be renamed at any time, so this may be another
            // table.
            user.end();
            return Opened { entry, user: AppliesAs::begin(apply_as, opened) };
        }
        // This includes a missing table, which core reports.
        let as_subscription_owner = AppliesAs::begin(ApplyAs { run_as_owner: true, ..apply_as }, apply_as.owner);
        let entry = open();
        as_subscription_owner.end();
        Opened { entry, user: AppliesAs::begin(apply_as, (*(*(*entry).localrel).rd_rel).relowner) }
    }
}

struct Locked {
    owner: Oid,
    has_key: bool,
    /// Whether opening the table examines all its indexes.
    is_searched: bool,
    /// Whether the owner has USAGE on the table's schema. An owner without it cannot change the indexes.
    may_use_schema: bool,
}

/// Locks the local table for the sender's; None if there is none.
unsafe fn lock_table(relation: u32, lock: u32) -> Option<Locked> {
    // SAFETY: the caller guarantees a transaction. Neither the relation's own entry nor the list of its indexes
    // contains an expression.
    unsafe {
        let (range, is_full) = TOLD.with_borrow(|told| {
            let told = told.get(&relation)?;
            let [schema, name] = [&told.schema, &told.name].map(|name| pg_sys::pstrdup(name.as_ptr()));
            Some((pg_sys::makeRangeVar(schema, name, -1), told.is_full))
        })?;
        let flags = pg_sys::RVROption::RVR_MISSING_OK;
        let (callback, argument) = (None, std::ptr::null_mut());
        let table = pg_sys::RangeVarGetRelidExtended(range, lock as pg_sys::LOCKMODE, flags, callback, argument);
        if table == Oid::INVALID {
            return None;
        }
        let table = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let has_key = identity_of(table) != Oid::INVALID;
        let (owner, schema) = ((*(*table).rd_rel).relowner, (*(*table).rd_rel).relnamespace);
        let usage = pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, owner, pg_sys::ACL_USAGE.into());
        let may_use_schema = usage == pg_sys::AclResult::ACLCHECK_OK;
        let locked = Locked { owner, has_key, is_searched: is_full && !has_key, may_use_schema };
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        Some(locked)
    }
}

/// # Safety
/// `root` must be open, `partition` an open partition of it, `map` from the root's columns to its own, or null.
pub unsafe fn open_partition(
    root: *mut RelMapEntry,
    partition: pg_sys::Relation,
    map: *mut pg_sys::AttrMap,
) -> *mut RelMapEntry {
    // SAFETY: the caller's promise.
    unsafe { guarded!(logicalrep_partition_open(root, partition, map)) }
}

/// Closes the table. Its lock is kept until the transaction ends.
///
/// # Safety
/// The entry must be open.
pub unsafe fn close(entry: *mut RelMapEntry) {
    // SAFETY: the caller's promise.
    unsafe { guarded!(logicalrep_rel_close(entry, pg_sys::NoLock as pg_sys::LOCKMODE)) };
}

/// The index that identifies a table's rows; InvalidOid if there is none.
///
/// # Safety
/// An open relation.
pub unsafe fn identity_of(relation: pg_sys::Relation) -> Oid {
    // SAFETY: the caller's promise.
    unsafe { guarded!(GetRelationIdentityOrPK(relation)) }
}

/// Enters a table into core's map as its sender would describe it: with these columns, and with its key at these
/// positions. Needs a transaction.
pub fn announce(relation: u32, schema: &str, name: &str, columns: &[String], key: &[usize]) {
    let text = |text: &str| match super::text::to_server(text) {
        // SAFETY: copied into the current memory context.
        Some(text) => unsafe { pg_sys::pstrdup(text.as_ptr()) },
        None => pgrx::error!("a name that this database's encoding cannot write"),
    };
    // SAFETY: arrays of that length; the map copies all of it.
    unsafe {
        let names =
            pg_sys::palloc0(columns.len() * size_of::<*mut core::ffi::c_char>()).cast::<*mut core::ffi::c_char>();
        let types = pg_sys::palloc0(columns.len() * size_of::<Oid>()).cast::<Oid>();
        for (index, column) in columns.iter().enumerate() {
            *names.add(index) = text(column);
        }
        let mut attkeys = std::ptr::null_mut();
        for place in key {
            attkeys = pg_sys::bms_add_member(attkeys, *place as core::ffi::c_int);
        }
        let mut told = pg_sys::LogicalRepRelation {
            remoteid: relation,
            nspname: text(schema),
            relname: text(name),
            natts: columns.len() as core::ffi::c_int,
            attnames: names,
            atttyps: types,
            replident: pg_sys::REPLICA_IDENTITY_DEFAULT as core::ffi::c_char,
            relkind: pg_sys::RELKIND_RELATION as core::ffi::c_char,
            attkeys,
        };
        keep(&raw mut told);
    }
}

/// A local table and its key.
pub struct TableKey {
    pub table: Oid,
    /// The positions of the key's columns in the sender's rows.
    pub columns: Vec<usize>,
}

/// The local table is missing, or one of the columns that the sender sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missing;

/// The local table for the sender's, with its key. None if it has no key, or if the sender does not send all columns of
/// the key. Needs a transaction with an active snapshot, which stays usable if something is missing.
pub fn key_of(relation: u32) -> Result<Option<TableKey>, Missing> {
    transaction::nested(|| find_key(relation)).or_else(|cause| match *cause {
        CaughtError::PostgresError(ref report) | CaughtError::ErrorReport(ref report)
            if report.sql_error_code() == PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE =>
        {
            tell_again(relation);
            Err(Missing)
        }
        cause => cause.rethrow(),
    })
}

fn find_key(relation: u32) -> Option<TableKey> {
    let lock = pg_sys::AccessShareLock;
    // SAFETY: opened and closed here; the attribute map has an entry for each local column.
    unsafe {
        let locked = lock_table(relation, lock);
        // Opening a table without a key would run code of its owner, see `open`.
        if locked.as_ref().is_some_and(|table| !table.has_key) {
            return None;
        }
        // The key may disappear (DROP INDEX CONCURRENTLY) while core waits for another index of the table, and then
        // core searches all indexes.
        let owner = locked.filter(|table| table.may_use_schema).map(|table| Owner::begin(table.owner));
        let entry = guarded!(logicalrep_rel_open(relation, lock as pg_sys::LOCKMODE));
        if let Some(owner) = owner {
            owner.end();
        }
        let (table, map) = ((*entry).localrel, (*entry).attrmap);
        let index = identity_of(table);
        let key = (index != Oid::INVALID).then(|| {
            let index = pg_sys::index_open(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            let form = (*index).rd_index;
            let sent = (0..(*form).indnkeyatts as usize).map(|place| {
                let column = *(*form).indkey.values.as_ptr().add(place);
                let sent = if column > 0 { *(*map).attnums.add(column as usize - 1) } else { -1 };
                usize::try_from(sent).ok()
            });
            let sent: Option<Vec<usize>> = sent.collect();
            pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            sent
        });
        let found = key.flatten().map(|columns| TableKey { table: (*table).rd_id, columns });
        close(entry);
        found
    }
}
