//! Workers leave a database that a session wants to drop, rename, move or copy: PostgreSQL refuses that while anybody
//! is connected, and nobody should have to know that a manager is.

use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process};
use crate::shmem;
use pgrx::pg_sys::Oid;
use std::time::{Duration, Instant};

/// How long the workers may take to leave. Core waits five seconds more by itself, and then says who is in the way.
const PATIENCE: Duration = Duration::from_secs(10);

/// Keeps workers out of a database while it lives. What it holds is in shared memory, so it is given back also while an
/// ERROR unwinds; a session that dies without that is found by its pid.
pub struct StandAside;

impl StandAside {
    pub fn new(database: Oid) -> StandAside {
        let guard = StandAside;
        let workers = {
            let mut shared = shmem::lock();
            if shared.stand_aside(database, process::my_pid()) {
                shared.workers_of(database)
            } else {
                Vec::new()
            }
        };
        for pid in workers {
            interrupts::terminate(pid);
        }
        let deadline = Instant::now() + PATIENCE;
        while !shmem::lock().workers_of(database).is_empty() && Instant::now() < deadline {
            interrupts::check();
            latch::wait(Some(Duration::from_millis(5)), WaitEvent::StandAside);
        }
        guard
    }
}

impl Drop for StandAside {
    fn drop(&mut self) {
        let launcher = {
            let mut shared = shmem::lock();
            shared.stop_standing_aside(process::my_pid());
            shared.launcher()
        };
        latch::wake(launcher);
    }
}
