//! Transactions of a worker (access/xact.h).

use super::{guarded, untrusted_user};
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::panic::AssertUnwindSafe;

unsafe extern "C-unwind" {
    /// utils/snapmgr.h
    fn ImportSnapshot(id: *const core::ffi::c_char);
}

/// Runs `f` in a transaction with a snapshot, and commits it. An ERROR ends the worker, and thereby the transaction.
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

/// Like [`run`], but returns None if a lock is not available within lock_timeout, or if another session has changed the
/// same catalog row first. The caller's next round tries again.
pub fn attempt<T>(f: impl FnOnce() -> T) -> Option<T> {
    PgTryBuilder::new(AssertUnwindSafe(|| Some(run(f))))
        .catch_others(|cause| match &cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) if is_contention(report) => abort(),
            _ => cause.rethrow(),
        })
        .execute()
}

/// SQLSTATEs which say that another session holds a lock or has changed the same row first: nothing is wrong, and the
/// next attempt may succeed.
const CONTENTION: [PgSqlErrorCode; 5] = [
    PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
    PgSqlErrorCode::ERRCODE_T_R_DEADLOCK_DETECTED,
    PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
    PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
];

/// Whether an ERROR was caused by a concurrent session, so that a retry may succeed.
pub fn is_contention(report: &ErrorReportWithLevel) -> bool {
    // heapam's "tuple concurrently updated" has no SQLSTATE of its own.
    CONTENTION.contains(&report.sql_error_code()) || report.message().starts_with("tuple concurrently")
}

/// Whether an ERROR only says that the statement was cancelled.
pub fn is_cancel(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_QUERY_CANCELED
}

/// Runs `f` in a transaction without a snapshot, for work that waits for a peer: it does not hold back vacuum.
pub fn run_without_snapshot<T>(f: impl FnOnce() -> T) -> T {
    begin();
    let value = f();
    commit();
    value
}

/// Like [`run`], in a transaction that sees what an exported snapshot sees, and writes nothing. Raises an ERROR if that
/// snapshot is not held any more.
pub fn run_at<T>(snapshot: &str, f: impl FnOnce() -> T) -> T {
    let name = std::ffi::CString::new(snapshot).unwrap_or_default();
    begin();
    // SAFETY: as SET TRANSACTION ISOLATION LEVEL and SET TRANSACTION SNAPSHOT do, before the first snapshot is taken; no
    // check of the name is left out by that.
    unsafe {
        pg_sys::XactIsoLevel = pg_sys::XACT_REPEATABLE_READ as core::ffi::c_int;
        guarded!(ImportSnapshot(name.as_ptr()));
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    let value = f();
    // SAFETY: pushed above; nothing of `f` outlives it.
    unsafe { pg_sys::PopActiveSnapshot() };
    commit();
    value
}

/// Begins a transaction unless one is open, for a change that is to be applied.
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

/// Runs one step of an open transaction with its own snapshot. Later steps see its changes.
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

/// Whether all statements of the transaction use one snapshot, and so do not see what others have committed since.
pub fn has_one_snapshot() -> bool {
    // SAFETY: reads this process's transaction state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as core::ffi::c_int }
}

/// Fires the deferred triggers before the commit is stamped. They may abort subtransactions, and each such abort would
/// move the origin to the stamp (RecordTransactionAbort), so that the transaction would count as applied even if its
/// commit fails.
pub fn fire_deferred() {
    // SAFETY: in a transaction, at its top level, between two statements; core's own call at commit then fires what
    // these triggers have queued.
    unsafe { pg_sys::AfterTriggerFireDeferred() }
}

/// Commits the open transaction, and reports statistics.
pub fn commit_applied() {
    commit();
    untrusted_user::release_session();
    // SAFETY: outside a transaction; it reports at most once a second.
    unsafe { pg_sys::pgstat_report_stat(false) };
}

/// The id of the present command. It grows when a command after one that has written begins.
pub fn command_id() -> u32 {
    // SAFETY: reads this process's state, within a transaction; false: the id is not taken for a write.
    unsafe { pg_sys::GetCurrentCommandId(false) }
}

/// Ends the present command, so that whatever is written next has another id. Does nothing if it has written nothing.
pub fn end_command() {
    // SAFETY: within a transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
}

pub fn is_open() -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::IsTransactionState() }
}

/// Whether the present statement is within BEGIN … COMMIT or in a function, and cannot commit by itself.
pub fn is_block() -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Whether this is a subtransaction: within a savepoint, or a PL/pgSQL block with EXCEPTION.
pub fn is_sub() -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::IsSubTransaction() }
}

/// Aborts the transaction after an ERROR that was caught at the top level of a worker.
pub fn abort_current() {
    // SAFETY: allowed in any transaction state, also without a transaction.
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

/// Runs `f` in its own transaction and commits it. An ERROR aborts the transaction and is returned as Err, so that the
/// worker continues.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, Box<ErrorReportWithLevel>> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(run(f))))
        .catch_others(|cause| match cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                abort::<T>();
                // The abort of a transaction does not release a slot; core does it in its main loops.
                super::slot::release_after_error();
                Err(Box::new(report))
            }
            rust_panic => rust_panic.rethrow(),
        })
        .execute()
}

/// Runs `f` in a transaction with a snapshot, and commits it if `f` returns Ok. Otherwise, and after an ERROR, it is aborted; the
/// ERROR is returned as the outer Err.
pub fn commit_if_ok<T, E>(f: impl FnOnce() -> Result<T, E>) -> Result<Result<T, E>, Box<CaughtError>> {
    PgTryBuilder::new(AssertUnwindSafe(|| {
        begin();
        // SAFETY: within a transaction; nothing of `f` outlives the snapshot.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        let done = f();
        if done.is_ok() {
            // SAFETY: pushed above.
            unsafe { pg_sys::PopActiveSnapshot() };
            commit();
        } else {
            super::origin::forget_stamp();
            abort_current();
        }
        Ok(done)
    }))
    .catch_others(|cause| {
        super::origin::forget_stamp();
        abort_current();
        super::slot::release_after_error();
        Err(Box::new(cause))
    })
    .execute()
}

/// Runs `f` in the open transaction, or in one of its own if none is open.
pub fn in_any<T>(f: impl FnOnce() -> T) -> T {
    if is_open() { f() } else { run(f) }
}

/// Runs `f`, which begins a transaction of its own that stays open. An ERROR aborts it and is returned as Err.
pub fn caught_open<T>(f: impl FnOnce() -> T) -> Result<T, Box<CaughtError>> {
    PgTryBuilder::new(AssertUnwindSafe(|| Ok(f())))
        .catch_others(|cause| {
            abort_current();
            Err(Box::new(cause))
        })
        .execute()
}

/// Runs `f` in a subtransaction of the caller's transaction. An ERROR rolls back only the subtransaction, and releases
/// a slot that `f` had acquired (a slot whose creation is not finished is dropped by that). The caller must examine the
/// Err, and rethrow it if it does not know it: a cancel is one of them.
pub fn nested<T>(f: impl FnOnce() -> T) -> Result<T, Box<CaughtError>> {
    // SAFETY: as plpgsql does for a block with EXCEPTION (pl_exec.c); memory context and resource owner are restored on
    // every path.
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

/// Makes the commit of the present transaction durable on this server when it returns, whatever synchronous_commit is.
/// It adds no wait for standbys.
pub fn commit_durably() {
    // SAFETY: sets a flag of the present transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Called before this library writes something. If the statement is a transaction by itself that has written nothing
/// before, its commit does not wait for a synchronous standby: that may be on the lost node, and the wait would never
/// end. Within a transaction of a user it is the user who decides what the commit waits for, because the user's own
/// writes depend on it.
pub fn commit_locally_if_alone() {
    // SAFETY: reads this session's state; within a transaction, and the setting is changed only for it.
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

/// The nesting level of the present subtransaction; 1 is the transaction itself.
pub fn nesting_level() -> i32 {
    // SAFETY: reads this process's transaction state.
    unsafe { pg_sys::GetCurrentTransactionNestLevel() }
}

/// The id that the next transaction will get, without its epoch.
pub fn next_id() -> u32 {
    // SAFETY: reads shared memory under its lock.
    unsafe { pg_sys::ReadNextFullTransactionId().value as u32 }
}
