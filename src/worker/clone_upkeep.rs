//! The manager's part in the life of clones: it adopts clones that no session has registered, tells the pollers which
//! targets to ask, and drops clones that are not needed any more. The rules are pure (clone_fate).
//!
//! A clone is dropped under the journal's lock, after a second look at its registration, so that a claim that comes in
//! between wins. What cannot be done now (another session has the lock, or uses the slot) is tried again in the next
//! round.

use super::keeper::TOUCH_FRACTION;
use crate::guc;
use crate::intent::document::{CloneRecord, Journal};
use crate::intent::{IntentError, storage, unfinished};
use crate::node::error::RegistryError;
use crate::node::provider::Peer;
use crate::node::servers;
use crate::pg::clock::Timestamp;
use crate::pg::slot::{self, Slot};
use crate::pg::{compat, process, transaction};
use crate::shmem::{self, CloneEntry, MAX_CLONES, PeerKey, PeerState, Shared, TargetSays};
use crate::slot::clone::PLUGIN;
use crate::slot::clone_fate::{Fate, FateReason, Rules, SlotSeen, fate};
use crate::slot::clone_name::is_clone_name;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use pgrx::{PgSqlErrorCode, pg_sys};
use std::time::{Duration, Instant};

/// Time between two searches for clones that no session has registered: these come from sessions that have died, and
/// live for spock.rescue_clone_ttl after they were found.
const SCAN_INTERVAL: Duration = Duration::from_secs(60);

/// Time until the next round while everything that belongs to the extension is being removed.
const NEXT_STEP: Duration = Duration::from_millis(10);

/// What this database is.
#[derive(Clone, Copy, Debug)]
pub enum Home<'a> {
    Node(&'a [Peer]),
    /// There is no node or no extension: no clone and no journal may stay.
    Nobody,
    /// The database is a copy of a node that lives elsewhere: nothing may be touched here.
    Elsewhere,
}

/// What a round has to do after its transaction has committed.
#[derive(Debug)]
pub struct UpkeepRound {
    steps: Vec<UpkeepStep>,
    nap: Duration,
    /// No clone is left, so the journal is removed as well.
    ends: bool,
}

#[derive(Debug)]
enum UpkeepStep {
    Adopt(CloneRecord),
    Touch(CloneRecord),
    Drop(CloneRecord, FateReason),
    Forget(CloneRecord),
}

#[derive(Debug)]
pub struct Clones {
    index: usize,
    scanned_at: Option<Instant>,
    has_told: bool,
    /// Whether the last look has found clones.
    is_pending: bool,
    has_finished: bool,
    /// The last clone for which a failed step was logged.
    complained_of: Option<String>,
}

impl Clones {
    pub fn new(index: usize) -> Clones {
        Clones { index, scanned_at: None, has_told: false, is_pending: false, has_finished: false, complained_of: None }
    }

    /// Decides from the journal, and where there is reason to from the slots, what is to be done. Runs in the manager's
    /// transaction, before the keeper, because the recovery slot must keep what a recovery on another node uses.
    ///
    /// # Errors
    /// If the journal cannot be read: all clones then stay.
    pub fn look(&mut self, home: Home<'_>) -> Result<UpkeepRound, RegistryError> {
        let mut round = UpkeepRound { steps: Vec::new(), nap: guc::manager_naptime(), ends: false };
        let peers = match home {
            Home::Node(peers) => Some(peers),
            Home::Nobody => None,
            Home::Elsewhere => {
                self.publish(&[], &[]);
                return Ok(round);
            }
        };
        let journal = match storage::read() {
            Ok(journal) => journal,
            Err(error) => {
                // It is not known which clones there are: they stay, and the recovery slot keeps what a recovery on
                // another node may use.
                shmem::lock().databases()[self.index].slot.in_recovery = true;
                return Err(error);
            }
        };
        if peers.is_some() && !std::mem::replace(&mut self.has_told, true) {
            unfinished::tell(&journal);
        }
        self.publish(&journal.clones, peers.unwrap_or_default());
        let is_due = self.scanned_at.is_none_or(|at| at.elapsed() >= SCAN_INTERVAL);
        let is_node = peers.is_some();
        if is_due || !journal.clones.is_empty() || (!is_node && self.is_pending) {
            self.decide(&mut round, &journal, is_node)?;
        }
        if !is_node {
            round.ends = !self.is_pending && storage::exists()?;
            if round.ends || !round.steps.is_empty() {
                round.nap = round.nap.min(NEXT_STEP);
            }
        }
        self.has_finished = !is_node && !self.is_pending && !round.ends;
        Ok(round)
    }

    fn decide(&mut self, round: &mut UpkeepRound, journal: &Journal, is_node: bool) -> Result<(), RegistryError> {
        let slots = slot::with_plugin_here(PLUGIN)?;
        let now = Timestamp::now();
        let rules = Rules {
            is_node,
            ttl: guc::rescue_clone_ttl(),
            touch_after: compat::idle_slot_timeout().map(|limit| limit / TOUCH_FRACTION),
        };
        let entries = shmem::lock().databases()[self.index].clones;
        for clone in &journal.clones {
            let found = slots.iter().find(|slot| slot.name == clone.slot).map(|slot| SlotSeen {
                is_active: slot.is_active,
                is_invalid: slot.is_invalid,
                idle_for: slot.inactive_since.map(|since| now.by_the_wall_since(since)),
            });
            let says = said(&entries, clone);
            match fate(clone, found, says, now.by_the_wall_since(clone.created_at), &rules) {
                Fate::Keep(until) => round.nap = round.nap.min(until.unwrap_or(round.nap)),
                Fate::Touch => {
                    round.steps.push(UpkeepStep::Touch(clone.clone()));
                    round.nap = round.nap.min(rules.touch_after.unwrap_or(round.nap));
                }
                Fate::Drop(reason) => round.steps.push(UpkeepStep::Drop(clone.clone(), reason)),
                Fate::Forget => round.steps.push(UpkeepStep::Forget(clone.clone())),
            }
        }
        self.is_pending = !journal.clones.is_empty();
        for slot in slots.iter().filter(|slot| is_clone_name(&slot.name)) {
            if journal.clones.iter().any(|clone| clone.slot == slot.name) {
                continue;
            }
            self.is_pending = true;
            // A slot in use is most likely a clone that is just being made; the next search sees it again.
            if !slot.is_active {
                let clone = found_now(slot, now);
                round.steps.push(if is_node {
                    UpkeepStep::Adopt(clone)
                } else {
                    UpkeepStep::Drop(clone, FateReason::NoNode)
                });
            }
        }
        self.scanned_at = Some(Instant::now());
        Ok(())
    }

    /// Runs after the commit, and does each step in a transaction of its own, whose failure does not affect the other
    /// steps. Returns how long the manager may sleep.
    pub fn act(&mut self, round: UpkeepRound) -> Duration {
        for step in round.steps {
            let (UpkeepStep::Adopt(clone)
            | UpkeepStep::Touch(clone)
            | UpkeepStep::Drop(clone, _)
            | UpkeepStep::Forget(clone)) = &step;
            let name = clone.slot.clone();
            let outcome = match step {
                UpkeepStep::Adopt(clone) => adopt(clone),
                UpkeepStep::Touch(clone) => flat(transaction::caught(|| {
                    slot::touch(&clone.slot);
                    Ok(Some(()))
                })),
                UpkeepStep::Drop(clone, reason) => drop_clone(&clone, reason),
                UpkeepStep::Forget(clone) => forget(&clone),
            };
            match outcome {
                Ok(Some(())) => continue,
                Ok(None) => (),
                Err(message) => {
                    if self.complained_of.as_ref() != Some(&name) {
                        pgrx::warning!("could not maintain clone \"{name}\" of the recovery slot: {message}");
                        self.complained_of = Some(name);
                    }
                }
            }
            // The next round searches the slots again, because a clone that is not registered is found in no other way.
            self.scanned_at = None;
        }
        if round.ends && !matches!(transaction::caught(storage::forget), Ok(Ok(true))) {
            pgrx::debug1!("the journal of spock_recovery is in use, and is removed in the next round");
        }
        round.nap
    }

    /// Whether there is neither a clone nor a journal.
    pub fn has_finished(&self) -> bool {
        self.has_finished
    }

    /// Tells the pollers which clones to ask about, and the keeper whether a recovery on another node uses this node.
    fn publish(&self, clones: &[CloneRecord], peers: &[Peer]) {
        let mut shared = shmem::lock();
        let mut wanted: Vec<CloneEntry> = clones
            .iter()
            .filter_map(|clone| {
                let target = peers.iter().find(|peer| clone.target.as_deref() == Some(peer.name.as_str()))?.id;
                let mut entry = CloneEntry { intent: clone.intent?, target, ..CloneEntry::FREE };
                entry.slot.set(&clone.slot);
                Some(entry)
            })
            .collect();
        // If there are more clones than places, those whose targets answer come first: a silent target must not keep
        // others from being asked.
        let answers: Vec<pg_sys::Oid> = connected(&mut shared, self.index);
        wanted.sort_by_key(|entry| !answers.contains(&entry.target));
        let database = &mut shared.databases()[self.index];
        let before = database.clones;
        database.clones = std::array::from_fn(|place| {
            let Some(entry) = wanted.get(place) else { return CloneEntry::FREE };
            let known = before.iter().find(|known| known.is_of(entry.slot.as_str(), entry.intent));
            CloneEntry { says: known.map_or(TargetSays::Nothing, |known| known.says), ..*entry }
        });
        database.slot.in_recovery = clones.iter().any(|clone| clone.intent.is_some());
    }
}

/// Returns the peers that answer, by the oids of their foreign servers.
fn connected(shared: &mut Shared, index: usize) -> Vec<pg_sys::Oid> {
    let answers = shared.peers(index).iter().filter(|peer| peer.state == PeerState::Connected);
    answers
        .filter_map(|peer| match peer.key {
            PeerKey::Node(node) => Some(node),
            PeerKey::Subscription(_) | PeerKey::None => None,
        })
        .collect()
}

fn said(entries: &[CloneEntry; MAX_CLONES], clone: &CloneRecord) -> TargetSays {
    let Some(intent) = clone.intent else { return TargetSays::Nothing };
    entries.iter().find(|entry| entry.is_of(&clone.slot, intent)).map_or(TargetSays::Nothing, |entry| entry.says)
}

/// Returns the record with which the manager registers a clone that no session has registered.
fn found_now(slot: &Slot, now: Timestamp) -> CloneRecord {
    CloneRecord { slot: slot.name.clone(), created_at: now, failed: None, target: None, intent: None }
}

/// The outcome of a step. None: it is not possible now, because another session is writing the journal, uses the slot,
/// or was quicker. Err: it has failed for another reason.
type Dealt = Result<Option<()>, String>;

fn adopt(clone: CloneRecord) -> Dealt {
    let name = clone.slot.clone();
    let adopted = change(|journal| {
        // The session that made the clone may have registered it in the meantime.
        let is_new = !journal.clones.iter().any(|known| known.slot == clone.slot);
        if is_new {
            journal.register_clone(clone);
        }
        Ok(is_new)
    })?;
    if adopted == Some(true) {
        pgrx::log!(
            "found clone \"{name}\" of the recovery slot, which no recovery has claimed: it will be dropped after \
             spock.rescue_clone_ttl"
        );
    }
    Ok(adopted.map(|_| ()))
}

fn drop_clone(clone: &CloneRecord, reason: FateReason) -> Dealt {
    let dropped = change(|journal| {
        // The decision holds for the clone as it was seen: a claim that has come since wins.
        let is_same = journal.clones.iter().filter(|known| known.slot == clone.slot).all(|known| known == clone);
        if is_same {
            slot::drop(&clone.slot)?;
            journal.clones.retain(|known| known.slot != clone.slot);
        }
        Ok(is_same)
    })?;
    if dropped == Some(true) {
        pgrx::log!("dropped clone \"{}\" of the recovery slot: {}", clone.slot, why(clone, reason));
    }
    Ok(dropped.filter(|done| *done).map(|_| ()))
}

fn why(clone: &CloneRecord, reason: FateReason) -> String {
    match (reason, clone.intent, &clone.target) {
        (FateReason::RecoveryEnded, Some(intent), Some(target)) => {
            format!("node \"{target}\" reports that intent {intent} has ended or does not exist")
        }
        (FateReason::RecoveryEnded, ..) => "its recovery has ended".to_owned(),
        (FateReason::Unclaimed, ..) => "no recovery has claimed it within spock.rescue_clone_ttl".to_owned(),
        (FateReason::NoNode, ..) => "this database is not a node any more".to_owned(),
    }
}

fn forget(clone: &CloneRecord) -> Dealt {
    let forgotten = change(|journal| {
        journal.clones.retain(|known| known != clone);
        Ok(())
    })?;
    if forgotten.is_some() {
        pgrx::log!("clone \"{}\" of the recovery slot does not exist any more", clone.slot);
    }
    Ok(forgotten)
}

#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(transparent)]
    Spi(#[from] pgrx::spi::Error),
}

/// Changes the journal in a transaction of its own. The outcome is that of a step.
fn change<T>(f: impl FnOnce(&mut Journal) -> Result<T, ChangeError>) -> Result<Option<T>, String> {
    flat(transaction::caught(|| match storage::schema() {
        Some(_) => storage::try_update(f),
        // Without the schema there is no journal, and only slots are left.
        None => f(&mut Journal::new(servers::here())).map(Some),
    }))
}

fn flat<T>(outcome: Result<Result<Option<T>, ChangeError>, Box<ErrorReportWithLevel>>) -> Result<Option<T>, String> {
    match outcome {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(report) => match report.sql_error_code() {
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE
            | PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT
            | PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE => Ok(None),
            _ => Err(report.message().to_owned()),
        },
    }
}

/// What this node has heard of the recovery that a clone belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hears {
    Unfinished,
    Ended,
    /// The target answers, but was not asked yet.
    NothingYet,
    /// The target does not answer, or is not known as a node any more.
    Silence,
}

impl Hears {
    /// The word for it in recovery_clones().
    pub fn as_str(self) -> &'static str {
        match self {
            Hears::Unfinished => "unfinished",
            Hears::Ended => "ended",
            Hears::NothingYet | Hears::Silence => "silent",
        }
    }
}

/// A registered clone, as the status functions show it.
#[derive(Debug)]
pub struct Registered {
    pub record: CloneRecord,
    /// None: the slot is gone, and its registration is removed soon.
    pub slot: Option<Slot>,
    /// What was heard of the recovery that the clone belongs to, if it belongs to one.
    pub hears: Hears,
}

/// Returns the clones that this database has registered. Needs a snapshot.
pub fn registered() -> Result<Vec<Registered>, RegistryError> {
    let clones = storage::read()?.clones;
    let slots = slot::with_plugin_here(PLUGIN)?;
    let servers = servers::servers()?;
    let (entries, answers) = {
        let mut shared = shmem::lock();
        match shared.index_of(process::my_database()) {
            Some(index) => (shared.databases()[index].clones, connected(&mut shared, index)),
            None => ([CloneEntry::FREE; MAX_CLONES], Vec::new()),
        }
    };
    let hears = |clone: &CloneRecord| {
        let target = servers.iter().find(|server| clone.target.as_deref() == Some(server.name.as_str()));
        match said(&entries, clone) {
            TargetSays::Ended => Hears::Ended,
            _ if !target.is_some_and(|target| answers.contains(&target.id)) => Hears::Silence,
            TargetSays::Unfinished => Hears::Unfinished,
            TargetSays::Nothing => Hears::NothingYet,
        }
    };
    Ok(clones
        .into_iter()
        .map(|record| Registered {
            slot: slots.iter().find(|slot| slot.name == record.slot).cloned(),
            hears: hears(&record),
            record,
        })
        .collect())
}
