//! The manager's part in a recovery: starts the rescue worker for an unfinished intent, again after a while when one has
//! ended before its time, and brings the failed node's subscription back when that node is.

use super::error::NoRoom;
use super::{backoff, entry, returns};
use crate::guc;
use crate::intent::IntentError;
use crate::intent::journal::Resumable;
use crate::intent::storage;
use crate::pg::clock::Timestamp;
use crate::pg::{catalog, interrupts};
use crate::shmem::{self, PeerEntry, RescueEntry};
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
        returns::look(&journal, peers)?;
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
        {
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
        }
        if entry::start_rescue_worker(self.index, &wanted.database).is_err() {
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
