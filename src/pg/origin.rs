//! Replication origins (replication/origin.h) and commit timestamps by origin (access/commit_ts.h).
//!
//! While an origin is set up in this process, every transaction of it carries that origin, including this library's own
//! records. Therefore the origin is reset before anything else is written.

use super::clock::Timestamp;
use crate::lsn::OriginLsn;
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;

/// How far an origin has been applied, in memory, which may be ahead of the disk; 0/0 if nothing was applied.
pub fn progress(origin_id: u16) -> OriginLsn {
    if origin_id == 0 {
        return OriginLsn::ZERO;
    }
    // SAFETY: reads shared memory; an origin without progress gives 0/0.
    OriginLsn(unsafe { pg_sys::replorigin_get_progress(origin_id, false) })
}

/// An origin's name; None if there is no origin with that id. Needs a transaction.
pub fn name_of(origin_id: u16) -> Option<String> {
    let mut name = std::ptr::null_mut();
    // SAFETY: a look into the catalog; the name is a NUL-terminated copy.
    unsafe {
        pg_sys::replorigin_by_oid(origin_id, true, &mut name)
            .then(|| super::text::to_utf8(std::ffi::CStr::from_ptr(name)))
    }
}

/// The origin and the commit time of the last transaction that committed on this server. None without
/// track_commit_timestamp.
pub fn latest_commit() -> Option<(u16, Timestamp)> {
    let (mut at, mut origin) = (0, 0);
    // SAFETY: without track_commit_timestamp the function would raise an error, so the setting is checked first.
    unsafe {
        if !pg_sys::track_commit_timestamp {
            return None;
        }
        let xid = pg_sys::GetLatestCommitTsData(&mut at, &mut origin);
        (xid != pg_sys::InvalidTransactionId).then_some((origin, Timestamp(at)))
    }
}

/// The origin of the transaction that was just committed, its position there, and when it was committed there. None for
/// a transaction of this server. Reads only variables of this process.
pub fn committed_stamp() -> Option<(u16, OriginLsn, Timestamp)> {
    // SAFETY: variables of this process.
    let (origin_id, lsn, at) = unsafe {
        (
            pg_sys::replorigin_session_origin,
            pg_sys::replorigin_session_origin_lsn,
            pg_sys::replorigin_session_origin_timestamp,
        )
    };
    (origin_id != LOCAL && origin_id != DO_NOT_REPLICATE && lsn != 0).then_some((
        origin_id,
        OriginLsn(lsn),
        Timestamp(at),
    ))
}

/// Whether the present transaction is applied here for another node: core's logical replication workers do nothing else,
/// and others have set up an origin. With `origin = none` no node passes such a transaction on.
pub fn is_applying() -> bool {
    // SAFETY: variables of this process.
    unsafe { pg_sys::replorigin_session_origin != LOCAL || pg_sys::IsLogicalWorker() }
}

thread_local! {
    /// Whether the exit callback is registered; there is little room for such callbacks.
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// The origin that is set up; LOCAL for none.
    static SET_UP: Cell<u16> = const { Cell::new(LOCAL) };
}

/// The name of the origin under which a reconcile writes, so that no node forwards these transactions.
pub const RECONCILE: &std::ffi::CStr = c"spock_reconcile";

/// The origin of that name, which is created on first use. Needs a transaction.
fn of_name(name: &std::ffi::CStr) -> u16 {
    // SAFETY: a look into the catalog, or a new row of it.
    unsafe {
        match pg_sys::replorigin_by_name(name.as_ptr(), true) {
            0 => pg_sys::replorigin_create(name.as_ptr()),
            known => known,
        }
    }
}

/// The origin under which a reconcile writes. It is created on first use. Needs a transaction.
pub fn of_reconcile() -> u16 {
    of_name(RECONCILE)
}

/// The origin under which a stream of a copy writes rows that other nodes have already, so that no node forwards them. It is
/// created on first use. Each stream has its own, because a process that applies under an origin has it to itself. Needs a
/// transaction.
pub fn of_copies(stream: u64) -> u16 {
    of_name(&std::ffi::CString::new(format!("spock_rebuild_{stream}")).unwrap_or_default())
}

/// The name of the origin of core's table synchronization worker (ReplicationOriginNameForLogicalRep).
pub fn name_of_sync(subscription: u32, table: u32) -> String {
    format!("pg_{subscription}_{table}")
}

/// The origin by which core's table synchronization worker applies to a table. It is created if it is not there. Needs a
/// transaction.
pub fn of_sync(subscription: u32, table: u32) -> u16 {
    of_name(&std::ffi::CString::new(name_of_sync(subscription, table)).unwrap_or_default())
}

/// Drops it, if it is there. Raises an ERROR (55006) if a process applies under it. Needs a transaction.
pub fn drop_sync(subscription: u32, table: u32) {
    let name = std::ffi::CString::new(name_of_sync(subscription, table)).unwrap_or_default();
    // SAFETY: within a transaction.
    unsafe { pg_sys::replorigin_drop_by_name(name.as_ptr(), true, true) };
}

/// Makes this process apply under the origin, and returns how far that has been applied. Raises an ERROR (55006) if
/// another process applies under it. Needs a transaction.
pub fn set_up(origin_id: u16) -> OriginLsn {
    // SAFETY: within a transaction; undone by `reset`, or by the end of the process. The callback was registered later
    // than core's own, which aborts the open transaction, and therefore runs before it.
    unsafe {
        if !IS_REGISTERED.replace(true) {
            pg_sys::before_shmem_exit(Some(forget_at_exit), pg_sys::Datum::from(0));
        }
        pg_sys::replorigin_session_setup(origin_id, 0);
        SET_UP.set(origin_id);
        pg_sys::replorigin_session_origin = origin_id;
        OriginLsn(pg_sys::replorigin_session_get_progress(false))
    }
}

/// Must be called first when a transaction is not going to be committed: its abort would advance the origin to the
/// position of the commit, and the changes that were not applied would never be (xact.c, RecordTransactionAbort).
pub fn forget_stamp() {
    // SAFETY: variables of this process.
    unsafe {
        pg_sys::replorigin_session_origin = LOCAL;
        pg_sys::replorigin_session_origin_lsn = 0;
        pg_sys::replorigin_session_origin_timestamp = 0;
    }
}

/// Sets the origin for transactions again, after one that was not committed.
pub fn take_up() {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::replorigin_session_origin = SET_UP.get() };
}

/// Has the open transaction carry `origin_id` in the place of the origin that is set up, until [`take_up`]: its rows have
/// that origin as their author. Another process may be applying under it at the same time. Its progress does not move,
/// now or when WAL is replayed after a crash, if the commit is stamped with the position 0/0: in memory only the origin
/// that is set up is moved, and from WAL an origin is never set back (replorigin_session_advance and replorigin_advance in
/// origin.c). The origin must have a place in the shared memory already, because the replay of WAL would give it one. It
/// cannot be dropped until the transaction ends. False: it was.
pub fn write_for(origin_id: u16) -> bool {
    // SAFETY: within a transaction; the lock is the one that dropping an origin takes. An origin is set up in this
    // process.
    unsafe {
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        pg_sys::LockSharedObject(pg_sys::ReplicationOriginRelationId, Oid::from(u32::from(origin_id)), 0, lock);
        let exists = name_of(origin_id).is_some();
        if exists {
            pg_sys::replorigin_session_origin = origin_id;
        }
        exists
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget_at_exit(_code: core::ffi::c_int, _argument: pg_sys::Datum) {
    forget_stamp();
}

/// Resets the origin: transactions that are committed from now on belong to this server.
pub fn reset() {
    forget_stamp();
    if SET_UP.replace(LOCAL) != LOCAL {
        // SAFETY: set up, and not given back since.
        unsafe { pg_sys::replorigin_session_reset() };
    }
}

/// Sets the origin's position and commit time that the commit of the present transaction will carry. `committed_at` is
/// in microseconds since 2000-01-01 00:00 UTC; zero means now. Assigns a transaction id, without which a commit carries
/// no origin.
pub fn stamp_commit(lsn: OriginLsn, committed_at: i64) {
    // SAFETY: an origin is set up; within a transaction.
    unsafe {
        pg_sys::GetCurrentTransactionId();
        pg_sys::replorigin_session_origin_lsn = lsn.0;
        pg_sys::replorigin_session_origin_timestamp = committed_at;
    }
}

/// `DoNotReplicateId`: the transaction belongs to no node, and is not decoded.
const DO_NOT_REPLICATE: u16 = u16::MAX;

/// `InvalidRepOriginId`, which this server's own transactions carry.
pub const LOCAL: u16 = 0;
