//! The functions that show clones and assign them to a recovery. Their CREATE FUNCTION, grants and comments are in
//! sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::OrRaise;
use crate::intent::document::{CloneRecord, Journal};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::lsn::LocalLsn;
use crate::pg::clock::Timestamp;
use crate::pg::hooks::CatalogChange;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{process, slot, transaction};
use crate::slot::clone::{CloneOutcome, PLUGIN, check_parties, clone_slot, require_slot_user};
use crate::slot::clone_error::CloneError;
use crate::slot::clone_name::is_clone_name;
use crate::slot::snapshot::require_reader;
use crate::wake;
use crate::worker::clone_upkeep;
use pgrx::Uuid;
use pgrx::prelude::*;

/// Copies the recovery slot, and moves the copy forward to where the target needs it from.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn clone_recovery_slot(
    failed_node_name: Option<Name>,
    target_node_name: Option<Name>,
) -> TableIterator<
    'static,
    (
        name!(cloned_slot_name, Option<String>),
        name!(original_slot_name, Option<String>),
        name!(restart_lsn, Option<LocalLsn>),
        name!(success, bool),
        name!(message, Text),
    ),
> {
    let (failed, target) = (failed_node_name.map(|name| name.0), target_node_name.map(|name| name.0));
    let outcome = clone_slot("clone_recovery_slot", failed, target, None).or_raise();
    TableIterator::once(match outcome {
        CloneOutcome::Made { original, clone, message } => {
            (Some(clone.name), Some(original), Some(clone.restart), true, Text::of_message(&message))
        }
        CloneOutcome::Refused { original, message } => (None, original, None, false, Text::of_message(&message)),
    })
}

/// The clones that this node has registered.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recovery_clones() -> TableIterator<
    'static,
    (
        name!(slot_name, String),
        name!(failed_node, Option<Name>),
        name!(target_node, Option<Name>),
        name!(intent_id, Option<Uuid>),
        name!(created_at, TimestampWithTimeZone),
        name!(restart_lsn, Option<LocalLsn>),
        name!(confirmed_flush_lsn, Option<LocalLsn>),
        name!(active, bool),
        name!(usable, bool),
        name!(target_says, Option<&'static str>),
    ),
> {
    require_reader("recovery_clones");
    let rows = clone_upkeep::registered().or_raise().into_iter().map(|clone| {
        let slot = clone.slot.as_ref();
        (
            clone.record.slot,
            clone.record.failed.map(Name),
            clone.record.target.map(Name),
            clone.record.intent.map(|intent| Uuid::from_bytes(intent.0)),
            clone.record.created_at.into(),
            slot.map(|slot| slot.restart),
            slot.map(|slot| slot.confirmed),
            slot.is_some_and(|slot| slot.is_active),
            slot.is_some_and(|slot| !slot.is_invalid),
            clone.record.intent.and(Some(clone.hears.as_str())),
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Assigns a clone to the recovery that uses it. This is final: the clone is kept until the target reports that the
/// recovery has ended.
#[pg_extern(sql = false)]
fn claim_clone(slot_name: Option<Text>, intent_id: Option<Uuid>, failed_node: Option<Name>, target_node: Option<Name>) {
    let claim = || {
        require_slot_user("claim_clone")?;
        let given = |argument| CloneError::NullArgument { argument };
        let slot = slot_name.ok_or(given("slot_name"))?.to_utf8();
        let intent = IntentId(*intent_id.ok_or(given("intent_id"))?.as_bytes());
        let failed = failed_node.ok_or(given("failed_node"))?.0;
        let target = target_node.ok_or(given("target_node"))?.0;
        check_parties(&failed, &target)?;
        storage::update(|journal| tie(journal, &slot, intent, failed, target))
    };
    claim().or_raise();
    // The next steps on the target rely on the claim, whatever synchronous_commit is on this server.
    transaction::commit_durably();
    wake::note(CatalogChange::ThisDatabase);
}

/// Assigns the clone in the journal. The journal must be locked, because the manager takes that lock to drop a clone.
fn tie(journal: &mut Journal, slot: &str, intent: IntentId, failed: String, target: String) -> Result<(), CloneError> {
    let found = slot::find(slot)?.filter(|found| !found.is_unfinished);
    let known = journal.clones.iter().find(|known| known.slot == slot).cloned();
    let Some(found) = found else { return Err(CloneError::NoSuchClone { slot: slot.to_owned() }) };
    let is_here = found.database == Some(process::my_database()) && found.plugin.as_deref() == Some(PLUGIN);
    // If the session that created a clone has ended before it could register it, the name shows that it is a clone.
    if !is_here || (known.is_none() && !is_clone_name(slot)) {
        return Err(CloneError::NotAClone { slot: slot.to_owned() });
    }
    if found.is_invalid {
        return Err(CloneError::Invalid { slot: slot.to_owned() });
    }
    let created_at = known.as_ref().map_or_else(Timestamp::now, |known| known.created_at);
    if let Some(CloneRecord { failed: known_failed, target: known_target, intent: known_intent, .. }) = known {
        if let Some(other) = known_intent.filter(|known| *known != intent) {
            return Err(CloneError::Taken { slot: slot.to_owned(), intent: other });
        }
        let is_other = |known: &Option<String>, name: &str| known.as_deref().is_some_and(|known| known != name);
        if is_other(&known_failed, &failed) || is_other(&known_target, &target) {
            let slot = slot.to_owned();
            return Err(CloneError::ForOthers { slot, failed: known_failed, target: known_target });
        }
    }
    let claimed = CloneRecord {
        slot: slot.to_owned(),
        created_at,
        failed: Some(failed),
        target: Some(target),
        intent: Some(intent),
    };
    if !journal.clones.contains(&claimed) {
        journal.register_clone(claimed);
    }
    Ok(())
}
