//! Replication origins (replication/origin.h) and commit timestamps by origin (access/commit_ts.h).

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
