//! Calls through C function pointers.

/// Calls a C function that pgrx's bindings do not guard (one behind a function pointer, or declared by this library),
/// so that an ERROR in it becomes a Rust panic instead of a jump over Rust frames. Every such call must be in this
/// macro; the lint `ffi_unwind_calls`, denied for the crate, finds others. The macro is unsafe to use, like the call in
/// it.
macro_rules! guarded {
    ($call:expr) => {{
        #[allow(ffi_unwind_calls)]
        let result = pgrx::pg_sys::ffi::pg_guard_ffi_boundary(|| $call);
        result
    }};
}
pub(crate) use guarded;
