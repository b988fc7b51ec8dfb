//! What the views recovery_progress and subscription show about running recoveries.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::backoff;
use crate::error::OrRaise;
use crate::intent::document::{Intent, Journal, Phase};
use crate::intent::storage;
use crate::lsn::OriginLsn;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::name::Name;
use crate::pg::process;
use crate::pg::text::Text;
use crate::shmem::{self, RescueEntry, ShortText};
use crate::slot::snapshot::require_reader;
use crate::tally::replayed::Totals;
use pgrx::Uuid;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use std::time::Duration;

/// What the rescue worker reports about an intent, if it is working on this one.
fn live(intent: &Intent) -> Option<RescueEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    let entry = shared.databases()[index].rescue;
    (entry.intent == intent.id.0).then_some(entry)
}

/// How far a recovery has got at this moment.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The origin LSN up to which the failed node's transactions are applied.
    pub current: OriginLsn,
    /// What the rescue worker has done since the last checkpoint.
    pub uncounted: Totals,
    /// Whether the rescue worker is running.
    pub is_at_it: bool,
    /// How many attempts in a row have failed.
    pub failures: u32,
    pub rows_per_s: Option<f64>,
    pub seconds_left: Option<f64>,
    /// How many rows the replay has touched.
    pub touched: u64,
    /// How many of these rows were compared with those of the source.
    pub compared: u64,
    /// The sessions that hold the lock for which the recovery waits, in words.
    pub blocked_by: Option<String>,
    /// The same sessions in fewer words, which do not change while the sessions run other queries.
    pub blockers: Option<String>,
    /// How long it takes until the next attempt is due, if the recovery is between two attempts.
    pub next_attempt_in: Option<Duration>,
    /// The sessions that held the lock for which the last attempt failed, if the recovery is between two attempts.
    pub held_by: Option<String>,
}

/// How long an unfinished recovery still waits for its next attempt; None: it is due, or running.
fn until_next(intent: &Intent, entry: &RescueEntry) -> Option<Duration> {
    let waits = intent.is_unfinished() && intent.failure.is_some() && entry.worker_pid == 0 && !entry.is_coming_up;
    let ended_for = Monotonic::now().since(entry.ended_at);
    let left = backoff::left_of_attempt(entry.failures, entry.stood_still, ended_for);
    (waits && !left.is_zero()).then_some(left)
}

/// What the manager has seen longer ago than this may not be true any more.
const LOOK_IS_GOOD_FOR: Duration = Duration::from_secs(5);

pub fn figures(intent: &Intent) -> Figures {
    let entry = live(intent);
    let standing = standing(intent, entry.as_ref());
    let checkpoint = intent.checkpoint.as_ref();
    let is_replaying = checkpoint.is_some_and(|checkpoint| checkpoint.phase == Phase::Replaying);
    // The position at which the recovery ended is in the intent, and later recoveries do not change it.
    let end = intent.end.as_ref().and_then(|end| end.position);
    let entry = match (end, entry.filter(has_replayed)) {
        (Some(end), _) => return Figures { current: end, ..standing },
        (None, None) => return standing,
        (None, Some(entry)) if !standing.is_at_it || !is_replaying => {
            return Figures { current: entry.applied, ..standing };
        }
        (None, Some(entry)) => entry,
    };
    let uncounted = Totals {
        transactions: entry.transactions,
        rows: entry.rows,
        bytes: entry.bytes,
        conflicts: entry.conflicts,
        ..Totals::default()
    };
    let seconds = Monotonic::now().since(entry.replay_began_at).as_secs_f64().max(0.001);
    let bytes_per_s = entry.applied.bytes_since(entry.replay_began_from) as f64 / seconds;
    let left = checkpoint.map_or(0, |checkpoint| checkpoint.stop.bytes_since(entry.applied));
    Figures {
        current: entry.applied,
        uncounted,
        rows_per_s: Some(entry.rows as f64 / seconds),
        seconds_left: (bytes_per_s >= 1.0).then(|| left as f64 / bytes_per_s),
        ..standing
    }
}

fn has_replayed(entry: &RescueEntry) -> bool {
    !entry.replay_began_at.is_never()
}

/// The figures of a recovery whose replay has not begun: what it waits for, and how often it has failed.
fn standing(intent: &Intent, entry: Option<&RescueEntry>) -> Figures {
    let is_at_it = entry.is_some_and(|entry| entry.worker_pid != 0);
    let blocked = entry
        .filter(|entry| is_at_it && Monotonic::now().since(entry.blocked.seen_at) < LOOK_IS_GOOD_FOR)
        .map(|entry| entry.blocked);
    let text = |of: ShortText| of.as_str().to_owned();
    let next_attempt_in = entry.and_then(|entry| until_next(intent, entry));
    let held_by = entry
        .filter(|entry| next_attempt_in.is_some() && entry.stood_still.is_some())
        .map(|entry| text(entry.blocked.by))
        .filter(|by| !by.is_empty());
    let counted = entry.filter(|entry| has_replayed(entry));
    Figures {
        current: intent.checkpoint.as_ref().map_or(intent.applied_before, |checkpoint| checkpoint.skip),
        uncounted: Totals::default(),
        is_at_it,
        failures: entry.map_or(0, |entry| entry.failures),
        rows_per_s: None,
        seconds_left: None,
        touched: counted.map_or(0, |entry| entry.touched),
        compared: counted.map_or(0, |entry| entry.compared),
        blocked_by: blocked.map(|it| text(it.by)),
        blockers: blocked.map(|it| text(it.by_in_short)),
        next_attempt_in,
        held_by,
    }
}

/// The unfinished recoveries of this node.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn rescue_progress_2() -> TableIterator<
    'static,
    (
        name!(intent_id, Uuid),
        name!(failed_node, Name),
        name!(source_node, Name),
        name!(target_node, Name),
        name!(phase, String),
        name!(target_lsn, OriginLsn),
        name!(current_lsn, Option<OriginLsn>),
        name!(stop_lsn, Option<OriginLsn>),
        name!(transactions, i64),
        name!(rows, i64),
        name!(bytes, i64),
        name!(conflicts, i64),
        name!(rows_per_second, Option<f64>),
        name!(time_left, Option<Interval>),
        name!(started_at, TimestampWithTimeZone),
        name!(blocked_by, Option<Text>),
    ),
> {
    require_reader("rescue_progress");
    let journal = storage::read().or_raise();
    let rows: Vec<_> = journal
        .unfinished()
        .map(|intent| {
            let figures = figures(intent);
            let mut totals = intent.totals();
            totals += figures.uncounted;
            let stop = intent.checkpoint.as_ref().map(|checkpoint| checkpoint.stop).or(intent.request.stop);
            let phase = if intent.failure.is_some() && !figures.is_at_it { "waiting" } else { intent.phase_name() };
            (
                Uuid::from_bytes(intent.id.0),
                Name(intent.request.failed.clone()),
                Name(intent.request.source.clone()),
                Name(intent.request.target.clone()),
                phase.to_owned(),
                intent.applied_before,
                Some(figures.current),
                stop,
                totals.transactions as i64,
                totals.rows as i64,
                totals.bytes as i64,
                totals.conflicts as i64,
                figures.rows_per_s,
                figures.seconds_left.and_then(|seconds| Interval::from_seconds(seconds.min(3.2e9)).into()),
                Timestamp(intent.begun_at).into(),
                figures.blocked_by.map(|blocked_by| Text::of_message(&blocked_by)),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// Like `rescue_progress_2`, with the columns that the SQL of version 0.1.0 declares.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn rescue_progress() -> TableIterator<
    'static,
    (
        name!(intent_id, Uuid),
        name!(failed_node, Name),
        name!(source_node, Name),
        name!(target_node, Name),
        name!(phase, String),
        name!(target_lsn, OriginLsn),
        name!(current_lsn, Option<OriginLsn>),
        name!(stop_lsn, Option<OriginLsn>),
        name!(transactions, i64),
        name!(rows, i64),
        name!(bytes, i64),
        name!(conflicts, i64),
        name!(rows_per_second, Option<f64>),
        name!(time_left, Option<Interval>),
        name!(started_at, TimestampWithTimeZone),
    ),
> {
    TableIterator::new(rescue_progress_2().map(
        |(
            intent,
            failed,
            source,
            target,
            phase,
            target_lsn,
            current_lsn,
            stop_lsn,
            transactions,
            rows,
            bytes,
            conflicts,
            rows_per_second,
            time_left,
            started_at,
            _,
        )| {
            (
                intent,
                failed,
                source,
                target,
                phase,
                target_lsn,
                current_lsn,
                stop_lsn,
                transactions,
                rows,
                bytes,
                conflicts,
                rows_per_second,
                time_left,
                started_at,
            )
        },
    ))
}

/// The rescue subscriptions of this node, which have no row in pg_subscription.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn rescue_subscriptions() -> TableIterator<
    'static,
    (
        name!(sub_id, Oid),
        name!(sub_name, Name),
        name!(source_node, Name),
        name!(slot_name, Option<Name>),
        name!(stop_lsn, Option<OriginLsn>),
        name!(stop_time, Option<TimestampWithTimeZone>),
        name!(cleanup_pending, bool),
        name!(failed, bool),
    ),
> {
    // The view of subscriptions must show the others even if the journal cannot be read; the health check says what is
    // wrong.
    let journal = storage::read().ok();
    let rows: Vec<_> = journal
        .iter()
        .flat_map(Journal::unfinished)
        .map(|intent| {
            let checkpoint = intent.checkpoint.as_ref();
            let stop = checkpoint.map(|checkpoint| checkpoint.stop).or(intent.request.stop);
            let name = format!("rescue_{}_from_{}", intent.request.failed, intent.request.source);
            (
                Oid::from_u32(intent.subscription),
                Name(name),
                Name(intent.request.source.clone()),
                intent.clone_name().map(|clone| Name(clone.to_owned())),
                stop,
                intent.request.stop_timestamp.map(|at| Timestamp(at).into()),
                checkpoint.is_some_and(|checkpoint| checkpoint.phase >= Phase::Resuming),
                intent.failure.is_some(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// Whether a recovery keeps a subscription disabled that was enabled before. NULL: the journal cannot be read.
#[pg_extern(sql = false)]
fn is_suspended(subscription: Option<Oid>) -> Option<bool> {
    let Some(subscription) = subscription else { return Some(false) };
    let journal = storage::read().ok()?;
    Some(journal.suspensions.iter().any(|entry| entry.subscription == subscription.to_u32()))
}
