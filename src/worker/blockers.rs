//! The sessions whose locks a recovery waits for. The manager looks for them, because the worker cannot while it waits.
//! It logs each of them once, and leaves them in shared memory for those who watch the recovery
//! (src/recover/state.rs) and for the worker, which reports them if it gives up.

use crate::intent::document::Intent;
use crate::pg::clock::Monotonic;
use crate::recover::blockers;
use crate::shmem::{self, BlockedEntry};
use std::collections::HashSet;

#[derive(Debug, Default)]
pub struct Blockers {
    /// The process ids that the previous look has found.
    seen: Vec<i32>,
    /// The process ids that were logged during this recovery.
    told: HashSet<i32>,
}

impl Blockers {
    /// Forgets what was seen and logged, because another recovery has begun.
    pub fn forget(&mut self) {
        *self = Blockers::default();
    }

    /// Looks once which sessions the recovery of `intent` waits for. Runs in the manager's transaction.
    pub fn look(&mut self, index: usize, intent: &Intent) -> Result<(), pgrx::spi::Error> {
        let carrier = {
            let mut shared = shmem::lock();
            let rescue = shared.databases()[index].rescue;
            if rescue.intent == intent.id.0 { rescue.worker_pid } else { 0 }
        };
        let found = if carrier == 0 { Vec::new() } else { blockers::of(carrier, intent)? };
        let pids: Vec<i32> = found.iter().map(|blocker| blocker.pid).collect();
        {
            let mut shared = shmem::lock();
            let rescue = &mut shared.databases()[index].rescue;
            if rescue.worker_pid == carrier && carrier != 0 {
                // The last one stays as it was seen, because a worker that gives up reports it.
                if found.is_empty() {
                    rescue.blocked.seen_at = Monotonic::NEVER;
                } else {
                    let mut entry = BlockedEntry { seen_at: Monotonic::now(), ..BlockedEntry::FREE };
                    entry.by.set(&blockers::told(&found));
                    entry.by_in_short.set(&blockers::told_to_all(&found));
                    rescue.blocked = entry;
                }
            }
        }
        // A wait that is over by the next look is not logged.
        let lasts = pids.iter().any(|pid| self.seen.contains(pid) && !self.told.contains(pid));
        if lasts {
            pgrx::log!("the {} waits for a lock that is held by {}", intent.request.title(), blockers::told(&found));
            self.told.extend(&pids);
        }
        self.seen = pids;
        Ok(())
    }
}
