//! Tests of the choice of the source, and of the confidence in it.

use super::choice::*;
use super::facts::OtherFacts;
use super::outcome::{Outcome, Reason};
use super::sample::node;
use super::{Plan, Wishes};
use crate::lsn::OriginLsn;
use std::collections::HashSet;

fn survivor(name: &str, applied: u64) -> Survivor {
    Survivor { node: name.to_owned(), answer: SurvivorAnswer::Facts(Box::new(node(name, applied))) }
}

fn silent(name: &str, reason: Reason) -> Survivor {
    Survivor { node: name.to_owned(), answer: SurvivorAnswer::Silent { reason, finding: format!("{name} is silent") } }
}

/// A survivor whose slot has released everything.
fn empty(name: &str, applied: u64) -> Survivor {
    let mut facts = node(name, applied);
    facts.slot.released[0].released = OriginLsn(applied);
    Survivor { node: name.to_owned(), answer: SurvivorAnswer::Facts(Box::new(facts)) }
}

/// A node that does not subscribe to the failed node.
fn stranger(name: &str) -> Survivor {
    let mut facts = node(name, 0);
    facts.subscriptions.clear();
    Survivor { node: name.to_owned(), answer: SurvivorAnswer::Facts(Box::new(facts)) }
}

fn plan(survivors: &[Survivor]) -> Plan {
    best("n1", &survivors[0], survivors, &|_, _| Wishes::default())
}

fn outcome(survivors: &[Survivor]) -> (Option<&'static str>, &'static str, Option<String>) {
    let plan = plan(survivors);
    (plan.outcome.map(Outcome::as_str), plan.reason.as_str(), plan.source)
}

/// The reasons that only the choice of a source gives.
pub fn reasons() -> HashSet<Reason> {
    let mut reasons = HashSet::new();
    for reason in [Reason::NodeUnreachable, Reason::NotANode, Reason::OtherNode, Reason::PermissionDenied] {
        reasons.insert(plan(&[silent("n2", reason)]).reason);
    }
    reasons.insert(plan(&[survivor("n2", 20)]).reason);
    reasons.insert(plan(&[survivor("n2", 20), survivor("n3", 20)]).reason);
    reasons
}

#[test]
fn the_source_that_has_the_most_is_chosen_and_of_equals_the_first_by_name() {
    let n3 = Some("n3".to_owned());
    assert_eq!(
        outcome(&[survivor("n2", 20), survivor("n4", 89), survivor("n3", 90)]),
        (Some("catch_up"), "gap_covered", n3.clone())
    );
    let equals = [survivor("n2", 20), survivor("n4", 90), survivor("n3", 90)];
    assert_eq!(outcome(&equals), (Some("catch_up"), "gap_covered", n3));
    let plan = plan(&equals);
    assert_eq!(plan.others.len(), 1);
    assert_eq!((plan.others[0].source.as_str(), plan.others[0].reason), ("n4", Reason::GapCovered));
}

/// A survivor that has applied another node up to the given position as well.
fn with_other(name: &str, other: &str, applied: u64) -> Survivor {
    with_facts(name, if name == "n2" { 20 } else { 90 }, other, of_other(applied))
}

fn of_other(applied: u64) -> OtherFacts {
    OtherFacts { applied: OriginLsn(applied), passed: OriginLsn(applied), is_enabled: true }
}

fn with_facts(name: &str, applied: u64, other: &str, of_other: OtherFacts) -> Survivor {
    let mut facts = node(name, applied);
    facts.others.insert(other.to_owned(), of_other);
    Survivor { node: name.to_owned(), answer: SurvivorAnswer::Facts(Box::new(facts)) }
}

#[test]
fn of_equals_one_that_lacks_nothing_of_another_silent_node_is_chosen_and_what_is_lacked_is_said() {
    let down = || silent("n5", Reason::NodeUnreachable);
    // n3 lacks transactions of n5, whose rows n1 may have changed.
    let survivors = [with_other("n2", "n5", 50), with_other("n3", "n5", 40), with_other("n4", "n5", 50), down()];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n4"));
    assert!(plan(&survivors).notes.iter().all(|note| !note.contains("lacks")));
    // What only the target has is counted too, and so is a node that is no survivor any more.
    let survivors = [with_other("n2", "n5", 50), with_other("n3", "n5", 40), with_other("n4", "n5", 45)];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n3"), "both lack something");
    let notes = plan(&survivors).notes;
    assert!(notes.iter().any(|note| note.contains("\"n3\" lacks transactions of node \"n5\"")), "{notes:?}");
    // A node that answers will send what is lacking.
    let up = || with_other("n5", "n2", 1);
    let survivors = [with_other("n2", "n5", 50), with_other("n3", "n5", 40), with_other("n4", "n5", 50), up()];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n3"));
    let disabled = with_facts("n3", 90, "n5", OtherFacts { is_enabled: false, ..of_other(40) });
    let survivors = [with_other("n2", "n5", 50), disabled, with_other("n4", "n5", 50), up()];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n4"), "it cannot send it there");
    assert_eq!(best_source("n1", &survivors, &|_, _| Wishes::default()).map(|best| best.node).as_deref(), Some("n4"));
    // n3 has passed what others have applied: what it has not applied of n5 was not for it.
    let passed = with_facts("n3", 90, "n5", OtherFacts { passed: OriginLsn(60), ..of_other(40) });
    let survivors = [with_other("n2", "n5", 50), passed, with_other("n4", "n5", 50), down()];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n3"));
    // A node that does not subscribe to n5 does not lack its rows.
    let survivors = [with_other("n2", "n5", 50), with_other("n3", "n6", 40), with_other("n4", "n5", 50), down()];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n3"));
    // Having more of the failed node weighs more.
    let most = with_facts("n3", 95, "n5", of_other(40));
    assert_eq!(
        outcome(&[with_other("n2", "n5", 50), most, with_other("n4", "n5", 50), down()]).2.as_deref(),
        Some("n3")
    );
}

#[test]
fn of_equals_one_that_was_not_recovered_itself_is_asked_and_else_that_is_said() {
    let recovered = |node: &str, of: &str, applied| {
        let mut known = survivor(node, applied);
        if let SurvivorAnswer::Facts(facts) = &mut known.answer {
            facts.recovered.insert(of.to_owned());
        }
        known
    };
    let survivors = [survivor("n2", 20), recovered("n3", "n5", 90), survivor("n4", 90)];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n4"));
    assert_eq!(plan(&survivors).notes, Vec::<String>::new());
    let survivors = [survivor("n2", 20), recovered("n3", "n5", 91), survivor("n4", 90)];
    assert_eq!(outcome(&survivors).2.as_deref(), Some("n3"), "to have more weighs more");
    let notes = plan(&survivors).notes;
    assert!(notes.iter().any(|note| note.contains("received rows of node \"n5\" late")), "{notes:?}");
    // At the target's position a survivor may still have something from its own recovery.
    let survivors = [survivor("n2", 90), recovered("n3", "n5", 90), recovered("n4", "n1", 90)];
    assert_eq!(outcome(&survivors).0, Some("zero_gap"));
    let notes = plan(&survivors).notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("node \"n3\" received rows of node \"n5\" late"), "{notes:?}");
    // A survivor that was recovered from the loss of the failed node itself has all that it wrote.
    let survivors = [survivor("n2", 20), recovered("n3", "n1", 90), recovered("n4", "n1", 80)];
    assert_eq!((outcome(&survivors).2.as_deref(), plan(&survivors).notes), (Some("n3"), Vec::new()));
}

#[test]
fn one_that_has_more_but_cannot_serve_is_passed_over_and_said() {
    let survivors = [survivor("n2", 20), empty("n3", 90), survivor("n4", 80)];
    assert_eq!(outcome(&survivors), (Some("catch_up"), "gap_covered", Some("n4".to_owned())));
    let plan = plan(&survivors);
    assert_eq!(plan.others[0].reason, Reason::ReleasedBeyondTarget);
    assert!(!plan.others[0].finding.is_empty());
    // If no survivor can be the source, the reason is that of the one that would help most.
    assert_eq!(
        outcome(&[survivor("n2", 20), empty("n4", 80), empty("n3", 90)]),
        (Some("needs_rebuild"), "released_beyond_target", Some("n3".to_owned()))
    );
}

#[test]
fn nothing_is_missing_where_nobody_has_more() {
    assert_eq!(
        outcome(&[survivor("n2", 90), survivor("n3", 90), survivor("n4", 20)]),
        (Some("zero_gap"), "nothing_missing", Some("n3".to_owned()))
    );
    // A source that is behind is never used to take changes back.
    assert_eq!(outcome(&[survivor("n2", 90), survivor("n3", 20)]), (Some("zero_gap"), "nothing_missing", None));
    assert_eq!(plan(&[survivor("n2", 90), survivor("n3", 20)]).gap_bytes, Some(0));
}

#[test]
fn what_does_not_answer_is_no_source_and_is_said() {
    let down = || silent("n4", Reason::NodeUnreachable);
    let plan = plan(&[survivor("n2", 20), survivor("n3", 90), down()]);
    assert_eq!(plan.outcome, Some(Outcome::CatchUp));
    assert!(plan.notes.iter().any(|note| note.contains("n4 is silent")), "{plan:#?}");
    assert_eq!(outcome(&[survivor("n2", 20), down()]), (Some("needs_rebuild"), "node_unreachable", None));
    assert_eq!(outcome(&[down(), survivor("n2", 20)]), (None, "node_unreachable", None));
}

#[test]
fn who_does_not_subscribe_to_the_failed_node_is_neither_target_nor_source() {
    assert_eq!(outcome(&[stranger("n2"), survivor("n3", 90)]), (None, "target_not_subscribed", None));
    assert_eq!(outcome(&[survivor("n2", 20), stranger("n3")]), (None, "no_source", None));
    assert_eq!(outcome(&[survivor("n2", 20)]), (None, "no_source", None));
    let survivors = [survivor("n2", 20), stranger("n3"), survivor("n4", 90)];
    assert_eq!(outcome(&survivors).2, Some("n4".to_owned()));
}

#[test]
fn a_source_of_unknown_progress_may_have_more() {
    let mut facts = node("n3", 90);
    facts.subscriptions[0].applied = None;
    let unknown = Survivor { node: "n3".to_owned(), answer: SurvivorAnswer::Facts(Box::new(facts)) };
    assert_eq!(
        outcome(&[survivor("n2", 20), unknown]),
        (Some("needs_rebuild"), "source_progress_unknown", Some("n3".to_owned()))
    );
}

/// The same survivors, none of which knows any node beside these.
fn among(survivors: &[Survivor]) -> Vec<Survivor> {
    let is_one = |name: &str| survivors.iter().any(|survivor| survivor.node == name);
    let alone = |survivor: &Survivor| {
        let answer = match &survivor.answer {
            SurvivorAnswer::Silent { reason, finding } => {
                SurvivorAnswer::Silent { reason: *reason, finding: finding.clone() }
            }
            SurvivorAnswer::Facts(facts) => {
                let mut facts = facts.clone();
                facts.peers.retain(|peer| is_one(&peer.node));
                SurvivorAnswer::Facts(facts)
            }
        };
        Survivor { node: survivor.node.clone(), answer }
    };
    survivors.iter().map(alone).collect()
}

#[test]
fn nodes_that_survivors_know_or_that_ask_them_are_named_where_they_are_unknown() {
    let unknown = |survivors: &[Survivor]| unknown_nodes("n1", survivors);
    assert_eq!(unknown(&among(&[survivor("n2", 20), survivor("n3", 90)])), Vec::<String>::new());
    assert_eq!(unknown(&[survivor("n2", 20), survivor("n3", 90)]), ["n4"]);
    let mut asked = node("n3", 90);
    asked.askers = ["n5", "n1", "n2", "n4", "two\nlines"].map(str::to_owned).to_vec();
    let asked = Survivor { node: "n3".to_owned(), answer: SurvivorAnswer::Facts(Box::new(asked)) };
    assert_eq!(unknown(&[survivor("n2", 20), asked, silent("n4", Reason::NodeUnreachable)]), ["n5"]);
    // It is unknown what these nodes have.
    let best = best_source("n1", &[survivor("n2", 20), survivor("n3", 90)], &|_, _| Wishes::default());
    assert_eq!(best.map(|best| best.confidence.as_str()), Some("MEDIUM"));
}

fn confidence(survivors: &[Survivor]) -> Option<(String, u64, &'static str)> {
    let survivors = &among(survivors);
    best_source("n1", survivors, &|_, _| Wishes::default())
        .map(|best| (best.node, best.applied.0, best.confidence.as_str()))
}

#[test]
fn confidence_is_by_how_many_have_answered() {
    let down = || silent("n4", Reason::NodeUnreachable);
    let n3 = |confidence| Some(("n3".to_owned(), 90, confidence));
    assert_eq!(confidence(&[survivor("n2", 20), survivor("n3", 90)]), n3("HIGH"));
    assert_eq!(confidence(&[survivor("n4", 90), survivor("n3", 90)]), n3("HIGH"));
    assert_eq!(confidence(&[survivor("n2", 20), survivor("n3", 90), down()]), n3("MEDIUM"));
    assert_eq!(confidence(&[survivor("n3", 90), down()]), n3("LOW"));
    assert_eq!(confidence(&[survivor("n3", 90)]), n3("LOW"));
    // A node that does not subscribe is not counted.
    assert_eq!(confidence(&[survivor("n3", 90), stranger("n4")]), n3("LOW"));
    assert_eq!(confidence(&[stranger("n4"), down()]), None);
    // No survivor can be the source for the one that lags.
    assert_eq!(confidence(&[survivor("n2", 20), empty("n3", 90)]), None);
    assert_eq!(confidence(&[survivor("n2", 20), empty("n4", 95), survivor("n3", 90)]), n3("HIGH"));
}
