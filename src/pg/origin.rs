//! Replication origins (replication/origin.h) and commit timestamps by origin (access/commit_ts.h).
//!
//! While an origin is set up in this process every transaction of it carries that origin, our own bookkeeping too: it is
//! given back before anything else is written.

use super::clock::Timestamp;
use crate::lsn::OriginLsn;
use pgrx::pg_sys;
use std::cell::Cell;

/// How far an origin has been applied, in memory: it may run ahead of the disk. 0/0 if nothing was.
pub fn progress(origin_id: u16) -> OriginLsn {
    if origin_id == 0 {
        return OriginLsn::ZERO;
    }
    // SAFETY: reads shared memory; an origin without progress gives 0/0.
    OriginLsn(unsafe { pg_sys::replorigin_get_progress(origin_id, false) })
}

/// An origin's name; None if there is none of that id (any more). Needs a transaction.
pub fn name_of(origin_id: u16) -> Option<String> {
    let mut name = std::ptr::null_mut();
    // SAFETY: a look into the catalog; the name is a NUL-terminated copy.
    unsafe {
        pg_sys::replorigin_by_oid(origin_id, true, &mut name)
            .then(|| super::text::to_utf8(std::ffi::CStr::from_ptr(name)))
    }
}

/// The commit time and the origin of the transaction that committed last on this server. None without
/// track_commit_timestamp.
pub fn latest_commit() -> Option<(u16, Timestamp)> {
    let (mut at, mut origin) = (0, 0);
    // SAFETY: without track_commit_timestamp the function raises an error, hence the look at the setting first.
    unsafe {
        if !pg_sys::track_commit_timestamp {
            return None;
        }
        let xid = pg_sys::GetLatestCommitTsData(&mut at, &mut origin);
        (xid != pg_sys::InvalidTransactionId).then_some((origin, Timestamp(at)))
    }
}

/// What the transaction that was just committed carries: the origin, its position there, and when it was committed there. None for
/// this server's own. Reads variables of this process alone.
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

thread_local! {
    /// There are few places for what is called at the end of a process.
    static IS_REGISTERED: Cell<bool> = const { Cell::new(false) };
    /// The origin that is set up; LOCAL: none.
    static SET_UP: Cell<u16> = const { Cell::new(LOCAL) };
}

/// Under which a reconcile writes, so that nobody forwards it.
pub const RECONCILE: &std::ffi::CStr = c"spock_reconcile";

/// The origin under which a reconcile writes, created the first time. Needs a transaction.
pub fn of_reconcile() -> u16 {
    // SAFETY: a look into the catalog, or a new row of it.
    unsafe {
        match pg_sys::replorigin_by_name(RECONCILE.as_ptr(), true) {
            0 => pg_sys::replorigin_create(RECONCILE.as_ptr()),
            known => known,
        }
    }
}

/// Makes this process apply under the origin; an ERROR (55006) if another process does. Needs a transaction. Returns how
/// far it has been applied.
pub fn set_up(origin_id: u16) -> OriginLsn {
    // SAFETY: within a transaction; given back by `reset`, or by the end of the process. The callback runs before core's
    // own, which aborts what is open: it was registered later.
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

/// The first thing to do when a transaction will not be committed: its abort would advance the origin to where the commit
/// should have taken it, and what was not applied would never be (xact.c, RecordTransactionAbort).
pub fn forget_stamp() {
    // SAFETY: variables of this process.
    unsafe {
        pg_sys::replorigin_session_origin = LOCAL;
        pg_sys::replorigin_session_origin_lsn = 0;
        pg_sys::replorigin_session_origin_timestamp = 0;
    }
}

/// After a transaction that was not committed: what is written from now on is of the origin again.
pub fn take_up() {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::replorigin_session_origin = SET_UP.get() };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn forget_at_exit(_code: core::ffi::c_int, _argument: pg_sys::Datum) {
    forget_stamp();
}

/// Gives the origin back: what is committed from now on is this server's own.
pub fn reset() {
    forget_stamp();
    if SET_UP.replace(LOCAL) != LOCAL {
        // SAFETY: set up, and not given back since.
        unsafe { pg_sys::replorigin_session_reset() };
    }
}

/// What the commit of the present transaction will carry: how far the origin is applied with it, and when it was committed
/// there (zero: now). Gives the transaction an id, without which a commit carries no origin.
pub fn stamp_commit(lsn: OriginLsn, committed_at: i64) {
    // SAFETY: an origin is set up; within a transaction.
    unsafe {
        pg_sys::GetCurrentTransactionId();
        pg_sys::replorigin_session_origin_lsn = lsn.0;
        pg_sys::replorigin_session_origin_timestamp = committed_at;
    }
}

/// `DoNotReplicateId`: of no node, and not to be decoded.
const DO_NOT_REPLICATE: u16 = u16::MAX;

/// `InvalidRepOriginId`: what this server's own transactions carry.
pub const LOCAL: u16 = 0;
