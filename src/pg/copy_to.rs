//! The rows of a query as COPY TO writes them (commands/copy.h): text format, UTF-8.

use super::text::to_server;
use pgrx::pg_sys;
use std::cell::Cell;

/// Gets each line.
type Line = dyn FnMut(&[u8]);

thread_local! {
    /// Who gets the lines; null while no COPY runs.
    static LINE: Cell<Option<*mut Line>> = const { Cell::new(None) };
}

/// Runs a query that only reads, and passes each row to `line`, without the newline after it. Needs a transaction with a
/// snapshot.
pub(super) fn each_line(query: &str, line: &mut dyn FnMut(&[u8])) {
    let Some(query) = to_server(query) else { pgrx::error!("a query with a null byte") };
    // SAFETY: the pointer is used until `each_line` ends; an ERROR leaves it behind, and the next COPY replaces it.
    let line: *mut Line = unsafe { std::mem::transmute(line as *mut dyn FnMut(&[u8])) };
    let before = LINE.replace(Some(line));
    // SAFETY: one statement; the state is ended here, or by the abort.
    unsafe {
        let parsed = pg_sys::pg_parse_query(query.as_ptr());
        if pg_sys::list_length(parsed) != 1 {
            pgrx::error!("a query that is not one statement");
        }
        let statement = (*(*parsed).elements).ptr_value.cast::<pg_sys::RawStmt>();
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = query.as_ptr();
        let copy = pg_sys::BeginCopyTo(
            state,
            std::ptr::null_mut(),
            statement,
            pg_sys::InvalidOid,
            std::ptr::null(),
            false,
            Some(take),
            std::ptr::null_mut(),
            super::copy_from::options(),
        );
        pg_sys::DoCopyTo(copy);
        pg_sys::EndCopyTo(copy);
        pg_sys::free_parsestate(state);
    }
    LINE.set(before);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn take(data: *mut core::ffi::c_void, length: core::ffi::c_int) {
    let Some(line) = LINE.get() else { return };
    // SAFETY: `each_line` is running and its closure lives; core passes a row of this length.
    unsafe { (*line)(std::slice::from_raw_parts(data.cast(), length.max(0) as usize)) };
}
