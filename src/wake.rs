//! Wakes the workers when a user changes something that concerns them. A change is noted while the catalogs change; the
//! workers are woken at commit, when they can see it.

use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::{latch, origin, process};
use crate::{shmem, stand_aside};
use std::cell::Cell;

thread_local! {
    /// The replication origin that this process applies, and its number among the apply workers of this server.
    static LIFE: Cell<Option<(u16, u64)>> = const { Cell::new(None) };
    static THIS_DATABASE: Cell<bool> = const { Cell::new(false) };
    static ANY_DATABASE: Cell<bool> = const { Cell::new(false) };
}

/// Wakes the manager of this database; false if there is none.
pub fn manager() -> bool {
    let manager = {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database());
        index.map_or(0, |index| shared.call_manager(index))
    };
    latch::wake(manager);
    manager != 0
}

/// Notes that the present transaction changes a catalog that concerns the workers.
pub fn note(change: CatalogChange) {
    match change {
        CatalogChange::ThisDatabase => THIS_DATABASE.set(true),
        CatalogChange::Database => ANY_DATABASE.set(true),
    }
}

/// Called at the end of each transaction: wakes the workers if it was committed. Raises nothing.
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
            // Also if a manager runs: it may have looked before this commit, and be about to exit because there was no
            // extension.
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

/// Called when a transaction of another node was committed here. It notes how far this apply worker has applied the
/// origin, which is needed when that node returns after a failure. At the first such transaction of a worker, the
/// node's poller is woken to ask the node at once: a worker starts after the previous one has lost its connection, and
/// by now the node may be running from an older copy.
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
