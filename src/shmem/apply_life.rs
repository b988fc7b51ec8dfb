//! How far each apply worker of this server has applied its origin. The worker itself notes it at each commit.
//!
//! An apply worker has one connection in its life, and what it receives comes from one run of its provider. So the last
//! commit of each worker tells how far the provider's former run was applied. Nothing else tells that: the origin's
//! progress continues with the next worker, which may already receive from a provider that was restored from an older
//! copy.
//!
//! Places are few, and every apply worker of the server asks for one, also those of databases that are no nodes and of
//! subscriptions whose provider is no peer. None of these takes the place of an origin that a poller has found to be
//! its peer's.

use super::{PeerEntry, PeerKey, Shared};
use crate::lsn::OriginLsn;
use crate::pg::clock::{Monotonic, Timestamp};
use pgrx::pg_sys::Oid;
use std::time::Duration;

/// How many workers of one origin are remembered, the most recent ones. Core starts at most one for each subscription
/// per wal_retrieve_retry_interval, besides its parallel workers, and a poller asks the provider at each new one.
pub const MAX_LIVES: usize = 8;

/// A peer that has answered within this time is not asked again by [`Shared::pollers_to_wake`].
const FRESH: Duration = Duration::from_millis(50);

/// What is noted of one apply worker.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApplyLife {
    /// The worker's number in the order of the first commits of all apply workers of this server; zero: the place is
    /// free.
    pub number: u64,
    /// When the worker made its first commit.
    pub began_at: Monotonic,
    /// The position of the last transaction that the worker has committed, and when that was committed at its origin,
    /// by the origin's clock.
    pub applied: OriginLsn,
    pub committed_at: Timestamp,
}

impl ApplyLife {
    pub const FREE: ApplyLife =
        ApplyLife { number: 0, began_at: Monotonic::NEVER, applied: OriginLsn::ZERO, committed_at: Timestamp::NEVER };
}

/// The peer that an origin belongs to: the index of its database's entry, and of the peer in it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    pub index: usize,
    pub peer: usize,
}

/// The workers of one replication origin. Origins belong to the server, not to a database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AppliedEntry {
    /// Zero: the place is free.
    pub origin_id: u16,
    /// The peer that the origin belonged to when that was last looked up; None: no peer that has answered.
    pub claim: Option<Claim>,
    pub lives: [ApplyLife; MAX_LIVES],
}

impl AppliedEntry {
    pub const FREE: AppliedEntry = AppliedEntry { origin_id: 0, claim: None, lives: [ApplyLife::FREE; MAX_LIVES] };

    /// The number of the most recent worker.
    fn newest(&self) -> u64 {
        self.lives.iter().map(|life| life.number).max().unwrap_or(0)
    }
}

/// The place for an origin that has none. `claimed_by`: the index of the database whose peer the origin belongs to;
/// None: no peer claims it. A free place is taken first, then that of an unclaimed origin, the one applied longest ago.
/// If all are claimed, an unclaimed origin gets no place. A claimed one takes the oldest place of the database that has
/// most of them, so that no database, however many subscriptions it has, displaces the origins of another.
fn place_for(entries: &[AppliedEntry], claimed_by: Option<usize>) -> Option<usize> {
    let holder = |place: usize| entries[place].claim.map(|claim| claim.index);
    // A free place has no worker, and counts as the oldest.
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

/// Whether an origin belongs to a peer, by the peer's last answer.
fn is_of(peer: &PeerEntry, origin_id: u16) -> bool {
    peer.key != PeerKey::None && peer.former.origins.contains(&origin_id)
}

impl Shared {
    /// Notes what an apply worker has committed. `number`: the worker's number, as the first call has returned it;
    /// None: this is the first call. `database`: the worker's database. Returns the number.
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

    /// Takes a place for an origin that has none; None: there is none for it.
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

    /// Removes the claims of peers to origins that no longer belong to them.
    fn forget_old_claims(&mut self) {
        for place in 0..self.applied().len() {
            let AppliedEntry { origin_id, claim, .. } = self.applied()[place];
            if claim.is_some_and(|claim| !is_of(&self.peers(claim.index)[claim.peer], origin_id)) {
                self.applied()[place].claim = None;
            }
        }
    }

    /// Reserves for a peer the places of the origins that belong to it, by its last answer.
    pub fn claim_places(&mut self, index: usize, peer: usize) {
        let origins = self.peers(index)[peer].former.origins;
        for entry in self.applied() {
            if entry.origin_id != 0 && origins.contains(&entry.origin_id) {
                entry.claim = Some(Claim { index, peer });
            }
        }
    }

    /// The workers that have applied an origin and are still remembered.
    pub fn lives_of(&mut self, origin_id: u16) -> Vec<ApplyLife> {
        let entry = self.applied().iter().find(|entry| origin_id != 0 && entry.origin_id == origin_id);
        entry.iter().flat_map(|entry| entry.lives).filter(|life| life.number != 0).collect()
    }

    /// Marks the peer that an origin belongs to as to be asked at once. Returns the pid of its poller, which the caller
    /// wakes; zero: there is none.
    pub fn call_poller_of(&mut self, index: usize, origin_id: u16) -> i32 {
        let Some(peer) = self.peers(index).iter_mut().find(|peer| is_of(peer, origin_id)) else { return 0 };
        peer.is_called = true;
        peer.poller_pid
    }

    /// The pollers of a database that are to ask their peers at once, which they do when they are woken; without those whose
    /// peers have just answered, for who waits for long calls often.
    pub fn pollers_to_wake(&mut self, index: usize) -> Vec<i32> {
        let now = Monotonic::now();
        let is_due = |peer: &&mut PeerEntry| peer.poller_pid != 0 && now.since(peer.answered_at) >= FRESH;
        self.peers(index).iter_mut().filter(is_due).map(|peer| peer.poller_pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An origin that was last applied by the worker with this number.
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
