//! Waking the workers when a user changes something that concerns them: noted while the catalogs change, told at
//! commit, when the change can be seen.

use crate::pg::hooks::Change;
use crate::pg::{latch, process};
use crate::shmem::{self, Phase};
use std::cell::Cell;

thread_local! {
    static THIS_DATABASE: Cell<bool> = const { Cell::new(false) };
    static ANY_DATABASE: Cell<bool> = const { Cell::new(false) };
}

/// A catalog of interest is being changed by the present transaction.
pub fn note(change: Change) {
    match change {
        Change::ThisDatabase => THIS_DATABASE.set(true),
        Change::Database => ANY_DATABASE.set(true),
    }
}

/// The end of a transaction: tells the workers if it committed. Raises nothing.
pub fn on_transaction_end(committed: bool) {
    let this_database = THIS_DATABASE.replace(false);
    let any_database = ANY_DATABASE.replace(false);
    if !committed || !(this_database || any_database) {
        return;
    }
    let database = process::my_database();
    let (manager, launcher) = {
        let mut shared = shmem::lock();
        let running = shared.index_of(database).map(|index| shared.databases()[index]);
        let manager = running
            .filter(|entry| entry.phase == Phase::Running)
            .map(|entry| entry.manager_pid);
        if this_database && manager.is_none() {
            shared.ask_to_look_at(database);
        }
        (manager, shared.launcher())
    };
    match manager {
        Some(manager) if this_database => latch::wake(manager),
        _ => latch::wake(launcher),
    }
    if any_database {
        latch::wake(launcher);
    }
}
