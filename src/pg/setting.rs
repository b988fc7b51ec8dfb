//! Settings of the server by name (utils/guc.h).

use pgrx::pg_sys;
use std::ffi::CStr;

/// The setting's present value, a number without its unit; None if this server does not know it.
pub fn value(name: &CStr) -> Option<String> {
    // SAFETY: missing_ok; the result is a C string that lives until the next change of settings, copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// The setting's present value as SHOW gives it, with its unit; None if this server does not know it.
pub fn shown(name: &CStr) -> Option<String> {
    // SAFETY: missing_ok; the result is a palloc'd C string, or null.
    unsafe {
        let value = pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), true);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}
