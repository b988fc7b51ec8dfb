//! Workers leave a database that a session wants to drop, rename, move or copy: PostgreSQL refuses that while anybody
//! is connected, and nobody should have to know that a manager is.
//!
//! They stay away until the transaction ends, not only the command: a manager that came back before the commit would
//! wait for the command's lock, and under the old name. The end of the transaction is told also after an ERROR or FATAL.

use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process};
use crate::shmem;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long the workers may take to leave. Core waits five seconds more by itself, and then says who is in the way.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// Workers stand aside for this session.
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// Sends the workers of a database away until the transaction ends, and waits until they have left.
pub fn begin(database: Oid) {
    let workers = {
        let mut shared = shmem::lock();
        if !shared.stand_aside(database, process::my_pid()) {
            return;
        }
        shared.workers_of(database)
    };
    HOLDS.set(true);
    for pid in workers {
        interrupts::terminate(pid);
    }
    let deadline = Instant::now() + PATIENCE;
    while !shmem::lock().workers_of(database).is_empty() && Instant::now() < deadline {
        interrupts::check();
        latch::wait(Some(Duration::from_millis(5)), WaitEvent::StandAside);
    }
}

/// At the end of each transaction: the workers may come back. Raises nothing.
pub fn end() {
    if !HOLDS.take() {
        return;
    }
    let launcher = {
        let mut shared = shmem::lock();
        shared.stop_standing_aside(process::my_pid());
        shared.launcher()
    };
    latch::wake(launcher);
}
