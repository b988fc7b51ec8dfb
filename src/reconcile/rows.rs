//! Rows as both nodes tell them: the question, and what is taken from the answer.

use super::judge::{Author, Found};
use super::touched::{Key, Relation, Touched};
use crate::pg::clock::Timestamp;
use crate::pg::owned_table::{self, Comparison, OwnedTableError};
use crate::pg::{origin, text};
use pgrx::spi::{quote_identifier, quote_literal};
use serde::{Deserialize, Serialize};
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
}

/// Values before those of the columns: time of commit, its origin, the transaction.
const FIRST_VALUE: usize = 3;

pub fn columns_of(touched: &Touched, relation: u32) -> Option<Columns<'_>> {
    let key = touched.key(relation)?;
    Some(Columns { relation: touched.relations.get(&relation)?, key: &key.columns })
}

/// What is asked of a table, on either node: replication matches tables and columns by name. Each node makes its own query of
/// it, and runs that as the table's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    schema: String,
    name: String,
    columns: Vec<String>,
    /// Where the key's columns are among them.
    key: Vec<usize>,
    /// A value for each of the key's columns.
    keys: Vec<KeyText>,
    asked: Asked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    /// Each row: time of commit, its origin, the transaction, the values.
    Rows,
    /// And after the values, which of them are kept out of line.
    RowsAndStorage,
    /// All rows in one line: how many there are, a hash over all of them, and how many were written under that origin. Where
    /// two nodes answer alike, they have the same rows; where not, they may.
    Sums { origin: Option<u16> },
}

impl Question {
    pub fn rows(columns: &Columns<'_>, keys: &[KeyText], with_storage: bool) -> Question {
        Question::new(columns, keys, if with_storage { Asked::RowsAndStorage } else { Asked::Rows })
    }

    pub fn sums(columns: &Columns<'_>, keys: &[KeyText], origin: Option<u16>) -> Question {
        Question::new(columns, keys, Asked::Sums { origin })
    }

    fn new(columns: &Columns<'_>, keys: &[KeyText], asked: Asked) -> Question {
        let Relation { schema, name, columns: names } = columns.relation.clone();
        Question { schema, name, columns: names, key: columns.key.to_vec(), keys: keys.to_vec(), asked }
    }

    /// As it is sent to a peer.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As it was sent by a peer. None: it is no question, or one of a later version.
    pub fn of_text(text: &str) -> Option<Question> {
        let question: Question = serde_json::from_str(text).ok()?;
        let fits = question.key.iter().all(|column| *column < question.columns.len())
            && !question.key.is_empty()
            && question.keys.iter().all(|key| key.len() == question.key.len());
        fits.then_some(question)
    }

    /// The answer of this node: rows of nullable text. Needs a transaction with a snapshot.
    pub fn answer(&self) -> Result<Vec<Vec<Option<String>>>, OwnedTableError> {
        if self.keys.is_empty() {
            return Ok(Vec::new());
        }
        owned_table::rows(&self.schema, &self.name, |table| {
            let compared = |index: &usize| table.comparison(&self.columns[*index]);
            let key: Vec<Comparison> = self.key.iter().map(compared).collect::<Result<_, _>>()?;
            Ok(self.query(&table.quoted(), &key))
        })
    }

    fn query(&self, table: &str, key: &[Comparison]) -> String {
        let mut values: Vec<String> = self.columns.iter().map(|name| format!("t.{}", quote_identifier(name))).collect();
        let condition = condition(key, &self.keys);
        match self.asked {
            Asked::Rows | Asked::RowsAndStorage => {
                if self.asked == Asked::RowsAndStorage {
                    let stored = |value: &String| format!("pg_catalog.pg_column_toast_chunk_id({value}) IS NOT NULL");
                    values.extend(values.iter().map(stored).collect::<Vec<_>>());
                }
                format!(
                    "SELECT (extract(epoch FROM x.timestamp - '2000-01-01 00:00:00+00'::pg_catalog.timestamptz) * 1000000)::pg_catalog.int8,
                            x.roident, t.xmin, {}
                       FROM {table} t, LATERAL pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) x
                      WHERE {condition} LIMIT {}",
                    values.join(", "),
                    // Where a key is not unique there, more than one row of it is as good as all.
                    2 * self.keys.len(),
                )
            }
            Asked::Sums { origin } => {
                let origin = origin.map_or("NULL".to_owned(), |origin| origin.to_string());
                // By transactions, which are fewer than rows: what is asked of each is dear.
                format!(
                    "SELECT pg_catalog.sum(w.rows), pg_catalog.sum(w.hash),
                            pg_catalog.sum(w.rows) FILTER (
                                WHERE (pg_catalog.pg_xact_commit_timestamp_origin(w.xmin)).roident::pg_catalog.int8 OPERATOR(pg_catalog.=) {origin})
                       FROM (SELECT t.xmin, pg_catalog.count(*) AS rows,
                                    pg_catalog.sum(pg_catalog.hashtextextended(ROW({})::pg_catalog.text COLLATE pg_catalog.\"C\", 0)) AS hash
                               FROM {table} t WHERE {condition} GROUP BY t.xmin) w",
                    values.join(", "),
                )
            }
        }
    }
}

/// The rows with these keys. Every literal has its column's type, a domain's base type without its checks.
fn condition(key: &[Comparison], keys: &[KeyText]) -> String {
    if let [Comparison { column, equal, array_type: Some(array_type), .. }] = key {
        // One literal for all: it is read in a tenth of the time.
        let list = array_literal(keys.iter().filter_map(|key| key.first()));
        return format!("t.{column} {equal} ANY ({}::{array_type})", quote_literal(&list));
    }
    let one = |values: &KeyText| {
        let parts = key.iter().zip(values).map(|(Comparison { column, equal, value_type, .. }, value)| {
            format!("t.{column} {equal} {}::{value_type}", quote_literal(value))
        });
        format!("({})", parts.collect::<Vec<_>>().join(" AND "))
    };
    keys.iter().map(one).collect::<Vec<_>>().join(" OR ")
}

fn array_literal<'a>(values: impl Iterator<Item = &'a String>) -> String {
    let mut list = String::from("{");
    for value in values {
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
    list
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
