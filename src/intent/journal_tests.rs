//! The state machine of intents: every pair of a state and an event is compared with a table that was written by hand.

pub mod document;
mod effects;
mod forgetting;
mod histories;
mod records;

use super::document::{
    Checkpoint, CloneRecord, End, EndOutcome, Failure, Intent, Journal, ManifestRecord, Phase, Request, Suspension,
    Until,
};
use super::error::IntentError;
use super::journal::{Beginning, Resumable};
use crate::identity::DatabaseIdentity;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::tally::compared::{Counts, Why};
use crate::tally::replayed::Totals;

const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: u64::MAX, database: 5 };
const RANGE: (OriginLsn, OriginLsn) = (OriginLsn(10), OriginLsn(90));
const FAILING: OriginLsn = OriginLsn(50);

fn id(number: u8) -> IntentId {
    IntentId::from_random([number; 16])
}

fn request(failed: &str) -> Request {
    Request {
        failed: failed.to_owned(),
        source: "n3".to_owned(),
        target: "n2".to_owned(),
        clone: Some("c".to_owned()),
        skip: None,
        stop: None,
        stop_timestamp: None,
        rebuild: None,
    }
}

fn beginning(number: u8, failed: &str) -> Beginning {
    Beginning {
        id: id(number),
        subscription: 7,
        request: request(failed),
        has_own_dsn: false,
        applied_before: OriginLsn(10),
        passed_before: OriginLsn(12),
        transaction: 700 + u32::from(number),
        at: Timestamp(1),
    }
}

fn begin(journal: &mut Journal, number: u8, failed: &str) -> Result<IntentId, IntentError> {
    journal.begin(beginning(number, failed))
}

fn failure(lsn: Option<OriginLsn>) -> Failure {
    Failure {
        sqlstate: "23505".to_owned(),
        reason: "duplicate key".to_owned(),
        relation: Some("public.t".to_owned()),
        column: None,
        constraint: None,
        origin_lsn: lsn,
        at: Timestamp(3),
    }
}

fn done(transactions: u64) -> Totals {
    Totals { transactions, rows: 2 * transactions, bytes: 100 * transactions, ..Totals::default() }
}

/// The states of an intent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unknown,
    Begun,
    Suspending,
    Replaying,
    Resuming,
    Reconciling,
    Completed,
    Aborted,
}

const STATES: [State; 8] = [
    State::Unknown,
    State::Begun,
    State::Suspending,
    State::Replaying,
    State::Resuming,
    State::Reconciling,
    State::Completed,
    State::Aborted,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    Suspend,
    Replay,
    Resume,
    Reconcile,
    Fail,
    Complete,
    Abort,
    AskToAbort,
    /// The skip of a transaction that has not failed.
    Skip,
    /// The recovery has made a clone.
    NoteClone,
    BeginSame,
    BeginOther,
}

const EVENTS: [Event; 12] = [
    Event::Suspend,
    Event::Replay,
    Event::Resume,
    Event::Reconcile,
    Event::Fail,
    Event::Complete,
    Event::Abort,
    Event::AskToAbort,
    Event::Skip,
    Event::NoteClone,
    Event::BeginSame,
    Event::BeginOther,
];

/// What becomes of the intent. A refusal changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cell {
    Next(State),
    /// A new intent is begun beside it.
    Another,
    Unknown,
    Ended,
    OutOfOrder,
    NotRunning,
    NotFailing,
    AlreadyRunning,
}

/// The state machine, written by hand: a row per state, with its cells in the order of `EVENTS`.
const TABLE: [[Cell; 12]; 8] = {
    use Cell::*;
    use State::{Aborted, Begun, Completed, Reconciling, Replaying, Resuming, Suspending};
    const GONE: [Cell; 10] =
        [Unknown, Unknown, Unknown, Unknown, Unknown, Unknown, Unknown, NotRunning, NotRunning, Unknown];
    const OVER: [Cell; 10] = [Ended, Ended, Ended, Ended, Ended, Ended, Ended, NotRunning, NotRunning, Ended];
    const fn row(first: [Cell; 10], same: Cell, other: Cell) -> [Cell; 12] {
        let [a, b, c, d, e, f, g, h, i, j] = first;
        [a, b, c, d, e, f, g, h, i, j, same, other]
    }
    [
        // Suspend, Replay, Resume, Reconcile, Fail, Complete, Abort, AskToAbort, Skip, NoteClone; BeginSame; BeginOther
        row(GONE, Next(Begun), Another),
        row(
            [
                Next(Suspending),
                OutOfOrder,
                OutOfOrder,
                OutOfOrder,
                Next(Begun),
                OutOfOrder,
                Next(Aborted),
                Next(Begun),
                NotFailing,
                Next(Begun),
            ],
            Next(Begun),
            AlreadyRunning,
        ),
        row(
            [
                Next(Suspending),
                Next(Replaying),
                OutOfOrder,
                OutOfOrder,
                Next(Suspending),
                OutOfOrder,
                Next(Aborted),
                Next(Suspending),
                NotFailing,
                Next(Suspending),
            ],
            Next(Suspending),
            AlreadyRunning,
        ),
        row(
            [
                Next(Suspending),
                Next(Replaying),
                Next(Resuming),
                OutOfOrder,
                Next(Replaying),
                OutOfOrder,
                Next(Aborted),
                Next(Replaying),
                NotFailing,
                Next(Replaying),
            ],
            Next(Replaying),
            AlreadyRunning,
        ),
        row(
            [
                OutOfOrder,
                OutOfOrder,
                Next(Resuming),
                Next(Reconciling),
                Next(Resuming),
                OutOfOrder,
                Next(Aborted),
                Next(Resuming),
                NotFailing,
                Next(Resuming),
            ],
            Next(Resuming),
            AlreadyRunning,
        ),
        row(
            [
                OutOfOrder,
                OutOfOrder,
                OutOfOrder,
                Next(Reconciling),
                Next(Reconciling),
                Next(Completed),
                Next(Aborted),
                Next(Reconciling),
                NotFailing,
                Next(Reconciling),
            ],
            Next(Reconciling),
            AlreadyRunning,
        ),
        row(OVER, Another, Another),
        row(OVER, Another, Another),
    ]
};

/// Returns a journal whose intent 1, to recover n1, is in that state.
fn journal_in(state: State) -> Journal {
    let mut journal = Journal::new(HERE);
    let phases: &[Phase] = match state {
        State::Unknown => return journal,
        State::Begun | State::Aborted => &[],
        State::Suspending => &[Phase::Suspending],
        State::Replaying => &[Phase::Suspending, Phase::Replaying],
        State::Resuming => &[Phase::Suspending, Phase::Replaying, Phase::Resuming],
        State::Reconciling | State::Completed => {
            &[Phase::Suspending, Phase::Replaying, Phase::Resuming, Phase::Reconciling]
        }
    };
    let id = begin(&mut journal, 1, "n1").expect("an empty journal");
    for phase in phases {
        journal.checkpoint(id, *phase, Some(RANGE), done(1), Timestamp(2)).expect("the order of life");
    }
    match state {
        State::Completed => journal.complete(id, RANGE.1, Timestamp(4)).expect("reconciling"),
        State::Aborted => journal.abort(id, done(0), Timestamp(4)).expect("unfinished"),
        _ => (),
    }
    journal
}

/// Returns a journal with two unfinished intents, which only a change by hand can cause.
fn journal_with_two() -> Journal {
    let mut journal = journal_in(State::Replaying);
    let mut other = journal_in(State::Begun).intents.remove(0);
    (other.id, other.request) = (id(2), request("n4"));
    journal.intents.push(other);
    journal
}

fn state_of(journal: &Journal) -> State {
    match journal.intent(id(1)).map(Intent::phase_name) {
        None => State::Unknown,
        Some("begun") => State::Begun,
        Some("suspending") => State::Suspending,
        Some("replaying") => State::Replaying,
        Some("resuming") => State::Resuming,
        Some("reconciling") => State::Reconciling,
        Some("completed") => State::Completed,
        Some("aborted") => State::Aborted,
        Some(other) => panic!("{other}"),
    }
}

fn happen(journal: &mut Journal, event: Event, number: u8) -> Result<(), IntentError> {
    let of = id(number);
    match event {
        Event::Suspend => journal.checkpoint(of, Phase::Suspending, Some(RANGE), done(1), Timestamp(5)),
        Event::Replay => journal.checkpoint(of, Phase::Replaying, Some(RANGE), done(1), Timestamp(5)),
        Event::Resume => journal.checkpoint(of, Phase::Resuming, Some(RANGE), done(1), Timestamp(5)),
        Event::Reconcile => journal.checkpoint(of, Phase::Reconciling, Some(RANGE), done(1), Timestamp(5)),
        Event::Fail => journal.fail(of, failure(Some(FAILING)), done(1)),
        Event::Complete => journal.complete(of, RANGE.1, Timestamp(5)),
        Event::Abort => journal.abort(of, done(1), Timestamp(5)),
        Event::AskToAbort => journal.ask_to_abort("n1").map(drop),
        Event::Skip => journal.skip("n1", OriginLsn(FAILING.0 + 1)).map(drop),
        Event::NoteClone => journal.note_clone(of, "made"),
        // The id is another one, because every call makes its own.
        Event::BeginSame => {
            let fresh = if journal.intent(of).is_some() { 2 } else { 1 };
            begin(journal, fresh, "n1").map(drop)
        }
        Event::BeginOther => begin(journal, 2, "n4").map(drop),
    }
}

fn cell_of(error: &IntentError) -> Cell {
    match error {
        IntentError::AlreadyRunning { .. } | IntentError::RebuildRuns { .. } => Cell::AlreadyRunning,
        IntentError::Unknown { .. } => Cell::Unknown,
        IntentError::Ended { .. } => Cell::Ended,
        IntentError::OutOfOrder { .. } => Cell::OutOfOrder,
        IntentError::NotRunning { .. } => Cell::NotRunning,
        IntentError::NotFailing { .. } => Cell::NotFailing,
        IntentError::NotSuperuser { .. }
        | IntentError::NullArgument { .. }
        | IntentError::NoSchema
        | IntentError::Registry(_) => panic!("{error}"),
    }
}

#[test]
fn every_event_in_every_state_does_what_the_table_says_and_what_is_refused_changes_nothing() {
    for (state, row) in STATES.into_iter().zip(TABLE) {
        for (event, expected) in EVENTS.into_iter().zip(row) {
            let before = journal_in(state);
            assert_eq!(state_of(&before), state);
            let mut journal = before.clone();
            let cell = match happen(&mut journal, event, 1) {
                Err(error) => {
                    assert_eq!(journal, before, "{state:?} × {event:?}: refused, and changed");
                    cell_of(&error)
                }
                Ok(()) if journal.intents.iter().any(|intent| intent.id == id(2)) => {
                    assert_eq!(state_of(&journal), state, "{state:?} × {event:?}");
                    assert_eq!(journal.intent(id(2)).map(Intent::phase_name), Some("begun"));
                    Cell::Another
                }
                Ok(()) => Cell::Next(state_of(&journal)),
            };
            assert_eq!(cell, expected, "{state:?} × {event:?}");
        }
    }
}
