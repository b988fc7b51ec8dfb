//! Memory contexts for data that lives as long as one message or one step (utils/memutils.h).

use pgrx::pg_sys;

/// It is emptied after each use, so that memory does not grow with the number of messages.
pub struct MessageContext(pg_sys::MemoryContext);

impl MessageContext {
    /// A placeholder before the context is created.
    pub const NONE: MessageContext = MessageContext(std::ptr::null_mut());

    /// Creates a context that lives as long as the process.
    pub fn new() -> MessageContext {
        // SAFETY: a child of TopMemoryContext.
        MessageContext(unsafe {
            pg_sys::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"spock_recovery message".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            )
        })
    }

    /// Runs `f` with this context as the current one, and then empties it. While an ERROR unwinds it is not emptied,
    /// because the process ends.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        // SAFETY: nothing that `f` allocates in it is used afterwards; the previously current context may have been
        // freed with a transaction, but the top one never is.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.0);
            let value = f();
            pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::MemoryContextReset(self.0);
            value
        }
    }
}

/// Runs `f` in a memory context of its own, which is deleted afterwards, so that memory does not grow with the number of
/// calls. `f` may begin and end transactions if none is open. While an ERROR unwinds, the context is freed with the one
/// that was current before.
pub fn apart<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: nothing that `f` allocates in it is used afterwards; the context that was current before outlives `f`,
    // which ends no transaction that was open.
    unsafe {
        let before = pg_sys::CurrentMemoryContext;
        let own = pg_sys::AllocSetContextCreateInternal(
            before,
            c"spock_recovery step".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        pg_sys::MemoryContextSwitchTo(own);
        let value = f();
        pg_sys::MemoryContextSwitchTo(before);
        pg_sys::MemoryContextDelete(own);
        value
    }
}
