//! The checks of the recovery slot: whether it exists, what it keeps, and its clones (pure).

use super::{Check, Status, check, dropping};
use crate::slot::retention::ANNOUNCED_AT;

/// The slot, as the manager and pg_replication_slots show it.
#[derive(Clone, Debug, Default)]
pub struct SlotHealth {
    pub is_enabled: bool,
    pub name: String,
    pub exists: bool,
    pub is_invalid: bool,
    pub generation: i64,
    /// Why the last job on the slot failed.
    pub error: String,
    pub retained_bytes: u64,
    /// spock.recovery_slot_max_wal, or else max_slot_wal_keep_size.
    pub budget_bytes: Option<u64>,
    pub blocked_reason: Option<&'static str>,
    pub blocked_by: Option<String>,
    pub unprotected: Vec<String>,
    /// The outgoing slot that is furthest behind.
    pub slowest_outgoing: Option<String>,
    /// The outgoing slots that the recovery slot has passed because of the budget.
    pub passed_outgoing: Vec<String>,
    /// The document that cannot be read, if there is one: no node can be dropped then.
    pub unreadable: Option<String>,
}

pub fn slot(facts: &SlotHealth) -> Check {
    let name = "recovery_slot";
    if !facts.is_enabled {
        return check(
            name,
            Status::Disabled,
            "spock.enable_recovery_slots is off: no node can be recovered from this node",
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
        format!(" (generation {}: what earlier slots kept is lost)", facts.generation)
    } else {
        String::new()
    };
    check(name, Status::Healthy, format!("slot \"{}\"{later}", facts.name))
}

/// What holds the slot, as a part of a sentence; empty if nothing does.
fn held_by(facts: &SlotHealth) -> String {
    match (facts.blocked_reason, &facts.blocked_by) {
        (Some(reason), Some(peer)) => format!(", held by node \"{peer}\" ({reason})"),
        (Some(reason @ "outgoing_slot"), None) => match &facts.slowest_outgoing {
            Some(slot) => format!(", held by the outgoing slot \"{slot}\" ({reason})"),
            None => format!(", held: {reason}"),
        },
        (Some(reason), None) => format!(", held: {reason}"),
        (None, _) => String::new(),
    }
}

pub fn retention(facts: &SlotHealth) -> Check {
    let name = "retention";
    if !facts.exists || facts.is_invalid {
        return check(name, Status::Missing, "no slot keeps WAL");
    }
    let kept = format!("keeps {} MB", facts.retained_bytes >> 20);
    let held = held_by(facts);
    let drop = match (facts.blocked_reason, &facts.blocked_by) {
        (Some("peer_unreachable"), Some(peer)) => {
            format!(
                "; if node \"{peer}\" is lost for good, and no survivor lacks any of its transactions: {}",
                dropping(peer, facts.unreadable.as_deref())
            )
        }
        (Some("peer_unknown"), Some(peer)) => {
            format!(
                "; what node \"{peer}\" has applied is not known: see the check \"peer {peer}\" here, and SELECT * FROM \
                 spock.quick_health_check() there"
            )
        }
        _ => String::new(),
    };
    if !facts.unprotected.is_empty() {
        return check(
            name,
            Status::Critical,
            format!(
                "{kept}{held}; given up to stay within the budget, so not recoverable from this node: {}",
                facts.unprotected.join(", ")
            ),
        );
    }
    if !facts.passed_outgoing.is_empty() {
        return check(
            name,
            Status::Warning,
            format!(
                "{kept}{held}; has passed outgoing slots to stay within the budget, so that their subscribers cannot go on \
                 where they stood if this node is restored from a backup: {}",
                facts.passed_outgoing.join(", ")
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

/// A clone of the recovery slot that cannot be dropped yet, or cannot be used.
#[derive(Clone, Debug)]
pub struct CloneHealth {
    pub slot: String,
    /// The target and its intent to which the clone belongs. None: no recovery has claimed the clone.
    pub claimed_by: Option<(String, String)>,
    pub target_is_silent: bool,
    pub is_invalid: bool,
    pub retained_bytes: u64,
}

/// None: there is nothing to report.
pub fn clone(facts: &CloneHealth) -> Option<Check> {
    let drop = format!("SELECT pg_drop_replication_slot('{}')", facts.slot);
    let details = match &facts.claimed_by {
        _ if facts.is_invalid => {
            format!("was invalidated: no node can be recovered from it; make another one, and then {drop}")
        }
        Some((target, intent)) if facts.target_is_silent => format!(
            "keeps {} MB for recovery {intent} of node \"{target}\", which does not answer; if node \"{target}\" is lost for \
             good: {drop}",
            facts.retained_bytes >> 20
        ),
        _ => return None,
    };
    Some(check(&format!("clone {}", facts.slot), Status::Warning, details))
}

/// An origin whose transactions this node cannot supply yet.
#[derive(Clone, Debug)]
pub struct WaitingFacts {
    pub node: String,
    pub since: String,
}

/// Whether this node could be the source of a recovery from the loss of every node to which it subscribes, as far as
/// that depends on what it has received.
pub fn vouching(waiting: &[WaitingFacts]) -> Check {
    let name = "vouching";
    if waiting.is_empty() {
        return check(name, Status::Healthy, "this node can supply what it has received from each node");
    }
    let named: Vec<String> = waiting.iter().map(|one| format!("node \"{}\" (since {})", one.node, one.since)).collect();
    check(
        name,
        Status::Warning,
        format!(
            "this node cannot supply the transactions of {} yet, because the subscription, or a table that was added \
             to it with copy_data = false, is new. It can once that node has reported the confirmed position of the \
             subscription's slot, or has sent a transaction: the subscription must be enabled and the node reachable \
             (SELECT * FROM spock.peer_status())",
            named.join(", ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> SlotHealth {
        SlotHealth { is_enabled: true, name: "s".to_owned(), exists: true, generation: 1, ..SlotHealth::default() }
    }

    #[test]
    fn the_slots_verdict_is_by_what_is_worst() {
        assert_eq!(slot(&facts()).status, Status::Healthy);
        assert_eq!(slot(&SlotHealth { is_enabled: false, ..facts() }).status, Status::Disabled);
        assert_eq!(slot(&SlotHealth { exists: false, ..facts() }).status, Status::Missing);
        assert_eq!(slot(&SlotHealth { is_invalid: true, ..facts() }).status, Status::Critical);
        assert_eq!(slot(&SlotHealth { error: "e".to_owned(), ..facts() }).status, Status::Warning);
    }

    #[test]
    fn retention_is_judged_by_the_budget_and_names_who_holds_the_slot() {
        let mut held = SlotHealth {
            retained_bytes: 10 << 20,
            blocked_reason: Some("peer_unreachable"),
            blocked_by: Some("n'1".to_owned()),
            ..facts()
        };
        let verdict = retention(&held);
        assert_eq!(verdict.status, Status::Warning);
        assert!(verdict.details.contains("SELECT spock.node_drop('n''1')"), "{}", verdict.details);
        let unreadable = SlotHealth { unreadable: Some("label of SUBSCRIPTION s".to_owned()), ..held.clone() };
        let verdict = retention(&unreadable);
        assert_eq!(verdict.status, Status::Warning);
        assert!(!verdict.details.contains("node_drop"), "{}", verdict.details);
        assert!(verdict.details.contains("once document label of SUBSCRIPTION s can be read"), "{}", verdict.details);
        held.blocked_reason = Some("peer_lagging");
        assert_eq!(retention(&held).status, Status::Healthy);
        for (budget, expected) in
            [(20, Status::Healthy), (13, Status::Warning), (10, Status::Warning), (9, Status::Critical)]
        {
            held.budget_bytes = Some(budget << 20);
            assert_eq!(retention(&held).status, expected, "{budget} MB");
        }
        (held.blocked_reason, held.blocked_by) = (Some("outgoing_slot"), None);
        held.slowest_outgoing = Some("sub_n2".to_owned());
        let verdict = retention(&held);
        assert!(
            verdict.details.contains("held by the outgoing slot \"sub_n2\" (outgoing_slot)"),
            "{}",
            verdict.details
        );
        held.passed_outgoing = vec!["sub_n2".to_owned()];
        let verdict = retention(&held);
        assert_eq!(verdict.status, Status::Warning);
        assert!(verdict.details.contains("restored from a backup: sub_n2"), "{}", verdict.details);
        held.unprotected = vec!["n2".to_owned()];
        assert_eq!(retention(&held).status, Status::Critical);
    }

    #[test]
    fn a_clone_is_told_of_when_its_target_is_silent_or_it_is_lost() {
        let fine = CloneHealth {
            slot: "c".to_owned(),
            claimed_by: Some(("n2".to_owned(), "i".to_owned())),
            target_is_silent: false,
            is_invalid: false,
            retained_bytes: 7 << 20,
        };
        assert_eq!(clone(&fine), None);
        assert_eq!(clone(&CloneHealth { claimed_by: None, target_is_silent: true, ..fine.clone() }), None);
        let silent = clone(&CloneHealth { target_is_silent: true, ..fine.clone() }).expect("a row");
        assert_eq!((silent.name.as_str(), silent.status), ("clone c", Status::Warning));
        for part in ["keeps 7 MB", "node \"n2\"", "recovery i", "SELECT pg_drop_replication_slot('c')"] {
            assert!(silent.details.contains(part), "{}", silent.details);
        }
        for claimed_by in [None, fine.claimed_by.clone()] {
            let lost = clone(&CloneHealth { is_invalid: true, claimed_by, ..fine.clone() }).expect("a row");
            assert!(lost.details.starts_with("was invalidated"), "{}", lost.details);
        }
    }
}
