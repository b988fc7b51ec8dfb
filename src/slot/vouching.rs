//! From which position on this node is certain to hold everything that a subscription receives (pure).
//!
//! A subscription receives every transaction that is committed at its provider beyond the confirmed position of its
//! slot there. So a stream that is new, or whose tables have changed, is unbroken from a confirmed position that was
//! read later. The reading must be this node's own: a restarted apply worker may confirm what a crash of this node then
//! takes back. Before it counts, two conditions must hold:
//!
//!  1. The transactions that were being applied when the change was seen have ended. They may have left out a new
//!     table's rows, and one that has left out everything has not moved the replication origin.
//!  2. The slot is confirmed at or beyond the end of WAL that the provider reported first after that: everything
//!     received earlier lies below it. Instead of this, it is enough that the origin has moved since those transactions
//!     ended: later transactions of the stream are received whole.
//!
//! A subscription by which no transaction has come yet begins at the first confirmed position that was read: the
//! provider held nothing for it up to there.

use super::positions::Own;
use super::positions::OwnPosition;
use super::record::{OriginRecord, RetentionRecord};
use crate::lsn::OriginLsn;
use crate::pg::clock::Monotonic;

/// What the provider has reported: the end of its WAL, and then the confirmed position of the subscription's slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// When the question was begun.
    pub asked_at: Monotonic,
    pub wal_end: OriginLsn,
    pub confirmed: OriginLsn,
}

/// Watches one subscription from the moment when it was found to be new or changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The apply workers' transactions, open or prepared, that were found then and have not ended yet.
    in_flight: Vec<String>,
    /// When all of them were first found to have ended.
    ended_at: Option<Monotonic>,
    /// The progress of the replication origin as first read after that.
    stood: Option<OriginLsn>,
    /// The end of the provider's WAL as first reported after that.
    must_pass: Option<OriginLsn>,
}

impl Watch {
    /// `in_flight`: the apply workers' transactions, which the caller reads after the subscription and its tables.
    pub fn begin(now: Monotonic, in_flight: Vec<String>) -> Watch {
        let ended_at = in_flight.is_empty().then_some(now);
        Watch { in_flight, ended_at, stood: None, must_pass: None }
    }

    /// Whether a transaction that was being applied at the beginning has not ended yet.
    pub fn waits_for_transactions(&self) -> bool {
        self.ended_at.is_none()
    }

    /// Looks again in a later round; returns the position from which the stream is unbroken, as soon as it is certain.
    /// `running`: the apply workers' present transactions, which are ignored once those of the beginning have ended.
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
                // A transaction that was open may have been prepared since, and its new id does not tell which one it
                // was: every prepared transaction must now end.
                let others = running.iter().filter(|one| is_prepared(one) && !self.in_flight.contains(one));
                let others: Vec<String> = others.cloned().collect();
                self.in_flight.extend(others);
            }
            // The origin's progress was read before `running`: a transaction that has ended in between must not count
            // as a later one.
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

/// How far this node has recorded that it is past its provider's WAL while it had applied nothing of it. The provider
/// held nothing for it up to there. That stays true whatever it applies later, and also if a recovery has set its
/// origin to an earlier position.
pub fn written_passed(record: Option<&RetentionRecord>, position: &OwnPosition) -> OriginLsn {
    written(record, position).map_or(OriginLsn::ZERO, OriginRecord::recorded_passed)
}

fn written<'a>(record: Option<&'a RetentionRecord>, position: &OwnPosition) -> Option<&'a OriginRecord> {
    record?.of_pair(position.subscription.to_u32(), position.origin_id)
}

/// Whether an apply worker has prepared this transaction: core gives it such a global id.
fn is_prepared(transaction: &str) -> bool {
    transaction.starts_with("pg_gid_")
}

/// Where a subscription that has applied nothing begins; None: unknown, or it has applied something. `confirmed`: the
/// confirmed position of its slot as this node has read it, 0/0 if it was not read; the result is valid once WAL has
/// been flushed after that reading.
pub fn beginning(record: Option<&RetentionRecord>, position: &OwnPosition, confirmed: OriginLsn) -> Option<OriginLsn> {
    if position.applied().is_some() || position.origin_id == 0 {
        return None;
    }
    written(record, position).and_then(|origin| origin.begins).or(confirmed.known())
}

#[cfg(test)]
#[path = "vouching_tests.rs"]
mod tests;
