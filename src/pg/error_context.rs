//! A context of ours that lies below all others on the error stack of a process (utils/elog.h), so that its callback is called
//! for every ERROR, wherever it is raised, and after all others have said what they have to say.

use pgrx::pg_sys;

pub type Callback = unsafe extern "C-unwind" fn(*mut core::ffi::c_void);

/// A place on the stack that lives as long as the process.
pub struct BottomContext(*mut pg_sys::ErrorContextCallback);

impl BottomContext {
    pub const NONE: BottomContext = BottomContext(std::ptr::null_mut());

    /// Puts it on the stack, unless it is there. An ERROR that is caught at a session's top empties the stack.
    ///
    /// # Safety
    /// `callback` must do nothing that is not allowed while an ERROR is being raised. Not within a guarded call into core, after
    /// which an empty stack is empty again.
    pub unsafe fn install(&mut self, callback: Callback) {
        // SAFETY: the stack is a list that ends with null, whose places are those of functions that are running, and ours.
        unsafe {
            if self.0.is_null() {
                let size = size_of::<pg_sys::ErrorContextCallback>();
                self.0 = pg_sys::MemoryContextAllocZero(pg_sys::TopMemoryContext, size).cast();
                (*self.0).callback = Some(callback);
            }
            let mut last = pg_sys::error_context_stack;
            while !last.is_null() && last != self.0 && !(*last).previous.is_null() {
                last = (*last).previous;
            }
            if last == self.0 {
                return;
            }
            (*self.0).previous = std::ptr::null_mut();
            if last.is_null() {
                pg_sys::error_context_stack = self.0;
            } else {
                (*last).previous = self.0;
            }
        }
    }
}
