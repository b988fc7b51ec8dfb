//! Rows whose text does not fit: a message may have 1 GB, and the text of a bytea is twice as long as its value. Such a
//! row is written value by value, with the long values in binary form (core's counterpart: logicalrep_write_tuple in
//! proto.c, which has one form for all values).
//!
//! A subscription with `binary = true` takes such rows natively. Text is tried first, because a column of any type can
//! read it. The binary form is used for types that are the same everywhere: built-in ones, and domains over bytea,
//! because the binary form does not mention the domain. It is not used for names of catalog objects, whose binary form
//! is an oid, nor for anything that contains a user's type, because the oids of such types differ from server to
//! server.

use crate::pg::compat;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::pg_sys::{self, Oid};
use pgrx::{PgSqlErrorCode, PgTryBuilder};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

/// A row is large if its values have so many bytes together. No output function makes a text more than about ten times
/// as long as its value, so every smaller row fits as text.
const LARGE_ROW: usize = 32 << 20;

/// A value of a large row with at least so many bytes may be sent in another form than text.
const LARGE_VALUE: usize = 1 << 20;

/// The `REG…` types, whose values are oids.
const NAMES: [Oid; 11] = [
    pg_sys::REGPROCOID,
    pg_sys::REGPROCEDUREOID,
    pg_sys::REGOPEROID,
    pg_sys::REGOPERATOROID,
    pg_sys::REGCLASSOID,
    pg_sys::REGTYPEOID,
    pg_sys::REGCONFIGOID,
    pg_sys::REGDICTIONARYOID,
    pg_sys::REGROLEOID,
    pg_sys::REGNAMESPACEOID,
    pg_sys::REGCOLLATIONOID,
];

/// Whether a row's text might not fit, so that the row is written by itself and by [`fitting`]. Most rows are no longer
/// than a page, and have no value that is compressed or stored out of line.
///
/// # Safety
/// `slot` must hold a row of its descriptor, or be null.
pub unsafe fn is_large(slot: *mut pg_sys::TupleTableSlot) -> bool {
    if slot.is_null() {
        return false;
    }
    // SAFETY: the caller's promise; the slot's arrays have the descriptor's length.
    unsafe {
        pg_sys::slot_getallattrs(slot);
        let descriptor = (*slot).tts_tupleDescriptor;
        let mut bytes = 0;
        for index in 0..(*descriptor).natts as usize {
            let attribute = compat::attribute(descriptor, index as i32);
            if (*attribute).attlen == -1 && !*(*slot).tts_isnull.add(index) && !(*attribute).attisdropped {
                bytes += stored_apart(*(*slot).tts_values.add(index));
            }
        }
        bytes >= LARGE_ROW
    }
}

/// The number of bytes of a value that is compressed or not stored in the row; 0 for any other value.
unsafe fn stored_apart(value: pg_sys::Datum) -> usize {
    // SAFETY: the caller's promise: a value of variable length, whose header says which kind it is (varatt.h).
    unsafe {
        let header = value.cast_mut_ptr::<pg_sys::varlena>();
        if pgrx::varatt_is_4b_u(header) || (pgrx::varatt_is_1b(header) && !pgrx::varatt_is_1b_e(header)) {
            return 0;
        }
        if is_unchanged(header) { 0 } else { pg_sys::toast_raw_datum_size(value) as usize }
    }
}

/// `VARATT_IS_EXTERNAL_ONDISK`: the value is in a TOAST table, and was not logged because it has not changed.
unsafe fn is_unchanged(header: *const pg_sys::varlena) -> bool {
    const ON_DISK: u8 = pg_sys::vartag_external::VARTAG_ONDISK as u8;
    // SAFETY: an external value has its tag in the second byte.
    unsafe { pgrx::varatt_is_1b_e(header.cast_mut()) && *header.cast::<u8>().add(1) == ON_DISK }
}

/// # Safety
/// `relation` must be open, and `new` a row of it. The message is appended to `out`.
pub unsafe fn insert(out: pg_sys::StringInfo, relation: pg_sys::Relation, new: *mut pg_sys::TupleTableSlot) {
    // SAFETY: the caller's promise.
    unsafe {
        head(out, b'I', relation);
        tuple(out, b'N', new);
    }
}

/// # Safety
/// `relation` must be open, `new` a row of it, and `old` the row's old version or null.
pub unsafe fn update(
    out: pg_sys::StringInfo,
    relation: pg_sys::Relation,
    old: *mut pg_sys::TupleTableSlot,
    new: *mut pg_sys::TupleTableSlot,
) {
    // SAFETY: the caller's promise.
    unsafe {
        head(out, b'U', relation);
        if !old.is_null() {
            tuple(out, identity(relation), old);
        }
        tuple(out, b'N', new);
    }
}

/// # Safety
/// `relation` must be open, and `old` the old version of a row of it.
pub unsafe fn delete(out: pg_sys::StringInfo, relation: pg_sys::Relation, old: *mut pg_sys::TupleTableSlot) {
    // SAFETY: the caller's promise.
    unsafe {
        head(out, b'D', relation);
        tuple(out, identity(relation), old);
    }
}

/// The letter for an old row in a message: all of the row, or its key.
unsafe fn identity(relation: pg_sys::Relation) -> u8 {
    // SAFETY: the caller's promise: an open relation.
    if unsafe { (*(*relation).rd_rel).relreplident } as u8 == pg_sys::REPLICA_IDENTITY_FULL { b'O' } else { b'K' }
}

unsafe fn head(out: pg_sys::StringInfo, kind: u8, relation: pg_sys::Relation) {
    // SAFETY: the caller's promise.
    unsafe {
        bytes(out, &[kind]);
        bytes(out, &(*relation).rd_id.to_u32().to_be_bytes());
    }
}

unsafe fn tuple(out: pg_sys::StringInfo, kind: u8, slot: *mut pg_sys::TupleTableSlot) {
    // SAFETY: the caller's promise: a row of the slot's descriptor. Generated columns are not sent.
    unsafe {
        pg_sys::slot_getallattrs(slot);
        let descriptor = (*slot).tts_tupleDescriptor;
        let live = (0..(*descriptor).natts as usize).filter(|index| {
            let attribute = compat::attribute(descriptor, *index as i32);
            !(*attribute).attisdropped && (*attribute).attgenerated == 0
        });
        bytes(out, &[kind]);
        bytes(out, &(live.clone().count() as u16).to_be_bytes());
        for index in live {
            let attribute = compat::attribute(descriptor, index as i32);
            let value = *(*slot).tts_values.add(index);
            let is_varlena = (*attribute).attlen == -1;
            if *(*slot).tts_isnull.add(index) {
                bytes(out, b"n");
            } else if is_varlena && is_unchanged(value.cast_mut_ptr()) {
                bytes(out, b"u");
            } else {
                let is_long = is_varlena && pg_sys::toast_raw_datum_size(value) as usize >= LARGE_VALUE;
                write_value(out, (*attribute).atttypid, value, is_long);
            }
        }
    }
}

/// The form in which a long value of a type may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Text,
    Binary,
    /// Text, unless it is longer than a value may be or much longer than the binary form.
    Either,
}

unsafe fn form_of(of: Oid) -> Form {
    // SAFETY: in a transaction with a snapshot.
    unsafe {
        if pg_sys::getBaseType(of) == pg_sys::BYTEAOID || of == pg_sys::BITOID || of == pg_sys::VARBITOID {
            return Form::Binary;
        }
        let element = pg_sys::get_element_type(of);
        let is_built_in = |of: Oid| of.to_u32() < pg_sys::FirstGenbkiObjectId;
        if is_built_in(of) && is_built_in(element) && !NAMES.contains(&element) { Form::Either } else { Form::Text }
    }
}

unsafe fn write_value(out: pg_sys::StringInfo, of: Oid, value: pg_sys::Datum, is_long: bool) {
    // SAFETY: the caller's promise: a value of that type.
    unsafe {
        let form = if is_long { form_of(of) } else { Form::Text };
        if form == Form::Binary {
            return write_binary(out, of, value);
        }
        let (mut output, mut is_varlena) = (Oid::INVALID, false);
        pg_sys::getTypeOutputInfo(of, &mut output, &mut is_varlena);
        let text = match form {
            Form::Either => fitting(|| pg_sys::OidOutputFunctionCall(output, value)),
            _ => Some(pg_sys::OidOutputFunctionCall(output, value)),
        };
        // A text of more than twice the value's length is not sent: the binary form of a built-in type is shorter than
        // that.
        let text = text.map(|text| (text, CStr::from_ptr(text).count_bytes()));
        let is_worth_it =
            |length: usize| form == Form::Text || length <= 2 * pg_sys::toast_raw_datum_size(value) as usize;
        match text {
            Some((text, length)) if is_worth_it(length) => {
                bytes(out, b"t");
                pg_sys::pq_sendcountedtext(out, text, length as core::ffi::c_int);
                pg_sys::pfree(text.cast());
            }
            other => {
                if let Some((text, _)) = other {
                    pg_sys::pfree(text.cast());
                }
                write_binary(out, of, value);
            }
        }
    }
}

unsafe fn write_binary(out: pg_sys::StringInfo, of: Oid, value: pg_sys::Datum) {
    // SAFETY: the caller's promise: a value of that type. A send function returns a bytea of its own, with a header of
    // 4 bytes.
    unsafe {
        let (mut send, mut is_varlena) = (Oid::INVALID, false);
        pg_sys::getTypeBinaryOutputInfo(of, &mut send, &mut is_varlena);
        let sent = pg_sys::OidSendFunctionCall(send, value);
        let length = pgrx::varsize_any_exhdr(sent);
        bytes(out, b"b");
        bytes(out, &(length as u32).to_be_bytes());
        pg_sys::appendBinaryStringInfo(out, pgrx::vardata_any(sent).cast(), length as core::ffi::c_int);
        pg_sys::pfree(sent.cast());
    }
}

/// Returns what `write` returns, or None if a value or the message would be longer than it may be. Then `write` has
/// failed for lack of room, and has left nothing behind but memory of the change at hand.
pub fn fitting<T>(write: impl FnOnce() -> T) -> Option<T> {
    PgTryBuilder::new(AssertUnwindSafe(|| Some(write())))
        .catch_others(|cause| match &cause {
            CaughtError::PostgresError(report)
                if report.sql_error_code() == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
                    || report.message().starts_with("invalid memory alloc request size") =>
            {
                None
            }
            _ => cause.rethrow(),
        })
        .execute()
}

unsafe fn bytes(out: pg_sys::StringInfo, bytes: &[u8]) {
    // SAFETY: the caller's promise; the bytes are copied.
    unsafe { pg_sys::appendBinaryStringInfo(out, bytes.as_ptr().cast(), bytes.len() as core::ffi::c_int) };
}
