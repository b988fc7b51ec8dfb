//! Rows that could not be judged yet, kept until they can be. They are stored in a large object
//! (src/pg/large_object.rs), which becomes durable with the commit that names it in the journal. A materialized view
//! refers to it (src/pg/references.rs), because vacuumlo removes large objects without a reference.
//! If it is removed all the same, this is noticed: the journal has the number of rows that were in it.
//!
//! The first line of the object is a document with the list of tables. Each further line is a row: the position of its
//! table in that list, the reason, and the key's values. Version 0.1.0 has written the bare list of tables as the first
//! line, without a version.

use super::rows::{Columns, KeyText, columns_of, text_of};
use crate::apply::touched::{Key, Relation, Touched};
use crate::document::{self, Document, DocumentError, DocumentKind, Unreadable};
use crate::node::error::RegistryError;
use crate::pg::spill::Spill;
use crate::pg::{large_object, logicalrep, role, spi_text, text};
use crate::recover::error::RecoverError;
use crate::tally::compared::Why;
use pgrx::spi::quote_literal;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The number of pages of a large object that are read at once.
const PAGES: i32 = 512;

/// A table, with the positions of its key's columns in `columns`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub columns: Vec<String>,
    pub key: Vec<usize>,
    /// Why a node has refused to show rows of the table, in the node's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Whether its rows are those that another node has deleted while reconciling its own recovery.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// The first line of the large object.
#[derive(Serialize, Deserialize)]
struct KeptHead {
    version: u32,
    tables: Vec<Table>,
}

impl Document for KeptHead {
    const VERSION: u32 = 1;
}

/// A further line of the large object: the position of the table, the reason, and the key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptRow(pub usize, pub Why, pub KeyText);

/// Collects rows that are to be kept.
#[derive(Default)]
pub struct KeptRows {
    tables: Vec<Table>,
    /// The positions in `tables` by schema, name and `Table::gone`. Names identify a table, because each node has its
    /// own numbers for tables.
    places: HashMap<(String, String, bool), usize>,
    rows: Spill,
}

impl KeptRows {
    /// Adds a row. `is_gone`: another node has deleted it while reconciling its own recovery.
    pub fn add(&mut self, columns: &Columns<'_>, why: Why, key: &KeyText, is_gone: bool) {
        let place = self.place_of(columns, is_gone);
        self.rows.push(line(&KeptRow(place, why, key.clone())).as_bytes());
    }

    /// The number of rows that were added.
    pub fn count(&self) -> u64 {
        self.rows.count
    }

    /// Adds the rows that another large object keeps. Needs a transaction with a snapshot.
    ///
    /// # Errors
    ///
    /// If the object holds something that this version does not write.
    pub fn add_stored(&mut self, object: u32) -> Result<(), RecoverError> {
        let added = read(object, |tables, KeptRow(place, why, key)| {
            let Some(table) = tables.get(place) else { return };
            let (schema, name, columns) = (table.schema.clone(), table.name.clone(), table.columns.clone());
            let relation = Relation { schema, name, columns };
            self.add(&Columns { relation: &relation, key: &table.key }, why, &key, table.gone);
        });
        added.map(drop)
    }

    pub fn note_refused(&mut self, columns: &Columns<'_>, message: String) {
        let place = self.place_of(columns, false);
        self.tables[place].refused = Some(message);
    }

    fn place_of(&mut self, columns: &Columns<'_>, gone: bool) -> usize {
        let Relation { schema, name, columns: names } = columns.relation.clone();
        *self.places.entry((schema.clone(), name.clone(), gone)).or_insert_with(|| {
            self.tables.push(Table { schema, name, columns: names, key: columns.key.to_vec(), refused: None, gone });
            self.tables.len() - 1
        })
    }

    /// Adds a row that a replay has touched; false if its key is unknown, or is not valid text in this database's
    /// encoding. Needs a transaction.
    pub fn add_touched(&mut self, touched: &Touched, key: &Key, why: Why) -> bool {
        match (columns_of(touched, key.relation), text_of(key)) {
            (Some(columns), Some(text)) => {
                self.add(&columns, why, &text, false);
                true
            }
            _ => false,
        }
    }

    /// Writes the rows into a new large object and returns its oid; None if there are no rows. Can be repeated. Needs a
    /// transaction with a snapshot.
    pub fn store(&mut self) -> Result<Option<u32>, RecoverError> {
        if self.rows.count == 0 {
            return Ok(None);
        }
        self.rows.rewind();
        let head = KeptHead { version: KeptHead::VERSION, tables: self.tables.clone() };
        let mut piece = (document::to_text(&head) + "\n").into_bytes();
        let object = large_object::create()?;
        let mut written = 0_i64;
        loop {
            let row = self.rows.next();
            if piece.len() >= large_object::PIECE || row.is_none() {
                large_object::put(object, written, &piece)?;
                written += piece.len() as i64;
                piece.clear();
            }
            match row {
                Some(row) => piece.extend_from_slice(&row),
                None => return Ok(Some(object)),
            }
        }
    }
}

/// Reads the kept rows, as the active snapshot sees them, and passes the tables and each row to `see`. Returns the
/// number of rows; None if the large object is gone or empty.
///
/// # Errors
///
/// If the object holds something that this version does not write.
pub fn read(object: u32, mut see: impl FnMut(&[Table], KeptRow)) -> Result<Option<u64>, RecoverError> {
    let (mut tables, mut rest, mut count): (Option<Vec<Table>>, Vec<u8>, u64) = (None, Vec::new(), 0);
    for first in (0_i32..).step_by(PAGES as usize) {
        let Some(pages) = large_object::pages(object, first, PAGES)? else { break };
        rest.extend(pages);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Some(tables) = &tables else {
                tables = Some(tables_of(line).map_err(|error| unreadable(object, error))?);
                continue;
            };
            see(tables, row_of(line).map_err(|error| unreadable(object, error))?);
            count += 1;
        }
        rest.drain(..whole);
    }
    Ok(tables.map(|_| count))
}

/// The error to report for a large object whose first line cannot be read; None if it can be. Needs a transaction with
/// a snapshot.
pub fn unreadable_head(object: u32) -> Option<Unreadable> {
    let data = role::as_superuser(|| large_object::pages(object, 0, PAGES)).ok()??;
    // If the first line is longer than the pages that were read, nothing can be said about it.
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let line = Some(&data[..end]).filter(|line| !line.is_empty())?;
    let error = tables_of(line).err()?;
    Some(Unreadable { kind: DocumentKind::KeptRows, object: object.to_string(), error })
}

/// The tables that the first line lists.
fn tables_of(line: &[u8]) -> Result<Vec<Table>, DocumentError> {
    // Keys are data of the tables, and a message of serde's might quote one.
    let malformed = |_| DocumentError::Malformed("its first line does not list the tables".to_owned());
    if line.first() == Some(&b'[') {
        return serde_json::from_slice(line).map_err(|_| malformed(()));
    }
    let text = std::str::from_utf8(line).map_err(|_| malformed(()))?;
    document::parse(text).map(|head: KeptHead| head.tables).map_err(|error| match error {
        later @ DocumentError::Later { .. } => later,
        DocumentError::Malformed(_) => malformed(()),
    })
}

fn row_of(line: &[u8]) -> Result<KeptRow, DocumentError> {
    serde_json::from_slice(line).map_err(|_| DocumentError::Malformed("one of its lines is not a row".to_owned()))
}

fn unreadable(object: u32, error: DocumentError) -> RecoverError {
    RegistryError::from(Unreadable { kind: DocumentKind::KeptRows, object: object.to_string(), error }).into()
}

/// Kept rows as they were read back.
#[derive(Default)]
pub struct Kept {
    /// Kept rows in the form of rows that a replay has touched. Their tables are entered into core's relation map as if
    /// the source had announced them.
    pub touched: Touched,
    /// Those that another node has deleted while reconciling its own recovery.
    pub gone: Touched,
    /// The number of rows whose tables have changed since, or whose keys cannot be written in this database's encoding.
    pub incomparable: usize,
    /// The number of all rows that were read.
    pub rows: u64,
}

impl Kept {
    fn of(&mut self, gone: bool) -> &mut Touched {
        if gone { &mut self.gone } else { &mut self.touched }
    }
}

/// Reads the kept rows back; None if the large object is gone. Needs a transaction with a snapshot.
///
/// # Errors
///
/// If the object holds something that this version does not write.
pub fn touched(object: u32) -> Result<Option<Kept>, RecoverError> {
    let (mut kept, mut known) = (Kept::default(), Vec::new());
    let found = read(object, |tables, KeptRow(place, _, key)| {
        if known.is_empty() {
            let learnt = |(place, table): (usize, &Table)| learn(kept.of(table.gone), place, table);
            known = tables.iter().enumerate().map(learnt).collect();
        }
        let values: Option<Vec<Vec<u8>>> =
            key.iter().map(|value| Some(text::to_server(value)?.as_bytes().to_vec())).collect();
        match (known.get(place), values) {
            (Some(KeptFound::AsItWas), Some(values)) => {
                kept.of(tables[place].gone).push_key(relation_of(place), values);
            }
            (Some(KeptFound::Dropped), _) => (),
            _ => kept.incomparable += 1,
        }
    })?;
    Ok(found.map(|rows| Kept { rows, ..kept }))
}

/// What has become of a table that has kept rows.
enum KeptFound {
    AsItWas,
    Changed,
    /// The table does not exist any more, and has no rows to compare.
    Dropped,
}

/// The relation number under which a table is entered into core's relation map. No user's table has such a low oid.
fn relation_of(place: usize) -> u32 {
    1 + place as u32
}

/// Enters a table into core's relation map, if its columns and key are still what they were when its rows were kept.
fn learn(touched: &mut Touched, place: usize, table: &Table) -> KeptFound {
    let Table { schema, name, columns, key, .. } = table;
    let names: Vec<String> = columns.iter().map(quote_literal).collect();
    let found = spi_text::rows(&format!(
        "SELECT (SELECT count(*) FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attname IN ({}))
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p')",
        names.join(", "),
        quote_literal(schema),
        quote_literal(name)
    ));
    if found.is_empty() {
        pgrx::log!("rows of {schema}.{name} are not compared any more: there is no such table");
        return KeptFound::Dropped;
    }
    let relation = relation_of(place);
    let has_them = found == [[Some(columns.len().to_string())]];
    if has_them {
        logicalrep::announce(relation, schema, name, columns, key);
        let known = Relation { schema: schema.clone(), name: name.clone(), columns: columns.clone() };
        touched.note_relation(relation, known);
        if touched.learn_key(relation).is_some_and(|known| known.columns == *key) {
            return KeptFound::AsItWas;
        }
    }
    pgrx::log!("rows of {schema}.{name} are not compared any more: the table has changed");
    KeptFound::Changed
}

fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| pgrx::error!("rows cannot be kept: {error}"));
    text + "\n"
}
