//! The question about rows that both nodes are asked, and how the rows in their answers are read.

use super::answer::{Answer, Meter, Summing, Sums, Version};
use super::judge::{Author, Found};
use super::value::Value;
use crate::apply::touched::{Key, Relation, Touched};
use crate::document;
use crate::pg::clock::Timestamp;
use crate::pg::key_condition::{Comparison, condition};
use crate::pg::owned_table::{self, OwnedTable, OwnedTableError};
use crate::pg::spi_text::{Cell, TextRow};
use crate::pg::{commit_ts, digest, origin, text};
use pgrx::spi::quote_literal;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::CString;

/// The values of a key's columns, in the form in which both nodes write them as text.
pub type KeyText = Vec<String>;

/// The rows of a table by their keys. None: more than one row has the key, or a value cannot be compared.
pub type Rows = HashMap<KeyText, Option<Found>>;

/// A table, and the positions of its key's columns in `relation.columns`.
pub struct Columns<'a> {
    pub relation: &'a Relation,
    pub key: &'a [usize],
}

/// A row of a query's result.
type Values = Vec<Cell>;

/// The number of values before those of the columns: commit time, origin, transaction id.
const FIRST_VALUE: usize = 3;

pub fn columns_of(touched: &Touched, relation: u32) -> Option<Columns<'_>> {
    let key = touched.key(relation)?;
    Some(Columns { relation: touched.relations.get(&relation)?, key: &key.columns })
}

/// A question about a table's rows, the same for both nodes. Replication matches tables and columns by name, so each
/// node makes its own query of the question, and runs that as the table's owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    schema: String,
    name: String,
    columns: Vec<String>,
    /// The positions of the key's columns in `columns`.
    key: Vec<usize>,
    /// The keys that are asked for, each with one value per column of the key.
    keys: Vec<KeyText>,
    asked: Asked,
    /// Whether the asking node knows every representation of a value that this version uses. A node of version 0.1.0
    /// does not send this.
    #[serde(default)]
    exact: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asked {
    /// Each row, to be compared: long values as hashes.
    Rows,
    /// Like `Rows`, and also which values are stored out of line.
    RowsAndStorage,
    /// Each row, to be written: all values as text.
    WholeRows,
    /// A summary of all rows: how many there are, a hash over all of them, and how many were written under `origin`. If
    /// two nodes give the same answer they have the same rows; if not, their rows may still be alike.
    Sums { origin: Option<u16> },
    /// For each key, whether the table has a partition that can hold the key's row.
    Places,
}

impl Question {
    pub fn rows(columns: &Columns<'_>, keys: &[KeyText], with_storage: bool) -> Question {
        Question::new(columns, keys, if with_storage { Asked::RowsAndStorage } else { Asked::Rows })
    }

    /// Asks for the row with this key, as it is to be written.
    pub fn whole(columns: &Columns<'_>, key: &KeyText) -> Question {
        Question::new(columns, std::slice::from_ref(key), Asked::WholeRows)
    }

    /// Asks for the rows with these keys, as they are to be written.
    pub fn whole_rows(columns: &Columns<'_>, keys: &[KeyText]) -> Question {
        Question::new(columns, keys, Asked::WholeRows)
    }

    pub fn sums(columns: &Columns<'_>, keys: &[KeyText], origin: Option<u16>) -> Question {
        Question::new(columns, keys, Asked::Sums { origin })
    }

    pub fn places(columns: &Columns<'_>, keys: &[KeyText]) -> Question {
        Question::new(columns, keys, Asked::Places)
    }

    fn new(columns: &Columns<'_>, keys: &[KeyText], asked: Asked) -> Question {
        let Relation { schema, name, columns: names } = columns.relation.clone();
        Question { schema, name, columns: names, key: columns.key.to_vec(), keys: keys.to_vec(), asked, exact: true }
    }

    /// The question as it is sent to a peer: in ASCII, because the two databases may have different encodings.
    pub fn to_text(&self) -> String {
        document::to_text(self)
    }

    /// Reads a question that a peer has sent. None if it is malformed, or of a later version.
    pub fn of_text(text: &str) -> Option<Question> {
        let question: Question = serde_json::from_str(text).ok()?;
        let fits = question.key.iter().all(|column| *column < question.columns.len())
            && !question.key.is_empty()
            && question.keys.iter().all(|key| key.len() == question.key.len());
        fits.then_some(question)
    }

    /// Whether the question asks for one key at most. Then all rows with that key are answered, however large.
    pub fn is_single(&self) -> bool {
        self.keys.len() <= 1
    }

    /// Rows that are answered at most. If a key is not unique on a node, two rows with it tell as much as all of them; but
    /// those of one key may then take the place of another's.
    fn most_rows(&self) -> usize {
        2 * self.keys.len()
    }

    /// How many keys are to be asked for instead, where `answered` rows with `found` keys may hide rows with others.
    pub fn fewer_than(&self, answered: usize, found: usize) -> Option<usize> {
        // One key hides nothing, whatever was answered.
        let may_hide = !self.is_single() && answered >= self.most_rows() && found < self.keys.len();
        may_hide.then_some(self.keys.len() / 2)
    }

    /// Answers the question from this node's table. Needs a transaction with a snapshot.
    ///
    /// # Errors
    ///
    /// If the table or a column does not exist, or if the rows may not be read.
    pub fn answer(&self) -> Result<Answer, OwnedTableError> {
        match self.asked {
            Asked::Sums { origin } => self.sum_up(origin),
            Asked::Rows | Asked::RowsAndStorage | Asked::WholeRows => self.tell_rows(),
            Asked::Places => self.tell_places(),
        }
    }

    fn tell_places(&self) -> Result<Answer, OwnedTableError> {
        let query = |table: &OwnedTable| {
            let Some(conditions) = table.partition_conditions() else {
                return Ok(format!("SELECT true FROM pg_catalog.generate_series(1, {})", self.keys.len()));
            };
            // A key that identifies rows of all partitions contains every column that decides about the partition.
            let named = |key: &KeyText| -> HashMap<&str, String> {
                self.key.iter().map(|column| self.columns[*column].as_str()).zip(key.iter().cloned()).collect()
            };
            let keys = serde_json::to_string(&self.keys.iter().map(named).collect::<Vec<_>>()).unwrap_or_default();
            let any = if conditions.is_empty() { "false".to_owned() } else { conditions.join(" OR ") };
            // The result is in the order of the keys, in which the function returns them. Types and collations are
            // those of the table.
            Ok(format!(
                "SELECT coalesce({any}, false) FROM pg_catalog.jsonb_populate_recordset(NULL::{}, {}::pg_catalog.jsonb)",
                table.row_type(),
                quote_literal(&keys)
            ))
        };
        let mut places = Vec::new();
        owned_table::each_row(&self.schema, &self.name, query, |row| {
            places.push(row.number(0) == Some(1));
            true
        })?;
        Ok(Answer::Places(places))
    }

    fn tell_rows(&self) -> Result<Answer, OwnedTableError> {
        let (mut meter, mut rows) = (Meter::new(self.keys.len()), Vec::new());
        self.each_row(|row| {
            let row = row.cells();
            let goes_on = meter.take(bytes_of(&row));
            // The rows of an answer that becomes too large are dropped at once.
            if goes_on {
                rows.push(self.version(row))
            } else {
                rows.clear()
            }
            goes_on
        })?;
        Ok(meter.answer(|_| Answer::of_rows(rows, self.exact)))
    }

    fn sum_up(&self, origin: Option<u16>) -> Result<Answer, OwnedTableError> {
        let (mut meter, mut sums) = (Meter::new(self.keys.len()), Summing::default());
        self.each_row(|row| {
            let [transaction, hash, bytes] = [0, 1, 2].map(|column| row.number(column).unwrap_or_default());
            sums.add(transaction as u32, hash);
            meter.take(bytes.unsigned_abs())
        })?;
        let is_of = |transaction: u32| {
            let committed = commit_ts::version_of(transaction.into()).committed;
            origin.is_some() && committed.map(|(_, id)| id) == origin
        };
        // Origins are looked up per transaction, because a look-up is costly and there are fewer transactions than
        // rows.
        let of_origin =
            sums.transactions.iter().filter(|(transaction, _)| is_of(**transaction)).map(|(_, rows)| *rows).sum();
        let rows = sums.transactions.values().sum();
        Ok(meter.answer(|bytes| Answer::Sums(Sums { rows, hash: sums.hash, of_origin, bytes })))
    }

    fn each_row(&self, see: impl FnMut(TextRow<'_>) -> bool) -> Result<(), OwnedTableError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let query = |table: &OwnedTable| {
            let compared = |index: &usize| table.comparison(&self.columns[*index]);
            let key: Vec<Comparison> = self.key.iter().map(compared).collect::<Result<_, _>>()?;
            let columns = self.columns.iter().map(|name| table.column(name)).collect::<Result<_, _>>()?;
            Ok(self.query(&table.quoted(), columns, &key))
        };
        owned_table::each_row(&self.schema, &self.name, query, see)
    }

    /// Makes a row of the answer from a row of the query. The key is always sent as text, because rows are identified
    /// by it; it is short, because an index holds it.
    fn version(&self, mut row: Values) -> Version {
        let mut values = row.split_off(FIRST_VALUE.min(row.len()));
        let storage = values.split_off(self.columns.len().min(values.len()));
        let value = |(index, cell): (usize, Cell)| match cell {
            Cell::Null => None,
            Cell::Bytes(no_text) => Some(Value::Bytes { no_text }),
            Cell::Text(text) if self.asked == Asked::WholeRows || self.key.contains(&index) => Some(Value::Text(text)),
            Cell::Text(text) => Some(Value::to_compare(text, digest::sha256)),
        };
        let origin = number(&row, 1).and_then(|id| u16::try_from(id).ok());
        Version {
            committed: number(&row, 0).zip(origin),
            transaction: number(&row, 2).unwrap_or_default() as u32,
            values: values.into_iter().enumerate().map(value).collect(),
            out_of_line: storage.first().map_or_else(Vec::new, flags),
        }
    }

    fn query(&self, table: &str, mut values: Vec<String>, key: &[Comparison]) -> String {
        let condition = condition(key, &self.keys);
        match self.asked {
            Asked::Rows | Asked::RowsAndStorage | Asked::WholeRows => {
                if self.asked == Asked::RowsAndStorage {
                    // All flags are one array, because a target list has 1664 entries at most, and a table may have
                    // 1600 columns.
                    let stored = |value: &String| format!("pg_catalog.pg_column_toast_chunk_id({value}) IS NOT NULL");
                    values.push(format!("ARRAY[{}]", values.iter().map(stored).collect::<Vec<_>>().join(", ")));
                }
                // Without commit timestamps the function would raise an error.
                let (committed, from) = match commit_ts::is_tracked() {
                    true => (
                        "(extract(epoch FROM x.timestamp - '2000-01-01 00:00:00+00'::pg_catalog.timestamptz) * 1000000)::pg_catalog.int8, x.roident",
                        ", LATERAL pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) x",
                    ),
                    false => ("NULL::pg_catalog.int8, NULL::pg_catalog.oid", ""),
                };
                format!(
                    "SELECT {committed}, t.xmin, {} FROM {table} t{from} WHERE {condition} LIMIT {}",
                    values.join(", "),
                    self.most_rows(),
                )
            }
            // OFFSET 0 keeps the subquery from being flattened, so that a row is converted to text only once.
            Asked::Sums { .. } | Asked::Places => format!(
                "SELECT t.xmin, pg_catalog.hashtextextended(w.text COLLATE pg_catalog.\"C\", 0), pg_catalog.octet_length(w.text)
                   FROM {table} t, LATERAL (SELECT ROW({})::pg_catalog.text AS text OFFSET 0) w WHERE {condition}",
                values.join(", "),
            ),
        }
    }
}

fn bytes_of(row: &Values) -> u64 {
    let bytes = |cell: &Cell| match cell {
        Cell::Null => 0,
        Cell::Text(text) => text.len() as u64,
        Cell::Bytes(bytes) => *bytes,
    };
    row.iter().map(bytes).sum()
}

fn number(row: &Values, index: usize) -> Option<i64> {
    match row.get(index)? {
        Cell::Text(text) => text.parse().ok(),
        Cell::Null | Cell::Bytes(_) => None,
    }
}

/// Reads an array of booleans.
fn flags(cell: &Cell) -> Vec<bool> {
    match cell {
        Cell::Text(array) => array.trim_matches(['{', '}']).split(',').map(|flag| flag == "t").collect(),
        Cell::Null | Cell::Bytes(_) => Vec::new(),
    }
}

/// Adds the rows of a node's answer to `rows`. `origins` names the nodes by the ids of their origins on the answering
/// node, `reconcile` is the id of `spock_reconcile` there, and `node` is the answering node's name.
pub fn take(
    rows: &mut Rows,
    columns: &Columns<'_>,
    answer: Vec<Version>,
    origins: &HashMap<u16, String>,
    reconcile: Option<u16>,
    node: &str,
) {
    for row in answer {
        let author = |id: u16| match id {
            origin::LOCAL => Author::Node(node.to_owned()),
            id if Some(id) == reconcile => Author::Reconcile,
            id => origins.get(&id).map_or(Author::Unknown, |name| Author::Node(name.clone())),
        };
        let key = |index: &usize| row.values.get(*index)?.as_ref()?.text().map(str::to_owned);
        let key: Option<KeyText> = columns.key.iter().map(key).collect();
        let Some(key) = key else { continue };
        let is_comparable = row.values.iter().flatten().all(Value::is_comparable);
        let found = Found {
            committed: row.committed.map(|(at, id)| (Timestamp(at), author(id))),
            transaction: row.transaction,
            values: row.values,
            out_of_line: row.out_of_line,
        };
        rows.entry(key).and_modify(|known| *known = None).or_insert(is_comparable.then_some(found));
    }
}

/// Looks up the row with a key: `Some(None)` if there is none, None if that cannot be told.
pub fn there<'a>(rows: &'a Rows, key: &KeyText) -> Option<Option<&'a Found>> {
    match rows.get(key) {
        None => Some(None),
        Some(None) => None,
        Some(Some(found)) => Some(Some(found)),
    }
}

/// The values of a key that came with the stream; None if one of them is not valid text in this database's encoding.
pub fn text_of(key: &Key) -> Option<KeyText> {
    let text = |value: &Vec<u8>| text::to_utf8_exactly(&CString::new(value.as_slice()).ok()?);
    key.values.iter().map(text).collect()
}

pub fn name(touched: &Touched, relation: u32) -> String {
    touched.relations.get(&relation).map_or_else(String::new, |found| format!("{}.{}", found.schema, found.name))
}
