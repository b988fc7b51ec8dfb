//! A memory context for what lives as long as one message (utils/memutils.h).

use pgrx::pg_sys;

/// Emptied after each use, so that nothing grows with the number of messages.
pub struct MessageContext(pg_sys::MemoryContext);

impl MessageContext {
    /// The place of one that is in use.
    pub const NONE: MessageContext = MessageContext(std::ptr::null_mut());

    /// Lives as long as the process.
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

    /// Runs `f` with it as the current context, and empties it. While an ERROR unwinds nothing is done: the process ends.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        // SAFETY: nothing that `f` has allocated in it is used after it; the context that was current may have gone with a
        // transaction, the top one never does.
        unsafe {
            pg_sys::MemoryContextSwitchTo(self.0);
            let value = f();
            pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            pg_sys::MemoryContextReset(self.0);
            value
        }
    }
}
