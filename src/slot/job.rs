//! The operations on the recovery slot that may have to wait, done by a worker process of their own, one at a time for
//! each database. Creating the slot waits for every running transaction, moving a failover slot waits for its standbys,
//! and decoding a backlog takes minutes.

use crate::failpoint::{self, names};
use crate::guc;
use crate::pg::{interrupts, slot, transaction};
use crate::shmem::SlotJob;

/// Does the job on the slot named `name`.
///
/// # Errors
/// Why the job failed. The manager starts it again later.
pub fn run(job: SlotJob, name: &str) -> Result<(), String> {
    failpoint::hit(names::SLOT_JOB_BEFORE);
    let outcome = interrupts::catch(|| match job {
        SlotJob::Nothing => Ok(()),
        SlotJob::Create => transaction::run(|| slot::create(name, guc::recovery_slot_failover())),
        SlotJob::Advance(to) => transaction::run(|| slot::advance(name, to)),
        SlotJob::Touch => {
            transaction::run(|| slot::touch(name));
            Ok(())
        }
        SlotJob::Drop => transaction::run(|| slot::drop(name)),
    });
    failpoint::hit(names::SLOT_JOB_AFTER);
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(report) => {
            // The process ends right after this: its exit rolls back, and the slot is released here.
            slot::release_after_error();
            Err(report.message().to_owned())
        }
    }
}
