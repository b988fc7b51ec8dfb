//! Transactions of a worker (access/xact.h).

use super::untrusted_user;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::panic::AssertUnwindSafe;

/// Runs `f` in a transaction with a snapshot and commits it. An ERROR ends the worker, and with it the transaction.
pub fn run<T>(f: impl FnOnce() -> T) -> T {
    begin();
    // SAFETY: within a transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let value = f();
    // SAFETY: pushed above; nothing of `f` outlives it.
    unsafe { pg_sys::PopActiveSnapshot() };
    commit();
    value
}

/// Like [`run`], but gives up when a lock is not to be had within lock_timeout, or when somebody else changed the
/// same catalog row first: None, and the next round tries again.
pub fn attempt<T>(f: impl FnOnce() -> T) -> Option<T> {
    PgTryBuilder::new(AssertUnwindSafe(|| Some(run(f))))
        .catch_others(|cause| match &cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) if is_contention(report) => abort(),
            _ => cause.rethrow(),
        })
        .execute()
}

/// Somebody holds a lock, or has changed the same row first: nothing is wrong, and the next try may succeed.
const CONTENTION: [PgSqlErrorCode; 5] = [
    PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
    PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
    PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
    PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
];

/// Whether an ERROR says that somebody else was quicker.
pub fn is_contention(report: &ErrorReportWithLevel) -> bool {
    // heapam's "tuple concurrently updated" has no SQLSTATE of its own.
    CONTENTION.contains(&report.sql_error_code()) || report.message().starts_with("tuple concurrently")
}

/// Whether an ERROR says no more than that somebody wants this to end.
pub fn is_cancel(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
}

/// Runs `f` in a transaction without a snapshot, for work that waits for a peer: it holds back no vacuum.
pub fn run_without_snapshot<T>(f: impl FnOnce() -> T) -> T {
    begin();
    let value = f();
    commit();
    value
}

/// Begins a transaction unless one is open, for a change that is applied.
pub fn begin_if_none() {
    // SAFETY: reads and changes this process's transaction state.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        if !pg_sys::IsTransactionState() {
            pg_sys::StartTransactionCommand();
            untrusted_user::confine_transaction();
        }
    }
}

/// Runs one step of an open transaction with a snapshot of its own; later steps see what it has done.
pub fn step<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: within a transaction; nothing is undone while an ERROR unwinds.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let value = f();
        pg_sys::PopActiveSnapshot();
        pg_sys::CommandCounterIncrement();
        value
    }
}

/// Fires the deferred triggers, before a commit is stamped: they may abort subtransactions, and each such abort moves the origin to
/// the stamp (RecordTransactionAbort), so that the transaction would count as applied though its commit fails.
pub fn fire_deferred() {
    // SAFETY: in a transaction, at its top level, between two statements; core's own call at commit then finds what these have queued.
    unsafe { pg_sys::AfterTriggerFireDeferred() }
}

/// Commits the open transaction, and tells the statistics.
pub fn commit_applied() {
    commit();
    untrusted_user::release_session();
    // SAFETY: outside a transaction; it reports at most once a second.
    unsafe { pg_sys::pgstat_report_stat(false) };
}

pub fn is_open() -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::IsTransactionState() }
}

/// Within BEGIN … COMMIT, or in a function: the statement at hand cannot commit by itself.
pub fn is_block() -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// After an ERROR that was caught at the top of a worker.
pub fn abort_current() {
    // SAFETY: legal in any state of a transaction, also without one.
    unsafe { pg_sys::AbortCurrentTransaction() };
}

fn begin() {
    // SAFETY: called by workers outside a transaction.
    unsafe {
        pg_sys::SetCurrentStatementStartTimestamp();
        pg_sys::StartTransactionCommand();
    }
}

fn commit() {
    // SAFETY: within the transaction that `begin` started.
    unsafe { pg_sys::CommitTransactionCommand() };
}

fn abort<T>() -> Option<T> {
    // SAFETY: within the transaction that `begin` started; releases locks, snapshots and memory.
    unsafe { pg_sys::AbortCurrentTransaction() };
    None
}

/// Runs `f` in a transaction of its own and commits it. An ERROR aborts it, and is the Err: whatever it is, the worker goes
/// on.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, Box<ErrorReportWithLevel>> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(run(f))))
        .catch_others(|cause| match cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                abort::<T>();
                // Not a matter of transactions: core does the same in its main loops.
                super::slot::release_after_error();
                Err(Box::new(report))
            }
            rust_panic => rust_panic.rethrow(),
        })
        .execute()
}

/// Runs `f` in a subtransaction of the caller's transaction. An ERROR rolls back that alone, and gives back a slot that
/// `f` had acquired (with which a slot that was only half made goes); the Err is to be judged, and thrown on where it is
/// not understood: a cancel is one of them.
pub fn nested<T>(f: impl FnOnce() -> T) -> Result<T, Box<CaughtError>> {
    // SAFETY: as plpgsql does round a block with EXCEPTION (pl_exec.c): memory context and resource owner are those from
    // before on every way out.
    unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(context);
        let outcome =
            PgTryBuilder::new(AssertUnwindSafe(|| Ok(f()))).catch_others(|cause| Err(Box::new(cause))).execute();
        pg_sys::MemoryContextSwitchTo(context);
        if outcome.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
            super::slot::release_after_error();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        outcome
    }
}

/// The commit of the present transaction is on disk when it returns, whatever synchronous_commit says; standbys are not
/// waited for because of this.
pub fn commit_durably() {
    // SAFETY: sets a flag of the present transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Before something of ours is written: the commit of a statement that is a transaction by itself, and that has written nothing
/// before, waits for no synchronous standby. That may be on the node that is lost, and its wait would never end. Within a
/// transaction of the user's the user has said what its commit waits for, and the user's own writes depend on that.
pub fn commit_locally_if_alone() {
    // SAFETY: reads this session's state; within a transaction, for which alone the setting is changed.
    unsafe {
        let waits_for_standbys =
            pg_sys::synchronous_commit > pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_LOCAL_FLUSH as core::ffi::c_int;
        if !waits_for_standbys || is_block() || super::process::has_written() {
            return;
        }
        pg_sys::set_config_option(
            c"synchronous_commit".as_ptr(),
            c"local".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            true,
            0,
            false,
        );
    }
}

/// How deep the present subtransaction is nested; 1 is the transaction itself.
pub fn nesting_level() -> i32 {
    // SAFETY: reads this process's transaction state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// The id that the next transaction will have, without its epoch.
pub fn next_id() -> u32 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value as u32 }
}
