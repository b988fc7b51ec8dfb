//! Writes one row in the way of core's apply worker.

use super::judge::Verdict;
use crate::pg::apply_as::ApplyAs;
use crate::pg::executor::{Change, RowOperation};
use crate::pg::logicalproto::Tuple;
use crate::pg::open_table::OpenTables;
use crate::pg::{origin, process, transaction, untrusted_user};

/// The outcome for a row that was to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Did {
    Written,
    /// The target's row is another version by now, and must be looked at again.
    Changed,
    /// Another row is in the way, or must be moved first: the row must be looked at again.
    Again,
    /// A value cannot be expressed in this database's encoding, or an error was met.
    Refused,
}

/// Writes one row, if the target's row still is the version of transaction `before`, or if there still is no row and
/// `before` is None. Of an existing row only `columns` are written (None: all). `key` are the columns by which the row
/// is found.
pub fn write(
    relation: u32,
    apply_as: ApplyAs,
    verdict: Verdict,
    values: &[Option<String>],
    columns: Option<&[usize]>,
    key: &[usize],
    before: Option<u32>,
) -> Did {
    let mut tables = OpenTables::default();
    let did = write_into(&mut tables, relation, apply_as, verdict, (values, columns), key, before);
    tables.forget_all();
    did
}

/// Like [`write()`], with tables that stay open from one row to the next.
pub fn write_into(
    tables: &mut OpenTables,
    relation: u32,
    apply_as: ApplyAs,
    verdict: Verdict,
    (values, columns): (&[Option<String>], Option<&[usize]>),
    key: &[usize],
    before: Option<u32>,
) -> Did {
    let (Some(row), Some(key_row)) = (Tuple::of_texts(values, columns), Tuple::of_texts(values, Some(key))) else {
        return Did::Refused;
    };
    let operation = if verdict == Verdict::Delete { RowOperation::Delete } else { RowOperation::Update };
    let mut change = Change::open(tables, relation, operation, apply_as);
    let key = change.key_row(&key_row);
    let (leaf, key) = change.leaf_of(key);
    let found = change.find(&leaf, key);
    let now = found.map(|found| change.version_of(found).transaction);
    let did = match found {
        _ if now != before => Did::Changed,
        Some(found) if verdict == Verdict::Delete => {
            change.delete(&leaf, found);
            Did::Written
        }
        Some(found) => {
            change.note_changed_columns(key, &row);
            let new = change.modified(&leaf, key, found, &row);
            if change.stays(&leaf, new) && change.rows_in_the_way(&leaf, new, Some(found)).is_empty() {
                change.update(&leaf, found, new);
                Did::Written
            } else {
                Did::Again
            }
        }
        None => Did::Written,
    };
    change.close(tables);
    if found.is_some() || did != Did::Written || verdict == Verdict::Delete {
        return did;
    }
    let mut change = Change::open(tables, relation, RowOperation::Insert, apply_as);
    let new = change.new_row(&row);
    let (leaf, new) = change.leaf_of(new);
    let is_free = change.rows_in_the_way(&leaf, new, None).is_empty();
    if is_free {
        change.insert(&leaf, new);
    }
    change.close(tables);
    if is_free { Did::Written } else { Did::Again }
}

/// Sets this process up to write as one that reconciles: under the origin `spock_reconcile`, with core's apply worker's
/// settings.
pub fn begin_writing() {
    process::apply_like_a_replica();
    process::compare_as_text();
    transaction::run(|| {
        let id = origin::of_reconcile();
        origin::set_up(id);
    });
}

/// Restores the settings for this extension's own bookkeeping.
pub fn end_writing() {
    origin::reset();
    untrusted_user::leave_session();
    process::keep_books();
}
