//! Slots for rows (executor/tuptable.h) that are created once and used for one row after the other.

use pgrx::pg_sys;

/// A list of slots that are handed out in order, and reused after `clear`.
#[derive(Default)]
pub(super) struct Slots {
    all: Vec<*mut pg_sys::TupleTableSlot>,
    used: usize,
}

impl Slots {
    pub(super) fn next(&mut self, make: impl FnOnce() -> *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot {
        if self.used == self.all.len() {
            self.all.push(make());
        }
        self.used += 1;
        self.all[self.used - 1]
    }

    pub(super) fn count(&self) -> usize {
        self.used
    }

    pub(super) fn used(&mut self) -> &mut [*mut pg_sys::TupleTableSlot] {
        &mut self.all[..self.used]
    }

    pub(super) fn clear(&mut self) {
        for slot in self.used() {
            // SAFETY: the slots belong to an executor state that is alive.
            unsafe { pg_sys::ExecClearTuple(*slot) };
        }
        self.used = 0;
    }
}

/// Creates a slot that lives as long as the executor state, and stores its rows as long.
///
/// # Safety
/// An executor state that is alive, and a descriptor that lives as long.
pub(super) unsafe fn new_slot(
    estate: *mut pg_sys::EState,
    descriptor: pg_sys::TupleDesc,
    kind: *const pg_sys::TupleTableSlotOps,
) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the caller's promise.
    unsafe {
        let previous = pg_sys::MemoryContextSwitchTo((*estate).es_query_cxt);
        let slot = pg_sys::ExecInitExtraTupleSlot(estate, descriptor, kind);
        pg_sys::MemoryContextSwitchTo(previous);
        slot
    }
}
