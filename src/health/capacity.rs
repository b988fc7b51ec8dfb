//! The server's limits that a rescue may run into, and how much of each is in use.

use super::judge::Capacity;
use crate::pg::setting;
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
            used: count("SELECT count(*) FROM pg_catalog.pg_replication_slots")?,
            limit: limit(c"max_replication_slots"),
        },
        walsenders: Capacity {
            setting: "max_wal_senders",
            used: count("SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE backend_type = 'walsender'")?,
            limit: limit(c"max_wal_senders"),
        },
        workers: Capacity {
            setting: "max_worker_processes",
            used: count(&format!(
                "SELECT count(*) FROM pg_catalog.pg_stat_get_activity(NULL) WHERE backend_type NOT IN ({BUILT_IN})"
            ))?,
            limit: limit(c"max_worker_processes"),
        },
        origins: Capacity { setting: origins.0, used: active_origins, limit: limit(origins.1) },
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
