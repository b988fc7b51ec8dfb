//! Tables that are rebuilt while their subscriptions go on with the others.
//!
//! Core's apply leaves such a table alone, and a slot of its own keeps on each provider what is to be applied to it
//! afterwards. Once it has been brought to the source's snapshot it gets the state FINISHEDCOPY
//! (catalog/pg_subscription_rel.h), a replication origin at the snapshot's position and a slot, as if core's own initial
//! copy had ended there: a table synchronization worker of core catches up with apply, hands the table back to it, and
//! drops slot and origin (replication/logical/tablesync.c).

use super::error::RecoverError;
use super::rebuild::{self, DONE_UP_TO, Stream};
use super::rebuild_slots::{self, SlotState};
use super::source::Source;
use crate::intent::rebuild::HeldSlot;
use crate::lsn::OriginLsn;
use crate::node::incomplete;
use crate::pg::{origin, process, setting};
use pgrx::Spi;
use std::collections::{BTreeMap, BTreeSet};

/// `SUBREL_STATE_FINISHEDCOPY`.
const COPIED: &str = "f";

/// The name of the slot by which core catches up with a table (ReplicationSlotNameForTablesync).
fn sync_slot(subscription: u32, table: u32) -> String {
    format!("pg_{subscription}_sync_{table}_{}", process::system_identifier())
}

/// Why a subscription cannot go on while some of its tables are rebuilt; None: it can.
///
/// # Errors
/// If the catalogs cannot be read.
pub fn must_stay(subscription: u32) -> Result<Option<&'static str>, RecoverError> {
    if setting::value(c"max_sync_workers_per_subscription").as_deref() == Some("0") {
        return Ok(Some("max_sync_workers_per_subscription is 0, so that core could not catch up with the tables"));
    }
    // Core prepares with the tables' states of that moment, and enables two_phase only when all tables are ready.
    let question = format!(
        "SELECT subtwophasestate <> 'd' FROM pg_catalog.pg_subscription WHERE oid = {subscription}::pg_catalog.oid"
    );
    let is_two_phase = Spi::get_one::<bool>(&question)?.unwrap_or(false);
    Ok(is_two_phase.then_some("it has two_phase, with which core does not catch up with single tables"))
}

/// Makes the slot that keeps what the subscription's own slot keeps now, unless it is there already. Returns where it
/// begins.
///
/// # Errors
/// If the provider cannot make it.
pub fn make_holder(provider: &mut Source, held: &HeldSlot) -> Result<OriginLsn, RecoverError> {
    if rebuild_slots::slot_state(provider, &held.holder)? != SlotState::Usable {
        rebuild_slots::drop_slot(provider, &held.holder)?;
        rebuild_slots::copy_slot(provider, &held.slot, &held.holder)?;
    }
    rebuild_slots::begin_of_holder(provider, held)
}

/// Makes the slot by which core will catch up with a table, anew if it is there: nobody uses it yet.
///
/// # Errors
/// If the provider cannot make it.
pub fn make_sync_slot(provider: &mut Source, held: &HeldSlot, table: u32) -> Result<(), RecoverError> {
    drop_sync_slot(provider, held, table)?;
    rebuild_slots::copy_slot(provider, &held.holder, &sync_slot(held.subscription, table))
}

/// Drops the slot by which core would have caught up with a table, if it is there.
///
/// # Errors
/// If the provider cannot drop it.
pub fn drop_sync_slot(provider: &mut Source, held: &HeldSlot, table: u32) -> Result<(), RecoverError> {
    rebuild_slots::drop_slot(provider, &sync_slot(held.subscription, table))
}

/// Sets the replication origin by which core will catch up with a table to where the table lacks changes. The origin was
/// made in a transaction before: its progress does not roll back with its name.
///
/// # Errors
/// If the origin does not exist.
pub fn set_sync_origin(subscription: u32, table: u32, at: OriginLsn) -> Result<(), RecoverError> {
    rebuild::set_origin(&origin::name_of_sync(subscription, table), at)
}

/// Whether core leaves a table alone in a subscription, until it is handed over.
///
/// # Errors
/// If the catalogs cannot be read.
pub fn is_set_aside(subscription: u32, table: u32) -> Result<bool, RecoverError> {
    let question = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r
                         WHERE r.srsubid = {subscription}::pg_catalog.oid AND r.srrelid = {table}::pg_catalog.oid
                           AND {})",
        incomplete::SET_ASIDE
    );
    Ok(Spi::get_one::<bool>(&question)?.unwrap_or(false))
}

/// Where core goes on with a table that stands at a snapshot with this vector, in a subscription that has gone on.
pub fn position_after(held: &HeldSlot, vector: &BTreeMap<String, OriginLsn>) -> OriginLsn {
    let applied = held.applied.unwrap_or_default();
    vector.get(&held.node).copied().unwrap_or(applied).max(applied)
}

/// Records in every subscription of this node that has the table from where core goes on with it, when the table stands
/// at a snapshot with this vector. Its commit makes the table ready. In the subscriptions that have gone on
/// (`going_on`) core catches up from the origin that was made for it; the others are suspended and have nothing beyond
/// the snapshot. Needs a transaction with a snapshot.
///
/// # Errors
/// If the catalogs cannot be written.
pub fn set_done(
    table: u32,
    vector: &BTreeMap<String, OriginLsn>,
    going_on: &BTreeSet<u32>,
) -> Result<(), RecoverError> {
    for Stream { node, position } in rebuild::streams()? {
        let subscription = position.subscription;
        if going_on.contains(&subscription.to_u32()) {
            hand_over(subscription.to_u32(), table)?;
        } else {
            let at = vector.get(&node).copied().or_else(|| position.applied()).unwrap_or_default();
            rebuild::set_state(&subscription, Some(table), DONE_UP_TO, at)?;
        }
    }
    Ok(())
}

/// Lets core catch up with a table. Needs a transaction with a snapshot.
///
/// # Errors
/// If the catalogs cannot be written.
pub fn hand_over(subscription: u32, table: u32) -> Result<(), RecoverError> {
    Spi::run(&format!(
        "UPDATE pg_catalog.pg_subscription_rel SET srsubstate = '{COPIED}', srsublsn = NULL
          WHERE srsubid = {subscription}::pg_catalog.oid AND srrelid = {table}::pg_catalog.oid"
    ))?;
    Ok(())
}

/// Whether core has not caught up with one of these tables in one of these subscriptions.
///
/// # Errors
/// If the catalogs cannot be read.
pub fn is_behind(going_on: &BTreeSet<u32>, tables: &[u32]) -> Result<bool, RecoverError> {
    let list = |ids: &mut dyn Iterator<Item = u32>| ids.map(|id| format!("{id}")).collect::<Vec<_>>().join(", ");
    let question = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel
                         WHERE srsubid = ANY (ARRAY[{}]::pg_catalog.oid[]) AND srrelid = ANY (ARRAY[{}]::pg_catalog.oid[])
                           AND srsubstate NOT IN ('r', '{DONE_UP_TO}'))",
        list(&mut going_on.iter().copied()),
        list(&mut tables.iter().copied())
    );
    Ok(Spi::get_one::<bool>(&question)?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_goes_on_from_the_snapshot_and_from_nothing_older_than_what_the_table_had() {
        let held = HeldSlot {
            subscription: 7,
            node: "n4".to_owned(),
            slot: "s".to_owned(),
            holder: "h".to_owned(),
            begins: Some(OriginLsn(90)),
            applied: Some(OriginLsn(100)),
        };
        let vector = |at: u64| BTreeMap::from([("n4".to_owned(), OriginLsn(at)), ("n1".to_owned(), OriginLsn(7))]);
        assert_eq!(position_after(&held, &vector(120)), OriginLsn(120));
        assert_eq!(position_after(&held, &vector(80)), OriginLsn(100));
        assert_eq!(position_after(&held, &BTreeMap::new()), OriginLsn(100));
    }
}
