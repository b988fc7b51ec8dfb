//! Replication slots (replication/slot.h), through the SQL functions where there are any.

use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use crate::pg::prepared;
use pgrx::pg_sys::{self, Oid};
use pgrx::{Spi, spi};
use std::ffi::CString;

/// A slot, as pg_replication_slots shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub name: String,
    pub database: Option<Oid>,
    pub plugin: Option<String>,
    pub restart: LocalLsn,
    pub confirmed: LocalLsn,
    /// Whether it has lost WAL or was invalidated, so that nothing can be decoded from it.
    pub is_invalid: bool,
    /// Whether it is still being created: it has no position yet, and disappears if its creation fails.
    pub is_unfinished: bool,
    /// Whether a process has acquired it.
    pub is_active: bool,
    pub inactive_since: Option<Timestamp>,
}

/// The slot of that name, if there is one. Needs a snapshot.
pub fn find(name: &str) -> Result<Option<Slot>, spi::Error> {
    Ok(select("s.slot_name = $1::pg_catalog.name", name.into())?.into_iter().next())
}

/// The persistent slots of this database with the given output plugin whose creation is finished. Needs a snapshot.
pub fn with_plugin_here(plugin: &str) -> Result<Vec<Slot>, spi::Error> {
    let here = super::process::my_database();
    let found = select("s.plugin = $1::pg_catalog.name AND NOT s.temporary", plugin.into())?;
    Ok(found.into_iter().filter(|slot| slot.database == Some(here) && !slot.is_unfinished).collect())
}

fn select(condition: &str, argument: pgrx::datum::DatumWithOid<'_>) -> Result<Vec<Slot>, spi::Error> {
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            &format!(
                "SELECT s.slot_name::pg_catalog.text, s.datoid, s.plugin::pg_catalog.text,
                        s.restart_lsn, s.confirmed_flush_lsn,
                        s.wal_status = 'lost' OR s.invalidation_reason IS NOT NULL, s.active, s.inactive_since,
                        s.confirmed_flush_lsn IS NULL
                   FROM pg_catalog.pg_replication_slots s WHERE {condition}"
            ),
            None,
            &[argument],
        )?;
        let mut found = Vec::new();
        for row in rows {
            found.push(Slot {
                name: row.get::<String>(1)?.unwrap_or_default(),
                database: row.get::<Oid>(2)?,
                plugin: row.get::<String>(3)?,
                restart: row.get::<LocalLsn>(4)?.unwrap_or_default(),
                confirmed: row.get::<LocalLsn>(5)?.unwrap_or_default(),
                is_invalid: row.get::<bool>(6)?.unwrap_or(false),
                is_unfinished: row.get::<bool>(9)?.unwrap_or(false),
                is_active: row.get::<bool>(7)?.unwrap_or(false),
                inactive_since: row.get::<pgrx::datum::TimestampWithTimeZone>(8)?.map(Timestamp::from),
            });
        }
        Ok(found)
    })
}

/// The persistent logical slots of this database. Needs a snapshot.
pub fn persistent_here() -> Result<Vec<Slot>, spi::Error> {
    select("s.datoid = $1 AND NOT s.temporary", super::process::my_database().into())
}

/// The slot of that name, if it belongs to this database and its creation is finished. Needs a snapshot.
pub fn find_here(name: &str) -> Result<Option<Slot>, spi::Error> {
    let here = super::process::my_database();
    Ok(find(name)?.filter(|found| found.database == Some(here) && !found.is_unfinished))
}

/// Creates a logical slot with a decoding snapshot, which waits for every running transaction. Needs a transaction that
/// has written nothing.
pub fn create(name: &str, failover: bool) -> Result<(), spi::Error> {
    Spi::connect(|client| {
        client.select(
            "SELECT pg_catalog.pg_create_logical_replication_slot($1::pg_catalog.name, 'pgoutput', false, false, $2)",
            Some(1),
            &[name.into(), failover.into()],
        )?;
        Ok(())
    })
}

/// Copies a logical slot, with its positions and its decoding snapshot, to a persistent slot with another output
/// plugin. Needs a transaction that has written nothing, and a role with REPLICATION.
pub fn copy(original: &str, name: &str, plugin: &str) -> Result<(), spi::Error> {
    Spi::connect(|client| {
        client.select(
            "SELECT pg_catalog.pg_copy_logical_replication_slot($1::pg_catalog.name, $2::pg_catalog.name, false,
                                                                $3::pg_catalog.name)",
            Some(1),
            &[original.into(), name.into(), plugin.into()],
        )?;
        Ok(())
    })
}

/// Moves the slot forward. What it passes cannot be decoded again.
pub fn advance(name: &str, to: LocalLsn) -> Result<(), spi::Error> {
    Spi::connect(|client| {
        client.select(
            "SELECT pg_catalog.pg_replication_slot_advance($1::pg_catalog.name, $2::pg_catalog.pg_lsn)",
            Some(1),
            &[name.into(), to.to_string().into()],
        )?;
        Ok(())
    })
}

pub fn drop(name: &str) -> Result<(), spi::Error> {
    Spi::connect(|client| {
        client.select("SELECT pg_catalog.pg_drop_replication_slot($1::pg_catalog.name)", Some(1), &[name.into()])?;
        Ok(())
    })
}

/// Acquires and releases the slot, which resets its idle time without decoding anything.
pub fn touch(name: &str) {
    let Ok(name) = CString::new(name) else { return };
    // SAFETY: an ERROR leaves no slot acquired; an acquired slot is released at once.
    unsafe {
        super::compat::acquire_slot(&name);
        pg_sys::ReplicationSlotRelease();
    }
}

/// Releases a slot that this process still holds after an ERROR that was caught. Core does so in its main loops, not in
/// the abort of a transaction.
pub fn release_after_error() {
    // SAFETY: as core does in PostgresMain after an error.
    unsafe {
        if !pg_sys::MyReplicationSlot.is_null() {
            pg_sys::ReplicationSlotRelease();
        }
    }
}

/// max_slot_wal_keep_size in bytes; None: no limit.
pub fn max_slot_wal_keep_bytes() -> Option<u64> {
    // SAFETY: a setting of this process; -1 means no limit.
    let megabytes = unsafe { pg_sys::max_slot_wal_keep_size_mb };
    u64::try_from(megabytes).ok().map(|megabytes| megabytes << 20)
}

/// How far the apply worker of a subscription has received, if it is running. Needs a snapshot.
pub fn received_by(subscription: Oid) -> Result<Option<OriginLsn>, spi::Error> {
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT received_lsn FROM pg_catalog.pg_stat_subscription
              WHERE subid = $1 AND relid IS NULL AND received_lsn IS NOT NULL",
            Some(1),
            &[subscription.into()],
        )?;
        match rows.into_iter().next() {
            Some(row) => row.get(1),
            None => Ok(None),
        }
    })
}

/// When the oldest unfinished transaction began that has written something, including prepared ones. Decoding can start
/// only before it.
pub fn oldest_writer() -> Result<Option<Timestamp>, spi::Error> {
    Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT min(t.since) FROM (
                SELECT a.xact_start AS since FROM pg_catalog.pg_stat_activity a
                 WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
                UNION ALL SELECT p.prepared FROM pg_catalog.pg_prepared_xacts p) t",
            Some(1),
            &[],
        )?;
        match rows.into_iter().next() {
            Some(row) => Ok(row.get::<pgrx::datum::TimestampWithTimeZone>(1)?.map(Timestamp::from)),
            None => Ok(None),
        }
    })
}
