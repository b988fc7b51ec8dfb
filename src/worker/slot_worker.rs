//! The slot worker: does one job on the recovery slot and leaves.

use crate::pg::clock::Timestamp;
use crate::pg::{interrupts, latch, process};
use crate::shmem::{self, Phase, SlotJob};
use crate::slot::job;
use pgrx::pg_sys::Oid;
use std::cell::Cell;

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
}

pub fn run(index: usize, database: Oid) -> ! {
    let Some((job, name)) = take_job(index, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    if !matches!(job, SlotJob::Create) {
        // Decoding announces itself with LOG messages, at each move; what goes wrong is told through shared memory.
        process::log_fatal_only();
    }
    process::report_activity(match job {
        SlotJob::Nothing => "nothing to do",
        SlotJob::Create => "creating the recovery slot",
        SlotJob::Advance(_) => "advancing the recovery slot",
        SlotJob::Touch => "touching the recovery slot",
        SlotJob::Drop => "dropping the recovery slot",
    });
    // Creation waits for running transactions as long as they run.
    process::wait_for_locks_without_limit();
    let outcome = job::run(job, &name);
    {
        let mut shared = shmem::lock();
        let slot = &mut shared.databases()[index].slot;
        match &outcome {
            Ok(()) => {
                slot.failures = 0;
                slot.error.set("");
            }
            Err(message) => {
                slot.failures = slot.failures.saturating_add(1);
                slot.error.set(message);
            }
        }
        slot.job = SlotJob::Nothing;
        slot.job_ended_at = Timestamp::now();
    }
    interrupts::exit(0)
}

fn take_job(index: usize, database: Oid) -> Option<(SlotJob, String)> {
    let mut shared = shmem::lock();
    let entry = shared.databases().get_mut(index)?;
    if entry.phase == Phase::Free || entry.database != database || entry.slot.worker_pid != 0 {
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
        // Ended before it was done: by a signal, or by an ERROR outside the job.
        if entry.slot.job != SlotJob::Nothing {
            entry.slot.job = SlotJob::Nothing;
            entry.slot.failures = entry.slot.failures.saturating_add(1);
        }
        shared.call_manager(index)
    };
    latch::wake(manager);
}
