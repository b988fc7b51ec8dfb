//! How far each apply worker of this server has applied its origin, by the worker itself, at each commit.
//!
//! An apply worker has one connection in its life, and what it receives is of one run of its provider. So the last commit of each
//! worker tells how far the provider's former run was applied, which nothing else does: the origin's progress goes on with the
//! next worker, which may already receive from a provider that was restored from an older copy.

use super::{PeerEntry, PeerKey, Shared};
use crate::lsn::OriginLsn;
use crate::pg::clock::{Monotonic, Timestamp};

/// Workers of one origin that are remembered, the last ones. Core starts at most one in wal_retrieve_retry_interval for each
/// subscription, beside its parallel workers, and a poller asks at each new one.
pub const MAX_LIVES: usize = 8;

/// One apply worker.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyLife {
    /// Counts the workers of the server in the order of their first commits; zero: the place is free.
    pub number: u64,
    /// When it committed the first one.
    pub began_at: Monotonic,
    /// The last transaction that it has committed, and when that was committed at its origin, by the origin's clock.
    pub applied: OriginLsn,
    pub committed_at: Timestamp,
}

impl ApplyLife {
    pub const FREE: ApplyLife =
        ApplyLife { number: 0, began_at: Monotonic::NEVER, applied: OriginLsn::ZERO, committed_at: Timestamp::NEVER };
}

/// The workers of one origin. Origins belong to the server, not to a database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AppliedEntry {
    /// Zero: the place is free.
    pub origin_id: u16,
    pub lives: [ApplyLife; MAX_LIVES],
}

impl AppliedEntry {
    pub const FREE: AppliedEntry = AppliedEntry { origin_id: 0, lives: [ApplyLife::FREE; MAX_LIVES] };

    fn newest(&self) -> u64 {
        self.lives.iter().map(|life| life.number).max().unwrap_or(0)
    }
}

impl Shared {
    /// Notes what a worker has committed. `number`: its own, as this function has given it the first time; None: this is the first
    /// time. Returns the number.
    pub fn note_applied(
        &mut self,
        number: Option<u64>,
        origin_id: u16,
        applied: OriginLsn,
        committed_at: Timestamp,
    ) -> u64 {
        let number = number.unwrap_or_else(|| self.next_life());
        let entries = self.applied();
        let known = entries.iter().position(|entry| entry.origin_id == origin_id);
        // A free place has no worker and counts as the oldest.
        let place = known.or_else(|| {
            let oldest = (0..entries.len()).min_by_key(|index| entries[*index].newest())?;
            entries[oldest] = AppliedEntry { origin_id, ..AppliedEntry::FREE };
            Some(oldest)
        });
        let Some(place) = place else { return number };
        let lives = &mut entries[place].lives;
        let own = lives.iter().position(|life| life.number == number);
        let oldest = || (0..MAX_LIVES).min_by_key(|index| lives[*index].number);
        if let Some(index) = own.or_else(oldest) {
            let began_at = own.map_or_else(Monotonic::now, |own| lives[own].began_at);
            lives[index] = ApplyLife { number, began_at, applied, committed_at };
        }
        number
    }

    /// The workers that have applied an origin, as far as they are remembered.
    pub fn lives_of(&mut self, origin_id: u16) -> Vec<ApplyLife> {
        let entry = self.applied().iter().find(|entry| origin_id != 0 && entry.origin_id == origin_id);
        entry.iter().flat_map(|entry| entry.lives).filter(|life| life.number != 0).collect()
    }

    /// Has the node asked at once that an origin comes from: its poller, to be woken; zero: there is none.
    pub fn call_poller_of(&mut self, index: usize, origin_id: u16) -> i32 {
        let is_of = |peer: &&mut PeerEntry| peer.key != PeerKey::None && peer.former.origins.contains(&origin_id);
        let Some(peer) = self.peers(index).iter_mut().find(is_of) else { return 0 };
        peer.is_called = true;
        peer.poller_pid
    }
}
