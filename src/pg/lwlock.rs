//! A lightweight lock as a guard (storage/lwlock.h).

use pgrx::pg_sys;
use std::marker::PhantomData;

/// Holds a lock until it is dropped. While an ERROR unwinds, the drop does nothing, because the abort releases all
/// locks.
pub struct LwLockGuard {
    lock: *mut pg_sys::LWLock,
    _not_send: PhantomData<*mut ()>,
}

impl LwLockGuard {
    /// # Safety
    /// `lock` must be an initialised lock in shared memory, not held by this process.
    pub unsafe fn acquire(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> LwLockGuard {
        // SAFETY: the caller guarantees an initialised lock.
        unsafe { pg_sys::LWLockAcquire(lock, mode) };
        LwLockGuard { lock, _not_send: PhantomData }
    }
}

impl Drop for LwLockGuard {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: acquired in `acquire`, and not released since.
            unsafe { pg_sys::LWLockRelease(self.lock) };
        }
    }
}
