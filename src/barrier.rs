//! The commit barrier: for some milliseconds a node lets none of its own transactions commit; what it applies from other
//! nodes goes on. Restore points stand on it, and whatever else needs a moment at which nothing is between two nodes.
//!
//! A transaction passes the gate of its database directly before it commits or prepares, COMMIT PREPARED and ROLLBACK
//! PREPARED before they begin. The gate is closed for a lease, by the monotonic clock: when that has run out, the
//! transactions that wait go on, whoever has died meanwhile. So nobody's commit waits longer than one lease. Who has
//! closed the gate learns at its opening whether it held all the time; what was done meanwhile counts only if it did.
//!
//! A transaction without an id of its own writes no commit record and passes without a look.

use crate::error::SqlError;
use crate::failpoint::{self, names};
use crate::lsn::LocalLsn;
use crate::pg::clock::Monotonic;
use crate::pg::{interrupts, origin, process, transaction, wal};
use crate::shmem;
use crate::shmem::gate::{self, Author, Holds, Opened, Refused};
use pgrx::PgSqlErrorCode;
use std::cell::Cell;
use std::time::Duration;

/// The longest lease: commits must not be held back for longer by one call, whatever its argument.
pub const LONGEST_LEASE: Duration = Duration::from_secs(60);

/// How long to sleep between two looks at the marks. Commits take from 0.1 ms to some milliseconds.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

thread_local! {
    /// This process has set its mark.
    static IS_MARKED: Cell<bool> = const { Cell::new(false) };
    /// The command id up to which what the present transaction has written passes every gate; None: nothing does.
    static PASSES: Cell<Option<u32>> = const { Cell::new(None) };
}

#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    #[error("commits of this database are held back already")]
    IsClosed { left: Duration },
    #[error("too many databases hold back commits")]
    NoPlace,
    #[error("a commit did not end while others were held back")]
    NotQuiet { lease: Duration },
}

impl SqlError for BarrierError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            BarrierError::IsClosed { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            BarrierError::NoPlace => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            BarrierError::NotQuiet { .. } => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
        }
    }

    fn detail(&self) -> Option<String> {
        Some(match self {
            BarrierError::IsClosed { left } => {
                format!("Another restore point is being made; that ends within {} ms.", left.as_millis() + 1)
            }
            BarrierError::NoPlace => "There are spock.max_databases places.".to_owned(),
            BarrierError::NotQuiet { lease } => {
                format!("It was still writing after {} ms. Nothing is held back any more.", lease.as_millis())
            }
        })
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            BarrierError::IsClosed { .. } => "Try again.".to_owned(),
            BarrierError::NoPlace => "Raise spock.max_databases and restart the server.".to_owned(),
            BarrierError::NotQuiet { .. } => {
                "Try again; with a longer lease if storage is slow: SELECT * FROM spock.create_restore_point('…', lease \
                 := '5 s');"
                    .to_owned()
            }
        })
    }
}

/// Called before a transaction with an id commits or prepares, and before a prepared one is ended. Waits while the gate
/// is closed for it. A cancel ends the wait by an ERROR, and the transaction is aborted.
pub fn before_commit() {
    let database = process::my_database();
    let is_applying = origin::is_applying();
    // A worker of this library writes nothing that is published, except where it applies. If it waited, it would wait
    // with locks that the steps of a restore point need.
    let is_internal = process::is_ours() && !is_applying;
    let passes = PASSES.get().is_some_and(|command| transaction::command_id() == command);
    if passes || is_internal || database == pgrx::pg_sys::InvalidOid {
        return;
    }
    let author = if is_applying { Author::AnotherNode } else { Author::ThisNode };
    while let Some(closed) = gate::set_mark(database, author) {
        gate::wait_at(closed);
    }
    IS_MARKED.set(true);
    if gate::has_expired() {
        shmem::lock().forget_expired(Monotonic::now());
    }
}

/// Called when that is over. `end`: the end of the record that was written; None: the transaction was aborted, or wrote
/// none. Raises nothing.
pub fn after_commit(end: Option<LocalLsn>) {
    PASSES.set(None);
    if IS_MARKED.replace(false) {
        gate::clear_mark(end);
    }
}

/// Lets what the present transaction has written until now pass every gate: it is what the gate was closed for. If the
/// transaction writes anything else afterwards, it waits like any other.
pub fn let_pass() {
    transaction::end_command();
    PASSES.set(Some(transaction::command_id()));
}

/// Waits until a gate of this database that was opened a moment ago may be closed again.
pub fn wait_for_the_last() {
    while let Some(left) = gate::rests(process::my_database()) {
        interrupts::check();
        std::thread::sleep(left);
    }
}

/// Closes the gate of this database for `lease`, and waits until no commit that it holds back is under way. Returns the
/// end of this node's own last commit, which is on disk. `number` names this closing, and must be no other one's.
///
/// # Errors
/// If the gate is closed already, or if a commit does not end within the lease. The gate is open then, as far as this
/// caller is concerned.
pub fn close(number: u64, holds: Holds, lease: Duration) -> Result<LocalLsn, BarrierError> {
    let database = process::my_database();
    let lease = lease.min(LONGEST_LEASE);
    let closed_at = Monotonic::now();
    let started_at = {
        let mut shared = shmem::lock();
        shared.close_gate(database, number, holds, lease).map_err(|refused| match refused {
            Refused::IsClosed(left) => BarrierError::IsClosed { left },
            Refused::NoPlace => BarrierError::NoPlace,
        })?;
        shared.started_at()
    };
    failpoint::hit(names::BARRIER_CLOSED);
    let mut waiting = LocalLsn::ZERO;
    while gate::is_busy(database, holds, &mut waiting) {
        if Monotonic::now().since(closed_at) >= lease {
            open(number);
            return Err(BarrierError::NotQuiet { lease });
        }
        interrupts::check();
        std::thread::sleep(LOOK_AGAIN);
    }
    let mut end = gate::last_end().max(waiting).max(started_at);
    if end == LocalLsn::ZERO {
        // No launcher has noted yet where this run began.
        end = wal::flushed();
    }
    wal::flush_to(end);
    Ok(end)
}

/// Opens the gate that was closed under this number. None: it is not closed under it any more.
pub fn open(number: u64) -> Option<Opened> {
    shmem::lock().open_gate(process::my_database(), number)
}
