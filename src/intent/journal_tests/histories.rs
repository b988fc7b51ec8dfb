//! Random histories: whatever happens in whatever order, the journal stays consistent.

use super::*;
use crate::document::{self, Stored};
use proptest::prelude::*;

/// How many ended intents are kept.
const KEPT: usize = 20;

/// What is done at random, and to which intent: the unfinished one, or an old one.
#[derive(Clone, Copy, Debug)]
struct Step {
    event: Event,
    is_old: bool,
    failed: u8,
    work: u8,
    range: u8,
    lsn: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0..EVENTS.len(), prop::bool::weighted(0.1), 0u8..2, 0u8..9, 0u8..9, 50u8..53).prop_map(
        |(event, is_old, failed, work, range, lsn)| Step { event: EVENTS[event], is_old, failed, work, range, lsn },
    );
    prop::collection::vec(step, 0..400)
}

/// Takes the step. `next`: the number of the next intent to begin.
fn take(journal: &mut Journal, step: Step, next: &mut u8, at: i64) -> Result<(), IntentError> {
    let chosen = if step.is_old { journal.intents.first() } else { journal.unfinished().next() };
    let of = chosen.map_or(id(0), |intent| intent.id);
    let failed = ["n1", "n4"][usize::from(step.failed)];
    let (work, lsn) = (done(u64::from(step.work)), OriginLsn(u64::from(step.lsn)));
    let range = (OriginLsn(u64::from(step.range)), OriginLsn(u64::from(step.range) + 100));
    match step.event {
        Event::Suspend => journal.checkpoint(of, Phase::Suspending, Some(range), work, Timestamp(at)),
        Event::Replay => journal.checkpoint(of, Phase::Replaying, Some(range), work, Timestamp(at)),
        Event::Resume => journal.checkpoint(of, Phase::Resuming, Some(range), work, Timestamp(at)),
        Event::Reconcile => journal.checkpoint(of, Phase::Reconciling, Some(range), work, Timestamp(at)),
        Event::Fail => journal.fail(of, Failure { at: Timestamp(at), ..failure(Some(lsn)) }, work),
        Event::Complete => journal.complete(of, range.1, Timestamp(at)),
        Event::Abort => journal.abort(of, work, Timestamp(at)),
        Event::AskToAbort => journal.ask_to_abort(failed).map(drop),
        Event::Skip => journal.skip(failed, lsn).map(drop),
        Event::NoteClone => journal.note_clone(of, "made"),
        Event::BeginSame | Event::BeginOther => {
            let begun = journal.begin(Beginning { at: Timestamp(at), ..beginning(*next, failed) })?;
            *next = next.wrapping_add(u8::from(begun == id(*next)));
            // Some are given up as soon as they have begun.
            if step.event == Event::BeginOther && step.work == 0 {
                journal.abort(begun, Totals::default(), Timestamp(at))?;
            }
            Ok(())
        }
    }
}

fn grows(before: Totals, after: Totals) -> bool {
    let figures = |totals: Totals| [totals.transactions, totals.rows, totals.bytes, totals.conflicts, totals.skipped];
    figures(before).iter().zip(figures(after)).all(|(before, after)| *before <= after)
}

/// Checks what must hold between a journal and the next one, whatever has happened.
fn check(before: &Journal, after: &Journal) -> Result<(), TestCaseError> {
    prop_assert!(after.unfinished().count() <= 1, "two unfinished");
    prop_assert!(after.intents.iter().filter(|intent| !intent.is_unfinished()).count() <= KEPT);
    for old in &before.intents {
        let Some(new) = after.intent(old.id) else {
            prop_assert!(!old.is_unfinished(), "an unfinished one was forgotten");
            continue;
        };
        prop_assert_eq!(
            (&old.request, old.begun_at, old.applied_before, old.passed_before, old.subscription),
            (&new.request, new.begun_at, new.applied_before, new.passed_before, new.subscription)
        );
        if !old.is_unfinished() {
            prop_assert_eq!(old, new, "what has ended has changed");
        }
        prop_assert!(grows(old.totals(), new.totals()), "totals shrink");
        prop_assert!(new.skips.starts_with(&old.skips), "a skip was forgotten");
        prop_assert!(new.must_abort || !old.must_abort, "an abort was forgotten");
        if let Some(checkpoint) = &old.checkpoint {
            let now = new.checkpoint.as_ref();
            let numbers = checkpoint.number..=checkpoint.number + 1;
            prop_assert!(now.is_some_and(|now| numbers.contains(&now.number)), "numbers only grow");
            prop_assert_eq!(now.map(|now| (now.skip, now.stop)), Some((checkpoint.skip, checkpoint.stop)));
        }
    }
    // A step adds one intent at most.
    let new = after.intents.iter().filter(|intent| before.intent(intent.id).is_none()).count();
    prop_assert!(new <= 1);
    Ok(())
}

proptest! {
    // Long histories are better than many: intents are forgotten only after twenty have ended.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn whatever_happens_in_whatever_order_the_journal_stays_sound(steps in steps()) {
        let mut journal = Journal::new(HERE);
        let mut next = 1;
        for (index, step) in steps.into_iter().enumerate() {
            let before = journal.clone();
            let outcome = take(&mut journal, step, &mut next, index as i64 + 1);
            check(&before, &journal)?;
            if outcome.is_err() {
                prop_assert_eq!(&journal, &before, "refused, and changed");
            }
            if before.unfinished().count() == 1 && journal.unfinished().count() == 0 {
                let ended = before.unfinished().next().map(|intent| intent.id);
                prop_assert!(ended.is_some_and(|ended| journal.intent(ended).is_some()), "just ended, and forgotten");
            }
        }
        prop_assert_eq!(Journal::read(Some(&journal.to_text()), HERE), Stored::Own(journal));
    }

    #[test]
    fn a_document_of_any_bytes_cannot_be_read_and_is_not_written_over(text in "\\PC{0,200}") {
        prop_assert!(matches!(Journal::read(Some(&text), HERE), Stored::Unreadable(_)));
        prop_assert!(document::written_over(Some(&text), &Journal::new(HERE), HERE).is_err());
    }
}
