//! Which ended recoveries the journal forgets.

use super::*;
use crate::tally::compared::{Counts, Why};

#[test]
fn what_keeps_rows_stays_until_they_are_judged() {
    let mut journal = journal_in(State::Completed);
    journal.intents[0].kept_rows = Some(7);
    journal.intents[0].reconciled = Some(Counts {
        compared: 5,
        updated: 1,
        deleted: 0,
        unjudged: [(Why::TargetLags, 3), (Why::Policy, 1)].into(),
        ..Counts::default()
    });
    for number in 3..=30 {
        let mut ended = journal_in(State::Aborted).intents.remove(0);
        (ended.id, ended.end) =
            (id(number), Some(End { outcome: EndOutcome::Aborted, at: Timestamp(i64::from(number)), position: None }));
        journal.intents.push(ended);
    }
    let again = |unjudged: u64| Counts {
        compared: 2,
        updated: 0,
        deleted: 1,
        unjudged: [(Why::Busy, unjudged)].into(),
        ..Counts::default()
    };
    assert_eq!(journal.note_judged_again(id(1), again(1), Some(8)), Some(7));
    assert_eq!(journal.intents.len(), 1 + 20);
    assert_eq!(journal.with_kept_rows().map(|intent| intent.id).collect::<Vec<_>>(), [id(1)]);
    let known = journal.intents[0].reconciled.clone().expect("counted");
    assert_eq!(known.unjudged, [(Why::Busy, 1), (Why::Policy, 1)].into());
    assert_eq!((known.compared, known.updated, known.deleted), (7, 1, 1));
    assert!(known.has(&again(1)) && !known.has(&again(2)));
    assert_eq!(journal.note_judged_again(id(1), Counts::default(), None), Some(8));
    assert_eq!(journal.intent(id(1)), None, "it ended before the twenty");
    assert_eq!(journal.note_judged_again(id(1), Counts::default(), Some(9)), None);
}

#[test]
fn the_last_twenty_that_ended_are_kept_and_every_unfinished_one() {
    let mut journal = journal_with_two();
    // Intents 1 and 2 were begun first, and are unfinished while these are added by hand.
    for number in 3..=30 {
        let mut ended = journal_in(State::Aborted).intents.remove(0);
        ended.id = id(number);
        ended.end = Some(End { outcome: EndOutcome::Aborted, at: Timestamp(i64::from(number)), position: None });
        journal.intents.push(ended);
    }
    journal.abort(id(2), done(0), Timestamp(100)).expect("unfinished");
    let kept: Vec<IntentId> = journal.intents.iter().map(|intent| intent.id).collect();
    // Intent 2 has ended last, although it was begun before the others.
    let expected: Vec<IntentId> = [1, 2].into_iter().chain(12..=30).map(id).collect();
    assert_eq!(kept, expected);
    assert!(matches!(journal.resumable(), Resumable::One(one) if one.id == id(1)));
}
