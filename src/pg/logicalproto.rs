//! The messages of logical replication, read with core's functions (replication/logicalproto.h).

use super::logicalrep;
use super::origin;
use super::text::to_utf8;
use crate::lsn::OriginLsn;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A row of a change, with its columns in the sender's order. The values live as long as the message's memory context.
pub struct Tuple(pub pg_sys::LogicalRepTupleData);

impl Tuple {
    /// The bytes of a column that was sent as text; None for a null, for a column that was not sent, and for a binary
    /// value.
    pub fn text(&self, column: usize) -> Option<&[u8]> {
        // SAFETY: arrays of `ncols`; a value lives as long as the tuple.
        unsafe {
            let is_text = column < self.0.ncols as usize && *self.0.colstatus.add(column) as u8 == b't';
            is_text.then(|| {
                let value = self.0.colvalues.add(column);
                std::slice::from_raw_parts((*value).data.cast::<u8>(), (*value).len as usize)
            })
        }
    }

    /// The size of the sent values, in bytes.
    pub fn bytes(&self) -> usize {
        // SAFETY: an array of `ncols`; a column without a value has no length.
        (0..self.0.ncols as usize).map(|column| unsafe { (*self.0.colvalues.add(column)).len as usize }).sum()
    }

    /// A tuple of values as text, in the current memory context. If `places` is given, the other columns are marked as
    /// unchanged. None if this database's encoding cannot express a value.
    pub fn of_texts(values: &[Option<String>], places: Option<&[usize]>) -> Option<Tuple> {
        // SAFETY: arrays of that length, all filled; zeroed buffers are null.
        unsafe {
            let count = values.len();
            let columns = pg_sys::palloc0(count * size_of::<pg_sys::StringInfoData>()).cast::<pg_sys::StringInfoData>();
            let status = pg_sys::palloc0(count).cast::<core::ffi::c_char>();
            for (index, value) in values.iter().enumerate() {
                if places.is_some_and(|places| !places.contains(&index)) {
                    *status.add(index) = b'u' as core::ffi::c_char;
                    continue;
                }
                let Some(value) = value else {
                    *status.add(index) = b'n' as core::ffi::c_char;
                    continue;
                };
                let value = super::text::to_server(value)?;
                let length = value.as_bytes().len() as core::ffi::c_int;
                *status.add(index) = b't' as core::ffi::c_char;
                (*columns.add(index)).data = pg_sys::pstrdup(value.as_ptr());
                (*columns.add(index)).len = length;
                (*columns.add(index)).maxlen = length + 1;
            }
            Some(Tuple(pg_sys::LogicalRepTupleData {
                colvalues: columns,
                colstatus: status,
                ncols: count as core::ffi::c_int,
            }))
        }
    }
}

/// The messages of a sender (replication/logicalproto.h), as far as this library's output plugin sends them.
pub enum Message {
    Begin {
        committed_at: i64,
    },
    Origin {
        lsn: OriginLsn,
        /// Whether the sender has written the transaction itself, for its own recoveries.
        is_reconciled: bool,
    },
    /// A table under the sender's names. Core's map keeps its columns as well.
    Relation {
        relation: u32,
        schema: String,
        name: String,
        columns: Vec<String>,
    },
    Insert {
        relation: u32,
        new: Tuple,
    },
    Update {
        relation: u32,
        old: Option<Tuple>,
        new: Tuple,
    },
    Delete {
        relation: u32,
        old: Tuple,
    },
    Truncate {
        relations: Vec<u32>,
        restart_sequences: bool,
    },
    /// The name of a type, for messages about a column whose type is missing here. Core's map keeps what it needs.
    Type,
    Commit,
    /// The sender has reached the first transaction beyond the stop timestamp; nothing follows.
    Over,
    Other(u8),
}

/// The table that a message describes, if it is a relation message.
pub fn told_relation(message: &[u8]) -> Option<u32> {
    let relation = message.strip_prefix(b"R")?.first_chunk()?;
    Some(u32::from_be_bytes(*relation))
}

/// Reads the first of several messages, and returns it with its length in bytes. A relation message is entered in
/// core's map at once. Allocates in the current memory context. Raises an ERROR if the message is malformed.
pub fn read(messages: &[u8]) -> (Message, usize) {
    let Some((kind, body)) = messages.split_first() else { return (Message::Other(0), 0) };
    // A read-only buffer like that of core's initReadOnlyStringInfo (maxlen 0); the readers respect its len.
    let mut buffer = pg_sys::StringInfoData {
        data: body.as_ptr().cast_mut().cast(),
        len: body.len() as core::ffi::c_int,
        maxlen: 0,
        cursor: 0,
    };
    let input = &raw mut buffer;
    // SAFETY: each reader gets a buffer with the body of a message of its kind, and a struct of the type that it fills.
    let message = unsafe {
        match kind {
            b'B' => {
                let mut begin = pg_sys::LogicalRepBeginData::default();
                pg_sys::logicalrep_read_begin(input, &mut begin);
                Message::Begin { committed_at: begin.committime }
            }
            b'O' => {
                let mut lsn = 0;
                let name = CStr::from_ptr(pg_sys::logicalrep_read_origin(input, &mut lsn));
                Message::Origin { lsn: OriginLsn(lsn), is_reconciled: name == origin::RECONCILE }
            }
            b'R' => read_relation(input),
            b'I' | b'U' | b'D' => read_row(*kind, input),
            b'T' => {
                let (mut cascade, mut restart_sequences) = (false, false);
                let list = pg_sys::logicalrep_read_truncate(input, &mut cascade, &mut restart_sequences);
                Message::Truncate { relations: oids(list), restart_sequences }
            }
            b'C' => {
                let mut commit = pg_sys::LogicalRepCommitData::default();
                pg_sys::logicalrep_read_commit(input, &mut commit);
                Message::Commit
            }
            b'Y' => {
                let mut kind = pg_sys::LogicalRepTyp::default();
                pg_sys::logicalrep_read_typ(input, &mut kind);
                Message::Type
            }
            // This is the last message: nothing is sent after it.
            b'M' => return (Message::Over, messages.len()),
            other => return (Message::Other(*other), messages.len()),
        }
    };
    (message, 1 + buffer.cursor as usize)
}

unsafe fn read_relation(input: pg_sys::StringInfo) -> Message {
    // SAFETY: the caller's promise: the body of a relation message; names and columns are arrays of that length.
    unsafe {
        let relation = pg_sys::logicalrep_read_rel(input);
        logicalrep::keep(relation);
        let [schema, name] = [(*relation).nspname, (*relation).relname].map(|name| to_utf8(CStr::from_ptr(name)));
        let columns = (0..(*relation).natts as usize)
            .map(|index| to_utf8(CStr::from_ptr(*(*relation).attnames.add(index))))
            .collect();
        Message::Relation { relation: (*relation).remoteid, schema, name, columns }
    }
}

/// Reads an INSERT, an UPDATE, or else a DELETE.
unsafe fn read_row(kind: u8, input: pg_sys::StringInfo) -> Message {
    let (mut old, mut new) = (pg_sys::LogicalRepTupleData::default(), pg_sys::LogicalRepTupleData::default());
    // SAFETY: the caller's promise: the body of a message of this kind.
    unsafe {
        match kind {
            b'I' => {
                let relation = pg_sys::logicalrep_read_insert(input, &mut new);
                Message::Insert { relation, new: Tuple(new) }
            }
            b'U' => {
                let mut has_old = false;
                let relation = pg_sys::logicalrep_read_update(input, &mut has_old, &mut old, &mut new);
                Message::Update { relation, old: has_old.then_some(Tuple(old)), new: Tuple(new) }
            }
            _ => {
                let relation = pg_sys::logicalrep_read_delete(input, &mut old);
                Message::Delete { relation, old: Tuple(old) }
            }
        }
    }
}

unsafe fn oids(list: *mut pg_sys::List) -> Vec<u32> {
    // SAFETY: a list of oids, or null.
    unsafe {
        let count = if list.is_null() { 0 } else { (*list).length };
        (0..count as usize).map(|index| (*(*list).elements.add(index)).oid_value.to_u32()).collect()
    }
}
