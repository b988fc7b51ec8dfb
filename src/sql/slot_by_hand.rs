//! The functions that change the slot on request. They ask the manager and wait for it: the retention record must be
//! committed before the slot moves, which the caller's own transaction cannot do.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, raise};
use crate::lsn::LocalLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::servers;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::name::Name;
use crate::pg::slot::{self, Slot};
use crate::pg::{interrupts, process};
use crate::shmem::{self, BlockedReason, DatabaseEntry, SlotJob};
use crate::slot::error::SlotError;
use crate::slot::snapshot::{blocking_peer, snapshot};
use crate::slot::{outgoing, record_storage};
use crate::{guc, wake};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How long a manager may take to start: far longer than a fork takes, and no longer than a person is willing to wait
/// at a prompt.
const MANAGER_PATIENCE: Duration = Duration::from_secs(5);

/// Creates the slot if there is none, and waits until it exists.
#[pg_extern(sql = false)]
fn create_recovery_slot() -> Name {
    require_ready("create_recovery_slot", true);
    ask(SlotRequest::Create, "create");
    Name(entry().map(|entry| entry.slot.name.as_str().to_owned()).unwrap_or_default())
}

/// Drops the slot. Returns false if there was none.
#[pg_extern(sql = false)]
fn drop_recovery_slot() -> bool {
    require_ready("drop_recovery_slot", false);
    let Some(DatabaseEntry { slot: entry, .. }) = entry() else { raise(&SlotError::NoManager) };
    let name = entry.name.as_str();
    if slot::find_here(name).or_raise().is_none() {
        return false;
    }
    wait_for_worker();
    wait_for_record();
    slot::drop(name).or_raise();
    if guc::enable_recovery_slots() {
        ereport!(
            NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("recovery slot \"{name}\" will be created anew"),
            "spock.enable_recovery_slots is on."
        );
    }
    wake::manager();
    true
}

/// Moves the slot as far as the horizon allows now. Returns its position, and a NOTICE says why it is not further.
#[pg_extern(sql = false)]
fn advance_recovery_slot() -> LocalLsn {
    require_ready("advance_recovery_slot", true);
    ask(SlotRequest::Advance, "advance");
    let Some(DatabaseEntry { slot, .. }) = entry() else { raise(&SlotError::NoManager) };
    let found = slot::find_here(slot.name.as_str()).or_raise();
    if let Some(reason) = slot.blocked.as_str() {
        let servers = servers::servers().or_raise();
        let peer = snapshot().and_then(|snapshot| blocking_peer(&snapshot, &servers));
        let outgoing = match slot.blocked {
            BlockedReason::OutgoingSlot => outgoing::beside(slot.name.as_str()).or_raise(),
            _ => Vec::new(),
        };
        let detail = match (peer, outgoing::slowest(&outgoing, None)) {
            (Some(peer), _) => format!("Node \"{peer}\" holds it. See spock.recovery_horizon()."),
            (None, Some(slowest)) => {
                format!("The outgoing slot \"{}\" holds it, at {}.", slowest.name, slowest.confirmed)
            }
            (None, None) => "See spock.recovery_horizon().".to_owned(),
        };
        ereport!(
            NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("the recovery slot does not advance further: {reason}"),
            detail
        );
    }
    found.map_or(LocalLsn::ZERO, |found: Slot| found.confirmed)
}

/// What the manager is asked to do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotRequest {
    Create,
    Advance,
}

/// Checks the preconditions of the functions that change the slot.
fn require_ready(function: &'static str, needs_enabled: bool) {
    if !process::is_superuser() {
        raise(&SlotError::NotSuperuser { function });
    }
    if NativeProvider.local_node().or_raise().is_none() {
        raise(&SlotError::NoNode);
    }
    if needs_enabled && !guc::enable_recovery_slots() {
        raise(&SlotError::Disabled);
    }
    if process::has_written() {
        raise(&SlotError::HasWritten { function });
    }
    record_storage::read().or_raise();
    wait_for_manager();
}

/// This database's entry in shared memory. None: there is none, and hence no manager.
fn entry() -> Option<DatabaseEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    Some(shared.databases()[index])
}

fn wait_while(condition: impl Fn(Option<DatabaseEntry>) -> bool) {
    while condition(entry()) {
        pause();
    }
}

fn pause() {
    interrupts::check();
    latch::wait(Some(Duration::from_millis(20)), WaitEvent::SlotRequest);
}

/// Waits for the manager, which may still be starting after node_create() or a crash.
fn wait_for_manager() {
    let deadline = Instant::now() + MANAGER_PATIENCE;
    wait_while(|entry| entry.is_none_or(|entry| entry.manager_pid == 0) && Instant::now() < deadline);
}

/// Waits until no worker uses the slot. Otherwise dropping it would be refused, or the worker would fail.
fn wait_for_worker() {
    wait_while(|entry| entry.is_some_and(|entry| entry.slot.job != SlotJob::Nothing || entry.slot.worker_pid != 0));
}

/// Waits until the manager has seen the slot and recorded that it exists. Otherwise its loss would not raise the
/// generation.
fn wait_for_record() {
    wait_while(|entry| entry.is_some_and(|entry| !entry.slot.exists && entry.manager_pid != 0));
}

/// Sends a request to the manager, and waits until the manager has done what is possible. If the statement ends first
/// (statement_timeout, a cancel), the manager continues.
fn ask(request: SlotRequest, action: &'static str) {
    let number = {
        let mut shared = shmem::lock();
        shared.index_of(process::my_database()).map(|index| {
            let slot = &mut shared.databases()[index].slot;
            slot.requested = slot.requested.wrapping_add(1);
            (slot.requested, slot.failures)
        })
    };
    let Some((number, failures)) = number else { raise(&SlotError::NoManager) };
    if !wake::manager() {
        raise(&SlotError::NoManager);
    }
    loop {
        let Some(DatabaseEntry { slot, .. }) = entry() else { raise(&SlotError::NoManager) };
        if slot.failures > failures {
            raise(&SlotError::Failed { action, reason: slot.error.as_str().to_owned() });
        }
        let is_answered = slot.answered.wrapping_sub(number) < u32::MAX / 2;
        if is_answered && (slot.exists || request != SlotRequest::Create) {
            return;
        }
        pause();
    }
}
