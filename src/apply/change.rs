//! One change: found, judged, applied. What stands in its way is a conflict, decided by src/apply/conflict.rs and counted;
//! it never stops the rescue.

use super::conflict::{self, Existing, Incoming, Kind};
use crate::pg::executor::{Change, Leaf, Operation, Row, RowVersion};
use crate::pg::logicalrep::{ApplyAs, Tuple};
use crate::pg::truncate::Truncation;
use crate::pg::{commit_ts, origin};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;

/// What does not change from one transaction to the next.
#[derive(Clone, Debug)]
pub struct Setting {
    pub apply_as: ApplyAs,
    /// The replication origin of the failed node here.
    pub origin_id: u16,
    pub failed_node: String,
    /// Nodes by their replication origin here; 0 is this node.
    pub nodes: HashMap<u16, String>,
    /// The tables that are subscribed to, by oid, each from this position on.
    pub tables: HashMap<u32, crate::lsn::OriginLsn>,
}

/// What a transaction has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub rows: u64,
    pub conflicts: u64,
}

/// Applies the changes of one transaction.
pub struct ChangeApplier<'a> {
    pub setting: &'a Setting,
    pub origin_lsn: crate::lsn::OriginLsn,
    pub committed_at: crate::pg::clock::Timestamp,
    /// The table at hand, for an error's sake.
    pub relation: &'a mut Option<String>,
    pub done: &'a mut Done,
}

impl ChangeApplier<'_> {
    pub fn insert(&mut self, relation: u32, new: &Tuple) {
        let mut change = Change::open(relation, Operation::Insert, self.setting.apply_as);
        let row = self.begin(&change).then(|| change.new_row(new));
        let Some(row) = row else { return change.close_unused() };
        let (leaf, row) = change.leaf_of(row);
        self.store(&mut change, &leaf, row);
        self.done.rows += 1;
        change.close(leaf);
        *self.relation = None;
    }

    pub fn update(&mut self, relation: u32, old: Option<&Tuple>, new: &Tuple) {
        let mut change = Change::open(relation, Operation::Update, self.setting.apply_as);
        if !self.begin(&change) {
            return change.close_unused();
        }
        let key = change.key_row(old.unwrap_or(new));
        change.note_changed_columns(key, new);
        let (leaf, key) = change.leaf_of(key);
        match change.find(&leaf, key) {
            None => self.note(Kind::UpdateMissing),
            Some(found) if self.must_keep(&change, found, Kind::UpdateOriginDiffers) => (),
            Some(found) => {
                let row = change.modified(&leaf, key, found, new);
                if change.stays(&leaf, row) {
                    change.update(&leaf, found, row);
                } else {
                    let row = change.row_of_root(&leaf, row);
                    change.delete(&leaf, found);
                    let (leaf, row) = change.leaf_of(row);
                    self.store(&mut change, &leaf, row);
                }
            }
        }
        self.done.rows += 1;
        change.close(leaf);
        *self.relation = None;
    }

    pub fn delete(&mut self, relation: u32, old: &Tuple) {
        let mut change = Change::open(relation, Operation::Delete, self.setting.apply_as);
        if !self.begin(&change) {
            return change.close_unused();
        }
        let key = change.key_row(old);
        let (leaf, key) = change.leaf_of(key);
        match change.find(&leaf, key) {
            None => self.note(Kind::DeleteMissing),
            Some(found) if self.must_keep(&change, found, Kind::DeleteOriginDiffers) => (),
            Some(found) => change.delete(&leaf, found),
        }
        self.done.rows += 1;
        change.close(leaf);
        *self.relation = None;
    }

    /// Late, as everything here: rows that were committed after it stay.
    pub fn truncate(&mut self, relations: &[u32], restart_sequences: bool) {
        let wanted = |table: Oid| self.is_wanted(table);
        let truncation = Truncation::open(relations, self.setting.apply_as, wanted);
        if !truncation.is_empty() {
            *self.relation = Some(truncation.names());
            let survives = |version: RowVersion| !self.replaces(version);
            if commit_ts::is_tracked() && truncation.any_row(&survives) {
                truncation.delete_all_but(&survives);
                self.note(Kind::LateTruncate);
            } else {
                truncation.truncate(restart_sequences);
            }
            self.done.rows += 1;
        }
        truncation.close();
        *self.relation = None;
    }

    /// Puts a row where it belongs, in place of what stands in its way and is older. Of several such rows one is updated,
    /// the others go.
    fn store(&mut self, change: &mut Change, leaf: &Leaf, row: Row) {
        let in_the_way = change.rows_in_the_way(leaf, row);
        let Some((first, others)) = in_the_way.split_first() else { return change.insert(leaf, row) };
        self.note(if others.is_empty() { Kind::InsertExists } else { Kind::MultipleUniqueConflicts });
        if in_the_way.iter().all(|existing| self.replaces(change.version_of(*existing))) {
            for other in others {
                change.delete(leaf, *other);
            }
            change.update(leaf, *first, row);
        }
    }

    /// Notes which table is at hand; whether its change is wanted.
    fn begin(&mut self, change: &Change) -> bool {
        *self.relation = Some(change.name());
        self.is_wanted(change.table())
    }

    fn is_wanted(&self, table: Oid) -> bool {
        self.setting.tables.get(&table.to_u32()).is_some_and(|from| *from < self.origin_lsn)
    }

    /// Whether the row that was found is later than the change; a conflict in either case if others have written it.
    fn must_keep(&mut self, change: &Change, found: Row, kind: Kind) -> bool {
        let version = change.version_of(found);
        if conflict::differs(self.existing(version)) {
            self.note(kind);
        }
        !self.replaces(version)
    }

    fn replaces(&self, version: RowVersion) -> bool {
        let incoming = Incoming { committed_at: self.committed_at, node: &self.setting.failed_node };
        conflict::replaces(incoming, self.existing(version))
    }

    fn existing(&self, version: RowVersion) -> Existing<'_> {
        match version.committed {
            _ if version.is_own => Existing::OfTheFailedNode,
            None => Existing::OfUnknownAge,
            Some((_, origin)) if origin == self.setting.origin_id => Existing::OfTheFailedNode,
            Some((committed_at, origin)) => {
                let node = self.setting.nodes.get(&origin).map_or("", String::as_str);
                Existing::Of { committed_at, node }
            }
        }
    }

    fn note(&mut self, kind: Kind) {
        self.done.conflicts += 1;
        pgrx::debug1!(
            "conflict {kind:?} on relation {}, transaction of node \"{}\" that ended at {}",
            self.relation.as_deref().unwrap_or_default(),
            self.setting.failed_node,
            self.origin_lsn
        );
    }
}

/// Nodes by the replication origins of this database's subscriptions, this node at 0.
pub fn nodes_by_origin(local: &str, subscriptions: &[(u16, String)]) -> HashMap<u16, String> {
    let mut nodes: HashMap<u16, String> = subscriptions.iter().cloned().collect();
    nodes.insert(origin::LOCAL, local.to_owned());
    nodes
}
