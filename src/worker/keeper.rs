//! The manager's part in keeping the recovery slot: it takes samples, decides how far the slot may move, writes the
//! retention record, and then has the slot worker act. It waits neither for a peer nor for another session's
//! transaction.
//!
//! The order matters: the record, which says what the slot may have released, is committed before the slot is touched.

mod heard;
mod keeping;
mod origins;
mod saving;

use super::start;
use crate::lsn::LocalLsn;
use crate::node::error::RegistryError;
use crate::node::provider::Peer;
use crate::node::servers;
use crate::pg::catalog;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::slot;
use crate::shmem::{self, BlockedReason, SlotJob};
use crate::slot::horizon::Samples;
use crate::slot::name;
use crate::slot::pace::Pace;
use crate::slot::positions::SubscribedTable;
use crate::slot::record::RetentionRecord;
use crate::slot::record_storage::{self, write};
use crate::slot::retention::Rate;
use crate::slot::view::{self, View};
use crate::slot::vouching::Watch;
use crate::{backoff, guc};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A slot is touched after this fraction of idle_replication_slot_timeout, which leaves time for several attempts
/// before the server invalidates it.
pub(super) const TOUCH_FRACTION: u32 = 4;

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
    files: SlotFiles,
}

/// What is to be done with the slot's files in this round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotFiles {
    /// They stay as they are saved.
    Leave,
    Save,
    /// There is no slot any more and none is wanted: the saved files are removed.
    Forget,
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
    /// Of the subscriptions for which this node cannot prove yet what it has.
    watches: HashMap<u32, Watch>,
    /// When a transaction of a replication origin was last seen to commit here.
    committed_at: HashMap<u16, Timestamp>,
    pace: Pace,
    rate: Rate,
    /// When the last move was begun, and restart_lsn before it.
    last_move: Option<(Instant, LocalLsn)>,
    /// When it was last recorded that this node is past what a peer may have released.
    noted_at: Option<Instant>,
    is_moving: bool,
    /// Whether the last move has left restart_lsn where it was.
    is_stuck: bool,
    budget: crate::slot::budget::Budget,
    /// Since when no origin's samples were discarded.
    samples_since: Instant,
    said_no_worker: bool,
    saving: saving::Saving,
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
            noted_at: None,
            is_moving: false,
            is_stuck: false,
            budget: crate::slot::budget::Budget::default(),
            samples_since: Instant::now(),
            said_no_worker: false,
            saving: saving::Saving::default(),
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
        let mut round = self.begin_round(peers.unwrap_or_default());
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
                if is_idle {
                    round.files = SlotFiles::Forget;
                }
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
            (Some(peers), Some(found)) => {
                if is_idle {
                    round.files = SlotFiles::Save;
                }
                self.keep(&mut round, &found, peers, may_act)?;
            }
        }
        Ok(round)
    }

    /// A round that has decided nothing yet.
    fn begin_round(&self, peers: &[Peer]) -> KeeperRound {
        KeeperRound {
            record: self.record.clone(),
            job: SlotJob::Nothing,
            view: View::of(self.record.as_ref()),
            nodes: peers.iter().map(|peer| (peer.name.to_string(), peer.id)).collect(),
            nap: guc::manager_naptime(),
            tables: HashMap::new(),
            requested: None,
            files: SlotFiles::Leave,
        }
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
                "recovery slot \"{}\" is missing; creating generation {generation}: transactions of failed nodes that \
                 peers lack so far can no longer be recovered from this node",
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
            pgrx::log!("recovery slot \"{name}\" was found without a retention record");
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
}

/// Returns how long a job that has failed still has to wait for its next attempt.
fn retry_wait(entry: &shmem::SlotEntry) -> Duration {
    if entry.failures == 0 {
        return Duration::ZERO;
    }
    let since = Monotonic::now().since(entry.job_ended_at);
    backoff::delay(entry.failures.saturating_add(1)).saturating_sub(since)
}
