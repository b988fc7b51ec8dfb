//! The name of an open relation, for messages.

use super::text::to_utf8;
use pgrx::pg_sys;
use std::ffi::CStr;

/// `schema.table` of an open relation, for messages.
///
/// # Safety
/// The relation must be open.
pub unsafe fn name_of(relation: pg_sys::Relation) -> String {
    // SAFETY: the caller guarantees an open relation; names are NUL-terminated.
    unsafe {
        let schema = pg_sys::get_namespace_name((*(*relation).rd_rel).relnamespace);
        let schema = if schema.is_null() { String::new() } else { to_utf8(CStr::from_ptr(schema)) };
        let name = to_utf8(CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()));
        format!("{schema}.{name}")
    }
}
