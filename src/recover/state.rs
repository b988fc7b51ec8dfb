//! How a recovery of which this node is the target stands at this moment.
//!
//! The journal says what is durable, shared memory what the rescue worker and the manager have done since. Everything
//! that shows a recovery (recovery_state(), recovery_progress, recovery_intents(), the health check) shows this.

use super::rebuild_state::RebuildState;
use crate::backoff;
use crate::intent::document::{Intent, Phase};
use crate::intent::fault;
use crate::lsn::OriginLsn;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::process;
use crate::shmem::{self, RescueEntry, ShortText};
use crate::tally::compared::Counts;
use crate::tally::replayed::Totals;
use serde::Serialize;
use std::time::Duration;

/// What the manager has seen longer ago than this may not be true any more.
const LOOK_IS_GOOD_FOR: Duration = Duration::from_secs(5);

/// When a phase was first reached.
#[derive(Clone, Debug, Serialize)]
pub struct ReachedStep {
    pub phase: &'static str,
    /// Since the recovery began.
    pub seconds: f64,
}

/// How a recovery stands. Its JSON form is what recovery_state() returns, here or to the node from which it is watched,
/// which may run another version: fields are only added.
#[derive(Clone, Debug, Serialize)]
pub struct RecoveryState {
    pub intent_id: String,
    pub failed_node: String,
    pub source_node: String,
    pub target_node: String,
    /// The phase, or the outcome: completed, aborted.
    pub phase: &'static str,
    /// It has ended, and no worker is about to release its clone any more.
    pub ended: bool,
    /// The last attempt has failed, and no worker is at it.
    pub waiting: bool,
    pub steps: Vec<ReachedStep>,
    pub clone: Option<String>,
    #[serde(skip)]
    pub begun_at: Timestamp,
    #[serde(skip)]
    pub ended_at: Option<Timestamp>,
    #[serde(skip)]
    pub checkpoint: Option<u32>,
    /// How far the target had applied the failed node when the recovery began.
    #[serde(skip)]
    pub began_from: OriginLsn,
    /// What it was asked to begin after and to end with, or what the plan has made of that.
    pub skip_lsn: Option<OriginLsn>,
    pub stop_lsn: Option<OriginLsn>,
    /// Up to where the failed node's transactions are applied.
    pub current_lsn: OriginLsn,
    /// Where it has ended.
    pub final_lsn: Option<OriginLsn>,
    pub transactions: u64,
    pub rows: u64,
    pub bytes: u64,
    pub conflicts: u64,
    pub skipped_transactions: u64,
    #[serde(skip)]
    pub skipped_lsns: Vec<OriginLsn>,
    /// How many rows the replay has touched, and how many of them were compared with those of the source.
    pub touched: u64,
    pub compared: u64,
    pub reconciled: Option<Counts>,
    pub rows_per_second: Option<f64>,
    pub seconds_left: Option<f64>,
    /// Why it waits, in our own words.
    pub error: Option<String>,
    pub error_sqlstate: Option<String>,
    pub error_at: Option<Timestamp>,
    pub error_lsn: Option<OriginLsn>,
    /// What the server has reported of that; it may quote rows, so only superusers see it.
    pub server_error: Option<serde_json::Value>,
    /// The callers suggest to skip the transaction only if this is true.
    pub is_transactions_fault: bool,
    /// If this is true, a retry alone does not help.
    pub must_be_mended: bool,
    pub advice: Option<&'static str>,
    /// How many attempts in a row have failed.
    pub failures: u32,
    /// The sessions that hold the lock for which the recovery waits, in words.
    pub blocked_by: Option<String>,
    /// The same sessions in fewer words, which do not change while the sessions run other queries.
    pub blockers: Option<String>,
    /// How long it takes until the next attempt is due, if the recovery is between two attempts.
    pub next_attempt_seconds: Option<u64>,
    /// The sessions that held the lock for which the last attempt failed, if the recovery is between two attempts.
    pub held_by: Option<String>,
    /// How far a rebuild is; None: it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebuild: Option<RebuildState>,
}

impl RecoveryState {
    /// The state of this intent, which the caller has read from the journal.
    pub fn of(intent: &Intent) -> RecoveryState {
        let live = live(intent);
        let is_at_it = live.is_some_and(|live| live.worker_pid != 0);
        // Before the replay has begun, these are of an earlier attempt or recovery.
        let begun = live.filter(|live| !live.replay_began_at.is_never());
        let replay = Replay::of(intent, live.as_ref());
        let locks = Locks::of(intent, live.as_ref());
        let failure = intent.failure.as_ref();
        let checkpoint = intent.checkpoint.as_ref();
        let mut totals = intent.totals();
        totals += replay.uncounted;
        let request = &intent.request;
        RecoveryState {
            intent_id: intent.id.to_string(),
            failed_node: request.failed.clone(),
            source_node: request.source.clone(),
            target_node: request.target.clone(),
            phase: intent.phase_name(),
            ended: !intent.is_unfinished() && !is_at_it,
            waiting: intent.is_unfinished() && failure.is_some() && !is_at_it,
            steps: steps(intent),
            clone: intent.clone_name().map(str::to_owned),
            begun_at: intent.begun_at,
            ended_at: intent.end.as_ref().map(|end| end.at),
            checkpoint: checkpoint.map(|checkpoint| checkpoint.number),
            began_from: intent.applied_before,
            skip_lsn: checkpoint.map(|checkpoint| checkpoint.skip).or(request.skip),
            stop_lsn: checkpoint.map(|checkpoint| checkpoint.stop).or(request.stop),
            current_lsn: replay.current,
            final_lsn: intent.end.as_ref().and_then(|end| end.position),
            transactions: totals.transactions,
            rows: totals.rows,
            bytes: totals.bytes,
            conflicts: totals.conflicts,
            skipped_transactions: totals.skipped,
            skipped_lsns: intent.skips.clone(),
            touched: begun.map_or(0, |live| live.touched),
            compared: begun.map_or(0, |live| live.compared),
            reconciled: intent.reconciled.clone(),
            rows_per_second: replay.rows_per_s,
            seconds_left: replay.seconds_left,
            error: failure.map(|failure| intent.describe(failure)),
            error_sqlstate: failure.map(|failure| failure.sqlstate.clone()),
            error_at: failure.map(|failure| failure.at),
            error_lsn: failure.and_then(|failure| failure.origin_lsn),
            server_error: failure.and(live.as_ref()).and_then(server_error),
            is_transactions_fault: failure.is_some_and(fault::is_transactions),
            must_be_mended: failure.is_some_and(fault::must_be_mended),
            advice: failure.and_then(fault::advice),
            failures: live.map_or(0, |live| live.failures),
            blocked_by: locks.blocked_by,
            blockers: locks.blockers,
            next_attempt_seconds: locks.next_attempt_in.map(|left| left.as_secs_f64().ceil() as u64),
            held_by: locks.held_by,
            rebuild: RebuildState::of(intent, live.as_ref()),
        }
    }
}

/// What the rescue worker reports about an intent, if it works, or has worked last, on this one.
pub fn live(intent: &Intent) -> Option<RescueEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    let entry = shared.databases()[index].rescue;
    (entry.intent == intent.id.0).then_some(entry)
}

fn steps(intent: &Intent) -> Vec<ReachedStep> {
    let seconds = |at: Timestamp| at.by_the_wall_since(intent.begun_at).as_secs_f64();
    let reached = intent.steps.iter();
    reached.map(|step| ReachedStep { phase: step.phase.name(), seconds: seconds(step.at) }).collect()
}

/// What the server has reported of the failure. It is kept in shared memory since the last attempt; after a restart of
/// the server only the log has it.
fn server_error(live: &RescueEntry) -> Option<serde_json::Value> {
    process::is_superuser().then(|| serde_json::from_str(live.said.as_str()).ok()).flatten()
}

/// How far the replay is.
struct Replay {
    current: OriginLsn,
    /// What the rescue worker has done since the last checkpoint.
    uncounted: Totals,
    rows_per_s: Option<f64>,
    seconds_left: Option<f64>,
}

impl Replay {
    fn of(intent: &Intent, live: Option<&RescueEntry>) -> Replay {
        let checkpoint = intent.checkpoint.as_ref();
        let standing = |current| Replay { current, uncounted: Totals::default(), rows_per_s: None, seconds_left: None };
        // The position at which the recovery ended is in the intent, and later recoveries do not change it.
        if let Some(end) = intent.end.as_ref().and_then(|end| end.position) {
            return standing(end);
        }
        let Some(live) = live.filter(|live| !live.replay_began_at.is_never()) else {
            return standing(checkpoint.map_or(intent.applied_before, |checkpoint| checkpoint.skip));
        };
        let Some(checkpoint) =
            checkpoint.filter(|checkpoint| checkpoint.phase == Phase::Replaying && live.worker_pid != 0)
        else {
            return standing(live.applied);
        };
        let seconds = Monotonic::now().since(live.replay_began_at).as_secs_f64().max(0.001);
        let bytes_per_s = live.applied.bytes_since(live.replay_began_from) as f64 / seconds;
        let left = checkpoint.stop.bytes_since(live.applied) as f64;
        Replay {
            current: live.applied,
            uncounted: Totals {
                transactions: live.transactions,
                rows: live.rows,
                bytes: live.bytes,
                conflicts: live.conflicts,
                ..Totals::default()
            },
            rows_per_s: Some(live.rows as f64 / seconds),
            seconds_left: (bytes_per_s >= 1.0).then(|| left / bytes_per_s),
        }
    }
}

/// Who holds it up, and until when it waits for its next attempt.
#[derive(Default)]
struct Locks {
    blocked_by: Option<String>,
    blockers: Option<String>,
    next_attempt_in: Option<Duration>,
    held_by: Option<String>,
}

impl Locks {
    fn of(intent: &Intent, live: Option<&RescueEntry>) -> Locks {
        let Some(live) = live else { return Locks::default() };
        let text = |of: ShortText| of.as_str().to_owned();
        let is_fresh = live.worker_pid != 0 && Monotonic::now().since(live.blocked.seen_at) < LOOK_IS_GOOD_FOR;
        let next_attempt_in = until_next(intent, live);
        let was_locked_out = next_attempt_in.is_some() && live.stood_still.is_some();
        Locks {
            blocked_by: is_fresh.then(|| text(live.blocked.by)),
            blockers: is_fresh.then(|| text(live.blocked.by_in_short)),
            next_attempt_in,
            held_by: was_locked_out.then(|| text(live.blocked.by)).filter(|by| !by.is_empty()),
        }
    }
}

/// How long an unfinished recovery still waits for its next attempt; None: it is due, or running.
fn until_next(intent: &Intent, live: &RescueEntry) -> Option<Duration> {
    let waits = intent.is_unfinished() && intent.failure.is_some() && live.worker_pid == 0 && !live.is_coming_up;
    let ended_for = Monotonic::now().since(live.ended_at);
    let left = backoff::left_of_attempt(live.failures, live.stood_still, ended_for);
    (waits && !left.is_zero()).then_some(left)
}
