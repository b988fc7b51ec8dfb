//! When a row's version was committed, and by whom (access/commit_ts.h).

use super::clock::Timestamp;
use pgrx::pg_sys::{self, TransactionId};

/// The version that a transaction wrote.
pub fn version_of(xid: TransactionId) -> RowVersion {
    // SAFETY: without track_commit_timestamp the look-up raises an error, hence the look at the setting first; a special or
    // forgotten xid has no commit time.
    unsafe {
        if pg_sys::TransactionIdIsCurrentTransactionId(xid) {
            return RowVersion { transaction: xid.into_inner(), is_own: true, committed: None };
        }
        let (mut at, mut origin) = (0, 0);
        let is_known = pg_sys::track_commit_timestamp
            && xid >= pg_sys::FirstNormalTransactionId
            && pg_sys::TransactionIdGetCommitTsData(xid, &mut at, &mut origin);
        RowVersion {
            transaction: xid.into_inner(),
            is_own: false,
            committed: is_known.then_some((Timestamp(at), origin)),
        }
    }
}

/// Whether commit times are kept.
pub fn is_tracked() -> bool {
    // SAFETY: a setting that does not change while the server runs.
    unsafe { pg_sys::track_commit_timestamp }
}

/// Who wrote a row's present version, and when. None: not known (too old, or track_commit_timestamp was off).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowVersion {
    pub transaction: u32,
    /// By the transaction that is being applied.
    pub is_own: bool,
    pub committed: Option<(Timestamp, u16)>,
}
