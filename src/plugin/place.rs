//! Where the stream is, for whoever reads an ERROR that ends it: the SQLSTATE, which libpqwalreceiver drops, and the
//! transaction at hand, by its position at the failed node, without which nobody could give it up. Both are a line of the
//! ERROR's context (src/remote/report.rs).
//!
//! Core's own context is there in our callbacks alone. Between them core reads a transaction's changes back from disk and puts
//! large values together, and may fail as well. So ours lies below all others on the stack, from the start of a stream to the
//! end of the session's command; that of an earlier stream says nothing, for its place is forgotten with its decoding context.

use crate::error::unpack_sqlstate;
use crate::lsn::OriginLsn;
use crate::pg::error_context::BottomContext;
use crate::pg::guarded;
use crate::remote::report::StreamPlace;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::CString;

// Not in pgrx's bindings, which have no variadic functions (utils/elog.h).
unsafe extern "C-unwind" {
    fn errcontext_msg(format: *const core::ffi::c_char, ...) -> core::ffi::c_int;
}

/// Whether a stream is there, and the transaction that it is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    NoStream,
    Between,
    In(OriginLsn),
}

thread_local! {
    static PLACE: Cell<At> = const { Cell::new(At::NoStream) };
    static CONTEXT: RefCell<BottomContext> = const { RefCell::new(BottomContext::NONE) };
}

/// The stream's part of it, forgotten with the stream.
pub struct StreamGuard(());

impl Drop for StreamGuard {
    fn drop(&mut self) {
        PLACE.set(At::NoStream);
    }
}

/// A stream begins.
///
/// # Safety
/// In a callback of core's, which has put its own context on the stack.
pub unsafe fn begin_stream() -> StreamGuard {
    // SAFETY: the callback adds a line; core's own context is there, so the stack is not empty.
    CONTEXT.with_borrow_mut(|context| unsafe { context.install(tell) });
    PLACE.set(At::Between);
    StreamGuard(())
}

/// A transaction of the failed node begins.
pub fn enter(origin_lsn: OriginLsn) {
    PLACE.set(At::In(origin_lsn));
}

/// It has ended.
pub fn leave() {
    PLACE.set(At::Between);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn tell(_argument: *mut core::ffi::c_void) {
    let origin_lsn = match PLACE.get() {
        At::NoStream => return,
        At::Between => None,
        At::In(lsn) => Some(lsn),
    };
    // SAFETY: within errfinish, which calls this.
    let code = unpack_sqlstate(unsafe { pg_sys::geterrcode() });
    // What is no ERROR: a LOG, a NOTICE, a WARNING.
    if code.starts_with(b"00") || code.starts_with(b"01") || code.starts_with(b"02") {
        return;
    }
    let place = StreamPlace { sqlstate: String::from_utf8_lossy(&code).into_owned(), origin_lsn };
    let Ok(line) = CString::new(place.line()) else { return };
    // SAFETY: within errfinish; a format with one string. The text is not translated.
    unsafe { guarded!(errcontext_msg(c"%s".as_ptr(), line.as_ptr())) };
}
