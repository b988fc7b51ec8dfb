//! Settings of the server by name (utils/guc.h).

use pgrx::pg_sys;
use std::ffi::CStr;

/// The present value of a setting, a number without its unit; None if this server does not have the setting.
pub fn value(name: &CStr) -> Option<String> {
    // SAFETY: missing_ok; the result is a C string that lives until the next change of settings, copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}

/// The present value of a setting as SHOW displays it, with its unit; None if this server does not have the setting.
pub fn shown(name: &CStr) -> Option<String> {
    // SAFETY: missing_ok; the result is a palloc'd C string, or null.
    unsafe {
        let value = pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), true);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
    }
}
