//! clone_recovery_slot(): copies the recovery slot for a rescue on another node. The copy uses our own output plugin.
//!
//! The copy is made first and registered afterwards: PostgreSQL makes no logical slot in a transaction that has
//! written, and a rollback does not remove a slot. So a failure can leave a clone that is not registered; the manager
//! adopts it (src/worker/clone_upkeep.rs). Core's errors are caught in subtransactions, and a copy that could not be
//! finished is dropped at once.

use super::clone_error::CloneError;
use super::clone_name::clone_name;
use super::error::SlotError;
use super::plugin_list;
use super::record_storage;
use super::snapshot::snapshot;
use crate::failpoint::{self, names};
use crate::intent::document::CloneRecord;
use crate::intent::{IntentError, storage};
use crate::intent_id::IntentId;
use crate::lsn::LocalLsn;
use crate::node::servers::{self, NodeServer, Role};
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::slot::{self, Slot};
use crate::pg::timeout::{TimedOut, with_limit};
use crate::pg::{catalog, process, role, setting, transaction, wal};
use crate::shmem::PeerKey;
use crate::{guc, wake};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::time::Instant;

/// The output plugin of a clone: this library.
pub const PLUGIN: &str = "spock_recovery";

/// The target waits spock.peer_timeout for the clone. At most this fraction of it (one half) is spent on moving the
/// clone forward.
const ADVANCE_FRACTION: u32 = 2;

/// Bytes of WAL that one step of moving a clone forward decodes, which takes a fraction of a second. The time limit is
/// checked between steps.
const ADVANCE_STEP: u64 = 64 << 20;

/// The outcome of a call that raised no error.
pub enum CloneOutcome {
    Made {
        original: String,
        clone: Slot,
        message: String,
    },
    /// No clone was made, which is not an error: the caller tries another source, or does what the message says.
    Refused {
        original: Option<String>,
        message: String,
    },
}

/// Checks that PostgreSQL would let the caller copy a slot.
///
/// # Errors
/// `NotPrivileged` if not.
pub fn require_slot_user(function: &'static str) -> Result<(), CloneError> {
    if role::may_use_slots() { Ok(()) } else { Err(CloneError::NotPrivileged { function, role: role::current_name() }) }
}

/// The intent of the recovery that a clone is made for, and when that recovery was begun; None: made by hand.
pub type ForIntent = Option<(IntentId, Timestamp)>;

/// Makes a clone. Repeated calls for the same intent return the same clone.
///
/// # Errors
/// If the caller may not copy slots, names a node that cannot be `failed` or `target`, or has written in this
/// transaction; and if the journal or the retention record cannot be read. Core's other errors, a cancel among them,
/// are thrown on.
pub fn clone_slot(
    function: &'static str,
    failed: Option<String>,
    target: Option<String>,
    intent: ForIntent,
) -> Result<CloneOutcome, CloneError> {
    require_slot_user(function)?;
    let servers = servers::servers()?;
    let refused = |message: &str| Ok(CloneOutcome::Refused { original: None, message: message.to_owned() });
    if wal::is_in_recovery() {
        return refused("this server is a standby: ask its primary, or SELECT pg_promote()");
    }
    if !servers.iter().any(|server| server.role == Role::Local) {
        return refused(
            "this database is not a node: make it one with SELECT spock.node_create('n1', 'host=… port=5432 dbname=…')",
        );
    }
    let failed = known(&servers, "failed_node_name", failed)?;
    let target = known(&servers, "target_node_name", target)?;
    if let (Some(failed), Some(target)) = (failed, target)
        && failed.id == target.id
    {
        return Err(CloneError::SameNode { name: failed.name.to_string() });
    }
    if process::has_written() {
        return Err(CloneError::HasWritten { function });
    }
    // This must precede the subtransactions below: within one, every statement counts as part of a transaction block.
    transaction::commit_locally_if_alone();
    if !guc::enable_recovery_slots() {
        return refused(
            "recovery slots are switched off: ALTER SYSTEM SET spock.enable_recovery_slots = on; SELECT pg_reload_conf()",
        );
    }
    let original = match usable_slot()? {
        Ok(original) => original,
        Err((original, message)) => return Ok(CloneOutcome::Refused { original, message }),
    };
    let copy = match copy(&original.name, intent) {
        Ok(copied) => copied?,
        Err(cause) => {
            let message = refusal(&cause).unwrap_or_else(|| cause.rethrow());
            return Ok(CloneOutcome::Refused { original: Some(original.name), message });
        }
    };
    let finished = transaction::nested(|| finish(&copy, failed, target, intent));
    if copy.is_new && !matches!(finished, Ok(Ok(_))) {
        discard(&copy.name);
    }
    match finished {
        Ok(finished) => finished.map(|(clone, message)| CloneOutcome::Made { original: original.name, clone, message }),
        // A cancel, for example: moving the clone forward can take long.
        Err(cause) => cause.rethrow(),
    }
}

/// The node named `name`, which must not be the local node; None if no name was given.
fn known<'a>(
    servers: &'a [NodeServer],
    argument: &'static str,
    name: Option<String>,
) -> Result<Option<&'a NodeServer>, CloneError> {
    let Some(name) = name else { return Ok(None) };
    match servers.iter().find(|server| server.name.as_str() == name) {
        None => Err(CloneError::UnknownNode { argument, name }),
        Some(server) if server.role != Role::Peer => Err(CloneError::IsLocal { argument, name }),
        found => Ok(found),
    }
}

/// Checks that this node can serve a recovery of `failed` on `target`. The target must be a known peer, because this
/// node's poller asks it later whether the recovery is still open. The failed node need not be known: it may have been
/// dropped meanwhile.
///
/// # Errors
/// If `failed` is this node or the target, or if `target` is this node or unknown.
pub fn check_parties(failed: &str, target: &str) -> Result<(), CloneError> {
    let servers = servers::servers()?;
    let local = servers.iter().find(|server| server.role == Role::Local).ok_or(SlotError::NoNode)?;
    known(&servers, "target_node", Some(target.to_owned()))?;
    if failed == local.name.as_str() {
        return Err(CloneError::IsLocal { argument: "failed_node", name: failed.to_owned() });
    }
    if failed == target { Err(CloneError::SameNode { name: failed.to_owned() }) } else { Ok(()) }
}

/// The recovery slot if it can be copied; else its name, if there is one, and why it cannot be copied. The retention
/// record decides, not the manager's entry in shared memory, which is empty right after the server has started.
fn usable_slot() -> Result<Result<Slot, (Option<String>, String)>, CloneError> {
    // Fails if the journal cannot be read, before a clone is made that could not be registered in it.
    storage::read()?;
    let record = record_storage::read()?;
    let why = |what: &str| format!("{what}: SELECT * FROM spock.quick_health_check()");
    let Some(record) = record else {
        return Ok(Err((None, why("there is no recovery slot yet"))));
    };
    let refuse = |what: &str| Ok(Err((Some(record.slot.clone()), why(what))));
    match slot::find(&record.slot)?.filter(|found| found.database == Some(process::my_database())) {
        Some(found) if found.is_invalid => refuse("the recovery slot was invalidated, and is created anew"),
        Some(found) if found.is_unfinished => refuse("the recovery slot is still being created"),
        // The record covers the slot. Without a position, nothing is known yet of what the slot keeps.
        Some(found) if record.position.is_some() => Ok(Ok(found)),
        Some(_) => refuse("the recovery slot was created just now, and is not yet in use"),
        None => refuse("there is no recovery slot at the moment; it is created as soon as running transactions allow"),
    }
}

/// A copy of the recovery slot.
struct Copied {
    name: String,
    /// False: the copy existed before this call.
    is_new: bool,
}

/// Copies the slot under a name that no other slot has. The name of a clone for an intent follows from when that
/// recovery was begun, so a clone that was made before this server went down, or whose answer was lost, is found again.
fn copy(original: &str, intent: ForIntent) -> Result<Result<Copied, CloneError>, Box<CaughtError>> {
    let database = catalog::my_database_name();
    let mut at = intent.map_or_else(|| Timestamp::now().0, |(_, begun_at)| begun_at.0);
    loop {
        let name = clone_name(&database, at);
        if let Some((id, _)) = intent {
            match is_of(&name, id) {
                Ok(true) => return Ok(Ok(Copied { name, is_new: false })),
                Ok(false) => (),
                Err(error) => return Ok(Err(error)),
            }
        }
        match transaction::nested(|| slot::copy(original, &name, PLUGIN)) {
            Ok(copied) => return Ok(copied.map(|()| Copied { name, is_new: true }).map_err(CloneError::from)),
            // Another session has made a clone in the same microsecond.
            Err(cause) if code_of(&cause) == Some(PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT) => at += 1,
            Err(cause) => return Err(cause),
        }
    }
}

/// Whether a usable clone of that name exists that is not registered for another recovery.
fn is_of(name: &str, intent: IntentId) -> Result<bool, CloneError> {
    let found = slot::find_here(name)?.filter(|found| found.plugin.as_deref() == Some(PLUGIN) && !found.is_invalid);
    let is_anothers = |clone: &CloneRecord| clone.slot == name && clone.intent.is_some_and(|known| known != intent);
    Ok(found.is_some() && !storage::read()?.clones.iter().any(is_anothers))
}

fn code_of(cause: &CaughtError) -> Option<PgSqlErrorCode> {
    match cause {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => Some(report.sql_error_code()),
        CaughtError::RustPanic { .. } => None,
    }
}

/// The message for a refusal by core that is not the caller's error; None: the error is to be thrown on.
fn refusal(cause: &CaughtError) -> Option<String> {
    match code_of(cause)? {
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED => Some(format!(
            "no replication slot is free: drop one that is not needed (SELECT * FROM pg_replication_slots), or raise \
             max_replication_slots = {} and restart",
            setting::value(c"max_replication_slots").unwrap_or_default()
        )),
        // The caller's privilege was checked before, so it is the output plugin that core refuses.
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE => {
            let list = setting::value(c"output_plugin_libraries");
            let advice = plugin_list::check(list.as_deref()).err().unwrap_or_else(|| "lists spock_recovery".to_owned());
            Some(format!("output_plugin_libraries {advice}"))
        }
        // The slot was dropped or invalidated between the check and the copy.
        PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT | PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE => {
            let CaughtError::PostgresError(report) = cause else { return None };
            Some(format!("{}: SELECT * FROM spock.quick_health_check()", report.message()))
        }
        _ => None,
    }
}

/// Moves a new copy forward, and registers the clone.
fn finish(
    copy: &Copied,
    failed: Option<&NodeServer>,
    target: Option<&NodeServer>,
    intent: ForIntent,
) -> Result<(Slot, String), CloneError> {
    failpoint::hit(names::CLONE_COPIED);
    let name = copy.name.as_str();
    let gone = || CloneError::NoSuchClone { slot: name.to_owned() };
    let copied = slot::find_here(name)?.ok_or_else(gone)?;
    let message = match (failed, target) {
        // The target may need again what was already streamed from a clone that existed before: it is not moved.
        _ if !copy.is_new => format!("was made before, and starts at {}", copied.confirmed),
        (Some(failed), Some(target)) => match horizon(failed, target).filter(|local| *local > copied.confirmed) {
            Some(local) => {
                let reached = advance_for_a_while(name, copied.confirmed, local)?;
                format!(
                    "starts at {reached}: what node \"{}\" has passed of node \"{}\" before is left out",
                    target.name, failed.name
                )
            }
            None => format!("starts where the recovery slot does, at {}", copied.confirmed),
        },
        _ => format!("starts where the recovery slot does, at {}", copied.confirmed),
    };
    let record = CloneRecord {
        slot: name.to_owned(),
        created_at: Timestamp::now(),
        failed: failed.map(|failed| failed.name.to_string()),
        target: target.map(|target| target.name.to_string()),
        intent: intent.map(|(id, _)| id),
    };
    storage::update(|journal| {
        journal.register_clone(record);
        Ok::<_, IntentError>(())
    })?;
    transaction::commit_durably();
    wake::note(CatalogChange::ThisDatabase);
    Ok((slot::find_here(name)?.ok_or_else(gone)?, message))
}

/// Moves the clone forward in steps until `to`, or until a part of spock.peer_timeout is over because the caller waits.
/// What the clone still holds before `to` is then skipped in the stream. Each step decodes from restart_lsn, which an
/// open transaction may hold far back. Returns the position reached.
fn advance_for_a_while(name: &str, from: LocalLsn, to: LocalLsn) -> Result<LocalLsn, CloneError> {
    let deadline = Instant::now() + guc::peer_timeout() / ADVANCE_FRACTION;
    let mut at = from;
    while at < to {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let next = LocalLsn(at.0.saturating_add(ADVANCE_STEP)).min(to);
        let step = || transaction::nested(|| slot::advance(name, next)).unwrap_or_else(|cause| cause.rethrow());
        match with_limit(left, step) {
            Ok(moved) => moved?,
            Err(TimedOut) => break,
        }
        at = next;
    }
    Ok(at)
}

/// The position up to which this server's WAL contains nothing of the failed node that the target lacks; None: unknown.
///
/// It belongs to the newest sample (o, l) with o at or before what the target counts as having passed, as
/// recovery_horizon() shows it. Every transaction of the failed node before l has an origin position up to o, and the
/// target is durably past o. So the clone loses nothing that this target could ask for: what it lacks lies beyond what
/// it has passed. The recovery slot itself may at any moment be moved as far on this target's account. Other targets
/// are not served by this clone (claim_clone refuses them). Both positions describe what is already written and
/// durable, so they stay true while they are used: a target that is rebuilt meanwhile has another subscription or
/// replication origin, and copies the tables.
fn horizon(failed: &NodeServer, target: &NodeServer) -> Option<LocalLsn> {
    let snapshot = snapshot()?;
    let (_, positions) = snapshot.peers.iter().find(|(peer, _)| peer.key == PeerKey::Node(target.id))?;
    let position = positions.iter().find(|position| position.origin == failed.id)?;
    Some(position.local).filter(|local| *local != LocalLsn::ZERO)
}

/// Drops a copy that could not be finished. If that fails too, the manager finds the copy later.
fn discard(name: &str) {
    if transaction::nested(|| slot::drop(name)).is_err() {
        pgrx::log!("could not drop the unfinished clone \"{name}\" of the recovery slot");
    }
}
