//! The slot worker: does one job on the recovery slot and exits.

use crate::pg::clock::Monotonic;
use crate::pg::{interrupts, latch, process};
use crate::shmem::{self, ManagerPhase, SlotJob};
use crate::slot::job;
use pgrx::pg_sys::Oid;
use std::cell::Cell;

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Does the job that the shared memory entry at `index` holds for `database`, and exits.
pub fn run(index: usize, database: Oid) -> ! {
    let Some((job, name)) = take_job(index, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    let verb = match job {
        SlotJob::Nothing => "look at",
        SlotJob::Create => "create",
        SlotJob::Advance(_) => "advance",
        SlotJob::Touch => "touch",
        SlotJob::Drop => "drop",
    };
    process::report_activity(&format!("{verb} the recovery slot"));
    // The creation of a slot waits for all running transactions, however long they take.
    process::wait_for_locks_without_limit();
    let silence = (!matches!(job, SlotJob::Create)).then(process::Silence::begin);
    let outcome = job::run(job, &name);
    drop(silence);
    let failures = {
        let mut shared = shmem::lock();
        let slot = &mut shared.databases()[index].slot;
        match &outcome {
            Ok(()) => {
                slot.failures = 0;
                slot.job_ended_at = Monotonic::now();
                slot.error.set("");
            }
            Err(message) => {
                slot.note_failure();
                slot.error.set(message);
            }
        }
        slot.job = SlotJob::Nothing;
        slot.failures
    };
    // Only the first failure in a row is logged: the job is tried again and again, and the status shows the last
    // reason.
    if let (Err(message), 1) = (outcome, failures) {
        pgrx::warning!("could not {verb} recovery slot \"{name}\": {message}");
    }
    interrupts::exit(0)
}

fn take_job(index: usize, database: Oid) -> Option<(SlotJob, String)> {
    let mut shared = shmem::lock();
    let entry = shared.databases().get_mut(index)?;
    if entry.phase == ManagerPhase::Free || entry.database != database || entry.slot.worker_pid != 0 {
        return None;
    }
    if entry.slot.job == SlotJob::Nothing {
        return None;
    }
    entry.slot.worker_pid = process::my_pid();
    ENTRY.set(Some(index));
    Some((entry.slot.job, entry.slot.name.as_str().to_owned()))
}

fn on_exit() {
    let Some(index) = ENTRY.take() else { return };
    let manager = {
        let mut shared = shmem::lock();
        let entry = &mut shared.databases()[index];
        entry.slot.worker_pid = 0;
        // The worker has ended before the job was done: by a signal, or by an ERROR outside the job.
        if entry.slot.job != SlotJob::Nothing {
            entry.slot.job = SlotJob::Nothing;
            entry.slot.note_failure();
        }
        shared.call_manager(index)
    };
    latch::wake(manager);
}
