//! What the views recovery_progress and subscription show of running recoveries.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::intent::document::{Intent, Phase, Totals};
use crate::intent::storage;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::name::Name;
use crate::pg::process;
use crate::shmem::{self, RescueEntry};
use crate::slot::snapshot::require_reader;
use pgrx::Uuid;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

/// What the carrier of an intent says, if it is at it.
fn live(intent: &Intent) -> Option<RescueEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    let entry = shared.databases()[index].rescue;
    (entry.intent == intent.id.0).then_some(entry)
}

/// The unfinished recoveries of this node.
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
        name!(target_lsn, i64),
        name!(current_lsn, Option<i64>),
        name!(stop_lsn, Option<i64>),
        name!(transactions, i64),
        name!(rows, i64),
        name!(bytes, i64),
        name!(conflicts, i64),
        name!(rows_per_second, Option<f64>),
        name!(time_left, Option<Interval>),
        name!(started_at, TimestampWithTimeZone),
    ),
> {
    require_reader("rescue_progress");
    let journal = storage::read();
    let rows: Vec<_> = journal
        .unfinished()
        .map(|intent| {
            let entry = live(intent).filter(|entry| !entry.replay_began_at.is_never());
            let is_at_it = live(intent).is_some_and(|entry| entry.worker_pid != 0);
            let mut totals = intent.totals();
            let replaying = intent.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.phase == Phase::Replaying);
            // What the carrier has done since the last checkpoint is not in that yet.
            if let Some(entry) = entry.filter(|_| replaying && is_at_it) {
                totals += Totals {
                    transactions: entry.transactions,
                    rows: entry.rows,
                    bytes: entry.bytes,
                    conflicts: entry.conflicts,
                    skipped: 0,
                };
            }
            let stop = intent.checkpoint.as_ref().map(|checkpoint| checkpoint.stop).or(intent.request.stop);
            let current = entry.map_or(intent.applied_before, |entry| entry.applied);
            let pace = entry.filter(|_| is_at_it).map(|entry| pace(intent, &entry, current));
            let phase = if intent.failure.is_some() && !is_at_it { "waiting" } else { intent.phase_name() };
            (
                Uuid::from_bytes(intent.id.0),
                Name(intent.request.failed.clone()),
                Name(intent.request.source.clone()),
                Name(intent.request.target.clone()),
                phase.to_owned(),
                intent.applied_before.0 as i64,
                Some(current.0 as i64),
                stop.map(|stop| stop.0 as i64),
                totals.transactions as i64,
                totals.rows as i64,
                totals.bytes as i64,
                totals.conflicts as i64,
                pace.map(|(rows, _)| rows),
                pace.and_then(|(_, lsns)| time_left(current, stop?, lsns)),
                Timestamp(intent.begun_at).into(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// Rows per second, and bytes of the failed node's WAL per second, of the present attempt.
fn pace(intent: &Intent, entry: &RescueEntry, current: OriginLsn) -> (f64, f64) {
    let seconds = Timestamp::now().since(entry.replay_began_at).as_secs_f64().max(0.001);
    let skip = intent.checkpoint.as_ref().map_or(intent.applied_before, |checkpoint| checkpoint.skip);
    (entry.rows as f64 / seconds, current.0.saturating_sub(skip.0) as f64 / seconds)
}

fn time_left(current: OriginLsn, stop: OriginLsn, bytes_per_s: f64) -> Option<Interval> {
    if bytes_per_s < 1.0 {
        return None;
    }
    Interval::from_seconds((stop.0.saturating_sub(current.0) as f64 / bytes_per_s).min(3.2e9)).into()
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
        name!(stop_lsn, Option<i64>),
        name!(stop_time, Option<TimestampWithTimeZone>),
        name!(cleanup_pending, bool),
        name!(failed, bool),
    ),
> {
    let journal = storage::read();
    let rows: Vec<_> = journal
        .unfinished()
        .map(|intent| {
            let checkpoint = intent.checkpoint.as_ref();
            let stop = checkpoint.map(|checkpoint| checkpoint.stop).or(intent.request.stop);
            let name = format!("rescue_{}_from_{}", intent.request.failed, intent.request.source);
            (
                Oid::from_u32(intent.subscription),
                Name(name),
                Name(intent.request.source.clone()),
                intent.clone_name().map(|clone| Name(clone.to_owned())),
                stop.map(|stop| stop.0 as i64),
                intent.request.stop_timestamp.map(|at| Timestamp(at).into()),
                checkpoint.is_some_and(|checkpoint| checkpoint.phase == Phase::Resuming),
                intent.failure.is_some(),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// Whether a recovery keeps a subscription disabled that was enabled before.
#[pg_extern(sql = false)]
fn is_suspended(subscription: Option<Oid>) -> bool {
    let Some(subscription) = subscription else { return false };
    storage::read().suspensions.iter().any(|entry| entry.subscription == subscription.to_u32())
}
