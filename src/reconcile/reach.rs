//! How far the target and the source have got, each by its own account.

use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::wal;
use crate::recover::error::RecoverError;
use crate::recover::facts;
use crate::recover::source::Source;
use crate::slot::positions;
use crate::slot::snapshot::snapshot;
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use pgrx::spi::quote_literal;
use std::collections::{HashMap, HashSet};

/// A node's progress.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// How far the node has applied each node that it receives from.
    pub applied: HashMap<String, OriginLsn>,
    /// How far it is past each of these nodes, including WAL that held nothing for it.
    pub passed: HashMap<String, OriginLsn>,
    /// How much it has received from each, whether applied, skipped, or about to be: all that it has dealt with lies
    /// before.
    pub received: HashMap<String, OriginLsn>,
    /// The nodes that it receives from, by the ids of its replication origins.
    pub origins: HashMap<u16, String>,
    /// Its slots at the nodes that it receives from.
    pub slots: HashMap<String, String>,
    /// Where its own WAL ends, as an origin LSN to its peers.
    pub wal_end: OriginLsn,
    /// How far the other of the two nodes is past this node's WAL; None if it does not receive from this node.
    pub others_passed: Option<OriginLsn>,
    /// How often it has failed to apply changes from each node.
    pub errors: HashMap<String, i64>,
    /// Of the source alone: the names of its subscriptions, by the nodes that they receive from.
    pub subscriptions: HashMap<String, String>,
    /// Of the source alone: the nodes for whose subscriptions no worker is running at this moment.
    pub idle: HashSet<String>,
    /// The nodes from which it does not receive, because the subscription is disabled.
    pub disabled: Vec<String>,
    /// Of the target alone: the nodes that do not answer at this moment.
    pub silent: Vec<String>,
}

/// The progress of this node. `source_slot` is the slot on this node that the source receives from. Needs a transaction
/// with a snapshot.
pub fn of_target(source_slot: Option<&str>) -> Result<Reach, RecoverError> {
    let seen = snapshot();
    let mut view = Reach::default();
    for position in positions::own_positions()? {
        let Some(node) = position.origin.as_ref().map(ToString::to_string) else { continue };
        let confirmed = seen.as_ref().map_or(OriginLsn::ZERO, |seen| seen.confirmed_of(position.subscription));
        let applied = position.applied().unwrap_or(OriginLsn::ZERO);
        view.applied.insert(node.clone(), applied);
        view.passed.insert(node.clone(), applied.max(confirmed));
        view.origins.insert(position.origin_id, node.clone());
        view.slots.extend(position.slot.map(|slot| (node, slot)));
    }
    // WAL that is not flushed is not sent.
    wal::flush();
    view.wal_end = wal::flushed().as_origin();
    for subscription in NativeProvider.subscriptions()? {
        let Some(node) = subscription.origin.node() else { continue };
        view.errors.insert(node.to_string(), errors_of(subscription.id)?);
        view.received.extend(received_of(subscription.id)?.map(|lsn| (node.to_string(), lsn)));
        if !subscription.is_enabled {
            view.disabled.push(node.to_string());
        } else if facts::known_to_be_silent(node.as_str())?.is_some() {
            view.silent.push(node.to_string());
        }
    }
    if let Some(slot) = source_slot {
        view.others_passed = crate::pg::slot::find(slot)?.map(|slot| slot.confirmed.as_origin());
    }
    Ok(view)
}

/// The oids of the tables that this node replicates, by the nodes that they come from, with the tables' partitions and
/// partition ancestors. Needs a transaction with a snapshot.
pub fn tables() -> Result<HashMap<String, HashSet<u32>>, RecoverError> {
    let mut tables: HashMap<String, HashSet<u32>> = HashMap::new();
    for subscription in NativeProvider.subscriptions()? {
        let Some(node) = subscription.origin.node() else { continue };
        let of_node = tables.entry(node.to_string()).or_default();
        Spi::connect(|client| {
            let rows = client.select(
                "SELECT t FROM pg_catalog.pg_subscription_rel r, LATERAL (
                        SELECT r.srrelid UNION SELECT a FROM pg_catalog.pg_partition_ancestors(r.srrelid) a
                         UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(r.srrelid) p) x(t)
                  WHERE r.srsubid = $1",
                None,
                &[subscription.id.into()],
            )?;
            for row in rows {
                of_node.extend(row.get::<Oid>(1)?.map(Oid::to_u32));
            }
            Ok::<_, RecoverError>(())
        })?;
    }
    Ok(tables)
}

fn received_of(subscription: Oid) -> Result<Option<OriginLsn>, RecoverError> {
    let question = "SELECT max(received_lsn) FROM pg_catalog.pg_stat_get_subscription($1)
                     WHERE relid IS NULL AND leader_pid IS NULL";
    Ok(Spi::get_one_with_args(question, &[subscription.into()])?)
}

/// How often a row was in the way of an incoming change. PostgreSQL 17 does not count conflicts, so every apply error
/// counts.
fn errors_of(subscription: Oid) -> Result<i64, RecoverError> {
    #[cfg(feature = "pg17")]
    let question = "SELECT apply_error_count FROM pg_catalog.pg_stat_get_subscription_stats($1)";
    #[cfg(feature = "pg18")]
    let question = "SELECT confl_insert_exists + confl_update_exists + confl_multiple_unique_conflicts
                      FROM pg_catalog.pg_stat_get_subscription_stats($1)";
    Ok(Spi::get_one_with_args(question, &[subscription.into()])?.unwrap_or(0))
}

/// The progress of the source. `target_slot` is the slot on the source that the target receives from.
///
/// # Errors
///
/// If the source cannot be asked, or gives an unexpected answer.
pub fn of_source(source: &mut Source, target_slot: Option<&str>) -> Result<Reach, RecoverError> {
    let mut view = Reach::default();
    let rows = source.rows(
        "SELECT p.origin_node, p.applied_lsn, p.passed_lsn,
                p.origin_id, p.slot_name, CASE WHEN s.subenabled THEN 1 ELSE 0 END, s.subname,
                coalesce((SELECT e.apply_error_count FROM pg_catalog.pg_stat_get_subscription_stats(s.oid) e), 0),
                (SELECT count(*) FROM pg_catalog.pg_stat_get_subscription(s.oid) w
                  WHERE w.pid IS NOT NULL AND w.relid IS NULL AND w.leader_pid IS NULL)
           FROM spock.node_positions(false::pg_catalog.bool) p JOIN pg_catalog.pg_subscription s ON s.oid = p.subscription
          WHERE p.origin_node IS NOT NULL",
        9,
    )?;
    for row in rows {
        let (node, origin): (String, u16) = (source.read(row.value(0))?, source.read(row.value(3))?);
        let lsn = |column| Ok::<OriginLsn, RecoverError>(source.read(row.optional(column))?.unwrap_or_default());
        let (applied, passed) = (lsn(1)?, lsn(2)?);
        view.slots.extend(source.read(row.optional::<String>(4))?.map(|slot| (node.clone(), slot)));
        view.origins.insert(origin, node.clone());
        if source.read(row.value::<i32>(5))? == 0 {
            view.disabled.push(node.clone());
        }
        view.subscriptions.insert(node.clone(), source.read(row.value(6))?);
        view.errors.insert(node.clone(), source.read(row.value(7))?);
        if source.read(row.value::<i64>(8))? == 0 {
            view.idle.insert(node.clone());
        }
        view.applied.insert(node.clone(), applied);
        view.passed.insert(node, applied.max(passed));
    }
    let slot = quote_literal(target_slot.unwrap_or_default());
    let rows = source.rows(
        &format!(
            "SELECT pg_catalog.pg_current_wal_insert_lsn(),
                    (SELECT confirmed_flush_lsn
                       FROM pg_catalog.pg_replication_slots WHERE slot_name = {slot})"
        ),
        2,
    )?;
    if let Some(row) = rows.first() {
        view.wal_end = source.read(row.value(0))?;
        view.others_passed = source.read(row.optional(1))?;
    }
    Ok(view)
}
