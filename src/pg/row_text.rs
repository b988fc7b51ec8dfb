//! Rows and keys as text for the log, as far as the role that applies them may see them.

use super::clock::Timestamp;
use super::commit_ts::RowVersion;
use super::executor::{Change, Leaf, Row};
use super::logicalproto::Tuple;
use super::logicalrep;
use super::{compat, origin};
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, c_char};

/// How many bytes of each value are shown, as in core's reports.
const SHOWN_BYTES: i32 = 64;

/// A value of this size or more, in bytes, is not converted to text only to show its beginning, because the text might
/// exceed the maximum length.
const LONG_BYTES: usize = 16 << 20;

impl Change {
    /// The row as `(1, a, null)`; None if the role must not see it.
    pub fn row_text(&self, leaf: &Leaf, row: Row) -> Option<String> {
        // SAFETY: a row of this change; the slot's attributes are those of its descriptor.
        unsafe {
            let table = leaf.table();
            let user = pg_sys::GetUserId();
            let is_hidden = pg_sys::pg_class_aclcheck((*table).rd_id, user, pg_sys::ACL_SELECT.into())
                != pg_sys::AclResult::ACLCHECK_OK
                || pg_sys::check_enable_rls((*table).rd_id, Oid::INVALID, true)
                    == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32;
            if is_hidden {
                return None;
            }
            pg_sys::slot_getallattrs(row.0);
            let descriptor = (*row.0).tts_tupleDescriptor;
            let values = (0..(*descriptor).natts)
                .map(|index| (index, compat::attribute(descriptor, index)))
                .filter(|(_, attribute)| !(**attribute).attisdropped)
                .map(|(index, attribute)| {
                    if compat::is_virtual(attribute) {
                        return "virtual".to_owned();
                    }
                    let index = index as usize;
                    let (value, is_null) = (*(*row.0).tts_values.add(index), *(*row.0).tts_isnull.add(index));
                    let is_long = !is_null
                        && (*attribute).attlen == -1
                        && pg_sys::toast_raw_datum_size(value) as usize >= LONG_BYTES;
                    match is_null {
                        true => "null".to_owned(),
                        false if is_long => format!("({} bytes)", pg_sys::toast_raw_datum_size(value)),
                        false => value_text((*attribute).atttypid, value),
                    }
                });
            Some(format!("({})", values.collect::<Vec<_>>().join(", ")))
        }
    }

    /// Only the columns that were sent, in the form of `row_text`.
    pub fn sent_row_text(&mut self, leaf: &Leaf, sent: &Tuple) -> Option<String> {
        let row = self.key_row(sent);
        self.row_text(leaf, row)
    }

    /// The key as `(id)=(1)`; None if the role must not see it.
    pub fn key_text(&mut self, leaf: &Leaf, row: Row, index: Oid) -> Option<String> {
        // SAFETY: a row of the leaf, and an index of it, which is locked; the index keys are computed from a row in a
        // slot of that table.
        unsafe {
            let slot = self.new_slot(leaf);
            pg_sys::ExecCopySlot(slot, row.0);
            (*self.expression_context()).ecxt_scantuple = slot;
            let index = pg_sys::index_open(index, pg_sys::NoLock as i32);
            let mut values = [pg_sys::Datum::from(0); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
            let info = pg_sys::BuildIndexInfo(index);
            pg_sys::FormIndexDatum(info, slot, self.table.estate, values.as_mut_ptr(), nulls.as_mut_ptr());
            let text = pg_sys::BuildIndexValueDescription(index, values.as_ptr(), nulls.as_ptr());
            pg_sys::index_close(index, pg_sys::NoLock as i32);
            (!text.is_null()).then(|| super::text::to_utf8(CStr::from_ptr(text)))
        }
    }

    /// What identifies the row: the text of its key with false, or the text of all columns with true.
    pub fn identity_text(&mut self, leaf: &Leaf, key: Row) -> (Option<String>, bool) {
        // SAFETY: an open table.
        let index = unsafe { logicalrep::identity_of(leaf.table()) };
        if index == Oid::INVALID { (self.row_text(leaf, key), true) } else { (self.key_text(leaf, key, index), false) }
    }
}

/// The name of an index.
pub fn index_name(index: Oid) -> String {
    // SAFETY: a NUL-terminated copy, or null.
    unsafe {
        let name = pg_sys::get_rel_name(index);
        if name.is_null() { String::new() } else { super::text::to_utf8(CStr::from_ptr(name)) }
    }
}

/// Who has written a row version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowAuthor {
    pub transaction: u32,
    /// The writer and the time of the commit, as text; None if that is not known.
    pub committed: Option<(RowWriter, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RowWriter {
    Here,
    /// A replication origin, by its name.
    Origin(String),
    /// A replication origin that does not exist any more.
    Gone,
}

/// Looks up who has written a row version.
pub fn author_of(version: RowVersion) -> RowAuthor {
    let committed = version.committed.map(|(at, id)| {
        let writer = match id {
            origin::LOCAL => RowWriter::Here,
            id => origin::name_of(id).map_or(RowWriter::Gone, RowWriter::Origin),
        };
        (writer, time_text(at))
    });
    RowAuthor { transaction: version.transaction, committed }
}

fn time_text(at: Timestamp) -> String {
    // SAFETY: a static buffer, which is copied at once.
    unsafe { CStr::from_ptr(pg_sys::timestamptz_to_str(at.0)).to_string_lossy().into_owned() }
}

unsafe fn value_text(of: Oid, value: pg_sys::Datum) -> String {
    // SAFETY: the caller guarantees a value of that type.
    unsafe {
        let (mut output, mut is_varlena) = (Oid::INVALID, false);
        pg_sys::getTypeOutputInfo(of, &mut output, &mut is_varlena);
        let text: *mut c_char = pg_sys::OidOutputFunctionCall(output, value);
        let length = CStr::from_ptr(text).to_bytes().len() as i32;
        if length <= SHOWN_BYTES {
            return super::text::to_utf8(CStr::from_ptr(text));
        }
        let shown = pg_sys::pg_mbcliplen(text, length, SHOWN_BYTES);
        text.add(shown as usize).write(0);
        format!("{}...", super::text::to_utf8(CStr::from_ptr(text)))
    }
}
