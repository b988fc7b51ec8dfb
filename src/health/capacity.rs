//! The limits of the server that a rescue may reach, and how much of each is in use.

use super::judge::Capacity;
use crate::pg::setting;
use pgrx::pg_sys::Oid;
use pgrx::{Spi, spi};
use std::ffi::CStr;

/// Every process in pg_stat_activity is a background worker, except for those of these types (miscinit.c,
/// GetBackendTypeDesc).
const BUILT_IN: &str = "'client backend', 'walsender', 'walreceiver', 'autovacuum launcher', 'autovacuum worker', \
                        'background writer', 'checkpointer', 'walwriter', 'walsummarizer', 'archiver', 'startup', \
                        'slotsync worker', 'io worker', 'standalone backend', 'logger', 'dead-end client backend'";

pub struct ServerCapacity {
    pub slots: Capacity,
    pub walsenders: Capacity,
    pub workers: Capacity,
    pub origins: Capacity,
}

/// The number of enabled subscriptions of all databases of the server, and the limit of apply workers.
pub fn apply_workers() -> Result<(i64, i64), spi::Error> {
    let enabled = count("SELECT count(*) FROM pg_catalog.pg_subscription WHERE subenabled")?;
    Ok((enabled, limit(c"max_logical_replication_workers")))
}

/// The limits and their use. Needs a snapshot, and a role that sees other roles' processes.
pub fn of_server() -> Result<ServerCapacity, spi::Error> {
    let origins = match setting::value(c"max_active_replication_origins") {
        Some(_) => ("max_active_replication_origins", c"max_active_replication_origins"),
        // Before PostgreSQL 18 one setting limits both slots and origins.
        None => ("max_replication_slots", c"max_replication_slots"),
    };
    // If the limit is 0, core raises an error instead of showing no rows.
    let active_origins = match limit(origins.1) {
        0 => 0,
        _ => count("SELECT count(*) FROM pg_catalog.pg_show_replication_origin_status()")?,
    };
    Ok(ServerCapacity {
        slots: Capacity {
            setting: "max_replication_slots",
            of: "slots",
            used: count("SELECT count(*) FROM pg_catalog.pg_replication_slots")?,
            limit: limit(c"max_replication_slots"),
        },
        walsenders: Capacity {
            setting: "max_wal_senders",
            of: "walsenders",
            used: count("SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE backend_type = 'walsender'")?,
            limit: limit(c"max_wal_senders"),
        },
        workers: Capacity {
            setting: "max_worker_processes",
            of: "background workers",
            used: count(&format!(
                "SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE backend_type NOT IN ({BUILT_IN})"
            ))?,
            limit: limit(c"max_worker_processes"),
        },
        origins: Capacity {
            setting: origins.0,
            of: "replication origins",
            used: active_origins,
            limit: limit(origins.1),
        },
    })
}

/// How many errors the apply worker of a subscription has had, if none is running now; otherwise 0. A worker that keeps
/// failing is absent most of the time, because core restarts it only every wal_retrieve_retry_interval.
pub fn errors_of_idle(subscription: Oid) -> Result<i64, spi::Error> {
    let question = "SELECT coalesce(apply_error_count, 0) FROM pg_catalog.pg_stat_get_subscription_stats($1)
                     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_get_subscription($1)
                                        WHERE pid IS NOT NULL AND relid IS NULL AND leader_pid IS NULL)";
    Spi::connect(|client| {
        let rows = client.select(question, Some(1), &[subscription.into()])?;
        Ok(rows.into_iter().next().map(|row| row.get::<i64>(1)).transpose()?.flatten().unwrap_or(0))
    })
}

fn limit(name: &CStr) -> i64 {
    setting::value(name).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Runs a query that returns a number. Spi::get_one is not used, because it is not read-only and would assign a
/// transaction id: that is impossible on a standby, and would hinder create_recovery_slot() in the same transaction.
fn count(query: &str) -> Result<i64, spi::Error> {
    Spi::connect(|client| Ok(client.select(query, Some(1), &[])?.first().get_one::<i64>()?.unwrap_or(0)))
}
