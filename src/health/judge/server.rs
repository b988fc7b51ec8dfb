//! The checks of the server: its settings, its limits, its manager, and whether it is a node at all (pure).

use super::{Check, Status, check, dropping};
use crate::quoted::literal;
use crate::slot::plugin_list;

/// Settings of the server, as SHOW displays them. None: this server does not have the setting.
#[derive(Clone, Debug, Default)]
pub struct ServerSettings {
    pub wal_level: String,
    pub track_commit_timestamp: bool,
    pub max_slot_wal_keep_size: Option<String>,
    pub idle_replication_slot_timeout: Option<String>,
    pub output_plugin_libraries: Option<String>,
}

pub fn wal_level(settings: &ServerSettings) -> Check {
    if settings.wal_level == "logical" {
        check("wal_level", Status::Healthy, "logical")
    } else {
        check(
            "wal_level",
            Status::Critical,
            format!("wal_level = {}: ALTER SYSTEM SET wal_level = logical, and restart", settings.wal_level),
        )
    }
}

/// The settings that may invalidate the slot.
pub fn invalidation(settings: &ServerSettings) -> Check {
    let mut found = Vec::new();
    if let Some(size) = settings.max_slot_wal_keep_size.as_deref().filter(|size| *size != "-1") {
        found.push(format!(
            "max_slot_wal_keep_size = {size} can invalidate the slot; use spock.recovery_slot_max_wal instead"
        ));
    }
    if let Some(limit) = settings.idle_replication_slot_timeout.as_deref().filter(|limit| *limit != "0") {
        found.push(format!(
            "idle_replication_slot_timeout = {limit}: the manager touches the slot in time, but not while it is stopped"
        ));
    }
    if found.is_empty() {
        check("slot_invalidation", Status::Healthy, "no setting can invalidate the slot")
    } else {
        check("slot_invalidation", Status::Warning, found.join("; "))
    }
}

pub fn commit_timestamps(settings: &ServerSettings) -> Check {
    if settings.track_commit_timestamp {
        check("track_commit_timestamp", Status::Healthy, "on")
    } else {
        check(
            "track_commit_timestamp",
            Status::Warning,
            "off: a recovery cannot tell which of two versions of a row is the later one; ALTER SYSTEM SET \
             track_commit_timestamp = on, and restart",
        )
    }
}

pub fn output_plugin(settings: &ServerSettings) -> Check {
    let name = "output_plugin_libraries";
    let list = settings.output_plugin_libraries.as_deref();
    match plugin_list::check(list) {
        Ok(()) if list.is_none() => check(name, Status::Healthy, "this minor version does not restrict output plugins"),
        Ok(()) => check(name, Status::Healthy, "lists spock_recovery"),
        Err(advice) => check(name, Status::Warning, advice),
    }
}

/// A limit of the server, and how much of it is in use.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub setting: &'static str,
    /// What is limited, in the plural.
    pub of: &'static str,
    pub used: i64,
    pub limit: i64,
}

/// A recovery needs one slot and one walsender on its source, and one background worker and one replication origin on its
/// target.
pub fn capacity(capacities: &[Capacity]) -> Check {
    let full: Vec<String> = capacities
        .iter()
        .filter(|capacity| capacity.used >= capacity.limit)
        .map(|capacity| format!("all of {} = {} are in use by {}", capacity.setting, capacity.limit, capacity.of))
        .collect();
    if full.is_empty() {
        let free: Vec<String> = capacities
            .iter()
            .map(|capacity| {
                let Capacity { setting, of, used, limit } = capacity;
                format!("{} of {limit} {of} ({setting})", limit - used)
            })
            .collect();
        check("rescue_capacity", Status::Healthy, format!("free: {}", free.join(", ")))
    } else {
        check(
            "rescue_capacity",
            Status::Critical,
            format!("{}; a recovery needs one: raise it and restart", full.join("; ")),
        )
    }
}

/// After a recovery as many apply workers must run as before: one for each enabled subscription of the server.
pub fn apply_workers(enabled: i64, limit: i64) -> Check {
    let name = "apply_workers";
    let details = format!("enabled subscriptions of this server: {enabled}, max_logical_replication_workers = {limit}");
    if enabled <= limit {
        return check(name, Status::Healthy, details);
    }
    check(
        name,
        Status::Critical,
        format!(
            "{details}: not all of them can run at the same time; ALTER SYSTEM SET max_logical_replication_workers = \
             {}, with as many more of max_worker_processes, and restart",
            enabled + 1
        ),
    )
}

/// A standby of a node. The node is its primary, and no worker of this extension runs here.
pub fn standby() -> Check {
    check(
        "standby",
        Status::Healthy,
        "this server is a standby: ask its primary; after a promotion, this server is the node",
    )
}

/// This database is no node.
pub fn no_node() -> Check {
    let details =
        "this database is not a node: SELECT spock.node_create('n1', 'host=… port=5432 dbname=…') makes it one";
    check("node", Status::Missing, details)
}

/// A copy of a node that is elsewhere, or that was here before pg_upgrade: nothing is protected. `unadoptable` is an
/// unreadable document that node_create() would have to adopt; `unreadable` is one of this database's own.
pub fn copy(node: &str, unadoptable: Option<&str>, unreadable: Option<&str>) -> Check {
    let adoption = match unadoptable {
        None => {
            format!("SELECT spock.node_create({}, 'host=…') if it takes that node's place", literal(node))
        }
        Some(document) => format!(
            "it can take that node's place once document {document} can be read: the row of that document says how to \
             repair it"
        ),
    };
    check(
        "copy",
        Status::Critical,
        format!(
            "this database is a copy of node \"{node}\", and spock_recovery does nothing in it: {adoption}; if it is \
             not to be a node: {}",
            dropping(node, unreadable)
        ),
    )
}

/// The manager of this database.
#[derive(Clone, Debug, Default)]
pub struct ManagerFacts {
    /// Zero: none is running.
    pub pid: i32,
    /// Seconds since the end of the last round in which the manager could read the catalogs; None: there was none yet.
    pub good_round_s: Option<u64>,
    /// The time between two rounds, in seconds.
    pub interval_s: u64,
    pub skips: u32,
    pub skipped: String,
}

/// How many rounds may be missed before the check fails, because a catalog may be locked for a while.
const MISSED_ROUNDS: u64 = 10;

/// The least silence that makes the check fail, in seconds.
const LEAST_SILENCE_S: u64 = 60;

pub fn manager(facts: &ManagerFacts) -> Check {
    let name = "manager";
    let skips = match facts.skips {
        0 => String::new(),
        1 => format!("; it skips {}", facts.skipped),
        several => format!("; it skips {several} objects, the first of them {}", facts.skipped),
    };
    if facts.pid == 0 {
        return check(
            name,
            Status::Critical,
            format!(
                "no manager is running for this database: the launcher starts one; see the server's log for the \
                 cause{skips}"
            ),
        );
    }
    let round = facts.good_round_s.map_or_else(
        || "which has not finished a round yet".to_owned(),
        |seconds| format!("last successful round {seconds} s ago"),
    );
    let is_silent = facts.good_round_s.is_some_and(|s| s > (facts.interval_s * MISSED_ROUNDS).max(LEAST_SILENCE_S));
    let status = match facts.good_round_s {
        _ if is_silent => Status::Critical,
        None => Status::Warning,
        Some(_) if facts.skips > 0 => Status::Warning,
        Some(_) => Status::Healthy,
    };
    check(name, status, format!("process {}, {round}{skips}", facts.pid))
}

/// `failed`: how many automatic restore points were not made, one after the other; `why` the last was not. A worker that
/// has died has left no reason.
pub fn automatic_points(failed: u32, why: &str) -> Option<Check> {
    let count = match failed {
        0 => return None,
        1 => "the last one was not made".to_owned(),
        several => format!("the last {several} were not made"),
    };
    let why = if why.is_empty() { "its worker has ended; see the server's log" } else { why };
    let details = format!(
        "spock.restore_point_interval asks for restore points, and {count}: {why}; SELECT * FROM \
         spock.create_restore_point('…') says more"
    );
    Some(check("automatic_restore_points", Status::Warning, details))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_restore_points_are_told_only_if_they_fail() {
        assert_eq!(automatic_points(0, "old"), None);
        let told = |failed, why| automatic_points(failed, why).map(|check| check.details).unwrap_or_default();
        assert!(told(1, "no background worker is free").contains("the last one was not made: no background worker"));
        assert!(told(3, "").contains("the last 3 were not made: its worker has ended"));
    }

    #[test]
    fn the_plugin_must_be_listed_by_its_own_name() {
        let verdict = |list: &str| {
            let settings =
                ServerSettings { output_plugin_libraries: Some(list.to_owned()), ..ServerSettings::default() };
            output_plugin(&settings)
        };
        assert_eq!(output_plugin(&ServerSettings::default()).status, Status::Healthy);
        assert_eq!(verdict("pgoutput, test_decoding, spock_recovery").status, Status::Healthy);
        assert_eq!(verdict("pgoutput, \"spock_recovery\"").status, Status::Healthy);
        assert_eq!(verdict("pgoutput,spock_recovery_old").status, Status::Warning);
        let missing = verdict("pgoutput, test_decoding");
        assert!(missing.details.contains("= pgoutput, test_decoding, spock_recovery;"), "{}", missing.details);
    }

    #[test]
    fn a_copy_is_told_to_do_only_what_is_not_refused() {
        let verdict = |unadoptable, unreadable| copy("n'1", unadoptable, unreadable).details;
        let plain = verdict(None, None);
        assert!(plain.contains("SELECT spock.node_create('n''1', 'host=…')"), "{plain}");
        assert!(plain.ends_with("SELECT spock.node_drop('n''1')"), "{plain}");
        let told = verdict(Some("label of SUBSCRIPTION s"), None);
        assert!(!told.contains("node_create") && told.contains("SELECT spock.node_drop('n''1')"), "{told}");
        assert!(told.contains("once document label of SUBSCRIPTION s can be read"), "{told}");
        let told = verdict(None, Some("journal"));
        assert!(told.contains("SELECT spock.node_create") && !told.contains("node_drop"), "{told}");
        assert!(told.contains("once document journal can be read"), "{told}");
    }

    #[test]
    fn settings_that_could_take_the_slot_are_warned_of() {
        let settings = |size: &str, idle: &str| ServerSettings {
            max_slot_wal_keep_size: Some(size.to_owned()),
            idle_replication_slot_timeout: Some(idle.to_owned()),
            ..ServerSettings::default()
        };
        assert_eq!(invalidation(&settings("-1", "0")).status, Status::Healthy);
        assert_eq!(invalidation(&settings("100MB", "0")).status, Status::Warning);
        assert_eq!(invalidation(&settings("-1", "1min")).status, Status::Warning);
    }

    #[test]
    fn a_limit_that_is_used_up_is_critical() {
        // Before PostgreSQL 18 one setting limits both.
        let of = |of, used| Capacity { setting: "max_replication_slots", of, used, limit: 10 };
        let told = |slots, origins| capacity(&[of("slots", slots), of("origins", origins)]);
        let free = told(9, 4);
        assert_eq!(free.status, Status::Healthy);
        assert_eq!(
            free.details,
            "free: 1 of 10 slots (max_replication_slots), 6 of 10 origins (max_replication_slots)"
        );
        let full = told(9, 10);
        assert_eq!(full.status, Status::Critical);
        assert!(
            full.details.starts_with("all of max_replication_slots = 10 are in use by origins;"),
            "{}",
            full.details
        );
    }

    #[test]
    fn every_enabled_subscription_needs_a_worker() {
        assert_eq!(apply_workers(4, 4).status, Status::Healthy);
        let verdict = apply_workers(5, 4);
        assert_eq!(verdict.status, Status::Critical);
        assert!(verdict.details.contains("max_logical_replication_workers = 6"), "{}", verdict.details);
    }

    #[test]
    fn the_manager_is_judged_by_its_process_its_last_good_round_and_what_it_skips() {
        let fine = ManagerFacts { pid: 7, good_round_s: Some(1), interval_s: 2, ..ManagerFacts::default() };
        assert_eq!(manager(&fine).status, Status::Healthy);
        let skips = ManagerFacts { skips: 2, skipped: "peer \"n3\": why".to_owned(), ..fine.clone() };
        let verdict = manager(&skips);
        assert_eq!(verdict.status, Status::Warning);
        assert!(verdict.details.contains("skips 2 objects, the first of them peer \"n3\": why"), "{}", verdict.details);
        assert_eq!(manager(&ManagerFacts { pid: 0, ..fine.clone() }).status, Status::Critical);
        assert_eq!(manager(&ManagerFacts { good_round_s: None, ..fine.clone() }).status, Status::Warning);
        for (seconds, interval, expected) in [
            (60, 2, Status::Healthy),
            (61, 2, Status::Critical),
            (61, 60, Status::Healthy),
            (601, 60, Status::Critical),
        ] {
            let facts = ManagerFacts { good_round_s: Some(seconds), interval_s: interval, ..fine.clone() };
            assert_eq!(manager(&facts).status, expected, "{seconds} s of {interval} s");
        }
    }
}
