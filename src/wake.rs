//! Waking the workers when a user changes something that concerns them: noted while the catalogs change, told at
//! commit, when the change can be seen.

use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::{latch, origin, process};
use crate::{shmem, stand_aside};
use std::cell::Cell;

thread_local! {
    /// The origin that this process applies, and its number among the apply workers.
    static LIFE: Cell<Option<(u16, u64)>> = const { Cell::new(None) };
    static THIS_DATABASE: Cell<bool> = const { Cell::new(false) };
    static ANY_DATABASE: Cell<bool> = const { Cell::new(false) };
}

/// Tells the manager of this database that it has something to do; false if there is none.
pub fn manager() -> bool {
    let manager = {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database());
        index.map_or(0, |index| shared.call_manager(index))
    };
    latch::wake(manager);
    manager != 0
}

/// A catalog of interest is being changed by the present transaction.
pub fn note(change: CatalogChange) {
    match change {
        CatalogChange::ThisDatabase => THIS_DATABASE.set(true),
        CatalogChange::Database => ANY_DATABASE.set(true),
    }
}

/// The end of a transaction: tells the workers if it committed. Raises nothing.
pub fn on_transaction_end(committed: bool) {
    stand_aside::end();
    if committed && let Some((origin_id, applied, committed_at)) = origin::committed_stamp() {
        note_applied(origin_id, applied, committed_at);
    }
    let this_database = THIS_DATABASE.replace(false);
    let any_database = ANY_DATABASE.replace(false);
    if !committed || !(this_database || any_database) {
        return;
    }
    let database = process::my_database();
    let (manager, launcher) = {
        let mut shared = shmem::lock();
        let manager = match shared.index_of(database) {
            Some(index) if this_database => Some(shared.call_manager(index)),
            Some(index) => Some(shared.databases()[index].manager_pid),
            None => None,
        };
        if this_database {
            // Also while a manager runs: it may just be leaving, for it has looked before this commit.
            shared.ask_to_look_at(database);
        }
        (manager.filter(|pid| *pid != 0), shared.launcher())
    };
    if this_database && let Some(manager) = manager {
        latch::wake(manager);
    }
    if any_database || manager.is_none() {
        latch::wake(launcher);
    }
}

/// A transaction of another node was committed here: how far its worker is, is noted, for when that node comes back. The first one
/// of a worker lets the node be asked at once: a worker begins when the connection of the last one was lost, and the node may be
/// another one by now.
fn note_applied(origin_id: u16, applied: OriginLsn, committed_at: Timestamp) {
    let number = LIFE.get().filter(|(origin, _)| *origin == origin_id).map(|(_, number)| number);
    let database = process::my_database();
    let poller = {
        let mut shared = shmem::lock();
        LIFE.set(Some((origin_id, shared.note_applied(number, database, origin_id, applied, committed_at))));
        match number {
            Some(_) => 0,
            None => {
                let index = shared.index_of(database);
                index.map_or(0, |index| shared.call_poller_of(index, origin_id))
            }
        }
    };
    latch::wake(poller);
}
