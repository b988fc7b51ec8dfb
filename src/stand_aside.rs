//! Workers leave a database that a session wants to drop, rename, move or copy: PostgreSQL refuses that while anybody
//! is connected, and nobody should have to know that a manager is.
//!
//! They stay away until the transaction ends, not only the command: a manager that came back before the commit would
//! wait for the command's lock, and under the old name. The end of the transaction is told also after an ERROR or FATAL. A
//! command that fails within a subtransaction keeps them away no longer than that.

use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::shmem;
use pgrx::pg_sys::Oid;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How long the workers may take to leave. Core waits five seconds more by itself, and then says who is in the way.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// The databases whose workers stand aside for this session, each with the nesting level of the transaction that wants it.
    static HELD: RefCell<Vec<(Oid, i32)>> = const { RefCell::new(Vec::new()) };
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
    HELD.with_borrow_mut(|held| {
        if !held.iter().any(|(known, _)| *known == database) {
            held.push((database, transaction::nesting_level()));
        }
    });
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
    release(|_| true);
}

/// At the end of each subtransaction: what an aborted one has wanted free it wants no more. Raises nothing.
pub fn end_of_subtransaction(committed: bool, level: i32) {
    if !committed {
        return release(|of| of >= level);
    }
    HELD.with_borrow_mut(|held| {
        for (_, of) in held.iter_mut().filter(|(_, of)| *of >= level) {
            *of = level - 1;
        }
    });
}

fn release(is_over: impl Fn(i32) -> bool) {
    let over: Vec<Oid> =
        HELD.with_borrow_mut(|held| held.extract_if(.., |(_, level)| is_over(*level)).map(|(oid, _)| oid).collect());
    if over.is_empty() {
        return;
    }
    let launcher = {
        let mut shared = shmem::lock();
        for database in over {
            shared.stop_standing_aside(database, process::my_pid());
        }
        shared.launcher()
    };
    latch::wake(launcher);
}
