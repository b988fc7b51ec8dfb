//! The values of one column as text. The output function is looked up once, and not called for the types whose text is
//! known: integers (int4out and its like, utils/adt/int.c) and strings (textout, utils/adt/varlena.c).

use super::text::utf8_of;
use pgrx::pg_sys::{self, Oid};
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// More than any integer of 64 bits has digits (MAXINT8LEN of utils/adt/int8.c).
const DIGITS: usize = 25;

/// Writes the values of a column.
pub struct ColumnText {
    output: pg_sys::FmgrInfo,
    known: Option<Known>,
}

/// Types whose text is known.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Known {
    /// C extends an integer of fewer bits to the width of a datum.
    Integer,
    String,
}

impl Known {
    /// Domains count as what they are over.
    ///
    /// # Safety
    /// Within a transaction.
    pub(super) unsafe fn of(type_of_column: Oid) -> Option<Known> {
        // SAFETY: reads the caches.
        match unsafe { pg_sys::getBaseType(type_of_column) } {
            pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Some(Known::Integer),
            pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID => Some(Known::String),
            _ => None,
        }
    }
}

impl ColumnText {
    /// # Safety
    /// Within a transaction. What the output function keeps lives in `context`, which must outlive this.
    pub unsafe fn of(type_of_column: Oid, context: pg_sys::MemoryContext) -> ColumnText {
        let (mut function, mut is_varlena) = (Oid::INVALID, false);
        let mut output = MaybeUninit::<pg_sys::FmgrInfo>::zeroed();
        // SAFETY: the type exists, for a row of it was found; fmgr_info_cxt fills in all of the structure.
        unsafe {
            pg_sys::getTypeOutputInfo(type_of_column, &mut function, &mut is_varlena);
            pg_sys::fmgr_info_cxt(function, output.as_mut_ptr(), context);
            ColumnText { output: output.assume_init(), known: Known::of(type_of_column) }
        }
    }

    /// The text of a value, in the current memory context.
    ///
    /// # Safety
    /// The value is one of the column.
    pub unsafe fn text<'a>(&mut self, value: pg_sys::Datum) -> &'a CStr {
        // SAFETY: the caller guarantees the value.
        unsafe { CStr::from_ptr(pg_sys::OutputFunctionCall(&mut self.output, value)) }
    }

    /// Appends the text of a value in UTF-8, whatever this database's encoding is. What it takes meanwhile is in the
    /// current memory context. Bytes that the encoding gives no meaning are taken as they are.
    ///
    /// # Safety
    /// The value is one of the column.
    pub unsafe fn append(&mut self, value: pg_sys::Datum, to: &mut Vec<u8>) {
        match self.known {
            Some(Known::Integer) => {
                let mut digits = [0; DIGITS];
                // SAFETY: it writes fewer bytes than that, and returns how many.
                let length = unsafe { pg_sys::pg_lltoa(value.value() as i64, digits.as_mut_ptr().cast::<c_char>()) };
                to.extend_from_slice(&digits[..length as usize]);
            }
            // SAFETY: a string is a varlena, which is as long as it says and lives as long as the row, or until the
            // current context is reset.
            Some(Known::String) => unsafe {
                let plain = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr::<pg_sys::varlena>());
                let (data, length) = (pgrx::varlena::vardata_any(plain), pgrx::varlena::varsize_any_exhdr(plain));
                to.extend_from_slice(utf8_of(std::slice::from_raw_parts(data.cast::<u8>(), length)));
            },
            // SAFETY: as the caller guarantees.
            None => to.extend_from_slice(utf8_of(unsafe { self.text(value) }.to_bytes())),
        }
    }
}
