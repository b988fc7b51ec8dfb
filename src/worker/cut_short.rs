//! An attempt of a recovery that has ended without recording why: by a signal, by a FATAL, or with the server. The
//! manager does what the attempt would have done itself: it enables the subscriptions to the other survivors, and
//! records why the recovery waits.
//!
//! The intent says that an attempt is running (`is_attempted`) from before the attempt's first step until the attempt
//! has recorded how it ended.

use super::trouble::sqlstate_text;
use crate::intent::document::{Failure, Intent};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::interrupts;
use crate::recover::error::RecoverError;
use crate::recover::suspend;
use crate::shmem::{self, AttemptEnd};
use std::time::Duration;

/// At a shutdown the postmaster ends all of its workers at once, and within this time the manager has received its own
/// signal. An attempt that ended with the server needs no report.
const SHUTDOWN_NOTICE: Duration = Duration::from_millis(200);

/// The SQLSTATE of a worker that was ended by SIGTERM (ERRCODE_ADMIN_SHUTDOWN).
const ADMIN_SHUTDOWN: &str = "57P01";
/// The SQLSTATE of a crash (ERRCODE_CRASH_SHUTDOWN).
const CRASH: &str = "57P02";

/// What has to be recorded of the last attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptVerdict {
    /// Nothing: the attempt is running, or has recorded its end, or was asked to leave.
    Nothing,
    /// Nothing yet: it may have ended with the server.
    Later,
    /// It ended in this run of the server, with this SQLSTATE as core packs it.
    Ended(i32),
    /// It ended with a crash of the server, or with one that it caused.
    Crashed,
}

/// What is known of the last attempt.
#[derive(Clone, Copy, Debug)]
pub struct KnownAttempt {
    /// A worker runs or is starting.
    pub is_up: bool,
    /// The intent says that an attempt is running.
    pub is_attempted: bool,
    pub must_abort: bool,
    pub end: AttemptEnd,
    pub end_sqlstate: i32,
    pub ended_for: Duration,
    pub was_shut_down: bool,
}

/// Decides what has to be recorded of the last attempt (pure).
pub fn verdict(known: KnownAttempt) -> AttemptVerdict {
    // A worker that runs records its own end. If the recovery is to be aborted, the next worker ends it and enables
    // what is suspended, whatever has become of this one.
    if known.is_up || known.must_abort {
        return AttemptVerdict::Nothing;
    }
    match known.end {
        AttemptEnd::Untold if known.ended_for < SHUTDOWN_NOTICE => AttemptVerdict::Later,
        AttemptEnd::Untold => AttemptVerdict::Ended(known.end_sqlstate),
        AttemptEnd::Told | AttemptEnd::Asked => AttemptVerdict::Nothing,
        AttemptEnd::None if known.is_attempted && !known.was_shut_down => AttemptVerdict::Crashed,
        AttemptEnd::None => AttemptVerdict::Nothing,
    }
}

/// The failure to record; None if nothing is to be recorded (yet).
fn failure(verdict: AttemptVerdict, at: Timestamp) -> Option<Failure> {
    let (sqlstate, reason) = match verdict {
        AttemptVerdict::Nothing | AttemptVerdict::Later => return None,
        AttemptVerdict::Crashed => (CRASH.to_owned(), "the server, or the process of the recovery, crashed"),
        AttemptVerdict::Ended(packed) => {
            let sqlstate = if packed == 0 { CRASH.to_owned() } else { sqlstate_text(packed) };
            let reason = match sqlstate.as_str() {
                ADMIN_SHUTDOWN => "the process of the recovery was ended by a signal (SIGTERM)",
                _ => "the process of the recovery has ended; the server's log says why",
            };
            (sqlstate, reason)
        }
    };
    Some(Failure {
        sqlstate,
        reason: reason.to_owned(),
        relation: None,
        column: None,
        constraint: None,
        origin_lsn: None,
        at,
    })
}

/// Judges the last attempt of a recovery by its intent and by the shared memory entry at `index`.
fn look(index: usize, intent: &Intent, is_up: impl Fn(&shmem::RescueEntry) -> bool) -> AttemptVerdict {
    let mut shared = shmem::lock();
    let was_shut_down = shared.was_shut_down();
    let rescue = shared.databases()[index].rescue;
    // An entry that was written for another recovery says nothing about this one's attempts.
    let is_known = rescue.intent == intent.id.0;
    verdict(KnownAttempt {
        is_up: is_up(&rescue),
        is_attempted: intent.is_attempted,
        must_abort: intent.must_abort,
        end: if is_known { rescue.end } else { AttemptEnd::None },
        end_sqlstate: rescue.end_sqlstate,
        ended_for: Monotonic::now().since(rescue.ended_at),
        was_shut_down,
    })
}

/// Whether the end of the last attempt is recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Account {
    #[default]
    Settled,
    /// It is recorded as soon as this transaction commits.
    Settles,
    /// It is not recorded yet: no other attempt may begin.
    Open,
}

/// Records, in the present transaction, how an attempt ended that has not done so itself, and enables the subscriptions
/// that it had suspended. `is_up`: whether a worker runs or is starting.
///
/// # Errors
/// If another session holds the journal's lock, or the journal cannot be changed: the attempt's end is then still open.
pub fn settle(
    index: usize,
    intent: &Intent,
    is_up: impl Fn(&shmem::RescueEntry) -> bool,
) -> Result<Account, RecoverError> {
    match look(index, intent, &is_up) {
        AttemptVerdict::Nothing => return Ok(Account::Settled),
        AttemptVerdict::Later => return Ok(Account::Open),
        AttemptVerdict::Ended(_) | AttemptVerdict::Crashed if interrupts::shutdown_requested() => {
            return Ok(Account::Open);
        }
        AttemptVerdict::Ended(_) | AttemptVerdict::Crashed => (),
    }
    let settled = storage::try_update(|journal| {
        // The journal is looked at again under its lock: the attempt may have recorded its end in the meantime.
        let Some(now) = journal.intent(intent.id).filter(|now| now.is_unfinished()).cloned() else {
            return Ok(Account::Settled);
        };
        let Some(failure) = failure(look(index, &now, &is_up), Timestamp::now()) else {
            return Ok(Account::Settled);
        };
        suspend::resume_meanwhile(journal, intent.id);
        journal.note_cut_short(intent.id, failure.clone())?;
        warn(&now, &failure);
        Ok::<_, RecoverError>(Account::Settles)
    })?;
    // If this lasts, the manager reports it (skips.rs).
    settled.ok_or(RecoverError::JournalBusy)
}

/// Logs the failure if it is another one than before.
fn warn(intent: &Intent, failure: &Failure) {
    if intent.failure.as_ref().is_none_or(|known| known.sqlstate != failure.sqlstate) {
        let text = intent.describe(failure);
        pgrx::warning!("{} waits: {text}", intent.what());
    }
}

/// Notes in shared memory that what [`settle`] has recorded is committed.
pub fn note_settled(index: usize, id: IntentId) {
    let mut shared = shmem::lock();
    let rescue = &mut shared.databases()[index].rescue;
    if rescue.intent == id.0 && rescue.end == AttemptEnd::Untold {
        rescue.end = AttemptEnd::Told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: KnownAttempt = KnownAttempt {
        is_up: true,
        is_attempted: true,
        must_abort: false,
        end: AttemptEnd::Untold,
        end_sqlstate: 1,
        ended_for: Duration::from_secs(1),
        was_shut_down: false,
    };

    #[test]
    fn only_an_attempt_that_has_ended_and_told_nothing_is_told_of() {
        let ended = KnownAttempt { is_up: false, ..UP };
        assert_eq!(verdict(UP), AttemptVerdict::Nothing);
        assert_eq!(verdict(ended), AttemptVerdict::Ended(1));
        // Whether the attempt had recorded its beginning does not matter: it may have ended before that.
        assert_eq!(verdict(KnownAttempt { is_attempted: false, ..ended }), AttemptVerdict::Ended(1));
        assert_eq!(verdict(KnownAttempt { must_abort: true, ..ended }), AttemptVerdict::Nothing);
        for end in [AttemptEnd::Told, AttemptEnd::Asked] {
            assert_eq!(verdict(KnownAttempt { end, ..ended }), AttemptVerdict::Nothing);
        }
    }

    #[test]
    fn one_that_may_have_ended_with_the_server_waits_until_that_would_be_known() {
        let just_now = KnownAttempt { is_up: false, ended_for: Duration::from_millis(10), ..UP };
        assert_eq!(verdict(just_now), AttemptVerdict::Later);
    }

    #[test]
    fn after_a_crash_the_intent_alone_tells_and_after_a_shutdown_there_is_nothing_to_tell() {
        let restarted = KnownAttempt { is_up: false, end: AttemptEnd::None, ..UP };
        assert_eq!(verdict(restarted), AttemptVerdict::Crashed);
        assert_eq!(verdict(KnownAttempt { was_shut_down: true, ..restarted }), AttemptVerdict::Nothing);
        assert_eq!(verdict(KnownAttempt { is_attempted: false, ..restarted }), AttemptVerdict::Nothing);
    }

    #[test]
    fn what_is_written_down_has_its_sqlstate() {
        assert_eq!(failure(AttemptVerdict::Nothing, Timestamp(0)), None);
        assert_eq!(failure(AttemptVerdict::Later, Timestamp(0)), None);
        assert_eq!(
            failure(AttemptVerdict::Crashed, Timestamp(0)).map(|failure| failure.sqlstate),
            Some("57P02".to_owned())
        );
        let signal = pgrx::PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32;
        let told = failure(AttemptVerdict::Ended(signal), Timestamp(7)).expect("a failure");
        assert!(told.reason.contains("SIGTERM"), "{told:?}");
        assert_eq!((told.sqlstate.as_str(), told.at), ("57P01", Timestamp(7)));
    }
}
