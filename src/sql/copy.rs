//! The functions for copies and parked tables. Their CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, raise};
use crate::intent_id::IntentId;
use crate::pg::catalog;
use crate::pg::clock::Timestamp;
use crate::pg::name::Name;
use crate::pg::process;
use crate::pg::text::Text;
use crate::rebuild::copy::error::CopyError;
use crate::rebuild::copy::manifest;
use crate::rebuild::copy::send::{self, Sender, TableName};
use crate::rebuild::copy::stream::CopyJob;
use crate::rebuild::park;
use crate::slot::snapshot::require_reader;
use crate::worker::copy::Copy;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;
use pgrx::{JsonB, Uuid};

fn given<T>(value: Option<T>, argument: &'static str) -> Result<T, CopyError> {
    value.ok_or(CopyError::NullArgument { argument })
}

fn names(values: Option<Vec<Option<Text>>>, argument: &'static str) -> Result<Vec<String>, CopyError> {
    let values = given(values, argument)?;
    values.into_iter().map(|value| Ok(given(value, argument)?.to_utf8())).collect()
}

fn table(schema: Option<Name>, name: Option<Name>) -> Result<TableName, CopyError> {
    Ok(TableName { schema: given(schema, "table_schema")?.0, name: given(name, "table_name")?.0 })
}

type LayoutRow = (&'static str, Text, Option<Text>, Option<i64>, Option<i64>);

/// The columns of a table that are sent, and its parts with their sizes.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn copy_layout(
    table_schema: Option<Name>,
    table_name: Option<Name>,
    publications: Option<Vec<Option<Text>>>,
) -> TableIterator<
    'static,
    (
        name!(kind, &'static str),
        name!(name, Text),
        name!(part, Option<Text>),
        name!(blocks, Option<i64>),
        name!(chunk_blocks, Option<i64>),
    ),
> {
    let layout = || send::layout(&table(table_schema, table_name)?, &names(publications, "publications")?);
    let layout = layout().or_raise();
    let mut rows: Vec<LayoutRow> = Vec::new();
    rows.extend(layout.columns.iter().map(|column| ("column", Text::of_message(column), None, None, None)));
    rows.extend(layout.leaves.iter().map(|leaf| {
        let (schema, name) = (Text::of_message(&leaf.schema), Text::of_message(&leaf.name));
        ("part", schema, Some(name), Some(leaf.blocks as i64), Some(leaf.chunk_blocks as i64))
    }));
    TableIterator::new(rows)
}

/// The rows of a chunk in pieces, as rebuild::copy::feed describes them. They are made one after the other, while the caller
/// takes them.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // what names a chunk
fn copy_rows(
    table_schema: Option<Name>,
    table_name: Option<Name>,
    publications: Option<Vec<Option<Text>>>,
    part_schema: Option<Name>,
    part_name: Option<Name>,
    columns: Option<Vec<Option<Text>>>,
    from_block: Option<i64>,
    to_block: Option<i64>,
) -> SetOfIterator<'static, Vec<u8>> {
    let begin = || {
        let bad = |argument| move |_| CopyError::BadArgument { argument };
        let from = u64::try_from(given(from_block, "from_block")?).map_err(bad("from_block"))?;
        let to = u64::try_from(given(to_block, "to_block")?).map_err(bad("to_block"))?;
        let part = TableName { schema: given(part_schema, "part_schema")?.0, name: given(part_name, "part_name")?.0 };
        let publications = names(publications, "publications")?;
        Sender::begin(&table(table_schema, table_name)?, &part, &publications, &names(columns, "columns")?, from..to)
    };
    let mut sender = begin().or_raise();
    SetOfIterator::new(std::iter::from_fn(move || match sender.next() {
        Ok(piece) => piece,
        Err(error) => raise(&error),
    }))
}

/// Copies a table, or goes on with a copy. For rebuild_run(), which does the same by worker::copy::Copy, and for tests.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // what describes a copy
fn copy_table(
    intent_id: Option<Uuid>,
    source_node: Option<Name>,
    table: Option<Oid>,
    pin: Option<JsonB>,
    publications: Option<Vec<Option<Text>>>,
    streams: Option<i32>,
    written_at: Option<TimestampWithTimeZone>,
) -> JsonB {
    process::require_writable("copy_table");
    let copy = || {
        let JsonB(pin) = given(pin, "pin")?;
        let of_pin = |name: &str| pin.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let job = CopyJob {
            intent: IntentId(*given(intent_id, "intent_id")?.as_bytes()),
            source: given(source_node, "source_node")?.0,
            table: catalog::table_name(given(table, "table")?).ok_or(CopyError::BadArgument { argument: "table" })?,
            oid: given(table, "table")?.to_u32(),
            pin: given(of_pin("pin"), "pin")?,
            snapshot: given(of_pin("snapshot"), "pin")?,
            publications: names(publications, "publications")?,
            streams: u64::try_from(given(streams, "streams")?)
                .map_err(|_| CopyError::BadArgument { argument: "streams" })?,
            written_at: written_at.map_or(Timestamp::NEVER, Timestamp::from),
        };
        Copy::new(job).run(|| true)
    };
    let copied = copy().or_raise();
    JsonB(serde_json::to_value(copied).unwrap_or_default())
}

/// The chunks that the copies of an intent have brought.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn copy_manifest(
    intent_id: Option<Uuid>,
) -> TableIterator<
    'static,
    (
        name!(table_schema, Text),
        name!(table_name, Text),
        name!(chunk, i32),
        name!(chunks, i32),
        name!(part_schema, Text),
        name!(part_name, Text),
        name!(from_block, i64),
        name!(to_block, i64),
        name!(rows, i64),
        name!(bytes, i64),
        name!(checksum, String),
        name!(applied_at, TimestampWithTimeZone),
    ),
> {
    require_reader("copy_manifest");
    let read = || manifest::read(IntentId(*given(intent_id, "intent_id")?.as_bytes()));
    let mut rows = Vec::new();
    for ((schema, name), copy) in read().or_raise().tables {
        let chunks = copy.begun.layout.chunks() as i32;
        rows.extend(copy.chunks.into_values().map(|chunk| {
            (
                Text::of_message(&schema),
                Text::of_message(&name),
                chunk.number as i32,
                chunks,
                Text::of_message(&chunk.schema),
                Text::of_message(&chunk.name),
                chunk.from_block as i64,
                chunk.to_block as i64,
                chunk.rows as i64,
                chunk.bytes as i64,
                chunk.checksum,
                chunk.at.into(),
            )
        }));
    }
    TableIterator::new(rows)
}

/// Removes the manifest of an intent that is over.
#[pg_extern(sql = false)]
fn forget_manifest(intent_id: Option<Uuid>) {
    let forget = || manifest::forget(IntentId(*given(intent_id, "intent_id")?.as_bytes()));
    forget().or_raise();
}

/// Refuses the users' writes to these tables.
#[pg_extern(sql = false)]
fn park_tables(tables: Option<Vec<Option<Oid>>>) {
    park::park(&oids(tables).or_raise()).or_raise();
}

/// Lets the users write to these tables again.
#[pg_extern(sql = false)]
fn unpark_tables(tables: Option<Vec<Option<Oid>>>) {
    park::unpark(&oids(tables).or_raise()).or_raise();
}

fn oids(tables: Option<Vec<Option<Oid>>>) -> Result<Vec<Oid>, CopyError> {
    given(tables, "tables")?.into_iter().map(|table| given(table, "tables")).collect()
}
