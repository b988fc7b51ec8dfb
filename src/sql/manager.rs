//! The entry of this database in shared memory, which functions need that have a worker do something.

use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process};
use crate::shmem;
use std::time::{Duration, Instant};

/// How long a manager may take to start after node_create() or a crash.
const MANAGER_PATIENCE: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The entry of this database, once a manager runs; None: none does.
pub fn entry_with_manager(event: WaitEvent) -> Option<usize> {
    let deadline = Instant::now() + MANAGER_PATIENCE;
    loop {
        let found = {
            let mut shared = shmem::lock();
            let index = shared.index_of(process::my_database());
            index.filter(|index| shared.databases()[*index].manager_pid != 0)
        };
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        interrupts::check();
        latch::wait(Some(LOOK_AGAIN), event);
    }
}
