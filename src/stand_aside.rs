//! Our workers leave a database that a session wants to drop, rename, move or copy. PostgreSQL refuses that while
//! anybody is connected to the database, and users should not have to know about the workers.
//!
//! They stay away until the transaction ends, not only the command: a manager that came back before the commit would
//! wait for the command's lock, and know the database by its old name. The end of the transaction is noticed after an
//! ERROR or FATAL too. If the command fails within a subtransaction, the workers come back when that ends.

use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::shmem;
use pgrx::pg_sys::Oid;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How long to wait for the workers to exit. Core itself waits another five seconds, and then reports which sessions
/// are in the way.
const PATIENCE: Duration = Duration::from_secs(10);

thread_local! {
    /// The databases whose workers stay away for this session, each with the nesting level of the transaction that
    /// needs that.
    static HELD: RefCell<Vec<(Oid, i32)>> = const { RefCell::new(Vec::new()) };
}

/// Ends the workers of a database, waits until they have exited, and keeps them away until the transaction ends.
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

/// Called at the end of each transaction: the workers may come back. Raises nothing.
pub fn end() {
    release(|_| true);
}

/// Called at the end of each subtransaction at nesting level `level`. If it was aborted, the workers that it has kept
/// away may come back; if it was committed, its parent keeps them away. Raises nothing.
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
