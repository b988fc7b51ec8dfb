//! From which position on this node can vouch for what a subscription brings (pure).
//!
//! A subscription receives every transaction that is committed at its provider beyond where its slot there is confirmed. So a
//! stream that is new, or whose tables have changed, is unbroken from where the slot was confirmed later than that: by this
//! node's own reading, for a restarted apply worker may confirm what a crash takes back. Three things must hold first:
//!
//!  - The transactions that were being applied when the change was seen have ended: they may have left out a new table's rows,
//!    and those that left out everything have not moved the replication origin.
//!  - The provider told the end of its WAL after that, and the slot is confirmed beyond that end: everything that was received
//!    before lies below.
//!  - Or the origin has moved since they ended: what comes after it in the stream comes whole.
//!
//! A subscription that nothing has come by yet begins where its slot was first read: up to there nothing was for it.

use super::positions::Own;
use super::positions::OwnPosition;
use super::record::{OriginRecord, RetentionRecord};
use crate::lsn::OriginLsn;
use crate::pg::clock::Monotonic;

/// What the provider has told: the end of its WAL, and after it how far the subscription's slot there was confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// When the question began.
    pub asked_at: Monotonic,
    pub wal_end: OriginLsn,
    pub confirmed: OriginLsn,
}

/// Watches one subscription from when it was found new or changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The apply workers' transactions of that moment that have not ended yet: open ones, and prepared ones.
    in_flight: Vec<String>,
    /// When they were found to have ended.
    ended_at: Option<Monotonic>,
    /// Where the replication origin stood, as it was read after that.
    stood: Option<OriginLsn>,
    /// The end of the provider's WAL as it was first told after that.
    must_pass: Option<OriginLsn>,
}

impl Watch {
    /// `in_flight`: the apply workers' transactions, read after the subscription and its tables.
    pub fn begin(now: Monotonic, in_flight: Vec<String>) -> Watch {
        let ended_at = in_flight.is_empty().then_some(now);
        Watch { in_flight, ended_at, stood: None, must_pass: None }
    }

    pub fn waits_for_transactions(&self) -> bool {
        self.ended_at.is_none()
    }

    /// In a later round than the one before: where the stream is unbroken from, once that can be told. `running`: the apply
    /// workers' transactions; not looked at once those of the beginning have ended.
    pub fn look(
        &mut self,
        now: Monotonic,
        running: &[String],
        own: &Own,
        reading: Option<Reading>,
    ) -> Option<OriginLsn> {
        let Some(ended_at) = self.ended_at else {
            let has_one_ended = self.in_flight.iter().any(|known| !is_prepared(known) && !running.contains(known));
            self.in_flight.retain(|known| running.contains(known));
            if has_one_ended {
                // What is prepared now may be what was open before.
                let others = running.iter().filter(|one| is_prepared(one) && !self.in_flight.contains(one));
                let others: Vec<String> = others.cloned().collect();
                self.in_flight.extend(others);
            }
            // Its progress was read before: one that has ended since might count as what came later.
            self.ended_at = self.in_flight.is_empty().then_some(now);
            return None;
        };
        if own.remote > *self.stood.get_or_insert(own.remote) {
            return own.applied;
        }
        let reading = reading.filter(|reading| reading.asked_at > ended_at && reading.confirmed.known().is_some())?;
        let must_pass = *self.must_pass.get_or_insert(reading.wal_end);
        (reading.confirmed >= must_pass).then(|| reading.confirmed.max(own.applied.unwrap_or(OriginLsn::ZERO)))
    }
}

/// How far this node has written down that it is past its provider's WAL while it had applied nothing of it: up to there nothing was
/// for it, which stays so whatever it applies later, and also where a recovery has set its origin to a position before that.
pub fn written_passed(record: Option<&RetentionRecord>, position: &OwnPosition) -> OriginLsn {
    written(record, position).and_then(|origin| origin.passed.max(origin.begins)).unwrap_or(OriginLsn::ZERO)
}

fn written<'a>(record: Option<&'a RetentionRecord>, position: &OwnPosition) -> Option<&'a OriginRecord> {
    record?.of_pair(position.subscription.to_u32(), position.origin_id)
}

/// As core names the transactions that an apply worker has prepared.
fn is_prepared(transaction: &str) -> bool {
    transaction.starts_with("pg_gid_")
}

/// Where a subscription that has applied nothing begins; None: unknown, or it has applied something. `confirmed`: how far its slot
/// was confirmed by this node's own reading, 0/0 if it was not read; it counts once WAL has been flushed after that reading.
pub fn beginning(record: Option<&RetentionRecord>, position: &OwnPosition, confirmed: OriginLsn) -> Option<OriginLsn> {
    if position.applied().is_some() || position.origin_id == 0 {
        return None;
    }
    written(record, position).and_then(|origin| origin.begins).or(confirmed.known())
}

#[cfg(test)]
#[path = "vouching_tests.rs"]
mod tests;
