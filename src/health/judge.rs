//! The verdicts (pure).

use crate::slot::retention::ANNOUNCED_AT;
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Healthy,
    Warning,
    Missing,
    Disabled,
    Critical,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Status::Healthy => "HEALTHY",
            Status::Warning => "WARNING",
            Status::Missing => "MISSING",
            Status::Disabled => "DISABLED",
            Status::Critical => "CRITICAL",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub name: String,
    pub status: Status,
    pub details: String,
}

/// A name as an identifier, quoted whatever it is: this file is pure, and core's rule is core's.
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn check(name: &str, status: Status, details: impl Into<String>) -> Check {
    Check { name: name.to_owned(), status, details: details.into() }
}

/// The slot, as the manager and pg_replication_slots show it.
#[derive(Clone, Debug, Default)]
pub struct SlotFacts {
    pub is_enabled: bool,
    pub name: String,
    pub exists: bool,
    pub is_invalid: bool,
    pub generation: i64,
    /// Why the last job on it failed.
    pub error: String,
    pub retained_bytes: u64,
    /// spock.recovery_slot_max_wal, else max_slot_wal_keep_size.
    pub budget_bytes: Option<u64>,
    pub blocked_reason: Option<&'static str>,
    pub blocked_by: Option<String>,
    pub unprotected: Vec<String>,
}

pub fn slot(facts: &SlotFacts) -> Check {
    let name = "recovery_slot";
    if !facts.is_enabled {
        return check(
            name,
            Status::Disabled,
            "spock.enable_recovery_slots is off: nobody can be recovered from this node",
        );
    }
    if facts.is_invalid {
        return check(
            name,
            Status::Critical,
            format!(
                "slot \"{}\" was invalidated; the next generation is created as soon as running transactions allow",
                facts.name
            ),
        );
    }
    if !facts.exists {
        let why = if facts.error.is_empty() {
            "it is created as soon as running transactions allow".to_owned()
        } else {
            format!("its creation failed: {}", facts.error)
        };
        return check(name, Status::Missing, format!("there is no recovery slot; {why}"));
    }
    if !facts.error.is_empty() {
        return check(name, Status::Warning, format!("slot \"{}\" cannot be moved: {}", facts.name, facts.error));
    }
    let later = if facts.generation > 1 {
        format!(" (generation {}: what earlier ones kept is lost)", facts.generation)
    } else {
        String::new()
    };
    check(name, Status::Healthy, format!("slot \"{}\"{later}", facts.name))
}

pub fn retention(facts: &SlotFacts) -> Check {
    let name = "retention";
    if !facts.exists || facts.is_invalid {
        return check(name, Status::Missing, "no slot keeps WAL");
    }
    let kept = format!("keeps {} MB", facts.retained_bytes >> 20);
    let held = match (facts.blocked_reason, &facts.blocked_by) {
        (Some(reason), Some(peer)) => format!(", held by node \"{peer}\" ({reason})"),
        (Some(reason), None) => format!(", held: {reason}"),
        (None, _) => String::new(),
    };
    let drop = match (facts.blocked_reason, &facts.blocked_by) {
        (Some("peer_unreachable"), Some(peer)) => {
            format!("; if it is dead for good and recovered: SELECT spock.node_drop('{}')", peer.replace('\'', "''"))
        }
        (Some("peer_unknown"), Some(peer)) => {
            format!(
                "; how far it is is not known: see peer {peer} here, and SELECT * FROM spock.quick_health_check() there"
            )
        }
        _ => String::new(),
    };
    if !facts.unprotected.is_empty() {
        return check(
            name,
            Status::Critical,
            format!(
                "{kept}{held}; given up for the budget, and not recoverable from this node: {}",
                facts.unprotected.join(", ")
            ),
        );
    }
    let Some(budget) = facts.budget_bytes else {
        let status = if drop.is_empty() { Status::Healthy } else { Status::Warning };
        return check(name, status, format!("{kept}{held}, without a limit{drop}"));
    };
    let of = format!("{kept} of {} MB{held}{drop}", budget >> 20);
    let status = match facts.retained_bytes as f64 {
        kept if kept > budget as f64 => Status::Critical,
        kept if kept >= budget as f64 * ANNOUNCED_AT || !drop.is_empty() => Status::Warning,
        _ => Status::Healthy,
    };
    check(name, status, of)
}

/// Settings of the server, as SHOW gives them; None: unknown to this server.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub wal_level: String,
    pub track_commit_timestamp: bool,
    pub max_slot_wal_keep_size: Option<String>,
    pub idle_replication_slot_timeout: Option<String>,
    pub output_plugin_libraries: Option<String>,
}

pub fn wal_level(settings: &Settings) -> Check {
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

/// What could take the slot away.
pub fn invalidation(settings: &Settings) -> Check {
    let mut found = Vec::new();
    if let Some(size) = settings.max_slot_wal_keep_size.as_deref().filter(|size| *size != "-1") {
        found.push(format!(
            "max_slot_wal_keep_size = {size} invalidates the slot without asking; use spock.recovery_slot_max_wal"
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

pub fn commit_timestamps(settings: &Settings) -> Check {
    if settings.track_commit_timestamp {
        check("track_commit_timestamp", Status::Healthy, "on")
    } else {
        check(
            "track_commit_timestamp",
            Status::Warning,
            "off: a rescue cannot tell which of two versions of a row is the later one; ALTER SYSTEM SET \
             track_commit_timestamp = on, and restart",
        )
    }
}

pub fn output_plugin(settings: &Settings) -> Check {
    let name = "output_plugin_libraries";
    let Some(list) = &settings.output_plugin_libraries else {
        return check(name, Status::Healthy, "this minor version does not restrict output plugins");
    };
    let items: Vec<&str> = list.split(',').map(|item| item.trim().trim_matches('"')).collect();
    if items.iter().any(|item| item.rsplit('/').next() == Some("spock_recovery") || *item == "*") {
        return check(name, Status::Healthy, "lists spock_recovery");
    }
    let listed: Vec<String> = items.iter().filter(|item| !item.is_empty()).map(|item| (*item).to_owned()).collect();
    check(
        name,
        Status::Warning,
        format!(
            "does not list spock_recovery, without which nobody can be recovered from this node: ALTER SYSTEM SET \
             output_plugin_libraries = {}, spock_recovery; SELECT pg_reload_conf()",
            listed.join(", ")
        ),
    )
}

/// A limit of the server: how much of it is in use.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub setting: &'static str,
    pub used: i64,
    pub limit: i64,
}

/// A rescue takes one slot and one walsender on its source, one background worker on its target.
pub fn capacity(capacities: &[Capacity]) -> Check {
    let full: Vec<String> = capacities
        .iter()
        .filter(|capacity| capacity.used >= capacity.limit)
        .map(|capacity| format!("all of {} = {} are in use", capacity.setting, capacity.limit))
        .collect();
    if full.is_empty() {
        let free: Vec<String> = capacities
            .iter()
            .map(|capacity| format!("{} of {} {}", capacity.limit - capacity.used, capacity.limit, capacity.setting))
            .collect();
        check("rescue_capacity", Status::Healthy, format!("free: {}", free.join(", ")))
    } else {
        check(
            "rescue_capacity",
            Status::Critical,
            format!("{}; a rescue needs one: raise it and restart", full.join("; ")),
        )
    }
}

/// What a poller says of a peer to which no way is known.
pub const NO_ROUTE: &str = "no connection string is known";

/// A peer as its poller has found it.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    pub name: String,
    pub state: &'static str,
    pub answers: bool,
    pub error: String,
    /// Seconds since it last answered; None: never.
    pub silent_for_s: Option<u64>,
    /// It is asked so often that an answer is never older than that, in seconds.
    pub longest_silence_s: u64,
}

pub fn peer(facts: &PeerFacts) -> Check {
    let name = format!("peer {}", facts.name);
    if facts.answers {
        return match facts.silent_for_s {
            Some(seconds) if seconds > facts.longest_silence_s => check(
                &name,
                Status::Critical,
                format!(
                    "nobody has asked it for {seconds} s: its poller does not run, or is held up; the server's log says by what"
                ),
            ),
            _ => check(&name, Status::Healthy, "answers"),
        };
    }
    let since =
        facts.silent_for_s.map_or_else(|| "never heard".to_owned(), |seconds| format!("last heard {seconds} s ago"));
    let why = if facts.error.is_empty() { facts.state } else { &facts.error };
    let status =
        if facts.silent_for_s.is_none() && facts.state == "unknown" { Status::Warning } else { Status::Critical };
    let quoted = facts.name.replace('\'', "''");
    let advice = match facts.state {
        "other server" => format!(
            "; nothing that it says counts: if node \"{}\" was rebuilt there, SELECT spock.peer_create('{quoted}', 'host=…'); else \
             somebody answers in its place",
            facts.name
        ),
        "other node" => format!(
            "; if it has another name now, its subscription follows within a minute; if the connection string is wrong: ALTER USER \
             MAPPING FOR PUBLIC SERVER {} OPTIONS (SET dsn 'host=…')",
            identifier(&facts.name)
        ),
        _ if facts.error == NO_ROUTE => format!(
            "; SELECT spock.peer_create('{quoted}', 'host=…'); or, if it is gone for good, SELECT spock.node_drop('{quoted}')"
        ),
        _ => String::new(),
    };
    check(&name, status, format!("{}: {why}; {since}{advice}", facts.state))
}

/// A subscription of which nobody knows which node it comes from.
#[derive(Clone, Debug, Default)]
pub struct UnknownOriginFacts {
    pub subscription: String,
    pub owner: String,
    /// What a superuser has said of it, before it got another connection.
    pub was: Option<String>,
    /// The name that its provider gives; empty: it was not reached.
    pub says: String,
    pub local: String,
    /// The node of that name is known, and is another server: both, as they are told.
    pub conflict: Option<(String, String)>,
    /// It counts: the slot keeps everything.
    pub holds: bool,
    pub is_trusted: bool,
}

pub fn unknown_origin(facts: &UnknownOriginFacts) -> Check {
    let UnknownOriginFacts { says, .. } = facts;
    let quoted = |name: &str| name.replace('\'', "''");
    let name = &facts.subscription;
    let sub = quoted(name);
    let says_so = if says.is_empty() { String::new() } else { format!("its provider says that it is node \"{says}\"") };
    if !facts.is_trusted {
        // Nobody is led by what a stranger says, nor by how he calls himself.
        let mut why = format!("its owner \"{}\" is no superuser", facts.owner);
        if let Some(was) = &facts.was {
            why.push_str(&format!(
                ", and it has another connection since it was said that it comes from node \"{was}\""
            ));
        }
        if !says_so.is_empty() {
            why.push_str(&format!("; {says_so}, which counts for nothing"));
        }
        return check(
            &format!("subscription {name}"),
            Status::Warning,
            format!(
                "{why}; nobody keeps WAL for it: SELECT spock.sub_set_origin('{sub}', NULL) if it comes from no node of the mesh; \
                 if its owner may speak for a node, SELECT spock.sub_set_origin('{sub}', '…')"
            ),
        );
    }
    let why = match &facts.conflict {
        Some((known, found)) => format!(
            "{says_so}, but that one is known with {known}, and this one answers with {found}; if the node was rebuilt: SELECT \
             spock.peer_create('{}', 'host=…')",
            quoted(says)
        ),
        None if says.is_empty() => "nobody knows which node it comes from".to_owned(),
        None if *says == facts.local => format!("{says_so}, as this one does"),
        None => says_so,
    };
    let effect = match facts.holds {
        true => "so the slot keeps everything",
        false => "and it is disabled and knows no table, so nobody waits for it",
    };
    let node = if says.is_empty() || *says == facts.local || facts.conflict.is_some() { "…" } else { says };
    check(
        &format!("subscription {name}"),
        if facts.conflict.is_some() { Status::Critical } else { Status::Warning },
        format!(
            "{why}, {effect}: SELECT spock.sub_set_origin('{sub}', '{}'); or, if it comes from no node of the mesh, SELECT \
             spock.sub_set_origin('{sub}', NULL)",
            quoted(node)
        ),
    )
}

/// A standby of a node: the node is its primary, and nothing of ours runs here.
pub fn standby() -> Check {
    check("standby", Status::Healthy, "this server is a standby: ask its primary; once promoted, it is the node")
}

/// A copy of a node that lives elsewhere, or lived here before pg_upgrade: nothing is protected.
pub fn copy(node: &str) -> Check {
    let quoted = node.replace('\'', "''");
    check(
        "copy",
        Status::Critical,
        format!(
            "this database is a copy of node \"{node}\" and acts on nothing: SELECT spock.node_create('{quoted}', 'host=…') if it \
             takes that node's place; if not, SELECT spock.node_drop('{quoted}')"
        ),
    )
}

/// The manager of this database.
#[derive(Clone, Debug, Default)]
pub struct ManagerFacts {
    /// Zero: none runs.
    pub pid: i32,
    /// Seconds since the end of its last round in which it saw what there is; None: of none yet.
    pub good_round_s: Option<u64>,
    /// A round is due this often, in seconds.
    pub interval_s: u64,
    pub skips: u32,
    pub skipped: String,
}

/// Rounds that may be missing before that is a fault: a catalog may be locked for a while.
const MISSED_ROUNDS: u64 = 10;

/// No less than so many seconds.
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
                "no process runs for this database: the launcher starts one, and the server's log says what is in the way{skips}"
            ),
        );
    }
    let round = facts.good_round_s.map_or_else(
        || "which has not ended a round yet".to_owned(),
        |seconds| format!("last good round {seconds} s ago"),
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

/// A clone of the recovery slot that cannot go, or cannot be used.
#[derive(Clone, Debug)]
pub struct CloneFacts {
    pub slot: String,
    /// The target, and the intent there that the clone belongs to; None: no recovery has claimed it.
    pub claimed_by: Option<(String, String)>,
    pub target_is_silent: bool,
    pub is_invalid: bool,
    pub retained_bytes: u64,
}

/// None: there is nothing to say of it.
pub fn clone(facts: &CloneFacts) -> Option<Check> {
    let drop = format!("SELECT pg_drop_replication_slot('{}')", facts.slot);
    let details = match &facts.claimed_by {
        _ if facts.is_invalid => {
            format!("was invalidated: nobody can be recovered from it; make another one, and then {drop}")
        }
        Some((target, intent)) if facts.target_is_silent => format!(
            "keeps {} MB until node \"{target}\" says that intent {intent} has ended, and that node does not answer; if it is \
             dead for good: {drop}",
            facts.retained_bytes >> 20
        ),
        _ => return None,
    };
    Some(check(&format!("clone {}", facts.slot), Status::Warning, details))
}

/// A node that is back and may not go on.
pub fn returned(node: &str, verdict: &str, subscription: &str) -> Check {
    check(
        &format!("returned {node}"),
        Status::Critical,
        format!(
            "{verdict}; its subscription stays disabled, for its new transactions would be skipped: rebuild node \"{node}\" from a \
             survivor; only if it is a complete copy after all, ALTER SUBSCRIPTION {} ENABLE",
            identifier(subscription)
        ),
    )
}

/// An unfinished recovery of which this node is the target.
#[derive(Clone, Debug)]
pub struct RecoveryFacts {
    pub failed: String,
    pub intent: String,
    pub phase: &'static str,
    /// Why it waits.
    pub failure: Option<String>,
    /// Who holds the lock that it waits for at this moment.
    pub blocked_by: Option<String>,
}

pub fn recovery(unfinished: &[RecoveryFacts]) -> Check {
    let name = "recovery";
    let named = |facts: &RecoveryFacts| {
        format!("recovery of node \"{}\" (intent {}), at phase {}", facts.failed, facts.intent, facts.phase)
    };
    match unfinished {
        [] => check(name, Status::Healthy, "none is unfinished"),
        [one] => match &one.failure {
            _ if one.blocked_by.is_some() => check(
                name,
                Status::Warning,
                format!("{}: waits for a lock: {}", named(one), one.blocked_by.as_deref().unwrap_or_default()),
            ),
            None => check(name, Status::Healthy, named(one)),
            Some(failure) => check(
                name,
                Status::Warning,
                format!(
                    "{}: {failure}; it goes on when the cause is mended, or CALL spock.recover_abort('{}')",
                    named(one),
                    one.failed.replace('\'', "''")
                ),
            ),
        },
        several => check(
            name,
            Status::Critical,
            format!(
                "{} are unfinished where one is expected, and none is resumed: {}; CALL spock.recover_abort('…') for what is \
                 not to go on",
                several.len(),
                several.iter().map(named).collect::<Vec<_>>().join("; ")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> SlotFacts {
        SlotFacts { is_enabled: true, name: "s".to_owned(), exists: true, generation: 1, ..SlotFacts::default() }
    }

    #[test]
    fn the_slots_verdict_is_by_what_is_worst() {
        assert_eq!(slot(&facts()).status, Status::Healthy);
        assert_eq!(slot(&SlotFacts { is_enabled: false, ..facts() }).status, Status::Disabled);
        assert_eq!(slot(&SlotFacts { exists: false, ..facts() }).status, Status::Missing);
        assert_eq!(slot(&SlotFacts { is_invalid: true, ..facts() }).status, Status::Critical);
        assert_eq!(slot(&SlotFacts { error: "e".to_owned(), ..facts() }).status, Status::Warning);
    }

    #[test]
    fn retention_is_judged_by_the_budget_and_names_who_holds_the_slot() {
        let mut held = SlotFacts {
            retained_bytes: 10 << 20,
            blocked_reason: Some("peer_unreachable"),
            blocked_by: Some("n'1".to_owned()),
            ..facts()
        };
        let verdict = retention(&held);
        assert_eq!(verdict.status, Status::Warning);
        assert!(verdict.details.contains("SELECT spock.node_drop('n''1')"), "{}", verdict.details);
        held.blocked_reason = Some("peer_lagging");
        assert_eq!(retention(&held).status, Status::Healthy);
        for (budget, expected) in
            [(20, Status::Healthy), (13, Status::Warning), (10, Status::Warning), (9, Status::Critical)]
        {
            held.budget_bytes = Some(budget << 20);
            assert_eq!(retention(&held).status, expected, "{budget} MB");
        }
        held.unprotected = vec!["n2".to_owned()];
        assert_eq!(retention(&held).status, Status::Critical);
    }

    #[test]
    fn the_plugin_must_be_listed_by_its_own_name() {
        let verdict = |list: &str| {
            let settings = Settings { output_plugin_libraries: Some(list.to_owned()), ..Settings::default() };
            output_plugin(&settings)
        };
        assert_eq!(output_plugin(&Settings::default()).status, Status::Healthy);
        assert_eq!(verdict("pgoutput, test_decoding, spock_recovery").status, Status::Healthy);
        assert_eq!(verdict("pgoutput, \"spock_recovery\"").status, Status::Healthy);
        assert_eq!(verdict("pgoutput,spock_recovery_old").status, Status::Warning);
        let missing = verdict("pgoutput, test_decoding");
        assert!(missing.details.contains("= pgoutput, test_decoding, spock_recovery;"), "{}", missing.details);
    }

    #[test]
    fn settings_that_could_take_the_slot_are_warned_of() {
        let settings = |size: &str, idle: &str| Settings {
            max_slot_wal_keep_size: Some(size.to_owned()),
            idle_replication_slot_timeout: Some(idle.to_owned()),
            ..Settings::default()
        };
        assert_eq!(invalidation(&settings("-1", "0")).status, Status::Healthy);
        assert_eq!(invalidation(&settings("100MB", "0")).status, Status::Warning);
        assert_eq!(invalidation(&settings("-1", "1min")).status, Status::Warning);
    }

    #[test]
    fn a_limit_that_is_used_up_is_critical() {
        let at = |used| [Capacity { setting: "max_wal_senders", used, limit: 10 }];
        assert_eq!(capacity(&at(9)).status, Status::Healthy);
        assert_eq!(capacity(&at(10)).status, Status::Critical);
    }

    #[test]
    fn a_silent_peer_is_critical_with_its_reason() {
        let facts = PeerFacts {
            longest_silence_s: 60,
            name: "n2".to_owned(),
            state: "unreachable",
            answers: false,
            error: "no answer within 5000 ms".to_owned(),
            silent_for_s: Some(9),
        };
        let verdict = peer(&facts);
        assert_eq!(verdict.status, Status::Critical);
        assert_eq!(verdict.details, "unreachable: no answer within 5000 ms; last heard 9 s ago");
        let answers = PeerFacts { answers: true, ..facts };
        assert_eq!(peer(&answers).status, Status::Healthy);
        // Nobody asks it any more.
        let forgotten = peer(&PeerFacts { silent_for_s: Some(61), ..answers });
        assert_eq!(forgotten.status, Status::Critical);
        assert!(forgotten.details.contains("nobody has asked it for 61 s"), "{}", forgotten.details);
    }
    #[test]
    fn a_clone_is_told_of_when_its_target_is_silent_or_it_is_lost() {
        let fine = CloneFacts {
            slot: "c".to_owned(),
            claimed_by: Some(("n2".to_owned(), "i".to_owned())),
            target_is_silent: false,
            is_invalid: false,
            retained_bytes: 7 << 20,
        };
        assert_eq!(clone(&fine), None);
        assert_eq!(clone(&CloneFacts { claimed_by: None, target_is_silent: true, ..fine.clone() }), None);
        let silent = clone(&CloneFacts { target_is_silent: true, ..fine.clone() }).expect("a row");
        assert_eq!((silent.name.as_str(), silent.status), ("clone c", Status::Warning));
        for part in ["keeps 7 MB", "node \"n2\"", "intent i", "SELECT pg_drop_replication_slot('c')"] {
            assert!(silent.details.contains(part), "{}", silent.details);
        }
        for claimed_by in [None, fine.claimed_by.clone()] {
            let lost = clone(&CloneFacts { is_invalid: true, claimed_by, ..fine.clone() }).expect("a row");
            assert!(lost.details.starts_with("was invalidated"), "{}", lost.details);
        }
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

    #[test]
    fn a_subscription_of_unknown_origin_is_told_with_what_to_type() {
        let facts = UnknownOriginFacts {
            subscription: "s'1".to_owned(),
            local: "n1".to_owned(),
            holds: true,
            is_trusted: true,
            ..UnknownOriginFacts::default()
        };
        let none = "SELECT spock.sub_set_origin('s''1', NULL)";
        let verdict = unknown_origin(&facts);
        assert_eq!(verdict.status, Status::Warning);
        for part in ["nobody knows", "the slot keeps everything", "sub_set_origin('s''1', '…')", none] {
            assert!(verdict.details.contains(part), "{}", verdict.details);
        }
        let strangers = UnknownOriginFacts {
            says: "n'3".to_owned(),
            owner: "bob".to_owned(),
            holds: false,
            is_trusted: false,
            ..facts.clone()
        };
        let verdict = unknown_origin(&strangers);
        for part in ["\"bob\" is no superuser", "nobody keeps WAL for it", "sub_set_origin('s''1', '…')", none] {
            assert!(verdict.details.contains(part), "{}", verdict.details);
        }
        let moved = UnknownOriginFacts { was: Some("n2".to_owned()), ..strangers };
        assert!(
            unknown_origin(&moved).details.contains("another connection since"),
            "{}",
            unknown_origin(&moved).details
        );
        let of_ours = UnknownOriginFacts { says: "n1".to_owned(), ..facts.clone() };
        assert!(unknown_origin(&of_ours).details.contains("as this one does"));
        assert!(
            unknown_origin(&UnknownOriginFacts { holds: false, ..facts.clone() }).details.contains("knows no table")
        );
        let conflict = Some(("one".to_owned(), "another".to_owned()));
        let facts = UnknownOriginFacts { says: "n3".to_owned(), conflict, ..facts };
        let verdict = unknown_origin(&facts);
        assert_eq!(verdict.status, Status::Critical);
        assert!(verdict.details.contains("SELECT spock.peer_create('n3', "), "{}", verdict.details);
        // Nobody is led to believe a stranger.
        let verdict = unknown_origin(&UnknownOriginFacts { is_trusted: false, ..facts });
        assert_eq!(verdict.status, Status::Warning);
        assert!(!verdict.details.contains("peer_create") && !verdict.details.contains("'n3')"), "{}", verdict.details);
    }

    #[test]
    fn an_unfinished_recovery_is_a_warning_when_it_waits_and_several_are_critical() {
        let running = RecoveryFacts {
            failed: "n'1".to_owned(),
            intent: "i".to_owned(),
            phase: "replaying",
            failure: None,
            blocked_by: None,
        };
        assert_eq!(recovery(&[]).status, Status::Healthy);
        let verdict = recovery(std::slice::from_ref(&running));
        assert_eq!((verdict.status, verdict.details.contains("at phase replaying")), (Status::Healthy, true));
        let waiting = RecoveryFacts { failure: Some("no such table (SQLSTATE 42P01)".to_owned()), ..running.clone() };
        let verdict = recovery(std::slice::from_ref(&waiting));
        assert_eq!(verdict.status, Status::Warning);
        for part in ["SQLSTATE 42P01", "CALL spock.recover_abort('n''1')"] {
            assert!(verdict.details.contains(part), "{}", verdict.details);
        }
        let who = Some("process 7".to_owned());
        let verdict = recovery(&[RecoveryFacts { blocked_by: who, ..running.clone() }]);
        assert_eq!((verdict.status, verdict.details.contains("waits for a lock: process 7")), (Status::Warning, true));
        let verdict = recovery(&[running, waiting]);
        assert_eq!(verdict.status, Status::Critical);
        assert!(verdict.details.starts_with("2 are unfinished"), "{}", verdict.details);
    }
}
