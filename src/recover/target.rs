//! What this node, the target of a recovery, knows about itself and the failed node.

use super::error::RecoverError;
use crate::lsn::OriginLsn;
use crate::node::incomplete;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::name::Name;
use crate::pg::wal;
use crate::slot::positions;
use crate::slot::record_storage;
use crate::slot::snapshot::snapshot;
use crate::slot::vouching;
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::collections::HashSet;

/// A table that the subscription from the failed node replicates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetTable {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    pub is_ready: bool,
    /// The origin LSN up to which rows came with the initial copy, or with a rebuild.
    pub from: OriginLsn,
}

#[derive(Clone, Debug)]
pub struct TargetFacts {
    pub local: String,
    pub subscription: Oid,
    pub origin_id: u16,
    /// The origin LSN up to which the failed node is applied, durably.
    pub applied: OriginLsn,
    /// The origin LSN up to which this node is past the failed node's WAL; never less than `applied`.
    pub passed: OriginLsn,
    pub tables: Vec<TargetTable>,
    /// The nodes by the ids of the replication origins of this node's subscriptions.
    pub nodes: Vec<(u16, String)>,
}

impl TargetFacts {
    /// The replicated tables by schema and name.
    pub fn table_names(&self) -> HashSet<(String, String)> {
        self.tables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect()
    }
}

/// Reads the facts. Needs a transaction with a snapshot.
///
/// # Errors
///
/// If there is not exactly one subscription from the failed node, its progress is unknown, or a table is not ready.
pub fn look(failed: &str) -> Result<TargetFacts, RecoverError> {
    let local = NativeProvider.local_node()?.ok_or(RecoverError::NoLocalNode)?.name.to_string();
    let seen = snapshot();
    let all = positions::own_positions()?;
    let name_of = |position: &positions::OwnPosition| position.origin.as_ref().map(ToString::to_string);
    let nodes = all.iter().filter_map(|position| Some((position.origin_id, name_of(position)?))).collect();
    let mut own = all.iter().filter(|position| name_of(position).as_deref() == Some(failed));
    let position = own.next().ok_or_else(|| RecoverError::NoSubscription { failed: failed.to_owned() })?;
    if own.next().is_some() {
        return Err(RecoverError::SeveralSubscriptions { node: local, failed: failed.to_owned() });
    }
    let passed = seen.map_or(OriginLsn::ZERO, |seen| seen.confirmed_of(position.subscription));
    let record = record_storage::read()?;
    wal::flush();
    let unknown = || RecoverError::ProgressUnknown { failed: failed.to_owned() };
    if position.origin_id == 0 {
        return Err(unknown());
    }
    // If nothing was applied, what is missing begins where the subscription began.
    let beginning = vouching::beginning(record.as_ref(), position, passed);
    let applied = position.applied().or(beginning).ok_or_else(unknown)?;
    let passed = passed.max(vouching::written_passed(record.as_ref(), position));
    let tables = tables(position.subscription)?;
    if let Some(table) = tables.iter().find(|table| !table.is_ready) {
        return Err(RecoverError::TableNotReady {
            table: format!("{}.{}", table.schema, table.name),
            failed: failed.to_owned(),
        });
    }
    Ok(TargetFacts {
        local,
        subscription: position.subscription,
        origin_id: position.origin_id,
        applied,
        passed: passed.max(applied),
        tables,
        nodes,
    })
}

fn tables(subscription: Oid) -> Result<Vec<TargetTable>, RecoverError> {
    Spi::connect(|client| {
        let question = format!(
            "SELECT c.oid, n.nspname, c.relname, r.srsubstate IN ('r', 's') AND NOT ({}), r.srsublsn
               FROM pg_catalog.pg_subscription_rel r
               JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE r.srsubid = $1
              ORDER BY c.oid",
            incomplete::SET_ASIDE
        );
        let rows = client.select(&question, None, &[subscription.into()])?;
        let mut tables = Vec::new();
        for row in rows {
            let (Some(oid), Some(schema), Some(name)) = (row.get::<Oid>(1)?, row.get::<Name>(2)?, row.get::<Name>(3)?)
            else {
                continue;
            };
            tables.push(TargetTable {
                oid,
                schema: schema.0,
                name: name.0,
                is_ready: row.get::<bool>(4)?.unwrap_or(false),
                from: row.get::<OriginLsn>(5)?.unwrap_or_default(),
            });
        }
        Ok(tables)
    })
}
