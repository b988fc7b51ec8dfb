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
