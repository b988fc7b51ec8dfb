//! The functions by which the target of a recovery has its clone created and dropped on the source.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::OrRaise;
use crate::intent::document::CloneRecord;
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{interrupts, slot, transaction};
use crate::slot::clone::{CloneOutcome, clone_slot, require_slot_user};
use crate::slot::clone_error::CloneError;
use crate::wake;
use pgrx::Uuid;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How long the walsender of the target's stream may take to end: it notices that its connection is closed only when it
/// writes.
const SENDER_PATIENCE: Duration = Duration::from_secs(2);

/// Creates the clone of an intent, or returns the existing one. `begun_at` is when the intent was begun, in
/// microseconds since 2000-01-01 00:00 UTC.
#[pg_extern(sql = false)]
fn clone_for_recovery(
    intent_id: Option<Uuid>,
    begun_at: Option<i64>,
    failed_node: Option<Name>,
    target_node: Option<Name>,
) -> TableIterator<'static, (name!(cloned_slot_name, Option<String>), name!(message, Text))> {
    let make = || {
        let given = |argument| CloneError::NullArgument { argument };
        let id = IntentId(*intent_id.ok_or(given("intent_id"))?.as_bytes());
        let at = Timestamp(begun_at.ok_or(given("begun_at"))?);
        let failed = failed_node.ok_or(given("failed_node"))?.0;
        let target = target_node.ok_or(given("target_node"))?.0;
        clone_slot("clone_for_recovery", Some(failed), Some(target), Some((id, at)))
    };
    TableIterator::once(match make().or_raise() {
        CloneOutcome::Made { clone, message, .. } => (Some(clone.name), Text::of_message(&message)),
        CloneOutcome::Refused { message, .. } => (None, Text::of_message(&message)),
    })
}

/// Drops the clone of a recovery that does not need it any more. Returns false if there is none, or if it is still in
/// use; the manager then drops it as soon as it is not.
#[pg_extern(sql = false)]
fn release_clone(slot_name: Option<Text>, intent_id: Option<Uuid>) -> bool {
    let release = || {
        require_slot_user("release_clone")?;
        let given = |argument| CloneError::NullArgument { argument };
        let name = slot_name.ok_or(given("slot_name"))?.to_utf8();
        let intent = IntentId(*intent_id.ok_or(given("intent_id"))?.as_bytes());
        let deadline = Instant::now() + SENDER_PATIENCE;
        while slot::find_here(&name)?.is_some_and(|found| found.is_active) && Instant::now() < deadline {
            interrupts::check();
            latch::wait(Some(Duration::from_millis(5)), WaitEvent::SlotRequest);
        }
        let is_its = |known: &CloneRecord| known.slot == name && known.intent == Some(intent);
        // If there is no clone to drop, the journal is not locked.
        if !storage::read()?.clones.iter().any(is_its) {
            return Ok(false);
        }
        storage::update(|journal| {
            let found = slot::find_here(&name)?.filter(|_| journal.clones.iter().any(is_its));
            let Some(found) = found else { return Ok(false) };
            if found.is_active {
                return Ok(false);
            }
            slot::drop(&name)?;
            journal.clones.retain(|known| !is_its(known));
            Ok::<_, CloneError>(true)
        })
    };
    let released = release().or_raise();
    transaction::commit_durably();
    wake::note(CatalogChange::ThisDatabase);
    released
}
