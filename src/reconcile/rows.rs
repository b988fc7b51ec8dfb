//! Rows as both nodes tell them: the question, and what is taken from the answer.

use super::judge::{Author, Found};
use super::touched::{Key, Relation, Touched};
use crate::pg::clock::Timestamp;
use crate::pg::{origin, text};
use pgrx::spi::{quote_identifier, quote_literal, quote_qualified_identifier};
use std::collections::HashMap;
use std::ffi::CString;

/// Values of a key's columns as both nodes write them.
pub type KeyText = Vec<String>;

/// Rows of a table by their keys. None: more than one has it.
pub type Rows = HashMap<KeyText, Option<Found>>;

/// A table, and where its key is.
pub struct Columns<'a> {
    pub relation: &'a Relation,
    pub key: &'a [usize],
    /// Values of the key can be listed in an array.
    pub has_array: bool,
}

/// Values before those of the columns: time of commit, its origin, the transaction.
pub const FIRST_VALUE: usize = 3;

pub fn columns_of(touched: &Touched, relation: u32) -> Option<Columns<'_>> {
    let key = touched.key(relation)?;
    Some(Columns { relation: touched.relations.get(&relation)?, key: &key.columns, has_array: key.has_array })
}

/// The same question to both nodes: replication matches tables and columns by name. `with_storage`: after the values, which
/// of them are kept out of line.
pub fn question(columns: &Columns<'_>, keys: &[KeyText], with_storage: bool) -> String {
    let Relation { schema, name, columns: names } = columns.relation;
    let column = |index: &usize| format!("t.{}", quote_identifier(&names[*index]));
    let mut values: Vec<String> = (0..names.len()).map(|index| column(&index)).collect();
    if with_storage {
        let is_out_of_line = |index| format!("pg_catalog.pg_column_toast_chunk_id({}) IS NOT NULL", column(&index));
        values.extend((0..names.len()).map(is_out_of_line));
    }
    format!(
        "SELECT (extract(epoch FROM x.timestamp - '2000-01-01 00:00:00+00') * 1000000)::pg_catalog.int8, x.roident, t.xmin, {}
           FROM {} t, LATERAL pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) x
          WHERE {}",
        values.join(", "),
        quote_qualified_identifier(schema, name),
        condition(columns, keys)
    )
}

/// The same rows in one line: how many there are, a hash over all of them, and how many were written under that origin. Where
/// two nodes answer alike, they have the same rows; where not, they may.
pub fn sums_question(columns: &Columns<'_>, keys: &[KeyText], origin: Option<u16>) -> String {
    let Relation { schema, name, columns: names } = columns.relation;
    let values: Vec<String> = names.iter().map(|name| format!("t.{}", quote_identifier(name))).collect();
    let origin = origin.map_or("NULL".to_owned(), |origin| origin.to_string());
    // By transactions, which are fewer than rows: what is asked of each is dear.
    format!(
        "SELECT pg_catalog.sum(w.rows), pg_catalog.sum(w.hash),
                pg_catalog.sum(w.rows) FILTER (
                    WHERE (pg_catalog.pg_xact_commit_timestamp_origin(w.xmin)).roident::pg_catalog.int8 = {origin})
           FROM (SELECT t.xmin, pg_catalog.count(*) AS rows,
                        pg_catalog.sum(pg_catalog.hashtextextended(ROW({})::pg_catalog.text COLLATE pg_catalog.\"C\", 0)) AS hash
                   FROM {} t WHERE {} GROUP BY t.xmin) w",
        values.join(", "),
        quote_qualified_identifier(schema, name),
        condition(columns, keys)
    )
}

fn condition(columns: &Columns<'_>, keys: &[KeyText]) -> String {
    let column = |index: &usize| format!("t.{}", quote_identifier(&columns.relation.columns[*index]));
    // Literals of no type of their own: they become the column's type, a domain's base type without its checks.
    match columns.key {
        // One literal for all: it is read in a tenth of the time.
        [one] if columns.has_array => {
            let mut list = String::from("{");
            for value in keys.iter().filter_map(|key| key.first()) {
                list.push_str(if list.len() > 1 { ",\"" } else { "\"" });
                for character in value.chars() {
                    if matches!(character, '"' | '\\') {
                        list.push('\\');
                    }
                    list.push(character);
                }
                list.push('"');
            }
            list.push('}');
            format!("{} = ANY ({})", column(one), quote_literal(&list))
        }
        [one] => {
            let mut keys: Vec<String> = keys.iter().filter_map(|key| key.first().map(quote_literal)).collect();
            // One alone would become what the operator takes.
            keys.extend(keys.first().cloned());
            format!("{} IN ({})", column(one), keys.join(", "))
        }
        several => {
            let keys = keys.iter().map(|key| {
                let parts = several
                    .iter()
                    .zip(key)
                    .map(|(index, value)| format!("{} = {}", column(index), quote_literal(value)));
                format!("({})", parts.collect::<Vec<_>>().join(" AND "))
            });
            keys.collect::<Vec<_>>().join(" OR ")
        }
    }
}

/// Takes what a node has answered.
pub fn take(
    rows: &mut Rows,
    columns: &Columns<'_>,
    answer: impl IntoIterator<Item = Vec<Option<String>>>,
    origins: &HashMap<u16, String>,
    reconcile: Option<u16>,
    node: &str,
) {
    for mut row in answer {
        let mut values = row.split_off(FIRST_VALUE);
        let storage = values.split_off(columns.relation.columns.len().min(values.len()));
        let out_of_line = storage.iter().map(|value| value.as_deref() == Some("t")).collect();
        let number = |index: usize| row.get(index).and_then(|value| value.as_ref()?.parse::<i64>().ok());
        let author = |id: i64| match u16::try_from(id) {
            Ok(origin::LOCAL) => Author::Node(node.to_owned()),
            Ok(id) if Some(id) == reconcile => Author::Reconcile,
            Ok(id) => origins.get(&id).map_or(Author::Unknown, |name| Author::Node(name.clone())),
            Err(_) => Author::Unknown,
        };
        let found = Found {
            committed: number(0).zip(number(1)).map(|(at, id)| (Timestamp(at), author(id))),
            transaction: number(2).unwrap_or_default() as u32,
            values,
            out_of_line,
        };
        let key: Option<KeyText> =
            columns.key.iter().map(|index| found.values.get(*index).cloned().flatten()).collect();
        let Some(key) = key else { continue };
        let is_readable = found.values.iter().flatten().all(|value| !value.contains(char::REPLACEMENT_CHARACTER));
        rows.entry(key).and_modify(|known| *known = None).or_insert(is_readable.then_some(found));
    }
}

/// What there is at a key: None where that cannot be told.
pub fn there<'a>(rows: &'a Rows, key: &KeyText) -> Option<Option<&'a Found>> {
    match rows.get(key) {
        None => Some(None),
        Some(None) => None,
        Some(Some(found)) => Some(Some(found)),
    }
}

/// A key that came with the stream; None if it is no text in this database's encoding.
pub fn text_of(key: &Key) -> Option<KeyText> {
    let text = |value: &Vec<u8>| {
        let text = text::to_utf8(&CString::new(value.as_slice()).ok()?);
        (!text.contains(char::REPLACEMENT_CHARACTER)).then_some(text)
    };
    key.values.iter().map(text).collect()
}

pub fn name(touched: &Touched, relation: u32) -> String {
    touched.relations.get(&relation).map_or_else(String::new, |found| format!("{}.{}", found.schema, found.name))
}
