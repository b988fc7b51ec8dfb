//! Where the stream is, for the reader of an ERROR that ends it: the SQLSTATE, which libpqwalreceiver drops, and the
//! transaction at hand by its origin LSN, without which it could not be given up. Both stand in a line of the ERROR's
//! context (src/remote/report.rs).
//!
//! Core adds a context of its own only around the plugin's callbacks. Between these, core reads a transaction's changes
//! back from disk and puts large values together, and may fail as well. So the context of this file lies at the bottom
//! of the stack, from the start of a stream to the end of the session's command. The context of an earlier stream adds
//! nothing, because its place is forgotten with its decoding context.

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

/// Whether there is a stream, and which transaction it is at.
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

/// Forgets the place when the stream is freed.
pub struct StreamGuard(());

impl Drop for StreamGuard {
    fn drop(&mut self) {
        PLACE.set(At::NoStream);
    }
}

/// Begins a stream.
///
/// # Safety
/// Must be called in a callback of core's, which has put its own context on the stack.
pub unsafe fn begin_stream() -> StreamGuard {
    // SAFETY: the callback adds a line; core's own context is there, so the stack is not empty.
    CONTEXT.with_borrow_mut(|context| unsafe { context.install(tell) });
    PLACE.set(At::Between);
    StreamGuard(())
}

/// Notes that a transaction of the failed node begins.
pub fn enter(origin_lsn: OriginLsn) {
    PLACE.set(At::In(origin_lsn));
}

/// Notes that the transaction has ended.
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
    // A LOG, NOTICE or WARNING gets no place.
    if code.starts_with(b"00") || code.starts_with(b"01") || code.starts_with(b"02") {
        return;
    }
    let place = StreamPlace { sqlstate: String::from_utf8_lossy(&code).into_owned(), origin_lsn };
    let Ok(line) = CString::new(place.line()) else { return };
    // SAFETY: within errfinish; a format with one string. The text is not translated.
    unsafe { guarded!(errcontext_msg(c"%s".as_ptr(), line.as_ptr())) };
}
