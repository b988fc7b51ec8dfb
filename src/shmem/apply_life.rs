//! How far each apply worker of this server has applied its origin, by the worker itself, at each commit.
//!
//! An apply worker has one connection in its life, and what it receives is of one run of its provider. So the last commit of each
//! worker tells how far the provider's former run was applied, which nothing else does: the origin's progress goes on with the
//! next worker, which may already receive from a provider that was restored from an older copy.
//!
//! Places are few, and each apply worker of the server asks for one: also those of databases that are no nodes, and of
//! subscriptions that come from no peer. None of these takes the place of an origin that a poller has found to be its peer's.

use super::{PeerEntry, PeerKey, Shared};
use crate::lsn::OriginLsn;
use crate::pg::clock::{Monotonic, Timestamp};
use pgrx::pg_sys::Oid;

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

/// The peer that an origin comes from, by its database's index and its own.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub index: usize,
    pub peer: usize,
}

/// The workers of one origin. Origins belong to the server, not to a database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AppliedEntry {
    /// Zero: the place is free.
    pub origin_id: u16,
    /// Whose it was when that was last looked at; None: of no peer that has answered.
    pub claim: Option<Claim>,
    pub lives: [ApplyLife; MAX_LIVES],
}

impl AppliedEntry {
    pub const FREE: AppliedEntry = AppliedEntry { origin_id: 0, claim: None, lives: [ApplyLife::FREE; MAX_LIVES] };

    fn newest(&self) -> u64 {
        self.lives.iter().map(|life| life.number).max().unwrap_or(0)
    }
}

/// The place that another origin takes, which nobody claims or a peer of the database at `claimed_by`: a free one, else that of an
/// origin that nobody claims and that was applied longest ago. Where all are claimed, one of a peer takes the oldest of the database
/// that has most of them, so that no database, however many subscriptions it has, takes what another one needs; and one that nobody
/// claims gets none.
fn place_for(entries: &[AppliedEntry], claimed_by: Option<usize>) -> Option<usize> {
    let holder = |place: usize| entries[place].claim.map(|claim| claim.index);
    // A free place has no worker and counts as the oldest.
    let oldest_of = |wanted: Option<usize>| {
        (0..entries.len()).filter(|place| holder(*place) == wanted).min_by_key(|place| entries[*place].newest())
    };
    oldest_of(None).or_else(|| {
        claimed_by?;
        let mut held = vec![0; (0..entries.len()).filter_map(holder).max()? + 1];
        (0..entries.len()).filter_map(holder).for_each(|index| held[index] += 1);
        oldest_of((0..held.len()).max_by_key(|index| held[*index]))
    })
}

/// An origin comes from a peer, as of the peer's last answer.
fn is_of(peer: &PeerEntry, origin_id: u16) -> bool {
    peer.key != PeerKey::None && peer.former.origins.contains(&origin_id)
}

impl Shared {
    /// Notes what a worker has committed. `number`: its own, as this function has given it the first time; None: this is the first
    /// time. Returns the number. `database`: its own.
    pub fn note_applied(
        &mut self,
        number: Option<u64>,
        database: Oid,
        origin_id: u16,
        applied: OriginLsn,
        committed_at: Timestamp,
    ) -> u64 {
        let number = number.unwrap_or_else(|| self.next_life());
        let known = self.applied().iter().position(|entry| entry.origin_id == origin_id);
        let Some(place) = known.or_else(|| self.take_place(database, origin_id)) else { return number };
        let lives = &mut self.applied()[place].lives;
        let own = lives.iter().position(|life| life.number == number);
        let oldest = || (0..MAX_LIVES).min_by_key(|index| lives[*index].number);
        if let Some(index) = own.or_else(oldest) {
            let began_at = own.map_or_else(Monotonic::now, |own| lives[own].began_at);
            lives[index] = ApplyLife { number, began_at, applied, committed_at };
        }
        number
    }

    /// A place for an origin that has none.
    fn take_place(&mut self, database: Oid, origin_id: u16) -> Option<usize> {
        let claim = self.index_of(database).and_then(|index| {
            let peer = self.peers(index).iter().position(|peer| is_of(peer, origin_id))?;
            Some(Claim { index, peer })
        });
        if self.applied().iter().all(|entry| entry.claim.is_some()) {
            self.forget_old_claims();
        }
        let entries = self.applied();
        let place = place_for(entries, claim.map(|claim| claim.index))?;
        entries[place] = AppliedEntry { origin_id, claim, ..AppliedEntry::FREE };
        Some(place)
    }

    /// Of origins that have come from a peer, and do no more.
    fn forget_old_claims(&mut self) {
        for place in 0..self.applied().len() {
            let AppliedEntry { origin_id, claim, .. } = self.applied()[place];
            if claim.is_some_and(|claim| !is_of(&self.peers(claim.index)[claim.peer], origin_id)) {
                self.applied()[place].claim = None;
            }
        }
    }

    /// The places of the origins that come from a peer as of its answer are kept for it.
    pub fn claim_places(&mut self, index: usize, peer: usize) {
        let origins = self.peers(index)[peer].former.origins;
        for entry in self.applied() {
            if entry.origin_id != 0 && origins.contains(&entry.origin_id) {
                entry.claim = Some(Claim { index, peer });
            }
        }
    }

    /// The workers that have applied an origin, as far as they are remembered.
    pub fn lives_of(&mut self, origin_id: u16) -> Vec<ApplyLife> {
        let entry = self.applied().iter().find(|entry| origin_id != 0 && entry.origin_id == origin_id);
        entry.iter().flat_map(|entry| entry.lives).filter(|life| life.number != 0).collect()
    }

    /// Has the node asked at once that an origin comes from: its poller, to be woken; zero: there is none.
    pub fn call_poller_of(&mut self, index: usize, origin_id: u16) -> i32 {
        let Some(peer) = self.peers(index).iter_mut().find(|peer| is_of(peer, origin_id)) else { return 0 };
        peer.is_called = true;
        peer.poller_pid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An origin that was applied last by the worker of that number.
    fn entry(origin_id: u16, claimed_by: Option<usize>, number: u64) -> AppliedEntry {
        let mut entry = AppliedEntry { origin_id, ..AppliedEntry::FREE };
        entry.claim = claimed_by.map(|index| Claim { index, peer: 0 });
        entry.lives[3].number = number;
        entry
    }

    #[test]
    fn a_free_place_is_taken_first_and_then_the_oldest_that_nobody_claims() {
        let mut entries = [entry(1, Some(0), 1), entry(2, None, 9), entry(3, None, 5), AppliedEntry::FREE];
        for claimed_by in [None, Some(0)] {
            assert_eq!(place_for(&entries, claimed_by), Some(3));
        }
        entries[3] = entry(4, Some(1), 2);
        for claimed_by in [None, Some(0)] {
            assert_eq!(place_for(&entries, claimed_by), Some(2));
        }
    }

    #[test]
    fn however_many_origins_come_that_nobody_claims_those_of_peers_stay() {
        let mut entries = [entry(1, Some(0), 1), entry(2, None, 2), entry(3, Some(1), 3)];
        for number in 4..100 {
            let place = place_for(&entries, None).expect("a place");
            entries[place] = entry(number, None, number.into());
        }
        assert_eq!(entries.map(|entry| entry.origin_id), [1, 99, 3]);
        let full = [entry(1, Some(0), 1), entry(2, Some(1), 2)];
        assert_eq!(place_for(&full, None), None);
    }

    #[test]
    fn where_all_are_claimed_the_database_gives_way_that_has_most() {
        let full = [entry(1, Some(7), 1), entry(2, Some(3), 2), entry(3, Some(3), 3), entry(4, Some(5), 0)];
        for claimed_by in [3, 5, 7] {
            assert_eq!(place_for(&full, Some(claimed_by)), Some(1));
        }
    }
}
