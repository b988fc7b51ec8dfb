//! What the views recovery_progress and subscription show about running recoveries. Their CREATE FUNCTION, grants and
//! comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::OrRaise;
use crate::intent::document::{Journal, Phase};
use crate::intent::storage;
use crate::lsn::OriginLsn;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::recover::state::RecoveryState;
use crate::slot::snapshot::require_reader;
use pgrx::Uuid;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

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
            let state = RecoveryState::of(intent);
            (
                Uuid::from_bytes(intent.id.0),
                Name(state.failed_node),
                Name(state.source_node),
                Name(state.target_node),
                if state.waiting { "waiting" } else { state.phase }.to_owned(),
                state.began_from,
                Some(state.current_lsn),
                state.stop_lsn,
                state.transactions as i64,
                state.rows as i64,
                state.bytes as i64,
                state.conflicts as i64,
                state.rows_per_second,
                state.seconds_left.and_then(|seconds| Interval::from_seconds(seconds.min(3.2e9)).into()),
                state.begun_at.into(),
                state.blocked_by.map(|blocked_by| Text::of_message(&blocked_by)),
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
                intent.request.stop_timestamp.map(Into::into),
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
