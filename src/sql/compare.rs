//! The functions that compare tables with those of another node. Their CREATE FUNCTION, grants and comments are in
//! sql/compare.sql.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::reconcile::NoQuestion;
use crate::compare::question::Question;
use crate::comparing::begin::{self, Wanted};
use crate::comparing::difference::Difference;
use crate::comparing::error::ComparisonError;
use crate::comparing::list::{ComparedTable, ComparisonList, TableState};
use crate::comparing::storage;
use crate::document;
use crate::error::{OrRaise, SqlError, raise};
use crate::intent::document::ComparisonRecord;
use crate::intent_id::IntentId;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::json::Json;
use crate::pg::name::Name;
use crate::pg::text::{Text, to_server};
use crate::pg::{process, role, spi_text, transaction};
use crate::shmem::{self, ComparisonEntry, JobState};
use crate::slot::clone::require_slot_user;
use crate::slot::snapshot::require_reader;
use crate::worker::start;
use pgrx::Uuid;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::spi::{quote_literal, quote_qualified_identifier};
use serde_json::{Value, json};

/// Returns hashes over ranges of a table's keys; question and answer are JSON documents in ASCII, whatever the encodings
/// of the two databases are. The caller must be allowed to read the table. The table is read as its owner, whose code
/// receives the caller's values; therefore the caller needs REPLICATION as well.
#[pg_extern(sql = false)]
fn range_hashes(question: Text) -> Option<Text> {
    require_slot_user("range_hashes").or_raise();
    let Some(question) = Question::of_text(&question.to_utf8()) else {
        raise(&NoQuestion { function: "range_hashes" })
    };
    let answer = question.answer().or_raise();
    to_server(&document::to_text(&answer)).map(Text)
}

fn require_superuser(function: &'static str) {
    if !process::is_superuser() {
        raise(&ComparisonError::NotSuperuser { function });
    }
}

fn required<T>(value: Option<T>, argument: &'static str) -> T {
    value.ok_or(ComparisonError::NullArgument { argument }).or_raise()
}

/// Begins a comparison with another node, or goes on with the last one if that was broken off. Takes effect with the
/// commit; comparison_state() then starts the worker.
#[pg_extern(sql = false)]
fn begin_comparison(other_node: Option<Name>, tables: Option<Vec<Option<Oid>>>, repair: Option<bool>) -> Json {
    require_superuser("compare");
    let other = required(other_node, "other_node_name").0;
    let repair = required(repair, "repair");
    let tables: Option<Vec<u32>> =
        tables.map(|tables| tables.into_iter().map(|table| required(table, "each of tables").to_u32()).collect());
    if entry().is_some_and(|entry| entry.is_under_way() && !entry.is_automatic && entry.goes_on()) {
        raise(&ComparisonError::Running);
    }
    let begun =
        begin::begin(Wanted { other: &other, tables: tables.as_deref(), repair, is_automatic: false }).or_raise();
    Json::of(&json!({ "run_id": begun.id.to_string(), "goes_on": begun.goes_on }))
}

fn entry() -> Option<ComparisonEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    Some(shared.databases()[index].comparison)
}

/// The state of a comparison that this session has called, which is thereby kept going: its worker is started if none
/// runs, and goes on as long as the session looks.
#[pg_extern(sql = false)]
fn comparison_state(run_id: Option<Uuid>, pace_mb_per_s: Option<i32>) -> Json {
    require_superuser("compare");
    let id = IntentId(*required(run_id, "run_id").as_bytes());
    let pace = required(pace_mb_per_s, "pace_mb_per_s");
    let pace = u32::try_from(pace).map_err(|_| ComparisonError::NegativePace).or_raise();
    let (record, list) = read(id).or_raise();
    let entry = keep_going(&record, list.ended_at.is_some(), pace).or_raise();
    Json::of(&state(&list, entry.filter(|entry| entry.run == id.0)))
}

fn read(id: IntentId) -> Result<(ComparisonRecord, ComparisonList), ComparisonError> {
    role::as_superuser(|| {
        let record = storage::record(id)?.ok_or(ComparisonError::Unknown { id })?;
        let list = storage::list(&record)?;
        Ok((record, list))
    })
}

/// Renews the session's claim to the worker. Starts a worker if none runs, the comparison has not ended, and the last
/// worker has not failed. A comparison that the manager has begun gives way.
fn keep_going(
    record: &ComparisonRecord,
    has_ended: bool,
    pace: u32,
) -> Result<Option<ComparisonEntry>, ComparisonError> {
    let now = Monotonic::now();
    let (index, entry) = {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database()).ok_or(ComparisonError::NoManager)?;
        let entry = &mut shared.databases()[index].comparison;
        let is_of_run = entry.run == record.id.0;
        if entry.is_under_way() {
            if is_of_run && !entry.must_stop {
                (entry.claimed_by, entry.claimed_at) = (process::my_pid(), now);
            } else if entry.is_automatic {
                entry.must_stop = true;
            }
            return Ok(Some(*entry));
        }
        let has_failed = is_of_run && matches!(entry.state, JobState::Failed | JobState::Running) && !entry.must_stop;
        if has_ended || has_failed {
            if has_failed {
                entry.state = JobState::None;
                return Err(failure(entry));
            }
            return Ok(Some(*entry));
        }
        *entry = ComparisonEntry {
            state: JobState::Asked,
            run: record.id.0,
            asked_at: now,
            claimed_by: process::my_pid(),
            claimed_at: now,
            pace_mb_per_s: pace,
            ..ComparisonEntry::FREE
        };
        (index, *entry)
    };
    if start::start_comparison_worker(index, &record.other).is_err() {
        shmem::lock().databases()[index].comparison.state = JobState::None;
        return Err(ComparisonError::NoWorker);
    }
    Ok(Some(entry))
}

/// Why the last worker has ended early.
fn failure(entry: &ComparisonEntry) -> ComparisonError {
    let error = &entry.error;
    if error.message.as_str().is_empty() {
        return ComparisonError::WorkerEnded;
    }
    ComparisonError::Reported {
        sqlstate: String::from_utf8_lossy(&error.sqlstate).into_owned(),
        message: error.message.as_str().to_owned(),
        detail: error.detail.as_str().to_owned(),
        hint: error.hint.as_str().to_owned(),
    }
}

/// Asks the worker of a comparison to end: the session that has called it was cancelled.
#[pg_extern(sql = false)]
fn stop_comparison(run_id: Option<Uuid>) {
    require_superuser("compare");
    let id = required(run_id, "run_id");
    let mut shared = shmem::lock();
    if let Some(index) = shared.index_of(process::my_database()) {
        let entry = &mut shared.databases()[index].comparison;
        entry.must_stop |= entry.run == *id.as_bytes();
    }
}

/// The report of a comparison, with what its worker shows of the table at hand.
fn state(list: &ComparisonList, entry: Option<ComparisonEntry>) -> Value {
    let running = entry.filter(|entry| entry.state == JobState::Running && entry.is_under_way());
    let tables: Vec<Value> = list.tables.iter().map(table_state).collect();
    let total = |value: fn(&ComparedTable) -> u64| list.tables.iter().map(value).sum::<u64>();
    json!({
        "run_id": list.id.to_string(),
        "other_node": list.other,
        "repair": list.repair,
        "ended": list.ended_at.is_some(),
        "rows": total(|table| table.progress.rows),
        "bytes": total(|table| table.progress.bytes),
        "differing": list.differing(),
        "repaired": total(|table| table.tally.repaired),
        "undecided": list.undecided(),
        "not_comparable": list.incomparable(),
        "tables": tables,
        "running": running.map(|entry| json!({
            "relation": entry.relation.as_str(),
            "tables_done": entry.tables_done,
            "tables": entry.tables,
            "ranges_done": entry.ranges_done,
            "ranges_total": entry.ranges_total,
            "rows": entry.rows,
            "bytes": entry.bytes,
            "seconds_left": entry.time_left().map(|left| left.as_secs()),
        })),
    })
}

fn table_state(table: &ComparedTable) -> Value {
    let tally = &table.tally;
    let outcome = match table.state {
        TableState::Waiting => "waiting",
        TableState::Running => "running",
        TableState::NotComparable => "not_comparable",
        TableState::Compared if tally.differing() > 0 => "different",
        TableState::Compared if tally.undecided() > 0 => "undecided",
        TableState::Compared if tally.repaired > 0 => "repaired",
        TableState::Compared => "equal",
    };
    json!({
        "relation": quote_qualified_identifier(&table.schema, &table.name),
        "outcome": outcome,
        "reason": table.reason,
        "rows": table.progress.rows,
        "bytes": table.progress.bytes,
        "differing": tally.differing(),
        "missing_here": tally.missing_here,
        "missing_there": tally.missing_there,
        "different": tally.different,
        "repaired": tally.repaired,
        "undecided": tally.undecided,
    })
}

/// The keys in which the two nodes differed when they were compared. Only superusers may call this, because keys are
/// data of the tables.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn compare_differences(
    run_id: Option<Uuid>,
) -> TableIterator<
    'static,
    (
        name!(relation, Option<Oid>),
        name!(key, Json),
        name!(kind, String),
        name!(here_author, Option<Name>),
        name!(here_at, Option<TimestampWithTimeZone>),
        name!(there_author, Option<Name>),
        name!(there_at, Option<TimestampWithTimeZone>),
        name!(verdict, String),
    ),
> {
    require_superuser("compare_differences");
    let id = IntentId(*required(run_id, "run_id").as_bytes());
    let (record, list) = read(id).or_raise();
    let relations: Vec<Option<Oid>> = list.tables.iter().map(|table| relation_of(&table.schema, &table.name)).collect();
    let mut rows = Vec::new();
    let see = |difference: Difference| {
        let Some(table) = list.tables.get(difference.table) else { return };
        let at = |stamp: &Option<(Timestamp, Option<String>)>| stamp.as_ref().map(|(at, _)| (*at).into());
        let key: serde_json::Map<String, Value> =
            table.key.iter().cloned().zip(difference.key.iter().cloned().map(Value::String)).collect();
        rows.push((
            relations[difference.table],
            Json::of(&key),
            difference.kind,
            Difference::author(&difference.here).map(Name),
            at(&difference.here),
            Difference::author(&difference.there).map(Name),
            at(&difference.there),
            difference.verdict,
        ));
    };
    role::as_superuser(|| storage::each_key(&record, &list, see)).or_raise();
    TableIterator::new(rows)
}

/// The oid of a table; None: it does not exist any more.
fn relation_of(schema: &str, name: &str) -> Option<Oid> {
    let name = quote_qualified_identifier(schema, name);
    let found = spi_text::rows(&format!("SELECT pg_catalog.to_regclass({})::pg_catalog.oid", quote_literal(name)));
    found.into_iter().flatten().flatten().next()?.parse().ok().map(Oid::from_u32)
}

/// The last comparisons: with each node, the last one that a session has called, and the last one that the manager has
/// begun. For monitoring.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn comparisons() -> TableIterator<
    'static,
    (
        name!(run_id, Uuid),
        name!(other_node, Name),
        name!(is_automatic, bool),
        name!(begun_at, TimestampWithTimeZone),
        name!(ended_at, Option<TimestampWithTimeZone>),
        name!(is_running, bool),
        name!(tables, i64),
        name!(tables_done, i64),
        name!(rows_compared, i64),
        name!(differing, i64),
        name!(repaired, i64),
        name!(undecided, i64),
        name!(not_comparable, i64),
    ),
> {
    require_reader("comparisons");
    let records = crate::intent::storage::read_by_snapshot().or_raise().comparisons;
    let entry = entry();
    let row = |record: ComparisonRecord| {
        let list = role::as_superuser(|| storage::list(&record)).or_raise();
        let is_running = entry.is_some_and(|entry| entry.run == record.id.0 && entry.is_under_way());
        let total = |value: fn(&ComparedTable) -> u64| list.tables.iter().map(value).sum::<u64>() as i64;
        (
            Uuid::from_bytes(record.id.0),
            Name(record.other.clone()),
            record.is_automatic,
            record.begun_at.into(),
            list.ended_at.map(Into::into),
            is_running,
            list.tables.len() as i64,
            list.done() as i64,
            total(|table| table.progress.rows),
            list.differing() as i64,
            total(|table| table.tally.repaired),
            list.undecided() as i64,
            list.incomparable() as i64,
        )
    };
    TableIterator::new(records.into_iter().map(row).collect::<Vec<_>>())
}

/// Raises an error if the caller is not a superuser, or calls the procedure in a transaction block: it commits.
#[pg_extern(sql = false)]
fn require_comparer() {
    require_superuser("compare");
    if transaction::is_block() {
        raise(&NotTopLevel);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("compare cannot run inside a transaction block")]
struct NotTopLevel;

impl SqlError for NotTopLevel {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION
    }

    fn detail(&self) -> Option<String> {
        Some("It commits, so that what was compared is kept even if this session ends.".to_owned())
    }

    fn hint(&self) -> Option<String> {
        Some("COMMIT or ROLLBACK first, then CALL it by itself.".to_owned())
    }
}
