//! The manager's part in a recovery. It starts the rescue worker for an unfinished intent, and again after a while if
//! an attempt has ended before the recovery was finished. Without an unfinished intent it starts the worker at
//! intervals for the rows that earlier recoveries could not judge. It also enables the failed node's subscription when
//! that node is back (returns.rs), records the end of an attempt that could not do so itself (cut_short.rs), and finds
//! out which sessions a recovery waits for (blockers.rs).

use super::blockers::Blockers;
use super::cut_short::{self, Account};
use super::error::NoRoom;
use super::returns::Returns;
use super::skips::Skips;
use super::start;
use crate::intent::document::{Intent, Journal};
use crate::intent::journal::Resumable;
use crate::intent::{IntentError, storage};
use crate::intent_id::IntentId;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Monotonic;
use crate::pg::{catalog, interrupts, latch};
use crate::recover::error::RecoverError;
use crate::shmem::{self, AttemptEnd, PeerEntry, PeerState, PinState, RescueEntry, TargetSays};
use crate::{backoff, guc};
use pgrx::pg_sys::Oid;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

/// A worker that has not started within this time never will.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks at the sessions that a recovery waits for.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Time until the next look at an attempt of which it is not known yet how it ended.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// How long a worker may take to stop by itself when its recovery is aborted, before it is terminated.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The pause between two comparisons of kept rows: the first pause, the longest, and the shortest as a multiple of the
/// time that the last comparison took.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const PAUSE_PER_WORK: u32 = 10;

/// Whether a worker runs or is starting.
fn is_up(rescue: &RescueEntry) -> bool {
    let is_coming_up = rescue.is_coming_up && Monotonic::now().since(rescue.started_at) < START_LIMIT;
    rescue.worker_pid != 0 || is_coming_up
}

/// What the manager is to do about recoveries, according to the journal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WantedRecovery {
    /// The recovery to carry, by the id of its intent, and how many instructions users have given for it (skips and an
    /// abort): after a new one it is tried at once.
    intent: Option<([u8; 16], usize)>,
    must_stop: bool,
    /// Whether the end of the last attempt is recorded; before that, no other attempt begins.
    account: Account,
    /// How many attempts in a row have ended without recording why.
    cut_short: u32,
    /// Without a recovery to carry: what `state_of_kept` returned.
    kept: Option<u64>,
    database: String,
}

/// When kept rows are compared again.
#[derive(Debug)]
struct Again {
    /// What `state_of_kept` returned when that was decided.
    state: u64,
    due: Instant,
    pause: Duration,
    /// When the last worker for kept rows was started.
    started_at: Option<Monotonic>,
}

#[derive(Debug)]
pub struct Recoveries {
    index: usize,
    known: Option<[u8; 16]>,
    /// How many of the users' instructions for that recovery the manager has acted on.
    heard: usize,
    said_no_worker: bool,
    asked_to_stop_at: Option<Instant>,
    blockers: Blockers,
    again: Option<Again>,
    returns: Returns,
}

impl Recoveries {
    pub fn new(index: usize) -> Recoveries {
        Recoveries {
            index,
            known: None,
            heard: 0,
            said_no_worker: false,
            asked_to_stop_at: None,
            blockers: Blockers::default(),
            again: None,
            returns: Returns::default(),
        }
    }

    /// Decides from the journal what is to be done. Runs in the manager's transaction. None: the journal, or something
    /// else that is needed, cannot be read.
    pub fn look(&mut self, peers: &[PeerEntry], skips: &mut Skips) -> Option<WantedRecovery> {
        let journal = skips.each(|| "recoveries".to_owned(), storage::read)?;
        self.returns.look(&journal, peers, skips);
        if let Some(local) = skips.each(|| "the local node".to_owned(), || NativeProvider.local_node())? {
            self.tell_own_pins(&journal, local.id);
        }
        Some(match journal.resumable() {
            Resumable::Several(_) => WantedRecovery::default(),
            Resumable::Nothing => WantedRecovery {
                kept: skips.each(|| "rows that are kept".to_owned(), || state_of_kept(&journal, peers))?,
                database: catalog::my_database_name(),
                ..WantedRecovery::default()
            },
            Resumable::One(intent) => {
                let words = intent.skips.len() + usize::from(intent.must_abort);
                if self.known.replace(intent.id.0) != Some(intent.id.0) {
                    self.heard = words;
                    self.blockers.forget();
                }
                let account = skips
                    .each(|| "a recovery".to_owned(), || cut_short::settle(self.index, intent, is_up))
                    .unwrap_or(Account::Open);
                skips.each(
                    || "who a recovery waits for".to_owned(),
                    || self.blockers.look(self.index, intent).map_err(RecoverError::from),
                );
                WantedRecovery {
                    intent: Some((intent.id.0, words)),
                    must_stop: intent.must_abort,
                    account,
                    cut_short: intent.cut_short.saturating_add(u32::from(account == Account::Settles)),
                    database: catalog::my_database_name(),
                    ..WantedRecovery::default()
                }
            }
        })
    }

    /// Tells the snapshots that this node holds for its own rebuild whether that is unfinished, as pollers tell those
    /// that it holds for others.
    fn tell_own_pins(&self, journal: &Journal, local: Oid) {
        let now = Monotonic::now();
        let mut over = Vec::new();
        for pin in &mut shmem::lock().databases()[self.index].pins {
            if pin.target != local || pin.state != PinState::Held {
                continue;
            }
            let is_unfinished = journal.intent(pin.intent).is_some_and(Intent::is_unfinished);
            pin.says = if is_unfinished { TargetSays::Unfinished } else { TargetSays::Ended };
            pin.heard_at = now;
            if !is_unfinished {
                over.push(pin.worker_pid);
            }
        }
        over.into_iter().for_each(latch::wake);
    }

    /// Runs after the commit, and starts the worker if one is wanted and it is time. Returns how long to sleep at most.
    pub fn act(&mut self, wanted: &WantedRecovery) -> Duration {
        let nap = guc::manager_naptime();
        let Some((id, words)) = wanted.intent else {
            self.known = None;
            return nap.min(self.look_again(wanted));
        };
        if wanted.account == Account::Settles {
            cut_short::note_settled(self.index, IntentId(id));
        }
        // The sessions that a running recovery waits for are looked at often, to be reported soon.
        let nap = nap.min(LOOK_PAUSE);
        let now = Monotonic::now();
        {
            let mut shared = shmem::lock();
            let rescue = &mut shared.databases()[self.index].rescue;
            if rescue.intent != id && rescue.worker_pid == 0 {
                *rescue = RescueEntry {
                    is_coming_up: rescue.is_coming_up,
                    started_at: rescue.started_at,
                    intent: id,
                    // A recovery that crashes the server each time must not be tried again at once.
                    failures: wanted.cut_short,
                    ended_at: now,
                    ..RescueEntry::FREE
                };
            }
            if rescue.intent != id {
                // That worker compares kept rows, which can be done again later.
                interrupts::terminate(rescue.worker_pid);
            }
            rescue.must_stop = wanted.must_stop;
            if !wanted.must_stop || rescue.worker_pid == 0 {
                self.asked_to_stop_at = None;
            } else if self.asked_to_stop_at.get_or_insert_with(Instant::now).elapsed() >= STOP_PATIENCE {
                // The worker waits for a lock, or for a host that does not answer; the next worker ends the recovery.
                interrupts::terminate(rescue.worker_pid);
            }
            if words != self.heard {
                // A user has given an instruction, which must not wait for the next attempt's turn.
                rescue.failures = 0;
                self.heard = words;
            }
            if is_up(rescue) {
                return nap;
            }
            // An attempt may have ended since the journal was read: the entry says so, and the next look records it.
            let is_unsettled = rescue.end == AttemptEnd::Untold && !wanted.must_stop;
            if is_unsettled || wanted.account == Account::Open {
                return nap.min(SETTLE_PAUSE);
            }
            let wait = backoff::left_of_attempt(rescue.failures, rescue.stood_still, now.since(rescue.ended_at));
            if rescue.failures > 0 && !wait.is_zero() {
                return nap.min(wait);
            }
            rescue.is_coming_up = true;
            rescue.started_at = now;
        }
        self.start_worker(wanted);
        nap
    }

    fn start_worker(&mut self, wanted: &WantedRecovery) {
        if start::start_rescue_worker(self.index, &wanted.database).is_err() {
            shmem::lock().databases()[self.index].rescue.is_coming_up = false;
            if !std::mem::replace(&mut self.said_no_worker, true) {
                NoRoom::Rescue { database: wanted.database.clone() }.warn();
            }
        } else {
            self.said_no_worker = false;
        }
    }

    /// Starts the worker for kept rows if it is time. Returns how long to sleep at most.
    fn look_again(&mut self, wanted: &WantedRecovery) -> Duration {
        let Some(state) = wanted.kept else {
            self.again = None;
            return Duration::MAX;
        };
        let again = match &mut self.again {
            Some(again) if again.state == state => again,
            again => {
                again.insert(Again { state, due: Instant::now() + FIRST_PAUSE, pause: FIRST_PAUSE, started_at: None })
            }
        };
        let left = again.due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return left;
        }
        {
            let now = Monotonic::now();
            let mut shared = shmem::lock();
            let rescue = &mut shared.databases()[self.index].rescue;
            if is_up(rescue) {
                return FIRST_PAUSE;
            }
            let took = again.started_at.map_or(Duration::ZERO, |started| rescue.ended_at.since(started));
            let left = (PAUSE_PER_WORK * took).saturating_sub(now.since(rescue.ended_at));
            if !left.is_zero() {
                return left;
            }
            *rescue = RescueEntry { is_coming_up: true, started_at: now, ..RescueEntry::FREE };
        }
        again.started_at = Some(Monotonic::now());
        again.pause = (2 * again.pause).min(LONGEST_PAUSE);
        again.due = Instant::now() + again.pause;
        self.start_worker(wanted);
        FIRST_PAUSE
    }
}

/// Returns a hash of all that decides whether it is worth while to compare kept rows again: which rows are kept, which
/// peers answer, and which subscriptions are enabled. None if no rows are kept.
fn state_of_kept(journal: &Journal, peers: &[PeerEntry]) -> Result<Option<u64>, IntentError> {
    let kept: Vec<Option<u32>> = journal.with_kept_rows().map(|intent| intent.kept_rows).collect();
    if kept.is_empty() {
        return Ok(None);
    }
    let mut hasher = DefaultHasher::new();
    kept.hash(&mut hasher);
    for peer in peers {
        (peer.own_confirmed.map(|(subscription, _)| subscription.to_u32()), peer.state == PeerState::Connected)
            .hash(&mut hasher);
    }
    for subscription in NativeProvider.subscriptions()? {
        (subscription.id.to_u32(), subscription.is_enabled).hash(&mut hasher);
    }
    Ok(Some(hasher.finish()))
}
