//! What stands in the journal beside the states of its intents: clones, suspensions, when a recovery has ended.

use super::*;

#[test]
fn a_clone_that_was_given_counts_and_else_the_one_that_was_made() {
    let mut journal = journal_in(State::Begun);
    journal.note_clone(id(1), "made").expect("unfinished");
    assert_eq!(journal.intents[0].clone_name(), Some("c"));
    journal.intents[0].request.clone = None;
    assert_eq!(journal.intents[0].clone_name(), Some("made"));
}

#[test]
fn when_the_last_recovery_of_a_node_has_ended_is_known() {
    let mut journal = journal_in(State::Aborted);
    let mut later = journal.intents[0].clone();
    later.end = Some(End { outcome: Outcome::Completed, at: 9, position: None });
    journal.intents.insert(0, later);
    assert_eq!((journal.ended_at("n1"), journal.ended_at("n4")), (9, i64::MIN));
    assert_eq!(journal_in(State::Replaying).ended_at("n1"), i64::MIN);
}

#[test]
fn suspended_subscriptions_are_given_back_by_what_they_wait_for() {
    let mut journal = Journal::new(HERE);
    for (subscription, until) in [(1, Until::Replayed), (2, Until::Returned), (3, Until::Replayed)] {
        journal.suspensions.push(Suspension::new(subscription, "n1".to_owned(), until));
    }
    assert_eq!(journal.take_suspended(Until::Replayed), [1, 3]);
    assert_eq!(journal.take_suspended(Until::Replayed), Vec::<u32>::new());
    assert_eq!(journal.take_suspended(Until::Returned), [2]);
    assert_eq!(journal.suspensions, []);
}

#[test]
fn a_clone_is_registered_once_with_what_was_said_last() {
    let clone = |slot: &str, intent| CloneRecord {
        slot: slot.to_owned(),
        created_at: 1,
        failed: Some("n1".to_owned()),
        target: None,
        intent,
    };
    let mut journal = Journal::new(HERE);
    journal.register_clone(clone("a", None));
    journal.register_clone(clone("b", None));
    journal.register_clone(clone("a", Some(id(1))));
    assert_eq!(journal.clones, [clone("b", None), clone("a", Some(id(1)))]);
}
