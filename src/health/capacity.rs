//! The server's limits that a rescue may run into, and how much of each is in use.

use super::judge::Capacity;
use crate::pg::setting;
use pgrx::pg_sys::Oid;
use pgrx::{Spi, spi};
use std::ffi::CStr;

/// Whatever stands in pg_stat_activity is a background worker but for these (miscinit.c, GetBackendTypeDesc).
const BUILT_IN: &str = "'client backend', 'walsender', 'walreceiver', 'autovacuum launcher', 'autovacuum worker', \
                        'background writer', 'checkpointer', 'walwriter', 'walsummarizer', 'archiver', 'startup', \
                        'slotsync worker', 'io worker', 'standalone backend', 'logger', 'dead-end client backend'";

pub struct ServerCapacity {
    pub slots: Capacity,
    pub walsenders: Capacity,
    pub workers: Capacity,
    pub origins: Capacity,
}

/// Enabled subscriptions of all databases of the server, and how many apply workers there may be.
pub fn apply_workers() -> Result<(i64, i64), spi::Error> {
    let enabled = count("SELECT count(*) FROM pg_catalog.pg_subscription WHERE subenabled")?;
    Ok((enabled, limit(c"max_logical_replication_workers")))
}

/// Needs a snapshot, and a role that sees other roles' processes.
pub fn of_server() -> Result<ServerCapacity, spi::Error> {
    let origins = match setting::value(c"max_active_replication_origins") {
        Some(_) => ("max_active_replication_origins", c"max_active_replication_origins"),
        // Before 18 one setting was for both.
        None => ("max_replication_slots", c"max_replication_slots"),
    };
    // Without any, core refuses to show them.
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

/// How often a subscription could not apply what has come, where no worker of it runs now; else 0. A worker that fails is away for
/// most of the time: core starts it anew every wal_retrieve_retry_interval.
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

/// Not Spi::get_one, which is ready to write and would take a transaction id: impossible on a standby, and in the way of
/// create_recovery_slot() in the same transaction.
fn count(query: &str) -> Result<i64, spi::Error> {
    Spi::connect(|client| Ok(client.select(query, Some(1), &[])?.first().get_one::<i64>()?.unwrap_or(0)))
}
