//! The functions that show intents and act on them. Their CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, raise};
use crate::intent::IntentError;
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::pg::json::Json;
use crate::pg::name::Name;
use crate::pg::process;
use crate::pg::text::Text;
use crate::recover::state::RecoveryState;
use crate::slot::snapshot::require_reader;
use crate::{shmem, wake};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};

const RECOVER_SKIP: &str = "SELECT spock.recover_skip('n1', '0/16B3748');";
const RECOVERY_CONFLICTS: &str =
    "SELECT i.begun_at, c.* FROM spock.recovery_intents() i, spock.recovery_conflicts(i.intent_id) c;";
const RECOVER_ABORT: &str = "CALL spock.recover_abort('n1');";

/// The recoveries of this node: the unfinished ones, and the last twenty that have ended.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recovery_intents_2() -> TableIterator<
    'static,
    (
        name!(intent_id, Uuid),
        name!(failed_node, Name),
        name!(source_node, Name),
        name!(target_node, Name),
        name!(phase, String),
        name!(begun_at, TimestampWithTimeZone),
        name!(ended_at, Option<TimestampWithTimeZone>),
        name!(summary, JsonB),
        name!(error, Option<Text>),
        name!(server_error, Option<Json>),
    ),
> {
    require_reader("recovery_intents");
    let rows = storage::read().or_raise().intents.into_iter().map(|intent| {
        let state = RecoveryState::of(&intent);
        (
            Uuid::from_bytes(intent.id.0),
            Name(state.failed_node.clone()),
            Name(state.source_node.clone()),
            Name(state.target_node.clone()),
            state.phase.to_owned(),
            state.begun_at.into(),
            state.ended_at.map(Into::into),
            JsonB(summary(&state)),
            state.error.map(|error| Text::of_message(&error)),
            state.server_error.map(|said| Json::of(&said)),
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Like [`recovery_intents_2`], for the SQL of version 0.1.0.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recovery_intents() -> TableIterator<
    'static,
    (
        name!(intent_id, Uuid),
        name!(failed_node, Name),
        name!(source_node, Name),
        name!(target_node, Name),
        name!(phase, String),
        name!(begun_at, TimestampWithTimeZone),
        name!(ended_at, Option<TimestampWithTimeZone>),
        name!(summary, JsonB),
        name!(error, Option<Text>),
    ),
> {
    TableIterator::new(recovery_intents_2().map(
        |(intent, failed, source, target, phase, begun_at, ended_at, summary, error, _)| {
            (intent, failed, source, target, phase, begun_at, ended_at, summary, error)
        },
    ))
}

/// What a recovery has done so far, as a document for people and scripts.
fn summary(state: &RecoveryState) -> serde_json::Value {
    serde_json::json!({
        "clone": state.clone,
        "checkpoint": state.checkpoint,
        "skip_lsn": state.skip_lsn,
        "stop_lsn": state.stop_lsn,
        "final_lsn": state.final_lsn,
        "transactions": state.transactions,
        "rows": state.rows,
        "bytes": state.bytes,
        "conflicts": state.conflicts,
        "skipped_transactions": state.skipped_transactions,
        "skipped_lsns": state.skipped_lsns,
        "reconciled": state.reconciled,
    })
}

/// The conflicts that a recovery has met, counted by table, kind and resolution. Raises an error if the recovery is
/// unknown.
#[pg_extern(sql = false)]
fn recovery_conflicts(
    intent_id: Option<Uuid>,
) -> TableIterator<
    'static,
    (name!(relation, Option<Oid>), name!(kind, String), name!(resolution, String), name!(count, i64)),
> {
    require_reader("recovery_conflicts");
    let id = IntentId(*required(intent_id, "intent_id", RECOVERY_CONFLICTS).as_bytes());
    let journal = storage::read().or_raise();
    let Some(intent) = journal.intent(id) else { raise(&IntentError::Unknown { id }) };
    let rows = intent.totals().tallies.into_iter().map(|tally| {
        (
            (tally.relation != 0).then(|| Oid::from_u32(tally.relation)),
            tally.kind.name().to_owned(),
            tally.resolution.name().to_owned(),
            i64::try_from(tally.count).unwrap_or(i64::MAX),
        )
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// Whether the recovery with that id is unfinished here, or its remaining rows are being compared now. A source asks
/// this before it drops a clone.
#[pg_extern(sql = false)]
fn recovery_is_open(intent_id: Option<Uuid>) -> bool {
    let Some(id) = intent_id.map(|id| IntentId(*id.as_bytes())) else { return false };
    storage::read()
        .or_raise()
        .intent(id)
        .is_some_and(|intent| intent.is_unfinished() || intent.kept_rows.is_some() && is_rescue_worker_up())
}

fn is_rescue_worker_up() -> bool {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database());
    index.is_some_and(|index| shared.databases()[index].rescue.worker_pid != 0)
}

fn require_superuser(function: &'static str) {
    if !process::is_superuser() {
        raise(&IntentError::NotSuperuser { function });
    }
}

fn required<T>(value: Option<T>, argument: &'static str, hint: &'static str) -> T {
    value.ok_or(IntentError::NullArgument { argument, hint }).or_raise()
}

/// Gives up the transaction that the recovery of a failed node cannot apply. The recovery continues when the caller has
/// committed.
#[pg_extern(sql = false)]
fn recover_skip(failed_node_name: Option<Name>, origin_lsn: Option<OriginLsn>) {
    require_superuser("recover_skip");
    let failed = required(failed_node_name, "failed_node_name", RECOVER_SKIP);
    let lsn = required(origin_lsn, "origin_lsn", RECOVER_SKIP);
    storage::update(|journal| journal.skip(&failed.0, lsn)).or_raise();
    wake::note(crate::pg::hooks::CatalogChange::ThisDatabase);
}

/// Asks the workers of this node to end its recovery of a failed node, for recover_abort().
#[pg_extern(sql = false)]
fn ask_to_abort(failed_node_name: Option<Name>) -> Uuid {
    require_superuser("recover_abort");
    let failed = required(failed_node_name, "failed_node_name", RECOVER_ABORT);
    Uuid::from_bytes(ask_to_abort_here(&failed.0).or_raise().0)
}

/// Records that the recovery of a failed node on this node is to be ended. Returns its id.
///
/// # Errors
/// There is no unfinished recovery of that node, or the journal cannot be read.
pub fn ask_to_abort_here(failed: &str) -> Result<IntentId, IntentError> {
    let id = storage::update(|journal| journal.ask_to_abort(failed))?;
    wake::note(crate::pg::hooks::CatalogChange::ThisDatabase);
    Ok(id)
}
