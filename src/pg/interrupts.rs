//! Interrupts, signals and the end of a process (tcop/postgres.c, postmaster/interrupt.c).

use super::compat::signal_handler;
use super::guarded;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use std::cell::Cell;
use std::sync::atomic::{AtomicI32, Ordering};

// pgrx declares these as Rust functions, which cannot be installed as handlers.
unsafe extern "C-unwind" {
    fn die(signal: core::ffi::c_int);
    fn SignalHandlerForConfigReload(signal: core::ffi::c_int);
    fn SignalHandlerForShutdownRequest(signal: core::ffi::c_int);
}

/// What SIGTERM does to a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Termination {
    /// The worker ends at the head of its loop, without a message. For workers that never wait long.
    AtLoopHead,
    /// Core's `die`: the worker ends during any wait, by a FATAL at the point of interruption. Waits for locks and in
    /// libpqwalreceiver react to nothing else.
    AtOnce,
}

/// Installs the signal handlers of a worker, and then unblocks signals.
pub fn install_worker_signals(termination: Termination) {
    // SAFETY: core's own handlers, safe in a signal handler; called once at a worker's start.
    unsafe {
        signal_handler(pg_sys::SIGHUP as i32, SignalHandlerForConfigReload);
        match termination {
            Termination::AtLoopHead => signal_handler(pg_sys::SIGTERM as i32, SignalHandlerForShutdownRequest),
            Termination::AtOnce => signal_handler(pg_sys::SIGTERM as i32, die),
        }
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// Whether SIGTERM has arrived and was not handled yet.
pub fn shutdown_requested() -> bool {
    // SAFETY: flags of this process that a signal handler sets.
    unsafe {
        (&raw const pg_sys::ProcDiePending).read_volatile() != 0
            || (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0
    }
}

/// Only CHECK_FOR_INTERRUPTS. For use between two calls of [`check`] that are close together.
pub fn check_signals() {
    pgrx::check_for_interrupts!();
}

/// CHECK_FOR_INTERRUPTS, and ends the process if the postmaster has died: core notices that only in waits, and a busy
/// loop does not wait.
pub fn check() {
    pgrx::check_for_interrupts!();
    // SAFETY: getppid has no preconditions; PostmasterPid is set before any child starts.
    let orphaned = unsafe { pg_sys::IsUnderPostmaster && libc::getppid() != pg_sys::PostmasterPid };
    if orphaned {
        exit(1);
    }
}

/// Reads the configuration again if SIGHUP has requested it. Returns whether it did.
pub fn reload_config_if_asked() -> bool {
    // SAFETY: a flag of this process, reset before the files are read, as core's workers do.
    unsafe {
        if (&raw const pg_sys::ConfigReloadPending).read_volatile() == 0 {
            return false;
        }
        (&raw mut pg_sys::ConfigReloadPending).write_volatile(0);
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

/// Ends this process by proc_exit, which runs the exit callbacks. Rust destructors are not run.
pub fn exit(code: i32) -> ! {
    super::compat::proc_exit(code)
}

/// Registers what a worker does at its end, also after FATAL, while shared memory is still attached. Once per process.
pub fn at_exit(callback: fn()) {
    AT_EXIT.set(Some(callback));
    // SAFETY: a function of this library, which is never unloaded.
    unsafe { pg_sys::before_shmem_exit(Some(run_at_exit), pg_sys::Datum::from(0)) }
}

thread_local! {
    static AT_EXIT: Cell<Option<fn()>> = const { Cell::new(None) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn run_at_exit(_code: core::ffi::c_int, _argument: pg_sys::Datum) {
    if let Some(callback) = AT_EXIT.take() {
        callback();
    }
}

/// The SQLSTATE of the last ERROR or FATAL that this process has reported, as core packs it; zero if there was none.
static REPORTED: AtomicI32 = AtomicI32::new(0);

thread_local! {
    static PREVIOUS_HOOK: Cell<pg_sys::emit_log_hook_type> = const { Cell::new(None) };
}

/// After this call [`reported`] returns the SQLSTATE by which the process ends, if that is a FATAL or an ERROR that is
/// not caught. Caught ERRORs are not reported. Once per process.
pub fn note_reports() {
    // SAFETY: a variable of this process; the hook calls the one before it.
    unsafe {
        PREVIOUS_HOOK.set(pg_sys::emit_log_hook);
        pg_sys::emit_log_hook = Some(note_report);
    }
}

pub fn reported() -> i32 {
    REPORTED.load(Ordering::Relaxed)
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_report(report: *mut pg_sys::ErrorData) {
    // SAFETY: core passes the report at hand; another library's hook is called as core would.
    unsafe {
        if (*report).elevel >= pgrx::PgLogLevel::ERROR as i32 {
            REPORTED.store((*report).sqlerrcode, Ordering::Relaxed);
        }
        if let Some(previous) = PREVIOUS_HOOK.get() {
            guarded!(previous(report));
        }
    }
}

/// Sends SIGTERM. It is no error if the process does not exist any more.
pub fn terminate(pid: i32) {
    if pid > 0 {
        // SAFETY: kill has no memory preconditions.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Kills this process as `kill -9` does, for failpoints.
#[cfg(feature = "failpoints")]
pub fn kill_this_process() -> ! {
    // SAFETY: kill has no memory preconditions; SIGKILL cannot be handled.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::process::abort()
}

/// Runs `f` and catches any ERROR, whose report it returns. Only for calls that leave nothing in the transaction when
/// they fail; a change of catalogs needs [`super::transaction::attempt`].
pub fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Box<ErrorReportWithLevel>> {
    pgrx::PgTryBuilder::new(std::panic::AssertUnwindSafe(|| Ok(f())))
        .catch_others(|cause| match cause {
            CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => Err(Box::new(report)),
            rust_panic => rust_panic.rethrow(),
        })
        .execute()
}
