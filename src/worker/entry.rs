//! The workers' entry points, as the postmaster calls them.
#![allow(unsafe_code)] // symbols that the postmaster looks up by name

use super::{comparing, copy, launcher, manager, pin, poller, rescue, restore_point, slot_worker};
use crate::pg::interrupts::{self, Termination};
use pgrx::FromDatum;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::{self, Oid};

/// The oid of the database, which the starting process has put into `bgw_extra`.
fn database_of_extra() -> Oid {
    Oid::from_u32(BackgroundWorker::get_extra().parse().unwrap_or(0))
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_launcher_main(_argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtLoopHead);
    launcher::run()
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_manager_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtLoopHead);
    // SAFETY: `start_manager` passes an i64 by value.
    let index = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    manager::run(index as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_poller_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_poller` passes an i64 by value.
    let both = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    poller::run((both >> 32) as usize, (both & 0xffff_ffff) as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_slot_worker_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_slot_worker` passes an i64 by value.
    let index = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    slot_worker::run(index as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_rescue_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_rescue_worker` passes an i64 by value.
    let index = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    rescue::run(index as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_restore_point_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_restore_point_worker` passes an i64 by value.
    let index = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    restore_point::run(index as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_pin_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_pin_worker` passes an i64 by value.
    let both = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    pin::run((both >> 32) as usize, (both & 0xffff_ffff) as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_comparison_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_comparison_worker` passes an i64 by value.
    let index = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    comparing::run(index as usize, database_of_extra())
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn spock_recovery_copy_main(argument: pg_sys::Datum) {
    interrupts::install_worker_signals(Termination::AtOnce);
    // SAFETY: `start_copy_worker` passes an i64 by value.
    let segment = unsafe { i64::from_datum(argument, false) }.unwrap_or_default();
    copy::run(segment as u32, database_of_extra())
}
