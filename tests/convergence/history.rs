//! What is written, by whom, and what must be there in the end.
//!
//! A row is written to only by a node that has its last version, or, where it is n2, that has all but n1's last changes of
//! it: between two moments at which everything has arrived everywhere, but for n1's at n2, a row belongs to the node that
//! has touched it first. Two nodes that change the same row at the same time do not come together in native replication,
//! for it resolves nothing. For the same reason n2 leaves alone what n1 has deleted, truncated or given another key unseen
//! by it, and nobody uses such a key again. New keys come from a range of each node.

use std::collections::BTreeMap;

pub const TABLES: [&str; 3] = ["plain", "wide", "guarded"];

/// n1 fails, and n2 is behind it.
pub const FAILED: usize = 0;
pub const TARGET: usize = 1;

/// A row by its table and key.
pub type Place = (usize, i64);

#[derive(Clone, Debug)]
pub struct Row {
    /// Counts the writes of all; a row's last one stands in its column `rev`.
    pub rev: u64,
    pub is_there: bool,
    /// Who has touched it since everything arrived everywhere.
    pub held_by: Option<usize>,
    /// n2 does not have it, for it stems from what n1 has written.
    pub is_unseen: bool,
    /// n2 has it, or its key, and does not know that n1 has done away with it.
    pub is_gone_unseen: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Insert,
    InsertAgain,
    Update,
    UpdateWide,
    ChangeKey,
    Delete,
    Truncate,
}

#[derive(Default)]
pub struct History {
    pub rows: BTreeMap<Place, Row>,
    rev: u64,
    next_key: BTreeMap<usize, i64>,
    /// n2 gets nothing of n1.
    pub is_held_back: bool,
}

impl History {
    /// The next write of a node as a statement; None if there is nothing for it to do. `alone`: everything has arrived
    /// everywhere, and nobody writes beside it.
    pub fn next(&mut self, random: &mut fastrand::Rng, node: usize, alone: bool) -> Option<String> {
        let kind = match random.u32(0..100) {
            0..22 => Kind::Insert,
            22..28 => Kind::InsertAgain,
            28..58 => Kind::Update,
            58..70 => Kind::UpdateWide,
            70..80 => Kind::ChangeKey,
            80..98 => Kind::Delete,
            _ if alone => Kind::Truncate,
            _ => Kind::Insert,
        };
        let table = random.usize(0..TABLES.len());
        self.rev += 1;
        let (rev, name) = (self.rev, TABLES[table]);
        let unseen = self.is_held_back && node == FAILED;
        match kind {
            Kind::Insert => {
                let key = self.new_key(node);
                self.rows.insert(
                    (table, key),
                    Row { rev, is_there: true, held_by: Some(node), is_unseen: unseen, is_gone_unseen: false },
                );
                Some(format!("INSERT INTO {name} VALUES ({key}, {rev}, {})", text(random, rev)))
            }
            Kind::InsertAgain => {
                let place = self.choose(random, table, node, false)?;
                let row = self.rows.get_mut(&place)?;
                (row.rev, row.is_there, row.held_by) = (rev, true, Some(node));
                row.is_unseen = unseen;
                Some(format!("INSERT INTO {name} VALUES ({}, {rev}, {})", place.1, text(random, rev)))
            }
            Kind::Update | Kind::UpdateWide => {
                let place = self.choose(random, table, node, true)?;
                let row = self.rows.get_mut(&place)?;
                (row.rev, row.held_by) = (rev, Some(node));
                let wide =
                    if kind == Kind::UpdateWide { format!(", w = {}", text(random, rev)) } else { String::new() };
                Some(format!("UPDATE {name} SET rev = {rev}{wide} WHERE id = {}", place.1))
            }
            Kind::ChangeKey => {
                let place = self.choose(random, table, node, true)?;
                let key = self.new_key(node);
                let old = self.rows.get_mut(&place)?;
                (old.rev, old.is_there, old.held_by) = (rev, false, Some(node));
                old.is_gone_unseen |= unseen;
                let is_unseen = unseen || old.is_unseen;
                self.rows.insert(
                    (table, key),
                    Row { rev, is_there: true, held_by: Some(node), is_unseen, is_gone_unseen: false },
                );
                Some(format!("UPDATE {name} SET id = {key}, rev = {rev} WHERE id = {}", place.1))
            }
            Kind::Delete => {
                let place = self.choose(random, table, node, true)?;
                let row = self.rows.get_mut(&place)?;
                (row.rev, row.is_there, row.held_by) = (rev, false, Some(node));
                row.is_gone_unseen |= unseen;
                Some(format!("DELETE FROM {name} WHERE id = {}", place.1))
            }
            Kind::Truncate => {
                for ((_, _), row) in self.rows.iter_mut().filter(|((of, _), _)| *of == table) {
                    (row.rev, row.is_there, row.held_by) = (rev, false, Some(node));
                    row.is_gone_unseen |= unseen;
                }
                Some(format!("TRUNCATE {name}"))
            }
        }
    }

    fn new_key(&mut self, node: usize) -> i64 {
        let next = self.next_key.entry(node).or_insert(node as i64 * 1_000_000);
        *next += 1;
        *next
    }

    /// A row that the node may write to, there or deleted.
    fn choose(&self, random: &mut fastrand::Rng, table: usize, node: usize, is_there: bool) -> Option<Place> {
        let may = |row: &Row| {
            row.is_there == is_there
                && row.held_by.is_none_or(|holder| holder == node)
                && (is_there || !row.is_gone_unseen)
                && !(node == TARGET && (row.is_gone_unseen || row.is_unseen))
        };
        let places: Vec<Place> =
            self.rows.iter().filter(|((of, _), row)| *of == table && may(row)).map(|(place, _)| *place).collect();
        random.choice(places)
    }

    /// Everything has arrived everywhere, but for n1's at n2.
    pub fn arrived(&mut self, is_failed_dead: bool) {
        for row in self.rows.values_mut() {
            // What n1 has written last may have died with it.
            if !(is_failed_dead && row.held_by == Some(FAILED)) {
                row.held_by = None;
            }
        }
    }

    /// The rows that must be there, by their last write, and those that must not: all but those that n1 wrote last and
    /// nobody may have.
    pub fn expected(&self, table: usize) -> (Vec<(i64, u64)>, Vec<i64>) {
        let certain = self.rows.iter().filter(|((of, _), row)| *of == table && row.held_by != Some(FAILED));
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for ((_, key), row) in certain {
            if row.is_there { there.push((*key, row.rev)) } else { gone.push(*key) }
        }
        (there, gone)
    }
}

/// Short, or so long that it is kept out of line.
fn text(random: &mut fastrand::Rng, rev: u64) -> String {
    if random.u32(0..3) == 0 { format!("repeat(md5('{rev}'), 200)") } else { format!("'{rev}'") }
}
