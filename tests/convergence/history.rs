//! What is written, by whom, and what must be there in the end.
//!
//! A row belongs to the node that has touched it first, until everything that this node has written has arrived at all that
//! may write to it: two nodes that change the same row at the same time do not come together in native replication, for it
//! resolves nothing. Where a living node's subscription is disabled, what its provider touches stays the provider's.
//!
//! What a node writes that is to fail, some lag behind, and it does not have to arrive there: that is what a recovery brings.
//! The others go on with such rows. Who lags writes to a row if it has all of it but the last changes; what was deleted,
//! truncated or given another key unseen by it, and what it does not have at all, it leaves alone, and a key is reused only
//! after every node has seen its deletion, and not on a node to which a recovery may bring the row once more. Where two nodes fail and each has somebody behind it who is not
//! behind the other, neither touches what the other has written late: what is skipped for want of what the other has written
//! no survivor may have. New keys come from a range of each node.

use std::collections::{BTreeMap, BTreeSet};

pub const TABLES: [&str; 3] = ["plain", "wide", "guarded"];

/// A row by its table and key.
pub type Place = (usize, i64);

#[derive(Clone, Debug)]
pub struct Row {
    /// Counts the writes of all; a row's last one stands in its column `rev`.
    pub rev: u64,
    pub is_there: bool,
    /// Who has touched it since all that this one had written arrived.
    pub held_by: Option<usize>,
    /// Nodes that do not have it, for it stems from what they lag behind with.
    pub absent_on: BTreeSet<usize>,
    /// Nodes that have it, or its key, and do not know that it was done away with.
    pub gone_unseen_on: BTreeSet<usize>,
    /// Nodes that are to fail and have changed it unseen by somebody.
    pub late_of: BTreeSet<usize>,
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
    rows: BTreeMap<Place, Row>,
    rev: u64,
    next_key: BTreeMap<usize, i64>,
    /// Who gets nothing of whom, to be brought by a recovery: (receiver, provider).
    late: BTreeSet<(usize, usize)>,
    /// Two fail, and those behind the one are not all behind the other.
    is_crossed: bool,
}

impl History {
    pub fn new(is_crossed: bool) -> History {
        History { is_crossed, ..History::default() }
    }

    /// From here on the receiver gets nothing of the provider, which is going to fail.
    pub fn hold_back(&mut self, receiver: usize, provider: usize) {
        self.late.insert((receiver, provider));
    }

    /// A recovery has brought all that was held back, and nobody writes any more.
    pub fn all_is_brought(&mut self) {
        self.late.clear();
    }

    /// The receiver was brought level with one who had all of the provider, and receives from it again.
    pub fn is_brought(&mut self, receiver: usize, provider: usize) {
        self.late.remove(&(receiver, provider));
    }

    /// The receiver has everything, unless something is held back from it still.
    pub fn has_all(&mut self, receiver: usize) {
        let late = &self.late;
        if late.iter().any(|(behind, _)| *behind == receiver) {
            return;
        }
        for row in self.rows.values_mut() {
            row.absent_on.remove(&receiver);
            row.gone_unseen_on.remove(&receiver);
            row.late_of.retain(|of| late.iter().any(|(_, provider)| provider == of));
        }
    }

    /// All is recovered, judged, and the same everywhere: a history begins anew.
    pub fn begin_anew(&mut self) {
        self.late.clear();
        self.is_crossed = false;
        for row in self.rows.values_mut() {
            row.absent_on.clear();
            row.gone_unseen_on.clear();
            row.late_of.clear();
        }
    }

    /// Nobody asks any more what has become of the last writes of a node that comes no more.
    pub fn forget_of(&mut self, node: usize) {
        self.rows.retain(|_, row| row.held_by != Some(node));
    }

    /// Rows of a table that are to be deleted on a node behind everybody's back, which then writes to them no more until it has
    /// all.
    pub fn damage(&mut self, random: &mut fastrand::Rng, table: usize, node: usize) -> Vec<i64> {
        let is_there =
            |row: &Row| row.is_there && !row.absent_on.contains(&node) && !row.gone_unseen_on.contains(&node);
        let places: Vec<Place> =
            self.rows.iter().filter(|((of, _), row)| *of == table && is_there(row)).map(|(place, _)| *place).collect();
        let chosen: Vec<Place> = random.choose_multiple(places, 4);
        for place in &chosen {
            self.rows.entry(*place).and_modify(|row| {
                row.absent_on.insert(node);
            });
        }
        chosen.into_iter().map(|(_, key)| key).collect()
    }

    pub fn is_behind(&self, receiver: usize) -> bool {
        self.late.iter().any(|(behind, _)| *behind == receiver)
    }

    pub fn is_held_back(&self, receiver: usize, provider: usize) -> bool {
        self.late.contains(&(receiver, provider))
    }

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
        match kind {
            Kind::Insert => {
                let key = self.new_key(node);
                self.put(node, (table, key), BTreeSet::new(), BTreeSet::new());
                Some(format!("INSERT INTO {name} VALUES ({key}, {rev}, {})", text(random, rev)))
            }
            Kind::InsertAgain => {
                let place = self.choose(random, table, node, false)?;
                let late_of = self.rows.get(&place)?.late_of.clone();
                self.put(node, place, BTreeSet::new(), late_of);
                Some(format!("INSERT INTO {name} VALUES ({}, {rev}, {})", place.1, text(random, rev)))
            }
            Kind::Update | Kind::UpdateWide => {
                let place = self.choose(random, table, node, true)?;
                self.touch(node, place, true)?;
                let wide =
                    if kind == Kind::UpdateWide { format!(", w = {}", text(random, rev)) } else { String::new() };
                Some(format!("UPDATE {name} SET rev = {rev}{wide} WHERE id = {}", place.1))
            }
            Kind::ChangeKey => {
                let place = self.choose(random, table, node, true)?;
                let key = self.new_key(node);
                let old = self.touch(node, place, false)?;
                self.put(node, (table, key), old.absent_on, old.late_of);
                Some(format!("UPDATE {name} SET id = {key}, rev = {rev} WHERE id = {}", place.1))
            }
            Kind::Delete => {
                let place = self.choose(random, table, node, true)?;
                self.touch(node, place, false)?;
                Some(format!("DELETE FROM {name} WHERE id = {}", place.1))
            }
            Kind::Truncate => {
                let places: Vec<Place> = self.rows.keys().filter(|(of, _)| *of == table).copied().collect();
                if places.iter().any(|place| self.crosses(node, &self.rows[place])) {
                    return None;
                }
                for place in places {
                    self.touch(node, place, false);
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

    /// Those that do not see what the node writes.
    fn unseen_by(&self, node: usize) -> BTreeSet<usize> {
        self.late.iter().filter(|(_, provider)| *provider == node).map(|(receiver, _)| *receiver).collect()
    }

    /// A row that the node makes, out of one that those do not have and these have changed late.
    fn put(&mut self, node: usize, place: Place, mut absent_on: BTreeSet<usize>, mut late_of: BTreeSet<usize>) {
        let unseen_by = self.unseen_by(node);
        if !unseen_by.is_empty() {
            late_of.insert(node);
        }
        absent_on.extend(unseen_by);
        let (rev, held_by) = (self.rev, Some(node));
        self.rows
            .insert(place, Row { rev, is_there: true, held_by, absent_on, gone_unseen_on: BTreeSet::new(), late_of });
    }

    /// The node changes a row, or does away with it; the row as it is then.
    fn touch(&mut self, node: usize, place: Place, is_there: bool) -> Option<Row> {
        let unseen_by = self.unseen_by(node);
        let row = self.rows.get_mut(&place)?;
        (row.rev, row.is_there, row.held_by) = (self.rev, is_there, Some(node));
        if !unseen_by.is_empty() {
            row.late_of.insert(node);
        }
        if !is_there {
            row.gone_unseen_on.extend(unseen_by);
        }
        Some(row.clone())
    }

    /// Both the node and another one that fails would have changed it late, unseen by different nodes.
    fn crosses(&self, node: usize, row: &Row) -> bool {
        self.is_crossed
            && self.late.iter().any(|(_, provider)| *provider == node)
            && row.late_of.iter().any(|of| *of != node)
    }

    /// A recovery may bring the row to the node once more, and it stands there until it is compared: an INSERT of its key fails.
    fn may_come_late(&self, node: usize, row: &Row) -> bool {
        row.late_of.iter().any(|of| self.late.contains(&(node, *of)))
    }

    /// A row that the node may write to, there or deleted.
    fn choose(&self, random: &mut fastrand::Rng, table: usize, node: usize, is_there: bool) -> Option<Place> {
        let may = |row: &Row| {
            row.is_there == is_there
                && row.held_by.is_none_or(|holder| holder == node)
                && (is_there || (row.gone_unseen_on.is_empty() && !self.may_come_late(node, row)))
                && !row.absent_on.contains(&node)
                && !row.gone_unseen_on.contains(&node)
                && !self.crosses(node, row)
        };
        let places: Vec<Place> =
            self.rows.iter().filter(|((of, _), row)| *of == table && may(row)).map(|(place, _)| *place).collect();
        random.choice(places)
    }

    /// Everything has arrived everywhere, but for what is held back, and for what those have written.
    pub fn arrived(&mut self, but_of: &BTreeSet<usize>) {
        for row in self.rows.values_mut() {
            if !row.held_by.is_some_and(|holder| but_of.contains(&holder)) {
                row.held_by = None;
            }
        }
    }

    /// The rows that must be there, by their last write, and those that must not: all but those that a node wrote last that
    /// is dead, and that nobody may have.
    pub fn expected(&self, table: usize, dead: &BTreeSet<usize>) -> (Vec<(i64, u64)>, Vec<i64>) {
        let is_certain = |row: &Row| !row.held_by.is_some_and(|holder| dead.contains(&holder));
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for ((_, key), row) in self.rows.iter().filter(|((of, _), row)| *of == table && is_certain(row)) {
            if row.is_there { there.push((*key, row.rev)) } else { gone.push(*key) }
        }
        (there, gone)
    }
}

/// Short, or so long that it is kept out of line.
fn text(random: &mut fastrand::Rng, rev: u64) -> String {
    if random.u32(0..3) == 0 { format!("repeat(md5('{rev}'), 200)") } else { format!("'{rev}'") }
}
