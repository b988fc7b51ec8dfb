//! One change: its row is found, judged and written. A row that is in the way is a conflict, which
//! src/apply/conflict.rs decides, and which is counted and logged. It stops the rescue only if the administrator wants
//! that (`spock.rescue_conflict_resolution`).

use super::conflict::{self, Existing, Incoming};
use super::conflict_report::{self as report, RowTexts};
use crate::guc::Policy;
use crate::pg::apply_as::ApplyAs;
use crate::pg::commit_ts::RowVersion;
use crate::pg::executor::{Change, Leaf, Row, RowOperation};
use crate::pg::logicalproto::Tuple;
use crate::pg::open_table::OpenTables;
use crate::pg::row_text::{author_of, index_name};
use crate::pg::truncate::Truncation;
use crate::pg::unique::InTheWay;
use crate::pg::{commit_ts, origin};
use crate::tally::conflict::{ConflictKind, Resolution, Tally};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use std::collections::{HashMap, HashSet};

/// What does not change from one transaction to the next.
#[derive(Clone, Debug)]
pub struct Setting {
    pub apply_as: ApplyAs,
    /// The id of the failed node's replication origin on this node.
    pub origin_id: u16,
    pub failed_node: String,
    /// The nodes by the ids of their replication origins on this node; 0 is this node.
    pub nodes: HashMap<u16, String>,
    /// The subscribed tables by oid. Of each, only transactions beyond its position are applied.
    pub tables: HashMap<u32, crate::lsn::OriginLsn>,
    /// The same tables by schema and name.
    pub subscribed: HashSet<(String, String)>,
}

impl Setting {
    /// Whether changes of a local table are to be applied, if their transaction ended at `origin_lsn`.
    pub fn wants(&self, table: Oid, origin_lsn: crate::lsn::OriginLsn) -> bool {
        self.tables.get(&table.to_u32()).is_some_and(|from| *from < origin_lsn)
    }
}

/// What a transaction has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesDone {
    pub rows: u64,
    pub conflicts: Vec<Tally>,
}

/// Applies the changes of one transaction.
pub struct ChangeApplier<'a> {
    pub tables: &'a mut OpenTables,
    pub setting: &'a Setting,
    pub policy: Policy,
    pub origin_lsn: crate::lsn::OriginLsn,
    pub committed_at: crate::pg::clock::Timestamp,
    pub done: &'a mut ChangesDone,
}

impl ChangeApplier<'_> {
    /// Inserts a row. The row may be held back until others can be stored with it.
    pub fn insert(&mut self, relation: u32, new: &Tuple) {
        let mut change = Change::open(self.tables, relation, RowOperation::Insert, self.setting.apply_as);
        if self.is_wanted(change.table()) {
            self.done.rows += 1;
            if change.may_hold() {
                change.hold(new);
            } else {
                let row = change.new_row(new);
                self.insert_row(&mut change, row);
            }
        }
        change.close(self.tables);
    }

    fn insert_row(&mut self, change: &mut Change, row: Row) {
        let (leaf, row) = change.leaf_of(row);
        let in_the_way = change.rows_in_the_way(&leaf, row, None);
        if self.may_take_the_place_of(change, &leaf, &in_the_way, ConflictKind::InsertExists, row, None) {
            put(change, &leaf, row, &in_the_way);
        }
    }

    /// Stores the rows that were held back, all at once. Returns false if nothing was stored, because one of them
    /// conflicts with an existing row or they are too few for this to pay; then each is to be inserted in a step of its
    /// own.
    pub fn insert_held(&mut self, relation: u32) -> bool {
        let mut change = Change::open(self.tables, relation, RowOperation::Insert, self.setting.apply_as);
        let is_done = change.insert_held();
        change.close(self.tables);
        is_done
    }

    /// Inserts one of the rows that were held back. Returns false if there are no more.
    pub fn insert_one_held(&mut self, relation: u32, place: usize) -> bool {
        let mut change = Change::open(self.tables, relation, RowOperation::Insert, self.setting.apply_as);
        let row = change.held(place);
        match row {
            Some(row) => self.insert_row(&mut change, row),
            None => change.let_held_go(),
        }
        change.close(self.tables);
        row.is_some()
    }

    pub fn update(&mut self, relation: u32, old: Option<&Tuple>, new: &Tuple) {
        let mut change = Change::open(self.tables, relation, RowOperation::Update, self.setting.apply_as);
        if self.is_wanted(change.table()) {
            let key = old.unwrap_or(new);
            if !self.update_undisputed(&mut change, key, new) {
                self.update_judged(&mut change, key, new);
            }
            self.done.rows += 1;
        }
        change.close(self.tables);
    }

    /// Changes a row without locking it first. This serves most rows: those that exist, that no other node has written
    /// to, and that have nothing in the way. Returns false if nothing was done.
    fn update_undisputed(&self, change: &mut Change, key: &Tuple, new: &Tuple) -> bool {
        if !change.may_be_unlocked() {
            return false;
        }
        let key = change.key_row(key);
        change.note_changed_columns(key, new);
        let (leaf, key) = change.leaf_of(key);
        let Some(found) = self.find_undisputed(change, &leaf, key) else { return false };
        let row = change.modified(&leaf, key, found, new);
        change.rows_in_the_way(&leaf, row, Some(found)).is_empty() && change.update_unlocked(&leaf, found, row)
    }

    fn find_undisputed(&self, change: &mut Change, leaf: &Leaf, key: Row) -> Option<Row> {
        change.find_unlocked(leaf, key).filter(|found| !conflict::differs(self.existing(change.version_of(*found))))
    }

    fn update_judged(&mut self, change: &mut Change, key: &Tuple, new: &Tuple) {
        let key = change.key_row(key);
        change.note_changed_columns(key, new);
        let (leaf, key) = change.leaf_of(key);
        match change.find(&leaf, key) {
            None => self.miss(change, &leaf, ConflictKind::UpdateMissing, key, Some(new)),
            Some(found) if self.must_keep(change, &leaf, found, ConflictKind::UpdateOriginDiffers, key, Some(new)) => {}
            Some(found) => {
                let row = change.modified(&leaf, key, found, new);
                self.replace(change, &leaf, found, row);
            }
        }
    }

    /// Puts the changed row in the place of the row that was found, or into another partition if it belongs there,
    /// unless another row is in the way and stays. If that row has the very key that the changed row was to get, it is
    /// the changed row's later version, and nothing is left under the old key, as on the other nodes. If it has another
    /// unique key of the changed row, both rows stay as they were.
    fn replace(&mut self, change: &mut Change, leaf: &Leaf, found: Row, row: Row) {
        if change.stays(leaf, row) {
            let in_the_way = change.rows_in_the_way(leaf, row, Some(found));
            if self.may_take_the_place_of(change, leaf, &in_the_way, ConflictKind::UpdateExists, row, Some(found)) {
                for other in &in_the_way {
                    change.delete(leaf, other.row);
                }
                change.update(leaf, found, row);
            } else if change.has_identity_of(leaf, &in_the_way) {
                change.delete(leaf, found);
            }
        } else {
            let row = change.row_of_root(leaf, row);
            let (to, row) = change.leaf_of(row);
            let in_the_way = change.rows_in_the_way(&to, row, None);
            if self.may_take_the_place_of(change, &to, &in_the_way, ConflictKind::UpdateExists, row, Some(found)) {
                change.delete(leaf, found);
                put(change, &to, row, &in_the_way);
            } else if change.has_identity_of(&to, &in_the_way) {
                change.delete(leaf, found);
            }
        }
    }

    pub fn delete(&mut self, relation: u32, old: &Tuple) {
        let mut change = Change::open(self.tables, relation, RowOperation::Delete, self.setting.apply_as);
        if self.is_wanted(change.table()) {
            let key = change.key_row(old);
            let (leaf, key) = change.leaf_of(key);
            let undisputed = self.find_undisputed(&mut change, &leaf, key);
            if !undisputed.is_some_and(|found| change.delete_unlocked(&leaf, found)) {
                self.delete_judged(&mut change, &leaf, key);
            }
            self.done.rows += 1;
        }
        change.close(self.tables);
    }

    fn delete_judged(&mut self, change: &mut Change, leaf: &Leaf, key: Row) {
        match change.find(leaf, key) {
            None => self.miss(change, leaf, ConflictKind::DeleteMissing, key, None),
            Some(found) if self.must_keep(change, leaf, found, ConflictKind::DeleteOriginDiffers, key, None) => (),
            Some(found) => change.delete(leaf, found),
        }
    }

    /// Truncates tables. The TRUNCATE arrives late, as all changes here do: rows that were committed after it stay.
    pub fn truncate(&mut self, relations: &[u32], restart_sequences: bool) {
        self.tables.forget_all();
        let wanted = |table: Oid| self.is_wanted(table);
        let truncation = Truncation::open(relations, self.setting.apply_as, wanted);
        if !truncation.is_empty() {
            let kind = ConflictKind::TruncateOriginDiffers;
            let survives = |version: RowVersion| self.resolve(kind, version) == Resolution::KeepLocal;
            if commit_ts::is_tracked() && truncation.any_row(&survives) {
                let details = vec![report::explanation(kind, None, None)];
                self.stop_if_told(&truncation.names(), kind, &details);
                let kept = truncation.delete_all_but(&survives);
                self.report(&truncation.names(), kind, Resolution::KeepLocal, details);
                for table in kept {
                    self.count(table, kind, Resolution::KeepLocal);
                }
            } else {
                truncation.truncate(restart_sequences);
            }
            self.done.rows += 1;
        }
        truncation.close();
    }

    /// Whether the row may be put where other rows are in the way: all of those must give way.
    fn may_take_the_place_of(
        &mut self,
        change: &mut Change,
        leaf: &Leaf,
        in_the_way: &[InTheWay],
        kind: ConflictKind,
        row: Row,
        changed: Option<Row>,
    ) -> bool {
        let kind = match in_the_way {
            [] => return true,
            [_] => kind,
            _ => ConflictKind::MultipleUniqueConflicts,
        };
        let versions: Vec<RowVersion> = in_the_way.iter().map(|other| change.version_of(other.row)).collect();
        let stays = versions.iter().any(|version| self.resolve(kind, *version) == Resolution::KeepLocal);
        let incoming = change.row_text(leaf, row);
        let details = in_the_way.iter().zip(&versions).map(|(other, version)| {
            let author = author_of(*version);
            let rows = RowTexts {
                key: change.key_text(leaf, other.row, other.index),
                existing: change.row_text(leaf, other.row),
                incoming: incoming.clone(),
                identity: changed.and_then(|changed| change.identity_text(leaf, changed).0),
                is_identity_full: false,
            };
            explained(report::explanation(kind, Some(&index_name(other.index)), Some(&author)), &rows)
        });
        let details: Vec<String> = details.collect();
        let resolution = if stays { Resolution::KeepLocal } else { Resolution::ApplyRemote };
        self.settle(change, kind, resolution, details);
        !stays
    }

    fn is_wanted(&self, table: Oid) -> bool {
        self.setting.wants(table, self.origin_lsn)
    }

    /// Settles a change whose row does not exist.
    fn miss(&mut self, change: &mut Change, leaf: &Leaf, kind: ConflictKind, key: Row, new: Option<&Tuple>) {
        let (identity, is_identity_full) = change.identity_text(leaf, key);
        let incoming = new.and_then(|new| change.sent_row_text(leaf, new));
        let rows = RowTexts { identity, is_identity_full, incoming, ..RowTexts::default() };
        let details = vec![explained(report::explanation(kind, None, None), &rows)];
        self.settle(change, kind, Resolution::Skip, details);
    }

    /// Whether the row that was found stays as it is. If another node has written it, this is a conflict in either
    /// case.
    fn must_keep(
        &mut self,
        change: &mut Change,
        leaf: &Leaf,
        found: Row,
        kind: ConflictKind,
        key: Row,
        new: Option<&Tuple>,
    ) -> bool {
        let version = change.version_of(found);
        if !conflict::differs(self.existing(version)) {
            return false;
        }
        let resolution = self.resolve(kind, version);
        let (identity, is_identity_full) = change.identity_text(leaf, key);
        let rows = RowTexts {
            key: None,
            existing: change.row_text(leaf, found),
            incoming: new.and_then(|new| change.sent_row_text(leaf, new)),
            identity,
            is_identity_full,
        };
        let details = vec![explained(report::explanation(kind, None, Some(&author_of(version))), &rows)];
        self.settle(change, kind, resolution, details);
        resolution == Resolution::KeepLocal
    }

    fn resolve(&self, kind: ConflictKind, version: RowVersion) -> Resolution {
        let incoming = Incoming { committed_at: self.committed_at, node: &self.setting.failed_node };
        conflict::resolve(self.policy, kind, incoming, self.existing(version))
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

    /// Logs and counts a conflict that is resolved. If the rescue is to wait at conflicts, raises an ERROR instead.
    fn settle(&mut self, change: &Change, kind: ConflictKind, resolution: Resolution, details: Vec<String>) {
        let name = change.name();
        self.stop_if_told(&name, kind, &details);
        self.report(&name, kind, resolution, details);
        self.count(change.table(), kind, resolution);
    }

    fn count(&mut self, table: Oid, kind: ConflictKind, resolution: Resolution) {
        Tally { relation: table.to_u32(), kind, resolution, count: 1 }.add_to(&mut self.done.conflicts);
    }

    fn report(&self, relation: &str, kind: ConflictKind, resolution: Resolution, mut details: Vec<String>) {
        details.push(report::outcome(&self.setting.failed_node, self.origin_lsn, Some(resolution)));
        let message = report::message(relation, kind);
        ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message, "conflict")
            .set_detail(details.join("\n"))
            .report(PgLogLevel::LOG);
    }

    /// Raises an ERROR, with core's SQLSTATE for the conflict, if the rescue is to wait at conflicts.
    fn stop_if_told(&self, relation: &str, kind: ConflictKind, details: &[String]) {
        if self.policy != Policy::Error {
            return;
        }
        let code = if kind.is_about_a_unique_key() {
            PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION
        } else {
            PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE
        };
        let mut details = details.to_vec();
        details.push(report::outcome(&self.setting.failed_node, self.origin_lsn, None));
        let message = report::message(relation, kind);
        ErrorReport::new(code, message, "conflict")
            .set_detail(details.join("\n"))
            .set_hint(format!(
                "Change the row, or set spock.rescue_conflict_resolution to last_update_wins, apply_remote or keep_local and \
                 reload, or give the transaction up: SELECT spock.recover_skip({}, '{}').",
                pgrx::spi::quote_literal(&self.setting.failed_node),
                self.origin_lsn
            ))
            .report(PgLogLevel::ERROR);
    }
}

/// An explanation, with the rows that it is about as far as they may be shown.
fn explained(explanation: String, rows: &RowTexts) -> String {
    match report::rows(rows) {
        shown if shown.is_empty() => explanation,
        shown => format!("{explanation}\n{shown}"),
    }
}

/// Puts a row where it belongs, in the place of those that are in the way: the first is updated, the others are
/// deleted.
fn put(change: &mut Change, leaf: &Leaf, row: Row, in_the_way: &[InTheWay]) {
    let Some((first, others)) = in_the_way.split_first() else { return change.insert(leaf, row) };
    for other in others {
        change.delete(leaf, other.row);
    }
    change.update(leaf, first.row, row);
}

/// The nodes by the ids of the replication origins of this database's subscriptions, with this node at 0.
pub fn nodes_by_origin(local: &str, subscriptions: &[(u16, String)]) -> HashMap<u16, String> {
    let mut nodes: HashMap<u16, String> = subscriptions.iter().cloned().collect();
    nodes.insert(origin::LOCAL, local.to_owned());
    nodes
}
