//! Rows that could not be judged yet, kept until they can: in a large object, which becomes durable with the commit that names
//! it in the journal, which superusers alone can read, and which nobody publishes. A materialized view refers to it
//! (src/pg/references.rs), for vacuumlo removes large objects without a reference. Whoever has removed it all the same is not
//! overlooked: the journal knows how many rows were in it.
//!
//! The first line is a document that tells the tables; each line after it is a row: the table's place among them, why, and the
//! key's values. Version 0.1.0 has written the list of tables alone, without a version.

use super::rows::{Columns, KeyText, columns_of, text_of};
use crate::apply::touched::{Key, Relation, Touched};
use crate::document::{self, Document, DocumentError, DocumentKind, Unreadable};
use crate::node::error::RegistryError;
use crate::pg::spill::Spill;
use crate::pg::{logicalrep, role, spi_text, text};
use crate::recover::error::RecoverError;
use crate::tally::compared::Why;
use pgrx::Spi;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use pgrx::spi::quote_literal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// Bytes that are written at once, and pages of a large object that are read at once.
const PIECE: usize = 1 << 20;
const PAGES: i32 = 512;

/// A table, with the places of its key among the columns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Table {
    pub schema: String,
    pub name: String,
    pub columns: Vec<String>,
    pub key: Vec<usize>,
    /// Why a node has refused rows of it, in the node's own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Its rows are those that a node's own recovery has deleted there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct KeptHead {
    version: u32,
    tables: Vec<Table>,
}

impl Document for KeptHead {
    const VERSION: u32 = 1;
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptRow(pub usize, pub Why, pub KeyText);

/// Collects rows that are to be kept.
#[derive(Default)]
pub struct KeptRows {
    tables: Vec<Table>,
    /// By schema and name, for each node has numbers of its own for them; and whether its rows are those that a recovery has deleted.
    places: HashMap<(String, String, bool), usize>,
    rows: Spill,
}

impl KeptRows {
    /// `is_gone`: a node's own recovery has deleted it there.
    pub fn add(&mut self, columns: &Columns<'_>, why: Why, key: &KeyText, is_gone: bool) {
        let place = self.place_of(columns, is_gone);
        self.rows.push(line(&KeptRow(place, why, key.clone())).as_bytes());
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

    /// A row that a replay has touched; false if its key is no text in this database's encoding. Needs a transaction.
    pub fn add_touched(&mut self, touched: &Touched, key: &Key, why: Why) -> bool {
        match (columns_of(touched, key.relation), text_of(key)) {
            (Some(columns), Some(text)) => {
                self.add(&columns, why, &text, false);
                true
            }
            _ => false,
        }
    }

    /// Writes them into a large object; None if there are none. May be repeated. Needs a transaction with a snapshot.
    pub fn store(&mut self) -> Result<Option<u32>, RecoverError> {
        if self.rows.count == 0 {
            return Ok(None);
        }
        self.rows.rewind();
        let head = KeptHead { version: KeptHead::VERSION, tables: self.tables.clone() };
        let mut piece = (document::to_text(&head) + "\n").into_bytes();
        let object = Spi::get_one::<Oid>("SELECT pg_catalog.lo_create(0)")?.unwrap_or(Oid::INVALID);
        let mut written = 0_i64;
        loop {
            let row = self.rows.next();
            if piece.len() >= PIECE || row.is_none() {
                let arguments: [DatumWithOid; 3] = [object.into(), written.into(), piece.as_slice().into()];
                Spi::run_with_args("SELECT pg_catalog.lo_put($1, $2, $3)", &arguments)?;
                written += piece.len() as i64;
                piece.clear();
            }
            match row {
                Some(row) => piece.extend_from_slice(&row),
                None => return Ok(Some(object.to_u32())),
            }
        }
    }
}

/// Removes what was kept; nothing where somebody else has. Needs a transaction with a snapshot.
pub fn forget(object: u32) -> Result<(), RecoverError> {
    // One that somebody else has made since is not what was written.
    let question =
        "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = $1 AND lomowner = 10";
    Ok(Spi::run_with_args(question, &[Oid::from_u32(object).into()])?)
}

/// Which of these large objects are there, as the active snapshot sees them. One that somebody else has made in the place of
/// what a worker wrote, hence what the bootstrap superuser owns, does not count.
pub fn present(objects: &BTreeSet<u32>) -> Result<BTreeSet<u32>, pgrx::spi::Error> {
    let list: Vec<Oid> = objects.iter().map(|object| Oid::from_u32(*object)).collect();
    let question = "SELECT oid FROM pg_catalog.pg_largeobject_metadata WHERE oid = ANY ($1) AND lomowner = 10";
    Spi::connect(|client| {
        let rows = client.select(question, None, &[list.into()])?.map(|row| row.get::<Oid>(1));
        rows.map(|oid| Ok(oid?.unwrap_or(Oid::INVALID).to_u32())).collect()
    })
}

/// Reads what was kept, as the active snapshot sees it; `see` gets the tables and each row. Returns how many rows there are;
/// None if the large object is gone or empty. An Err if it holds something else than this version writes.
pub fn read(object: u32, mut see: impl FnMut(&[Table], KeptRow)) -> Result<Option<u64>, RecoverError> {
    let (mut tables, mut rest, mut count): (Option<Vec<Table>>, Vec<u8>, u64) = (None, Vec::new(), 0);
    for first in (0_i32..).step_by(PAGES as usize) {
        let arguments: [DatumWithOid; 3] = [Oid::from_u32(object).into(), first.into(), (first + PAGES).into()];
        let pages = Spi::connect(|client| {
            let question = "SELECT l.data FROM pg_catalog.pg_largeobject l
                              JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = l.loid AND m.lomowner = 10
                             WHERE l.loid = $1 AND l.pageno >= $2 AND l.pageno < $3 ORDER BY l.pageno";
            let pages = client.select(question, None, &arguments)?.map(|row| row.get::<Vec<u8>>(1));
            pages.collect::<Result<Vec<_>, _>>()
        })?;
        if pages.is_empty() {
            break;
        }
        rest.extend(pages.into_iter().flatten().flatten());
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

/// What is told of a large object whose first line cannot be read. Needs a transaction with a snapshot.
pub fn unreadable_head(object: u32) -> Option<Unreadable> {
    let question = "SELECT l.data FROM pg_catalog.pg_largeobject l
                      JOIN pg_catalog.pg_largeobject_metadata m ON m.oid = l.loid AND m.lomowner = 10
                     WHERE l.loid = $1 ORDER BY l.pageno LIMIT $2";
    let pages = role::as_superuser(|| {
        Spi::connect(|client| {
            let pages = client.select(question, None, &[Oid::from_u32(object).into(), PAGES.into()])?;
            pages.map(|row| row.get::<Vec<u8>>(1)).collect::<Result<Vec<_>, _>>()
        })
    });
    let data: Vec<u8> = pages.ok()?.into_iter().flatten().flatten().collect();
    // One that is longer than what was looked at is no verdict.
    let end = data.iter().position(|byte| *byte == b'\n')?;
    let line = Some(&data[..end]).filter(|line| !line.is_empty())?;
    let error = tables_of(line).err()?;
    Some(Unreadable { kind: DocumentKind::KeptRows, object: object.to_string(), error })
}

/// The tables in the first line.
fn tables_of(line: &[u8]) -> Result<Vec<Table>, DocumentError> {
    // Keys are data of the tables: what serde says of a line might quote one.
    let malformed = |_| DocumentError::Malformed("its first line does not tell the tables".to_owned());
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

/// What was kept.
#[derive(Default)]
pub struct Kept {
    /// As rows that a replay has touched: core's relation map learns their tables as if the source had told them.
    pub touched: Touched,
    /// Those that a node's own recovery has deleted there.
    pub gone: Touched,
    /// Rows of tables that are not what they were.
    pub incomparable: usize,
    /// How many rows there are in all.
    pub rows: u64,
}

impl Kept {
    fn of(&mut self, gone: bool) -> &mut Touched {
        if gone { &mut self.gone } else { &mut self.touched }
    }
}

/// None if it is gone. Needs a transaction with a snapshot.
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

/// What has become of a table of which rows are kept.
enum KeptFound {
    AsItWas,
    Changed,
    /// There are no rows of it to compare.
    Dropped,
}

/// A name for it in core's relation map that no table of a user has.
fn relation_of(place: usize) -> u32 {
    1 + place as u32
}

/// Whether the table still is what it was here.
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
    pgrx::log!("rows of {schema}.{name} are not compared any more: the table is not what it was");
    KeptFound::Changed
}

fn line(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_else(|error| pgrx::error!("rows cannot be kept: {error}"));
    text + "\n"
}
