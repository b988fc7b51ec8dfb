//! How far this node has applied each origin. A position is read first, then WAL is flushed, and only then is the
//! position reported.
//!
//! Apply workers commit asynchronously, so positions in memory run ahead of the disk. If one were reported before the
//! flush, a crash could take it back after a peer has released the transactions up to it.

use crate::lsn::OriginLsn;
use crate::node::error::RegistryError;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::node::servers;
use crate::node_name::NodeName;
use crate::pg::name::Name;
use crate::pg::{origin, prepared};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::collections::HashMap;

/// One subscription's progress through the WAL of its provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPosition {
    pub subscription: Oid,
    /// None while it is not known from which node the subscription receives.
    pub origin: Option<NodeName>,
    /// 0: the replication origin does not exist.
    pub origin_id: u16,
    /// The subscription's slot at its provider.
    pub slot: Option<String>,
    /// Progress of the replication origin, in memory.
    pub remote: OriginLsn,
    /// The greatest `srsublsn` of the tables that are ready: right after an initial copy `remote` is still 0/0.
    pub copied: OriginLsn,
    /// All tables of the subscription are ready.
    pub is_ready: bool,
    /// Digest of the subscription's tables, their states and `srsublsn`.
    pub tables: i64,
    /// The full id of the transaction that added the newest of the tables that were added without copying; 0: there is
    /// none.
    pub newest_table: u64,
    /// Every transaction with a full id below this one had ended when the tables were read.
    pub settled_below: u64,
}

impl OwnPosition {
    /// applied(this node, origin); durable once WAL is flushed. None: unknown, which never counts as progress.
    pub fn applied(&self) -> Option<OriginLsn> {
        self.remote.max(self.copied).known()
    }
}

/// The positions of all subscriptions of this database that count for slots and plans. Catalogs are read before the
/// origins' progress. Needs a snapshot.
pub fn own_positions() -> Result<Vec<OwnPosition>, RegistryError> {
    let here = servers::here();
    let mut counting: HashMap<Oid, Option<NodeName>> = NativeProvider
        .subscriptions()?
        .into_iter()
        .filter(Subscription::counts)
        .map(|subscription| (subscription.id, subscription.origin.node().cloned()))
        .collect();
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT s.oid, coalesce(o.roident, 0)::pg_catalog.int4, s.subslotname::pg_catalog.text, t.copied,
                    coalesce(t.is_ready, true), coalesce(t.digest, 0), coalesce(t.newest, 0),
                    pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text::pg_catalog.int8
               FROM pg_catalog.pg_subscription s
               LEFT JOIN pg_catalog.pg_replication_origin o ON o.roname = 'pg_' || s.oid
               LEFT JOIN (SELECT r.srsubid,
                                 max(r.srsublsn) FILTER (WHERE r.srsubstate = 'r') AS copied,
                                 bool_and(r.srsubstate = 'r') AS is_ready,
                                 pg_catalog.hashtextextended(string_agg(
                                     r.srrelid || r.srsubstate::pg_catalog.text || coalesce(r.srsublsn, '0/0'), ','
                                     ORDER BY r.srrelid), 0) AS digest,
                                 -- The full id: the newest one before the next that ends in these 32 bits.
                                 max(x.next - ((x.next - r.xmin::pg_catalog.text::pg_catalog.int8) & 4294967295))
                                     FILTER (WHERE r.srsubstate = 'r' AND r.srsublsn IS NULL) AS newest
                            FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                                             ::pg_catalog.text::pg_catalog.int8) x(next),
                                 pg_catalog.pg_subscription_rel r GROUP BY r.srsubid) t ON t.srsubid = s.oid
              WHERE s.subdbid = $1
              ORDER BY s.oid",
            None,
            &[Oid::from_u32(here.database).into()],
        )?;
        let mut positions = Vec::new();
        for row in rows {
            let Some(subscription) = row.get::<Oid>(1)? else {
                continue;
            };
            let Some(origin) = counting.remove(&subscription) else {
                continue;
            };
            positions.push(OwnPosition {
                subscription,
                origin,
                origin_id: row.get::<i32>(2)?.unwrap_or(0) as u16,
                slot: row.get::<String>(3)?,
                remote: OriginLsn::ZERO,
                copied: row.get::<OriginLsn>(4)?.unwrap_or_default(),
                is_ready: row.get::<bool>(5)?.unwrap_or(false),
                tables: row.get::<i64>(6)?.unwrap_or(0),
                newest_table: row.get::<i64>(7)?.unwrap_or(0) as u64,
                settled_below: row.get::<i64>(8)?.unwrap_or(0) as u64,
            });
        }
        for position in &mut positions {
            position.remote = origin::progress(position.origin_id);
        }
        Ok(positions)
    })
}

/// The transactions that a subscription's workers have open, by their virtual transaction ids, followed by those that
/// they have prepared, by their global ids (core's TwoPhaseTransactionGid). A transaction that is prepared during the
/// call is returned at least once.
pub fn transactions_of_workers(subscription: u32) -> Result<Vec<String>, RegistryError> {
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT l.virtualtransaction
               FROM pg_catalog.pg_stat_get_subscription($1) s
               JOIN pg_catalog.pg_lock_status() l ON l.pid = s.pid
              WHERE l.locktype = 'virtualxid'
             UNION ALL
             SELECT gid FROM pg_catalog.pg_prepared_xact()
              WHERE pg_catalog.starts_with(gid, pg_catalog.format('%s%s_', 'pg_gid_', $1::pg_catalog.int8))",
            None,
            &[Oid::from_u32(subscription).into()],
        )?;
        let mut transactions = Vec::new();
        for row in rows {
            transactions.extend(row.get::<String>(1)?);
        }
        Ok(transactions)
    })
}

/// A table of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribedTable {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub is_ready: bool,
    /// Rows up to this position came with the initial copy.
    pub copied: Option<OriginLsn>,
}

/// The tables of a subscription, as the active snapshot sees them.
pub fn tables_of(subscription: u32) -> Result<Vec<SubscribedTable>, RegistryError> {
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT c.oid, n.nspname, c.relname, r.srsubstate = 'r', r.srsublsn
               FROM pg_catalog.pg_subscription_rel r
               JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE r.srsubid = $1",
            None,
            &[Oid::from_u32(subscription).into()],
        )?;
        let mut tables = Vec::new();
        for row in rows {
            let (Some(oid), Some(schema), Some(name)) = (row.get::<Oid>(1)?, row.get::<Name>(2)?, row.get::<Name>(3)?)
            else {
                continue;
            };
            tables.push(SubscribedTable {
                oid: oid.to_u32(),
                schema: schema.0,
                name: name.0,
                is_ready: row.get::<bool>(4)?.unwrap_or(false),
                copied: row.get::<OriginLsn>(5)?.and_then(OriginLsn::known),
            });
        }
        Ok(tables)
    })
}

/// This node's progress through one origin whose node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    pub node: String,
    pub subscription: u32,
    pub origin_id: u16,
    /// Digest of the tables and their states.
    pub tables: i64,
    /// The full id of the transaction that added the newest of the tables that were added without copying; 0: there is
    /// none.
    pub newest_table: u64,
    /// Every transaction with a full id below this one had ended when the tables were read.
    pub settled_below: u64,
    /// Progress of the replication origin.
    pub remote: OriginLsn,
    /// applied(this node, origin).
    pub applied: Option<OriginLsn>,
}
