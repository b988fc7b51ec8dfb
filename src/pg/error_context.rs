//! An error context of this library at the bottom of a process's error stack (utils/elog.h). Its callback is called for
//! every ERROR, wherever that is raised, after the callbacks of all other contexts.

use pgrx::pg_sys;

pub type Callback = unsafe extern "C-unwind" fn(*mut core::ffi::c_void);

/// An entry of the stack that lives as long as the process.
pub struct BottomContext(*mut pg_sys::ErrorContextCallback);

impl BottomContext {
    pub const NONE: BottomContext = BottomContext(std::ptr::null_mut());

    /// Puts the entry on the stack, unless it is there already. Core empties the stack when it catches an ERROR at the
    /// top level of a session.
    ///
    /// # Safety
    /// `callback` must do nothing that is not allowed while an ERROR is being raised. This must not be called within a
    /// guarded call into core, which restores an empty stack when it returns.
    pub unsafe fn install(&mut self, callback: Callback) {
        // SAFETY: the stack is a list that ends with null; its entries belong to functions that are running, and to
        // this one.
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
