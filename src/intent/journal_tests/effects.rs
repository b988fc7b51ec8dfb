//! What each event leaves behind in the journal.

use super::*;

#[test]
fn the_first_checkpoint_fixes_the_range_and_each_adds_to_the_totals() {
    let mut journal = journal_in(State::Begun);
    let later = (OriginLsn(20), OriginLsn(80));
    journal.checkpoint(id(1), Phase::Suspending, Some(RANGE), done(1), Timestamp(2)).expect("first");
    journal.checkpoint(id(1), Phase::Replaying, Some(later), done(2), Timestamp(3)).expect("second");
    journal.fail(id(1), failure(None), done(4)).expect("unfinished");
    journal.checkpoint(id(1), Phase::Suspending, Some(later), done(8), Timestamp(5)).expect("another attempt");
    let checkpoint = Checkpoint {
        number: 3,
        phase: Phase::Suspending,
        at: Timestamp(5),
        skip: RANGE.0,
        stop: RANGE.1,
        totals: done(15),
    };
    let intent = journal.intent(id(1)).expect("it is there");
    assert_eq!(intent.checkpoint, Some(checkpoint));
    assert_eq!(intent.totals(), done(15));
    // An attempt without a checkpoint has done nothing.
    let mut journal = journal_in(State::Begun);
    journal.fail(id(1), failure(None), done(4)).expect("unfinished");
    let intent = journal.intent(id(1)).expect("it is there");
    assert_eq!((intent.totals(), &intent.failure), (Totals::default(), &Some(failure(None))));
}

#[test]
fn figures_that_cannot_grow_stay() {
    let mut journal = journal_in(State::Replaying);
    let checkpoint = journal.intents[0].checkpoint.as_mut().expect("replaying");
    checkpoint.number = u32::MAX;
    checkpoint.totals.rows = u64::MAX;
    journal.checkpoint(id(1), Phase::Replaying, Some(RANGE), done(1), Timestamp(9)).expect("legal");
    let checkpoint = journal.intents[0].checkpoint.as_ref().expect("replaying");
    assert_eq!((checkpoint.number, checkpoint.totals.rows), (u32::MAX, u64::MAX));
}

#[test]
fn an_end_keeps_its_outcome_and_position_and_a_completed_one_has_no_failure() {
    let mut journal = journal_in(State::Reconciling);
    journal.fail(id(1), failure(None), done(0)).expect("unfinished");
    journal.complete(id(1), OriginLsn(90), Timestamp(8)).expect("reconciling");
    let intent = journal.intent(id(1)).expect("kept");
    assert_eq!(
        intent.end,
        Some(End { outcome: EndOutcome::Completed, at: Timestamp(8), position: Some(OriginLsn(90)) })
    );
    assert_eq!(intent.failure, None);
    let mut journal = journal_in(State::Replaying);
    journal.fail(id(1), failure(None), done(0)).expect("unfinished");
    journal.abort(id(1), done(4), Timestamp(8)).expect("unfinished");
    let intent = journal.intent(id(1)).expect("kept");
    assert_eq!(intent.end, Some(End { outcome: EndOutcome::Aborted, at: Timestamp(8), position: None }));
    assert_eq!(intent.totals(), done(6), "what the last attempt had done counts");
    assert_eq!(intent.failure, Some(failure(None)), "why it was aborted");
}

#[test]
fn what_aborted_recoveries_have_touched_is_the_next_ones_to_compare_until_one_completes() {
    let mut journal = journal_in(State::Replaying);
    assert_eq!((journal.intents[0].since_transaction, journal.intents[0].touched_from), (701, None));
    journal.abort(id(1), done(0), Timestamp(4)).expect("unfinished");
    begin(&mut journal, 2, "n4").expect("another node's");
    assert_eq!((journal.intents[1].since_transaction, journal.intents[1].touched_from), (702, None));
    journal.abort(id(2), done(0), Timestamp(5)).expect("unfinished");
    begin(&mut journal, 3, "n1").expect("the same node's");
    assert_eq!((journal.intents[2].since_transaction, journal.intents[2].touched_from), (701, Some(RANGE.0)));
    for phase in [Phase::Suspending, Phase::Replaying, Phase::Resuming, Phase::Reconciling] {
        journal
            .checkpoint(id(3), phase, Some((OriginLsn(40), OriginLsn(50))), done(1), Timestamp(6))
            .expect("the order of life");
    }
    journal.complete(id(3), OriginLsn(50), Timestamp(7)).expect("reconciling");
    begin(&mut journal, 4, "n1").expect("once more");
    assert_eq!((journal.intents[3].since_transaction, journal.intents[3].touched_from), (704, None));
}

#[test]
fn what_an_aborted_recovery_has_kept_is_not_the_next_ones_and_what_it_has_lost_is() {
    for (why, touched_from) in [(Why::SourceLost, None), (Why::Lost, Some(RANGE.0))] {
        let mut journal = journal_in(State::Replaying);
        journal.count(id(1), done(3)).expect("unfinished");
        assert_eq!(journal.intents[0].totals(), done(5));
        let mut counts = Counts::default();
        counts.leave(why, 5);
        journal.note_reconciled(id(1), counts, None).expect("unfinished");
        journal.abort(id(1), done(0), Timestamp(4)).expect("unfinished");
        begin(&mut journal, 2, "n1").expect("the same node's");
        assert_eq!(journal.intents[1].touched_from, touched_from, "{why:?}");
    }
}

#[test]
fn what_has_begun_stays_unfinished_and_can_be_resumed() {
    let mut journal = Journal::new(HERE);
    begin(&mut journal, 1, "n1").expect("begun");
    assert_eq!(state_of(&journal), State::Begun);
    assert_eq!(journal.resumable(), Resumable::One(&journal.intents[0]));
}

#[test]
fn it_completes_where_all_is_replayed_and_not_before() {
    let mut journal = journal_in(State::Reconciling);
    let joined = begin(&mut journal, 2, "n1").expect("joined");
    journal.complete(joined, RANGE.1, Timestamp(8)).expect("reconciling");
    assert_eq!(state_of(&journal), State::Completed);
    let mut journal = journal_in(State::Replaying);
    let joined = begin(&mut journal, 2, "n1").expect("joined");
    let outcome = journal.complete(joined, RANGE.1, Timestamp(8));
    assert!(matches!(outcome, Err(IntentError::OutOfOrder { .. })), "{outcome:?}");
    assert_eq!(state_of(&journal), State::Replaying);
}

#[test]
fn the_same_request_joins_and_every_other_one_is_told_which_runs() {
    let mut journal = journal_in(State::Replaying);
    assert_eq!(begin(&mut journal, 2, "n1").expect("joined"), id(1));
    assert_eq!(journal.intents.len(), 1);
    let others: [fn(&mut Request); 7] = [
        |request| request.failed = "n4".to_owned(),
        |request| request.source = "n4".to_owned(),
        |request| request.target = "n4".to_owned(),
        |request| request.clone = None,
        |request| request.skip = Some(OriginLsn(1)),
        |request| request.stop = Some(OriginLsn(1)),
        |request| request.stop_timestamp = Some(Timestamp(1)),
    ];
    for other in others {
        let mut wanted = beginning(2, "n1");
        other(&mut wanted.request);
        let request = wanted.request.clone();
        match journal.begin(wanted) {
            Err(IntentError::AlreadyRunning { failed, source_node, id: running }) => {
                assert_eq!((failed.as_str(), source_node.as_str(), running), ("n1", "n3", id(1)));
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }
    // A recovery that is to be aborted cannot be joined.
    journal.ask_to_abort("n1").expect("running");
    assert!(matches!(begin(&mut journal, 2, "n1"), Err(IntentError::AlreadyRunning { .. })));
    journal.abort(id(1), done(0), Timestamp(9)).expect("unfinished");
    assert_eq!(begin(&mut journal, 2, "n1").expect("begun anew"), id(2));
}

#[test]
fn of_several_unfinished_ones_none_is_resumed_or_joined_and_each_can_be_ended() {
    let mut journal = journal_with_two();
    match journal.resumable() {
        Resumable::Several(several) => {
            assert_eq!(several.iter().map(|intent| intent.id).collect::<Vec<_>>(), [id(1), id(2)]);
        }
        other => panic!("{other:?}"),
    }
    for failed in ["n1", "n4", "n5"] {
        assert!(matches!(begin(&mut journal, 3, failed), Err(IntentError::AlreadyRunning { .. })), "{failed}");
    }
    assert_eq!(journal.ask_to_abort("n4").expect("running"), id(2));
    journal.abort(id(2), done(0), Timestamp(9)).expect("unfinished");
    assert!(matches!(journal.resumable(), Resumable::One(one) if one.id == id(1)));
}

#[test]
fn only_the_transaction_that_fails_can_be_given_up() {
    let mut journal = journal_in(State::Replaying);
    let refused = |journal: &mut Journal, failed: &str, lsn: OriginLsn| journal.skip(failed, lsn).expect_err("refused");
    assert!(matches!(
        refused(&mut journal, "n1", FAILING),
        IntentError::NotFailing { failing: None, asked: FAILING, .. }
    ));
    // This failure is not that of a transaction.
    journal.fail(id(1), failure(None), done(0)).expect("unfinished");
    assert!(matches!(refused(&mut journal, "n1", FAILING), IntentError::NotFailing { failing: None, .. }));
    journal.fail(id(1), failure(Some(FAILING)), done(0)).expect("unfinished");
    for lsn in [OriginLsn(FAILING.0 - 1), OriginLsn(FAILING.0 + 1)] {
        assert!(matches!(refused(&mut journal, "n1", lsn), IntentError::NotFailing { failing: Some(FAILING), .. }));
    }
    assert!(matches!(refused(&mut journal, "n4", FAILING), IntentError::NotRunning { .. }));
    assert_eq!(journal.skip("n1", FAILING).expect("it fails"), id(1));
    // Giving it up a second time succeeds, even if another transaction fails by now.
    journal.fail(id(1), failure(Some(OriginLsn(60))), done(0)).expect("unfinished");
    journal.skip("n1", FAILING).expect("given up before");
    journal.skip("n1", OriginLsn(60)).expect("it fails");
    assert_eq!(journal.intents[0].skips, [FAILING, OriginLsn(60)]);
}

#[test]
fn an_attempt_goes_on_until_it_has_said_how_it_ended_or_that_was_said_for_it() {
    let mut journal = journal_in(State::Replaying);
    let state = |journal: &Journal| (journal.intents[0].is_attempted, journal.intents[0].cut_short);
    journal.begin_attempt(id(1)).expect("unfinished");
    for times in 1..=3 {
        journal.begin_attempt(id(1)).expect("unfinished");
        assert_eq!(state(&journal), (true, times - 1));
        journal.note_cut_short(id(1), failure(None)).expect("unfinished");
        assert_eq!(state(&journal), (false, times));
        assert_eq!(journal.intents[0].failure, Some(failure(None)));
    }
    // An attempt that has recorded its failure was not cut short.
    journal.begin_attempt(id(1)).expect("unfinished");
    journal.fail(id(1), failure(None), done(0)).expect("unfinished");
    assert_eq!(state(&journal), (false, 0));
    journal.begin_attempt(id(1)).expect("unfinished");
    journal.abort(id(1), done(0), Timestamp(9)).expect("unfinished");
    assert_eq!(state(&journal), (false, 0));
    assert!(matches!(journal.begin_attempt(id(1)), Err(IntentError::Ended { .. })));
    assert!(matches!(journal.note_cut_short(id(1), failure(None)), Err(IntentError::Ended { .. })));
}

#[test]
fn giving_up_is_proposed_only_where_the_transaction_is_at_fault() {
    let mut journal = journal_in(State::Replaying);
    for (sqlstate, proposes) in [("23505", true), ("53100", false), ("55P03", false)] {
        let failure = Failure { sqlstate: sqlstate.to_owned(), ..failure(Some(FAILING)) };
        journal.fail(id(1), failure, done(0)).expect("unfinished");
        let refused = journal.skip("n1", OriginLsn(FAILING.0 + 1)).expect_err("another one fails");
        assert!(
            matches!(refused, IntentError::NotFailing { is_at_fault, .. } if is_at_fault == proposes),
            "{sqlstate}: {refused}"
        );
    }
}
