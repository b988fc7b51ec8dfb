//! What differs between the supported majors, and what is assumed of C constants that the bindings do not carry.

use pgrx::pg_sys;

/// `SubscriptionRelationId` (catalog/pg_subscription.h): fixed since PostgreSQL 10.
pub const SUBSCRIPTION_RELATION_ID: pg_sys::Oid = pg_sys::Oid::from_u32(6100);

/// `USER_TIMEOUT` (utils/timeout.h), the first id that RegisterTimeout gives out; the same in 17 and 18.
pub const USER_TIMEOUT: core::ffi::c_int = 13;

const _: () = assert!(
    pg_sys::PG_VERSION_NUM >= 170_000 && pg_sys::PG_VERSION_NUM < 190_000,
    "utils/timeout.h must be looked at again for a new major"
);

/// Installs a handler for a signal.
///
/// # Safety
/// `handler` must be safe to run in a signal handler.
pub unsafe fn signal_handler(signal: core::ffi::c_int, handler: unsafe extern "C-unwind" fn(core::ffi::c_int)) {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller vouches for the handler.
    unsafe {
        pg_sys::pqsignal(signal, Some(handler))
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller vouches for the handler.
    unsafe {
        pg_sys::pqsignal_be(signal, Some(handler))
    };
}

/// Acquires a replication slot that nobody has; an ERROR otherwise, and if it is invalid (on 17 checked by the caller).
///
/// # Safety
/// The process must hold no slot, and must release this one.
pub unsafe fn acquire_slot(name: &std::ffi::CStr) {
    #[cfg(feature = "pg17")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true)
    };
    #[cfg(feature = "pg18")]
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ReplicationSlotAcquire(name.as_ptr(), true, true)
    };
}

/// idle_replication_slot_timeout, which 17 does not have; None: no limit.
pub fn idle_slot_timeout() -> Option<std::time::Duration> {
    #[cfg(feature = "pg17")]
    return None;
    #[cfg(feature = "pg18")]
    {
        // SAFETY: a setting of this process.
        let seconds = unsafe { pg_sys::idle_replication_slot_timeout_secs };
        (seconds > 0).then(|| std::time::Duration::from_secs(u64::from(seconds.unsigned_abs())))
    }
}

/// Ends the process (the bindings of 17 and 18 differ in what they say it returns).
pub fn proc_exit(code: i32) -> ! {
    // SAFETY: does not return; runs the exit callbacks.
    #[allow(unreachable_code)]
    unsafe {
        pg_sys::proc_exit(code);
        unreachable!("proc_exit does not return")
    }
}
