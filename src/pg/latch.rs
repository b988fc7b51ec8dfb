//! Waiting on the process latch, under wait events of this library (storage/latch.h).

use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::time::Duration;

/// The wait_event that pg_stat_activity shows (with wait_event_type Extension).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitEvent {
    LauncherMain,
    ManagerMain,
    PollerMain,
    StandAside,
    SlotRequest,
    RescueSuspend,
    RescueReconcile,
    RescueReceive,
    CommitBarrier,
    RestorePoint,
    Compare,
    Pin,
    Copy,
    #[cfg(feature = "failpoints")]
    Failpoint,
}

impl WaitEvent {
    const COUNT: usize = 14;

    fn name(self) -> &'static CStr {
        match self {
            WaitEvent::LauncherMain => c"SpockRecoveryLauncherMain",
            WaitEvent::ManagerMain => c"SpockRecoveryManagerMain",
            WaitEvent::PollerMain => c"SpockRecoveryPollerMain",
            WaitEvent::StandAside => c"SpockRecoveryStandAside",
            WaitEvent::SlotRequest => c"SpockRecoverySlotRequest",
            WaitEvent::RescueSuspend => c"SpockRecoveryRescueSuspend",
            WaitEvent::RescueReconcile => c"SpockRecoveryRescueReconcile",
            WaitEvent::RescueReceive => c"SpockRecoveryRescueReceive",
            WaitEvent::CommitBarrier => c"SpockRecoveryCommitBarrier",
            WaitEvent::RestorePoint => c"SpockRecoveryRestorePoint",
            WaitEvent::Compare => c"SpockRecoveryCompare",
            WaitEvent::Pin => c"SpockRecoveryPin",
            WaitEvent::Copy => c"SpockRecoveryCopy",
            #[cfg(feature = "failpoints")]
            WaitEvent::Failpoint => c"SpockRecoveryFailpoint",
        }
    }

    /// The event's number. It is registered on first use, once per process, because WaitEventExtensionNew takes a lock.
    pub fn id(self) -> u32 {
        thread_local! {
            static IDS: [Cell<u32>; WaitEvent::COUNT] = const { [const { Cell::new(0) }; WaitEvent::COUNT] };
        }
        IDS.with(|ids| {
            let cell = &ids[self as usize];
            if cell.get() == 0 {
                // SAFETY: the name is a static C string, which the function copies.
                cell.set(unsafe { pg_sys::WaitEventExtensionNew(self.name().as_ptr()) });
            }
            cell.get()
        })
    }
}

/// Waits until the latch is set or `timeout` has passed (None: no limit), then resets the latch. Ends the process when
/// the postmaster dies. Does not check for interrupts: the caller decides the order.
pub fn wait(timeout: Option<Duration>, event: WaitEvent) {
    let mut wake = pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH;
    let mut milliseconds = -1;
    if let Some(timeout) = timeout {
        wake |= pg_sys::WL_TIMEOUT;
        milliseconds = timeout.as_millis().min(i32::MAX as u128) as core::ffi::c_long;
    }
    // SAFETY: MyLatch is this process's own latch, initialised before any of our code runs.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, wake as i32, milliseconds, event.id());
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Waits until the socket is readable, the latch is set or `timeout` has passed; otherwise like [`wait`].
pub fn wait_for_socket(socket: pg_sys::pgsocket, timeout: Duration, event: WaitEvent) {
    let wake = pg_sys::WL_SOCKET_READABLE | pg_sys::WL_LATCH_SET | pg_sys::WL_EXIT_ON_PM_DEATH | pg_sys::WL_TIMEOUT;
    let milliseconds = timeout.as_millis().min(i32::MAX as u128) as core::ffi::c_long;
    // SAFETY: as in `wait`; an open socket.
    unsafe {
        let events = pg_sys::WaitLatchOrSocket(pg_sys::MyLatch, wake as i32, socket, milliseconds, event.id());
        if events & pg_sys::WL_LATCH_SET as i32 != 0 {
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

/// Sets the latch of another process, if it belongs to this server.
pub fn wake(pid: i32) {
    if pid <= 0 {
        return;
    }
    // SAFETY: PGPROC entries are never freed. If the process has ended meanwhile, the next process in that entry gets
    // an unneeded wake-up.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}
