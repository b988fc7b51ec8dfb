//! When a row version was committed, and by which origin (access/commit_ts.h).

use super::clock::Timestamp;
use pgrx::pg_sys::{self, TransactionId};

/// The row version that a transaction has written.
pub fn version_of(xid: TransactionId) -> RowVersion {
    // SAFETY: without track_commit_timestamp the look-up would raise an error, so the setting is checked first; a
    // special xid is excluded, and a forgotten one has no commit time.
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

/// Whether commit timestamps are recorded.
pub fn is_tracked() -> bool {
    // SAFETY: a setting that does not change while the server runs.
    unsafe { pg_sys::track_commit_timestamp }
}

/// Which transaction wrote a row version, and when it committed at which origin. `committed` is None if that is not
/// known (too old, or track_commit_timestamp was off).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowVersion {
    pub transaction: u32,
    /// Whether the transaction that is being applied has written it.
    pub is_own: bool,
    pub committed: Option<(Timestamp, u16)>,
}
