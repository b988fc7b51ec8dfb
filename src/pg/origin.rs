//! Replication origins (replication/origin.h) and commit timestamps by origin (access/commit_ts.h).
//!
//! While an origin is set up in this process every transaction of it carries that origin, our own bookkeeping too: it is
//! given back before anything else is written.

use super::clock::Timestamp;
use crate::lsn::OriginLsn;
use pgrx::pg_sys;

/// How far an origin has been applied, in memory: it may run ahead of the disk. 0/0 if nothing was.
pub fn progress(origin_id: u16) -> OriginLsn {
    if origin_id == 0 {
        return OriginLsn::ZERO;
    }
    // SAFETY: reads shared memory; an origin without progress gives 0/0.
    OriginLsn(unsafe { pg_sys::replorigin_get_progress(origin_id, false) })
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

/// Makes this process apply under the origin; an ERROR (55006) if another process does. Needs a transaction. Returns how
/// far it has been applied.
pub fn set_up(origin_id: u16) -> OriginLsn {
    // SAFETY: within a transaction; given back by `reset`, or by the end of the process.
    unsafe {
        pg_sys::replorigin_session_setup(origin_id, 0);
        pg_sys::replorigin_session_origin = origin_id;
        OriginLsn(pg_sys::replorigin_session_get_progress(false))
    }
}

/// Gives the origin back. Also the first thing to do after an ERROR: the abort itself must not advance it.
pub fn reset() {
    // SAFETY: variables of this process; resetting is legal only while an origin is set up.
    unsafe {
        let was_set_up = pg_sys::replorigin_session_origin != 0;
        pg_sys::replorigin_session_origin = 0;
        pg_sys::replorigin_session_origin_lsn = 0;
        pg_sys::replorigin_session_origin_timestamp = 0;
        if was_set_up {
            pg_sys::replorigin_session_reset();
        }
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

/// `InvalidRepOriginId`: what this server's own transactions carry.
pub const LOCAL: u16 = 0;
