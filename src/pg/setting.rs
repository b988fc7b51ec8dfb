//! Settings of the server by name (utils/guc.h).

use pgrx::pg_sys;
use std::ffi::CStr;

/// The setting's present value as SHOW gives it without units; None if this server does not know it.
pub fn value(name: &CStr) -> Option<String> {
    // SAFETY: missing_ok; the result is a C string that lives until the next change of settings, copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}
