//! The manager's part in a recovery: starts the rescue worker for an unfinished intent, again after a while when one has
//! ended before its time, and brings the failed node's subscription back when that node is.

use super::error::NoRoom;
use super::{backoff, entry};
use crate::guc;
use crate::intent::IntentError;
use crate::intent::document::{Journal, Until};
use crate::intent::journal::Resumable;
use crate::intent::storage;
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Timestamp;
use crate::pg::{catalog, interrupts};
use crate::shmem::{self, PeerEntry, PeerKey, PeerState, RescueEntry};
use crate::slot::positions;
use pgrx::pg_sys::Oid;
use std::time::{Duration, Instant};

/// A worker that has not come up after this long never will.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a worker may take to stop by itself when its recovery is aborted.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What the journal asks of the manager.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// A recovery is to be carried; counts what users have said about it, so that it is tried at once when they do.
    intent: Option<([u8; 16], usize)>,
    must_stop: bool,
    database: String,
}

#[derive(Debug)]
pub struct Rescues {
    index: usize,
    known: Option<[u8; 16]>,
    /// What users had said of it when they were last listened to.
    heard: usize,
    said_no_worker: bool,
    asked_to_stop_at: Option<Instant>,
}

impl Rescues {
    pub fn new(index: usize) -> Rescues {
        Rescues { index, known: None, heard: 0, said_no_worker: false, asked_to_stop_at: None }
    }

    /// Reads the journal, in the manager's transaction.
    pub fn look(&mut self, peers: &[PeerEntry]) -> Result<Wanted, IntentError> {
        let journal = storage::read();
        resume_returned(&journal, peers)?;
        Ok(match journal.resumable() {
            Resumable::Nothing | Resumable::Several(_) => Wanted::default(),
            Resumable::One(intent) => {
                let words = intent.skips.len() + usize::from(intent.must_abort);
                if self.known.replace(intent.id.0) != Some(intent.id.0) {
                    self.heard = words;
                }
                Wanted {
                    intent: Some((intent.id.0, words)),
                    must_stop: intent.must_abort,
                    database: catalog::my_database_name(),
                }
            }
        })
    }

    /// After the commit: starts the worker if there is to be one and it is time. Returns how long to sleep at most.
    pub fn act(&mut self, wanted: &Wanted) -> Duration {
        let nap = guc::manager_naptime();
        let Some((id, words)) = wanted.intent else {
            self.known = None;
            return nap;
        };
        let now = Timestamp::now();
        let must_start = {
            let mut shared = shmem::lock();
            let rescue = &mut shared.databases()[self.index].rescue;
            if rescue.intent != id && rescue.worker_pid == 0 {
                *rescue = RescueEntry {
                    is_coming_up: rescue.is_coming_up,
                    started_at: rescue.started_at,
                    intent: id,
                    ..RescueEntry::FREE
                };
            }
            rescue.must_stop = wanted.must_stop;
            if !wanted.must_stop || rescue.worker_pid == 0 {
                self.asked_to_stop_at = None;
            } else if self.asked_to_stop_at.get_or_insert_with(Instant::now).elapsed() >= STOP_PATIENCE {
                // It waits for a lock, or for a host that does not answer; its successor ends the recovery.
                interrupts::terminate(rescue.worker_pid);
            }
            if words != self.heard {
                // A user has said what is to be done: it is not left to wait.
                rescue.failures = 0;
                self.heard = words;
            }
            let is_coming_up = rescue.is_coming_up && now.since(rescue.started_at) < START_LIMIT;
            if rescue.worker_pid != 0 || is_coming_up {
                return nap;
            }
            let wait = backoff::delay(rescue.failures).saturating_sub(now.since(rescue.ended_at));
            if rescue.failures > 0 && !wait.is_zero() {
                return nap.min(wait);
            }
            rescue.is_coming_up = true;
            rescue.started_at = now;
            true
        };
        if must_start && entry::start_rescue_worker(self.index, &wanted.database).is_err() {
            shmem::lock().databases()[self.index].rescue.is_coming_up = false;
            if !std::mem::replace(&mut self.said_no_worker, true) {
                NoRoom::Rescue { database: wanted.database.clone() }.warn();
            }
        } else {
            self.said_no_worker = false;
        }
        nap
    }
}

/// The failed node answers again: its subscription gets its earlier state back, unless the node has less than what was
/// applied here, for then its new transactions would be taken for old ones.
fn resume_returned(journal: &Journal, peers: &[PeerEntry]) -> Result<(), IntentError> {
    // While a recovery runs the origin is its worker's.
    if journal.unfinished().next().is_some() {
        return Ok(());
    }
    let waiting: Vec<_> = journal.suspensions.iter().filter(|entry| entry.until == Until::Returned).collect();
    if waiting.is_empty() {
        return Ok(());
    }
    let nodes = NativeProvider.peers()?;
    let positions = positions::own_positions()?;
    for suspension in waiting {
        let position = positions.iter().find(|position| position.subscription.to_u32() == suspension.subscription);
        let applied = position.and_then(positions::OwnPosition::applied).unwrap_or(OriginLsn::ZERO);
        let node = nodes.iter().find(|node| node.name.as_str() == suspension.origin).map(|node| node.id);
        // What it said before the recovery ended may have been its last words.
        let since = journal.ended_at(&suspension.origin);
        let has_returned = peers.iter().any(|peer| {
            node.is_some_and(|node| peer.key == PeerKey::Node(node))
                && peer.state == PeerState::Connected
                && peer.reported_at.0 > since
                && peer.wal_end >= applied
        });
        // One that was dropped meanwhile is forgotten.
        if position.is_some() && !has_returned {
            continue;
        }
        storage::update(|journal| {
            journal.suspensions.retain(|known| known != suspension);
            Ok::<_, IntentError>(())
        })?;
        if NativeProvider.resume(Oid::from_u32(suspension.subscription)) {
            pgrx::log!("node \"{}\" is back: its subscription is enabled again", suspension.origin);
        }
    }
    Ok(())
}
