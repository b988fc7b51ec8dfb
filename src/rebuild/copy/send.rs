//! The source's part of a copy: what a table consists of, and the rows of a chunk.
//!
//! Both run in the target's session, which has imported the pin's snapshot. Everything that decides which rows are sent is
//! looked up here, in the publications that the target names: an expression that came from the target would run as the
//! owner of the table. The caller must be allowed to read the table that it names, as for core's initial copy; each
//! partition is then read as its owner, to whom row security must hide nothing.

use super::error::CopyError;
use super::feed::{self, Sum};
use super::layout::{Layout, Leaf, chunk_blocks};
use crate::failpoint::{self, names};
use crate::pg::name::Name;
use crate::pg::owned_table;
use crate::pg::spill::{Place, Shelf};
use crate::pg::text::Text;
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;
use std::collections::{BTreeSet, VecDeque};

/// A table as a target names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    fn shown(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}

/// What the publications say of one table.
struct Published {
    /// None: all columns that are not generated.
    columns: Option<BTreeSet<i16>>,
    filter: Option<String>,
}

/// How the table is divided, and which of its columns are sent. No publications: all rows and columns.
pub fn layout(table: &TableName, publications: &[String]) -> Result<Layout, CopyError> {
    let oid = owned_table::readable(&table.schema, &table.name)?;
    let mut leaves = Vec::new();
    let mut columns: Option<Vec<String>> = None;
    for (leaf_oid, leaf) in leaves_of(oid)? {
        let published = published(oid, leaf_oid, table, publications)?;
        let of_leaf = column_names(published.of, published.said.columns.as_ref())?;
        // Partitions may have their columns in another order.
        let as_set = |columns: &[String]| columns.iter().cloned().collect::<BTreeSet<_>>();
        if columns.as_ref().is_some_and(|known| as_set(known) != as_set(&of_leaf)) {
            return Err(CopyError::DifferentColumns { table: table.shown() });
        }
        columns = columns.or(Some(of_leaf));
        leaves.push(leaf);
    }
    let columns = match columns {
        Some(columns) => columns,
        // A partitioned table without partitions.
        None => column_names(oid, None)?,
    };
    Ok(Layout { columns, leaves })
}

/// The tables with rows of a table: its partitions on all levels, or itself.
fn leaves_of(table: Oid) -> Result<Vec<(Oid, Leaf)>, CopyError> {
    let question = "SELECT c.oid, n.nspname, c.relname,
                           pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::pg_catalog.int8,
                           coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0)
                      FROM (SELECT p.relid FROM pg_catalog.pg_partition_tree($1) p WHERE p.isleaf
                             UNION SELECT $1) t(relid)
                      JOIN pg_catalog.pg_class c ON c.oid = t.relid AND c.relkind = 'r'
                      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     ORDER BY n.nspname COLLATE \"C\", c.relname COLLATE \"C\"";
    Ok(Spi::connect(|client| {
        let rows = client.select(question, None, &[table.into()])?;
        let mut leaves = Vec::new();
        for row in rows {
            let blocks = row.get::<i64>(4)?.unwrap_or(0).max(0) as u64;
            let beside = row.get::<i64>(5)?.unwrap_or(0).max(0) as u64;
            let leaf = Leaf {
                schema: row.get::<Name>(2)?.map_or_else(String::new, |name| name.0),
                name: row.get::<Name>(3)?.map_or_else(String::new, |name| name.0),
                blocks,
                chunk_blocks: chunk_blocks(blocks, beside),
            };
            leaves.push((row.get::<Oid>(1)?.unwrap_or(Oid::INVALID), leaf));
        }
        Ok::<_, pgrx::spi::Error>(leaves)
    })?)
}

struct PublishedAs {
    /// The table whose entry it is: the whole one, or the partition.
    of: Oid,
    said: Published,
}

/// What the publications say of a partition: they publish the whole table, or the partition.
fn published(table: Oid, leaf: Oid, named: &TableName, publications: &[String]) -> Result<PublishedAs, CopyError> {
    if publications.is_empty() {
        return Ok(PublishedAs { of: table, said: Published { columns: None, filter: None } });
    }
    for of in [table, leaf] {
        if let Some(said) = entry(of, named, publications)? {
            return Ok(PublishedAs { of, said });
        }
    }
    Err(CopyError::NotPublished { table: named.shown() })
}

/// As core's fetch_remote_table_info: there must be one column list, and a row is sent that any publication lets pass.
fn entry(of: Oid, named: &TableName, publications: &[String]) -> Result<Option<Published>, CopyError> {
    let question = "SELECT e.attrs::pg_catalog.text, pg_catalog.pg_get_expr(e.qual, e.relid)
                      FROM pg_catalog.pg_get_publication_tables(VARIADIC $1) e WHERE e.relid = $2";
    let entries = Spi::connect(|client| {
        let names: Vec<Text> = publications.iter().map(|name| Text::of_message(name)).collect();
        let rows = client.select(question, None, &[names.into(), of.into()])?;
        rows.map(|row| Ok((row.get::<String>(1)?, row.get::<Text>(2)?.map(|filter| filter.to_utf8()))))
            .collect::<Result<Vec<_>, pgrx::spi::Error>>()
    })?;
    if entries.is_empty() {
        return Ok(None);
    }
    let lists: BTreeSet<&Option<String>> = entries.iter().map(|(columns, _)| columns).collect();
    if lists.len() > 1 {
        return Err(CopyError::DifferentColumns { table: named.shown() });
    }
    let columns = entries[0].0.as_ref().map(|list| list.split(' ').filter_map(|number| number.parse().ok()).collect());
    let filters: Option<Vec<String>> = entries.into_iter().map(|(_, filter)| filter).collect();
    let filter = filters.map(|filters| filters.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" OR "));
    Ok(Some(Published { columns, filter }))
}

/// The names of the columns with these numbers; None: of all that are not generated.
fn column_names(table: Oid, numbers: Option<&BTreeSet<i16>>) -> Result<Vec<String>, CopyError> {
    let question = "SELECT a.attnum, a.attname, a.attgenerated <> ''
                      FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
    Ok(Spi::connect(|client| {
        let rows = client.select(question, None, &[table.into()])?;
        let mut names = Vec::new();
        for row in rows {
            let (number, name) =
                (row.get::<i16>(1)?.unwrap_or(0), row.get::<Name>(2)?.map_or_else(String::new, |name| name.0));
            let is_generated = row.get::<bool>(3)?.unwrap_or(false);
            if numbers.map_or(!is_generated, |numbers| numbers.contains(&number)) {
                names.push(name);
            }
        }
        Ok::<_, pgrx::spi::Error>(names)
    })?)
}

/// How many blocks are read at once. Planning a query for each costs little beside reading 2 MB.
const STEP_BLOCKS: u64 = 256;

/// The size of a piece, except where a single row is longer.
const PIECE_BYTES: usize = 256 << 10;

/// How many bytes of pieces are kept in memory; the rest goes to a temporary file.
const IN_MEMORY: usize = 4 << 20;

enum Piece {
    Memory(Vec<u8>),
    Shelved(Place),
}

/// The pieces of a chunk, one after the other, and at its end what they sum up to.
pub struct Sender {
    leaf: TableName,
    columns: String,
    filter: String,
    next_block: u64,
    to_block: u64,
    sum: Sum,
    pieces: VecDeque<Piece>,
    shelf: Shelf,
    has_ended: bool,
}

impl Sender {
    /// Begins to send the rows in these blocks of `leaf`, which is `table` or a partition of it.
    pub fn begin(
        table: &TableName,
        leaf: &TableName,
        publications: &[String],
        columns: &[String],
        blocks: std::ops::Range<u64>,
    ) -> Result<Sender, CopyError> {
        let oid = owned_table::readable(&table.schema, &table.name)?;
        let is_leaf = |(_, known): &(Oid, Leaf)| known.schema == leaf.schema && known.name == leaf.name;
        let Some((leaf_oid, _)) = leaves_of(oid)?.into_iter().find(is_leaf) else {
            return Err(CopyError::NotAPart { leaf: leaf.shown(), table: table.shown() });
        };
        let published = published(oid, leaf_oid, table, publications)?;
        let sent = column_names(published.of, published.said.columns.as_ref())?;
        if let Some(column) = columns.iter().find(|column| !sent.contains(column)) {
            let (table, column) = (table.shown(), column.clone());
            return Err(owned_table::OwnedTableError::NoColumn { table, column }.into());
        }
        let columns: Vec<String> = columns.iter().map(|column| format!("t.{}", quote_identifier(column))).collect();
        let filter = published.said.filter.map(|filter| format!(" AND ({filter})")).unwrap_or_default();
        Ok(Sender {
            leaf: leaf.clone(),
            columns: columns.join(", "),
            filter,
            next_block: blocks.start,
            to_block: blocks.end,
            sum: Sum::default(),
            pieces: VecDeque::new(),
            shelf: Shelf::default(),
            has_ended: false,
        })
    }

    /// The next piece, as feed.rs reads it; None: the sum was the last one.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, CopyError> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                let mut bytes = match piece {
                    Piece::Memory(bytes) => bytes,
                    Piece::Shelved(place) => self.shelf.get(place),
                };
                if failpoint::is_armed(names::COPY_CHANGED)
                    && let Some(last) = bytes.last_mut()
                {
                    *last ^= 1;
                }
                return Ok(Some(bytes));
            }
            if self.next_block < self.to_block {
                self.step()?;
            } else if std::mem::replace(&mut self.has_ended, true) {
                return Ok(None);
            } else {
                return Ok(Some(feed::end_piece(self.sum)));
            }
        }
    }

    /// Reads the next blocks into pieces.
    fn step(&mut self) -> Result<(), CopyError> {
        let (from, to) = (self.next_block, self.to_block.min(self.next_block + STEP_BLOCKS));
        self.next_block = to;
        self.shelf.clear();
        let (columns, filter) = (&self.columns, &self.filter);
        let (pieces, shelf) = (&mut self.pieces, &mut self.shelf);
        let (mut sum, mut piece, mut in_memory) = (self.sum, feed::new_piece(), 0);
        let mut close = |piece: &mut Vec<u8>, sum: &mut Sum| {
            let full = std::mem::replace(piece, feed::new_piece());
            sum.add(feed::content(&full));
            in_memory += full.len();
            pieces.push_back(if in_memory <= IN_MEMORY {
                Piece::Memory(full)
            } else {
                Piece::Shelved(shelf.put(&full))
            });
        };
        owned_table::copy_lines(
            &self.leaf.schema,
            &self.leaf.name,
            |table| {
                let quoted = table.quoted();
                Ok(format!(
                    "SELECT {columns} FROM {quoted} t WHERE t.ctid >= '({from},0)' AND t.ctid < '({to},0)'{filter}"
                ))
            },
            &mut |line| {
                sum.rows += 1;
                piece.extend_from_slice(line);
                piece.push(b'\n');
                if piece.len() >= PIECE_BYTES {
                    close(&mut piece, &mut sum);
                }
            },
        )?;
        if !feed::content(&piece).is_empty() {
            close(&mut piece, &mut sum);
        }
        self.sum = sum;
        Ok(())
    }
}
