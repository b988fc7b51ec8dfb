//! The manager looks at whom a recovery waits for, which its worker cannot while it waits: told in the log once for each, and
//! left in shared memory for those who watch (src/recover/progress.rs) and for the worker, if it gives up.

use crate::intent::document::Intent;
use crate::pg::clock::Monotonic;
use crate::recover::blockers;
use crate::shmem::{self, BlockedEntry};
use std::collections::HashSet;

#[derive(Debug, Default)]
pub struct Blockers {
    /// Seen by the look before this one.
    seen: Vec<i32>,
    /// Told of, in this recovery.
    told: HashSet<i32>,
}

impl Blockers {
    /// Another recovery: all is news.
    pub fn forget(&mut self) {
        *self = Blockers::default();
    }

    /// Looks once, in the manager's transaction.
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
                // The last one stays as it was seen: the worker asks for it when it has given up.
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
        // A wait that is over by the next look is none to be told of.
        let lasts = pids.iter().any(|pid| self.seen.contains(pid) && !self.told.contains(pid));
        if lasts {
            pgrx::log!(
                "the recovery of node \"{}\" waits for a lock that is held by {}",
                intent.request.failed,
                blockers::told(&found)
            );
            self.told.extend(&pids);
        }
        self.seen = pids;
        Ok(())
    }
}
