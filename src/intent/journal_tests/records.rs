//! What the journal holds besides the states of its intents: clones and suspensions.

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
fn suspended_subscriptions_are_given_back_by_what_they_wait_for() {
    let mut journal = Journal::new(HERE);
    for (subscription, until) in [(1, Until::Replayed), (2, Until::Returned), (3, Until::Replayed)] {
        journal.suspensions.push(Suspension::new(subscription, "n1".to_owned(), until));
    }
    let taken = |journal: &mut Journal, until| -> Vec<u32> {
        journal.take_suspended(until, |_| true).iter().map(|entry| entry.subscription).collect()
    };
    assert_eq!(taken(&mut journal, Until::Replayed), [1, 3]);
    assert_eq!(taken(&mut journal, Until::Replayed), Vec::<u32>::new());
    assert_eq!(taken(&mut journal, Until::Returned), [2]);
    assert_eq!(journal.suspensions, []);
}

#[test]
fn a_clone_is_registered_once_with_what_was_said_last() {
    let clone = |slot: &str, intent| CloneRecord {
        slot: slot.to_owned(),
        created_at: Timestamp(1),
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
