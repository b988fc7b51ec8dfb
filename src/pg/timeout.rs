//! A time limit for a call into core that has none, such as those of libpqwalreceiver (utils/timeout.h).

use super::compat::USER_TIMEOUT;
use super::guarded;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

// pgrx's bindings do not contain these functions and therefore do not guard them, so each call is in guarded!.
unsafe extern "C-unwind" {
    fn RegisterTimeout(id: core::ffi::c_int, handler: unsafe extern "C-unwind" fn()) -> core::ffi::c_int;
    fn enable_timeout_after(id: core::ffi::c_int, delay_ms: core::ffi::c_int);
    fn disable_timeout(id: core::ffi::c_int, keep_indicator: bool);
}

static EXPIRED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static TIMEOUT_ID: Cell<Option<core::ffi::c_int>> = const { Cell::new(None) };
}

#[derive(Debug, PartialEq, Eq)]
pub struct TimedOut;

/// Runs `f`, which must check for interrupts, and cancels it after `limit`. Other errors, and a cancel by the user,
/// pass through. Only for calls that leave nothing in the transaction when they fail.
pub fn with_limit<T>(limit: Duration, f: impl FnOnce() -> T) -> Result<T, TimedOut> {
    EXPIRED.store(false, Ordering::SeqCst);
    let id = TIMEOUT_ID.get().unwrap_or_else(|| {
        // SAFETY: the handler only sets flags and the latch.
        let id = unsafe { guarded!(RegisterTimeout(USER_TIMEOUT, on_timeout)) };
        TIMEOUT_ID.set(Some(id));
        id
    });
    let milliseconds = limit.as_millis().clamp(1, i32::MAX as u128) as core::ffi::c_int;
    // SAFETY: registered above.
    unsafe { guarded!(enable_timeout_after(id, milliseconds)) };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| Ok(f())))
        .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |cause| {
            if EXPIRED.load(Ordering::SeqCst) { Err(TimedOut) } else { cause.rethrow() }
        })
        // SAFETY: registered above.
        .finally(|| unsafe { guarded!(disable_timeout(id, false)) })
        .execute();
    if EXPIRED.swap(false, Ordering::SeqCst) {
        // The limit was reached between the end of `f` and the disarming. Its cancel must not affect what follows.
        // SAFETY: a flag of this process.
        unsafe { (&raw mut pg_sys::QueryCancelPending).write_volatile(0) };
    }
    result
}

unsafe extern "C-unwind" fn on_timeout() {
    EXPIRED.store(true, Ordering::SeqCst);
    // SAFETY: flags and latch of this process, all meant to be set by signal handlers.
    unsafe {
        (&raw mut pg_sys::QueryCancelPending).write_volatile(1);
        (&raw mut pg_sys::InterruptPending).write_volatile(1);
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}
