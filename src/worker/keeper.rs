//! The manager's part in keeping the recovery slot: it takes samples, decides how far the slot may move, writes the
//! retention record, and then has the slot worker act. It waits neither for a peer nor for another session's
//! transaction.
//!
//! The order matters: the record, which says what the slot may have released, is committed before the slot is touched.

use super::start;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::error::RegistryError;
use crate::node::provider::Peer;
use crate::node::servers;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::slot::{self, Slot};
use crate::pg::{catalog, compat, origin, wal};
use crate::shmem::{self, BlockedReason, PeerEntry, PeerKey, PeerState, SlotJob};
use crate::slot::decision::{self, Block, Contact, PeerInput, Report};
use crate::slot::horizon::{Sample, Samples};
use crate::slot::name;
use crate::slot::pace::Pace;
use crate::slot::positions::Own;
use crate::slot::positions::{self, OwnPosition, SubscribedTable};
use crate::slot::record::{OriginRecord, PassedRecord, RetentionRecord};
use crate::slot::record_storage::{self, write};
use crate::slot::retention::Rate;
use crate::slot::view::{self, View};
use crate::slot::vouching::{Reading, Watch};
use crate::{backoff, guc};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a round waits for commits in progress. A commit takes microseconds from its WAL record to its origin's
/// progress; if one hangs in between (a stalled disk), the round only has no sample.
const COMMIT_LIMIT: Duration = Duration::from_millis(500);

/// A slot is touched after this fraction of idle_replication_slot_timeout, which leaves time for several attempts
/// before the server invalidates it.
pub(super) const TOUCH_FRACTION: u32 = 4;

/// Number of polls after which every healthy peer has passed the first sample and has reported that.
const POLLS_TO_TELL: u32 = 5;

/// What a round has decided, to be done after its transaction has committed.
#[derive(Debug)]
pub struct KeeperRound {
    /// The retention record as it is from now on.
    record: Option<RetentionRecord>,
    job: SlotJob,
    view: View,
    /// The oids of the peers' foreign servers, by node name.
    nodes: HashMap<String, Oid>,
    nap: Duration,
    /// The tables that this round has looked up, by subscription, with their digest. They count as known from the
    /// commit on, which also records the tables that have left.
    tables: HashMap<u32, (i64, Vec<SubscribedTable>)>,
    /// How many requests by hand this round has seen; None: the round could not act and answers none.
    requested: Option<u32>,
}

#[derive(Debug)]
pub struct Keeper {
    index: usize,
    database_name: String,
    record: Option<RetentionRecord>,
    is_record_read: bool,
    /// The retention record cannot be read: nothing is done with the slot.
    is_record_unreadable: bool,
    /// By the oid of the subscription.
    samples: HashMap<u32, Samples>,
    /// The tables of each subscription, with their digest: they are looked up again when the digest has changed.
    tables: HashMap<u32, (i64, Vec<SubscribedTable>)>,
    /// Of the subscriptions for whose origin this node cannot vouch yet.
    watches: HashMap<u32, Watch>,
    /// When a transaction of a replication origin was last seen to commit here.
    committed_at: HashMap<u16, Timestamp>,
    pace: Pace,
    rate: Rate,
    /// When the last move was begun, and restart_lsn before it.
    last_move: Option<(Instant, LocalLsn)>,
    is_moving: bool,
    /// Whether the last move has left restart_lsn where it was.
    is_stuck: bool,
    budget: crate::slot::budget::Budget,
    /// Since when no origin's samples were discarded.
    samples_since: Instant,
    said_no_worker: bool,
}

impl Keeper {
    pub fn new(index: usize) -> Keeper {
        Keeper {
            index,
            database_name: String::new(),
            record: None,
            is_record_read: false,
            is_record_unreadable: false,
            samples: HashMap::new(),
            tables: HashMap::new(),
            watches: HashMap::new(),
            committed_at: HashMap::new(),
            pace: Pace::default(),
            rate: Rate::default(),
            last_move: None,
            is_moving: false,
            is_stuck: false,
            budget: crate::slot::budget::Budget::default(),
            samples_since: Instant::now(),
            said_no_worker: false,
        }
    }

    /// Looks at everything once and decides. Runs in the manager's transaction, whose commit makes the record durable;
    /// [`Keeper::act`] carries the decision out afterwards. `peers`: None if this database is not a node (any more).
    ///
    /// # Errors
    /// If the retention record or a catalog cannot be read: the slot then stays as it is.
    pub fn look(&mut self, peers: Option<&[Peer]>) -> Result<KeeperRound, RegistryError> {
        self.read_record()?;
        let entry = shmem::lock().databases()[self.index].slot;
        let mut round = KeeperRound {
            record: self.record.clone(),
            job: SlotJob::Nothing,
            view: View::of(self.record.as_ref()),
            nodes: peers.unwrap_or_default().iter().map(|peer| (peer.name.to_string(), peer.id)).collect(),
            nap: guc::manager_naptime(),
            tables: HashMap::new(),
            requested: None,
        };
        let found = match &self.record {
            Some(record) => slot::find_here(&record.slot)?,
            None => None,
        };
        round.view.slot = found.clone();
        let may_act = entry.job == SlotJob::Nothing && entry.worker_pid == 0;
        let wait = if entry.requested == entry.answered { retry_wait(&entry) } else { Duration::ZERO };
        if !wait.is_zero() {
            round.nap = round.nap.min(wait);
        }
        let is_idle = may_act;
        let may_act = may_act && wait.is_zero();
        round.requested = may_act.then_some(entry.requested);
        let wanted = peers.filter(|_| guc::enable_recovery_slots());
        match (wanted, found) {
            (None, Some(found)) => {
                round.view.blocked = BlockedReason::Disabled;
                if may_act && !found.is_active {
                    round.job = SlotJob::Drop;
                }
            }
            (None, None) => {
                round.view.blocked = BlockedReason::Disabled;
                // While a slot is being created its record stays, so that the slot is found by it and dropped.
                if peers.is_none() && is_idle {
                    record_storage::forget()?;
                    round.record = None;
                }
            }
            (Some(_), Some(found)) if found.is_invalid => {
                round.view.blocked = BlockedReason::SlotCreationPending;
                if may_act {
                    pgrx::warning!("recovery slot \"{}\" was invalidated; it will be created anew", found.name);
                    round.job = SlotJob::Drop;
                }
            }
            (Some(_), None) => {
                round.view.blocked = BlockedReason::SlotCreationPending;
                if may_act {
                    self.prepare_creation(&mut round)?;
                }
            }
            (Some(peers), Some(found)) => self.keep(&mut round, &found, peers, may_act)?,
        }
        Ok(round)
    }

    /// Runs after the commit: publishes what was decided and begins the job. Returns how long the manager may sleep.
    pub fn act(&mut self, round: KeeperRound) -> Duration {
        self.record = round.record;
        self.tables.extend(round.tables);
        if self.record.is_none() {
            self.is_record_read = false;
            self.samples.clear();
        }
        let name = self.record.as_ref().map(|record| record.slot.clone()).unwrap_or_default();
        {
            let mut shared = shmem::lock();
            view::publish(&mut shared, self.index, &round.view, &round.nodes, self.rate.bytes_per_s());
            let slot = &mut shared.databases()[self.index].slot;
            if let Some(requested) = round.requested {
                // The previous job is done, and its outcome is published.
                slot.answered = if round.job == SlotJob::Nothing { requested } else { slot.serving };
                slot.serving = requested;
            }
            if round.job == SlotJob::Nothing {
                return round.nap;
            }
            slot.job = round.job;
            slot.name.set(&name);
        }
        if let SlotJob::Advance(_) = round.job {
            let restart = round.view.slot.as_ref().map_or(LocalLsn::ZERO, |slot| slot.restart);
            self.last_move = Some((Instant::now(), restart));
            self.is_moving = true;
        }
        let started = start::start_slot_worker(self.index, &self.database_name).is_ok();
        if !started {
            let mut shared = shmem::lock();
            let slot = &mut shared.databases()[self.index].slot;
            slot.job = SlotJob::Nothing;
            slot.note_failure();
            slot.error.set("no background worker left; raise max_worker_processes");
            if !self.said_no_worker {
                pgrx::warning!("no background worker left for the recovery slot: raise max_worker_processes");
            }
        }
        self.said_no_worker = !started;
        round.nap
    }

    /// Whether there is neither a slot nor a record of one.
    pub fn has_finished(&self) -> bool {
        self.record.is_none() && !self.is_record_unreadable
    }

    fn read_record(&mut self) -> Result<(), RegistryError> {
        if !self.is_record_read {
            self.database_name = catalog::my_database_name();
        }
        // This is done in each round, because somebody may have set a label since that this version of the library
        // cannot read.
        let found = record_storage::read();
        self.is_record_unreadable = found.is_err();
        if let Err(error) = found {
            self.is_record_read = false;
            self.hold();
            return Err(error);
        }
        if !std::mem::replace(&mut self.is_record_read, true) {
            self.record = found?;
        }
        Ok(())
    }

    /// Shows that nothing is done with the slot. Its name is in the record, which cannot be read, so the default name
    /// is shown.
    fn hold(&self) {
        let mut shared = shmem::lock();
        let slot = &mut shared.databases()[self.index].slot;
        if slot.name.as_str().is_empty() {
            slot.name.set(&name::recovery_slot_name(&self.database_name));
        }
        slot.blocked = BlockedReason::RecordUnreadable;
        slot.blocked_by = Oid::INVALID;
    }

    /// Prepares the creation of a slot where there is none: the next generation is recorded, and the slot is created
    /// after the commit.
    fn prepare_creation(&mut self, round: &mut KeeperRound) -> Result<(), RegistryError> {
        if self.record.is_none() && self.adopt(round)? {
            return Ok(());
        }
        let before = self.record.as_ref();
        let was_there = before.is_some_and(|record| record.position.is_some());
        let generation = before.map_or(1, |record| record.generation + u64::from(was_there));
        if let (true, Some(record)) = (was_there, before) {
            pgrx::warning!(
                "recovery slot \"{}\" is missing; creating generation {generation}: what peers lack of dead nodes up to now \
                 cannot be recovered from this node",
                record.slot
            );
        }
        let mut record = RetentionRecord::before_creation(servers::here(), generation, self.free_name()?);
        // What the peers have reported remains true.
        record.peers = before.map(|record| record.peers.clone()).unwrap_or_default();
        self.samples.clear();
        if before != Some(&record) {
            write(&record)?;
        }
        round.view.generation = generation;
        round.record = Some(record);
        round.job = SlotJob::Create;
        Ok(())
    }

    /// Takes over a slot of ours that has no record, as after the promotion of a standby, or when the label was removed
    /// by hand. The next round finds that it is not known what the slot has released. Returns false if there is no such
    /// slot.
    fn adopt(&self, round: &mut KeeperRound) -> Result<bool, RegistryError> {
        let name = name::recovery_slot_name(&self.database_name);
        let is_ours = slot::find_here(&name)?.is_some_and(|found| found.plugin.as_deref() == Some("pgoutput"));
        if is_ours {
            pgrx::log!("recovery slot \"{name}\" was found without a record of what it has let go");
            let record = RetentionRecord::before_creation(servers::here(), 1, name);
            write(&record)?;
            round.record = Some(record);
            round.nap = Duration::ZERO;
        }
        Ok(is_ours)
    }

    /// Returns the first of this database's names that no slot has.
    fn free_name(&self) -> Result<String, RegistryError> {
        let mut name = name::recovery_slot_name(&self.database_name);
        let mut attempt = 1;
        while slot::find(&name)?.is_some() {
            name = name::other_slot_name(&self.database_name, attempt);
            attempt += 1;
        }
        Ok(name)
    }

    /// Keeps a slot that exists: takes samples, decides, and writes the record.
    fn keep(
        &mut self,
        round: &mut KeeperRound,
        found: &Slot,
        peers: &[Peer],
        may_act: bool,
    ) -> Result<(), RegistryError> {
        let Some(before) = self.record.clone() else {
            return Ok(());
        };
        self.note_finished_move(found, may_act);
        let (positions, local) = self.sample()?;
        let readings = readings(self.index);
        let own: Vec<Own> = positions.iter().filter_map(own_of).collect();
        let mut record = before.clone();
        let covered = record.position.is_some_and(|position| found.confirmed <= position);
        if !covered && local.is_none() {
            // A commit hangs between its WAL record and its origin's progress, and that progress is what would be
            // recorded now.
            return Ok(());
        }
        if !covered {
            if let Some(position) = record.position {
                pgrx::log!(
                    "recovery slot \"{}\" is at {}, beyond {position}, which the retention record covers: it may have let go \
                     all that this node has applied",
                    found.name,
                    found.confirmed
                );
            }
            record.position = Some(found.confirmed);
        }
        record.origins = self.next_origins(&own, &before, covered, local.is_some(), &readings)?;
        round.tables = self.note_tables(&mut record.origins, &own, found.confirmed)?;
        // A subscription whose node is unknown now, for example because its label cannot be read, keeps its record of
        // what was released.
        let is_nameless = |known: &&OriginRecord| {
            positions.iter().any(|position| {
                position.origin.is_none()
                    && (position.subscription.to_u32(), position.origin_id) == (known.subscription, known.origin_id)
            })
        };
        record.origins.extend(before.origins.iter().filter(is_nameless).cloned());
        let inputs = peer_inputs(self.index, peers);
        record.peers = inputs.iter().filter_map(|peer| decision::next_peer(peer, &before)).collect();
        let now = Timestamp::now();
        let end = wal::flushed();
        self.rate.observe(end, now.0);
        let floor = self.budget.floor(end, found).filter(|_| self.can_tell_who_lags());
        let nothing = Samples::default();
        let origins: Vec<(&Own, &Samples)> =
            own.iter().map(|own| (own, self.samples.get(&own.subscription).unwrap_or(&nothing))).collect();
        let mut outcome = decision::decide(&origins, &inputs, &record, end, floor);
        if shmem::lock().databases()[self.index].slot.in_recovery {
            outcome.target = None;
            round.view.blocked = BlockedReason::RescueInProgress;
        } else if local.is_none() {
            outcome.hold(Block::NoSample, None);
        } else if positions.iter().any(|position| position.origin.is_none()) {
            // The subscription may come from any node: until that is known, nothing is released except for the budget.
            outcome.hold(Block::OriginUnknown, floor);
        }
        record.unprotected = decision::unprotected(&record, &outcome, &inputs);
        let target = outcome.target.filter(|target| *target > found.confirmed);
        let is_pinned = self.is_pinned()?;
        let frees = target.map_or(0, |target| target.bytes_since(found.restart));
        let wait = self.pace.wait(guc::recovery_slot_advance_interval(), frees, is_pinned);
        let is_requested = {
            let slot = shmem::lock().databases()[self.index].slot;
            slot.requested != slot.answered
        };
        if let Some(target) = target
            && may_act
            && (is_requested || self.last_move.is_none_or(|(begun, _)| begun.elapsed() >= wait))
        {
            let stop = if is_requested { target } else { self.pace.next_stop(found.confirmed, target) };
            for origin in &mut record.origins {
                origin.released = origin.released.max(self.let_go(origin, stop, &own));
            }
            record.position = Some(stop);
            round.job = SlotJob::Advance(stop);
        } else if may_act && is_idle_too_long(found, now) {
            round.job = SlotJob::Touch;
        }
        self.budget.tell(&before, &record, found, end, &self.rate, &outcome, &inputs);
        round.view.fill(found, &own, &inputs, &outcome, &record, is_pinned, &self.committed_at);
        if let (Some(_), Some((begun, _))) = (target, self.last_move) {
            round.nap = round.nap.min(wait.saturating_sub(begun.elapsed()).max(Duration::from_millis(10)));
        }
        if let Some(limit) = compat::idle_slot_timeout() {
            round.nap = round.nap.min(limit / TOUCH_FRACTION);
        }
        // How far the peers are is written only when the slot moves, because it proves nothing before. What they
        // subscribe to is written at once: after a restart of this server, a peer that has not reported yet would
        // otherwise count as one that needs nothing.
        let is_past_a_source = |(origin, own): (&OriginRecord, &Own)| {
            let reading = readings.get(&own.subscription).copied();
            decision::is_past_a_source(origin, own, reading, &released_by_peers(self.index, peers, &own.node))
        };
        let must_write = round.job != SlotJob::Nothing && !matches!(round.job, SlotJob::Touch)
            || record.position != before.position
            || record.origins != before.origins
            || record.unprotected != before.unprotected
            || record.origins.iter().zip(&own).any(is_past_a_source)
            || decision::histories(&record.peers) != decision::histories(&before.peers);
        if must_write {
            for (origin, own) in record.origins.iter_mut().zip(&own) {
                decision::note_beginning(origin, own, readings.get(&own.subscription).copied());
            }
        }
        if must_write && record != before {
            write(&record)?;
            round.record = Some(record);
        }
        Ok(())
    }

    /// Takes a sample of each origin. Returns the origins' positions, and the local position of the samples. The latter
    /// is None if a commit hung meanwhile: then there are no samples, and nothing may be concluded.
    fn sample(&mut self) -> Result<(Vec<OwnPosition>, Option<LocalLsn>), RegistryError> {
        let local = wal::flushed();
        let is_settled = wal::wait_for_commits_in_progress(COMMIT_LIMIT);
        let positions = positions::own_positions()?;
        if let Some((id, at)) = origin::latest_commit() {
            self.committed_at.insert(id, at);
        }
        if is_settled {
            let taken_at = Timestamp::now().0;
            for own in positions.iter().filter_map(own_of) {
                let origin = own.applied.unwrap_or(OriginLsn::ZERO);
                self.samples.entry(own.subscription).or_default().push(Sample { origin, local, taken_at });
            }
        }
        self.samples
            .retain(|subscription, _| positions.iter().any(|position| position.subscription.to_u32() == *subscription));
        Ok((positions, is_settled.then_some(local)))
    }

    /// Whether the samples are old enough to tell which peers lag. With samples of a moment ago alone, a peer that is a
    /// second behind looks like one that is behind all of them. So no peer is given up for the budget before every peer
    /// has had time to pass the first sample and to report that.
    fn can_tell_who_lags(&self) -> bool {
        self.samples_since.elapsed() >= guc::recovery_poll_interval() * POLLS_TO_TELL + guc::peer_timeout()
    }

    /// Returns the next record of each origin. Begins and ends the watches of the origins that this node cannot vouch
    /// for yet.
    fn next_origins(
        &mut self,
        own: &[Own],
        before: &RetentionRecord,
        covered: bool,
        is_settled: bool,
        readings: &HashMap<u32, Reading>,
    ) -> Result<Vec<OriginRecord>, RegistryError> {
        let now = Timestamp::now().0;
        let mut origins = Vec::new();
        for own in own {
            let known = before.origin(&own.node, own.subscription);
            let reading = readings.get(&own.subscription).copied();
            let unbroken_from = match known {
                Some(known) if known.waits_beyond.is_some() && is_settled => self.watch(own, reading)?,
                _ => None,
            };
            let (mut next, starts_anew) = decision::next_origin(own, known, covered, unbroken_from, now);
            if starts_anew {
                self.samples_since = Instant::now();
                self.samples.remove(&own.subscription);
                let watch = Watch::begin(Monotonic::now(), positions::transactions_of_workers(own.subscription)?);
                self.watches.insert(own.subscription, watch);
            }
            if next.waits_beyond.is_none() {
                self.watches.remove(&own.subscription);
            }
            if next.begins.is_none() {
                decision::note_beginning(&mut next, own, reading);
            }
            origins.push(next);
        }
        self.watches.retain(|subscription, _| own.iter().any(|own| own.subscription == *subscription));
        Ok(origins)
    }

    /// Records the tables that have left a subscription. Returns the tables that had to be looked up, by subscription,
    /// with their digest.
    fn note_tables(
        &mut self,
        origins: &mut [OriginRecord],
        own: &[Own],
        confirmed: LocalLsn,
    ) -> Result<HashMap<u32, (i64, Vec<SubscribedTable>)>, RegistryError> {
        self.tables.retain(|subscription, _| own.iter().any(|own| own.subscription == *subscription));
        let is_in_recovery = shmem::lock().databases()[self.index].slot.in_recovery;
        let mut looked_up = HashMap::new();
        for (origin, own) in origins.iter_mut().zip(own) {
            // While a clone exists these tables stay recorded, because a clone that was copied before the last move is
            // asked for them.
            origin.gone.retain(|gone| gone.until > confirmed || is_in_recovery);
            let known = self.tables.get(&own.subscription);
            if known.is_some_and(|(digest, _)| *digest == own.tables) {
                continue;
            }
            let now = positions::tables_of(own.subscription)?;
            let before = known.map(|(_, tables)| tables.as_slice()).unwrap_or_default();
            decision::note_gone(origin, before, &now, wal::flushed());
            looked_up.insert(own.subscription, (own.tables, now));
        }
        Ok(looked_up)
    }

    /// Looks from which position on this node can vouch for a subscription that waits for that; None: not yet.
    fn watch(&mut self, own: &Own, reading: Option<Reading>) -> Result<Option<OriginLsn>, RegistryError> {
        let running = match self.watches.get(&own.subscription) {
            Some(watch) if !watch.waits_for_transactions() => Vec::new(),
            _ => positions::transactions_of_workers(own.subscription)?,
        };
        let now = Monotonic::now();
        Ok(match self.watches.get_mut(&own.subscription) {
            Some(watch) => watch.look(now, &running, own, reading),
            // The watch ended with the previous manager, and begins anew.
            None => {
                self.watches.insert(own.subscription, Watch::begin(now, running));
                None
            }
        })
    }

    /// Returns up to which position the slot releases an origin when it moves to `stop`: that of the next sample at or
    /// beyond `stop`, or else all that was applied.
    fn let_go(&self, origin: &OriginRecord, stop: LocalLsn, own: &[Own]) -> OriginLsn {
        let sample = self.samples.get(&origin.subscription).and_then(|samples| samples.oldest_at_or_beyond(stop));
        match sample {
            Some(sample) => sample.origin,
            None => own
                .iter()
                .find(|own| own.subscription == origin.subscription)
                .and_then(|own| own.applied)
                .unwrap_or(OriginLsn::INFINITY),
        }
    }

    /// Adapts the pace to a move that has ended, and drops the samples that the slot has passed.
    fn note_finished_move(&mut self, found: &Slot, may_act: bool) {
        if let (true, true, Some((begun, restart))) = (self.is_moving, may_act, self.last_move) {
            self.is_moving = false;
            let has_moved = found.restart > restart;
            self.pace.moved(begun.elapsed(), has_moved, found.confirmed.bytes_since(restart));
            self.is_stuck = !has_moved;
            for samples in self.samples.values_mut() {
                samples.forget_before(found.confirmed);
            }
        }
    }

    /// Whether a transaction that was open before the last move keeps restart_lsn where it is.
    fn is_pinned(&self) -> Result<bool, RegistryError> {
        match (self.is_stuck, self.last_move) {
            (true, Some((begun, _))) => {
                Ok(slot::oldest_writer()?
                    .is_some_and(|since| Timestamp::now().by_the_wall_since(since) > begun.elapsed()))
            }
            _ => Ok(false),
        }
    }
}

/// Returns how long a job that has failed still has to wait for its next attempt.
fn retry_wait(entry: &shmem::SlotEntry) -> Duration {
    if entry.failures == 0 {
        return Duration::ZERO;
    }
    let since = Monotonic::now().since(entry.job_ended_at);
    backoff::delay(entry.failures.saturating_add(1)).saturating_sub(since)
}

fn own_of(position: &OwnPosition) -> Option<Own> {
    Some(Own {
        node: position.origin.as_ref()?.to_string(),
        subscription: position.subscription.to_u32(),
        origin_id: position.origin_id,
        tables: position.tables,
        newest_table: position.newest_table,
        settled_below: position.settled_below,
        remote: position.remote,
        applied: position.applied(),
    })
}

/// Returns, by subscription, what the pollers have read of the subscriptions' slots at their providers.
fn readings(index: usize) -> HashMap<u32, Reading> {
    let mut shared = shmem::lock();
    let of_peer = |entry: &PeerEntry| {
        let (asked_at, wal_end) = (entry.own_asked_at, entry.wal_end);
        let read = entry.own_confirmed.into_iter().filter(|(_, confirmed)| *confirmed != OriginLsn::ZERO);
        read.map(move |(subscription, confirmed)| (subscription.to_u32(), Reading { asked_at, wal_end, confirmed }))
    };
    shared.peers(index).iter().flat_map(of_peer).collect()
}

/// Returns what the recovery slots of peers may have released of an origin, as far as the pollers have asked.
fn released_by_peers(index: usize, peers: &[Peer], origin: &str) -> Vec<OriginLsn> {
    let Some(origin) = peers.iter().find(|peer| peer.name.as_str() == origin) else { return Vec::new() };
    let mut shared = shmem::lock();
    (0..shared.peers(index).len())
        .flat_map(|peer| {
            let of_origin = shared.positions(index, peer).iter().find(|position| position.origin == origin.id);
            of_origin.and_then(|position| position.released.known())
        })
        .collect()
}

/// Returns what the pollers know of each peer.
fn peer_inputs(index: usize, peers: &[Peer]) -> Vec<PeerInput> {
    let mut shared = shmem::lock();
    let entries: Vec<PeerEntry> = shared.peers(index).to_vec();
    peers
        .iter()
        .map(|peer| {
            let place = entries.iter().position(|entry| entry.key == PeerKey::Node(peer.id));
            let report = place.filter(|place| !entries[*place].reported_at.is_never()).map(|place| Report {
                system_identifier: entries[place].system_identifier,
                timeline: entries[place].timeline,
                has_unknown_origin: entries[place].has_unknown_origin,
                positions: shared
                    .positions(index, place)
                    .iter()
                    .filter_map(|position| {
                        let origin = peers.iter().find(|candidate| candidate.id == position.origin)?;
                        Some(PassedRecord {
                            origin: origin.name.to_string(),
                            subscription: position.subscription,
                            origin_id: position.origin_id,
                            passed: position.passed,
                        })
                    })
                    .collect(),
            });
            let contact = match place.map(|place| entries[place].state) {
                Some(PeerState::Connected) => Contact::Answers,
                Some(PeerState::NotANode | PeerState::OtherNode | PeerState::OtherServer) => Contact::Useless,
                _ => Contact::Silent,
            };
            PeerInput { name: peer.name.to_string(), contact, report }
        })
        .collect()
}

fn is_idle_too_long(found: &Slot, now: Timestamp) -> bool {
    match (compat::idle_slot_timeout(), found.inactive_since) {
        (Some(limit), Some(since)) => !found.is_active && now.by_the_wall_since(since) >= limit / TOUCH_FRACTION,
        _ => false,
    }
}
