//! Rows of a query as text, made by each type's output function (executor/spi.h, tcop/dest.h).

use super::compat;
use super::digest;
use super::text::{to_server, to_utf8, to_utf8_exactly};
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;
use std::marker::PhantomData;

/// Runs a query that only reads. Needs a transaction with a snapshot.
pub fn rows(query: &str) -> Vec<Vec<Option<String>>> {
    let mut rows = Vec::new();
    each_row(query, |row| {
        rows.push(row.texts());
        true
    });
    rows
}

/// Runs a command that may write. Core's errors pass by. Needs a transaction with a snapshot.
pub fn run(command: &str) {
    let Some(command) = to_server(command) else { pgrx::error!("a command with a null byte") };
    // SAFETY: connected and finished here; an ERROR frees everything.
    unsafe {
        pg_sys::SPI_connect();
        if pg_sys::SPI_execute(command.as_ptr(), false, 0) < 0 {
            pgrx::error!("a command was not run");
        }
        pg_sys::SPI_finish();
    }
}

/// A value as its type's output function writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cell {
    Null,
    Text(String),
    /// A value that is not valid text; its length in bytes.
    Bytes(u64),
}

/// A row of a query.
pub struct TextRow<'a>(*mut pg_sys::TupleTableSlot, PhantomData<&'a ()>);

impl TextRow<'_> {
    /// All its values, as text.
    pub fn texts(&self) -> Vec<Option<String>> {
        // SAFETY: the slot contains a row of its descriptor, all of whose attributes have been read.
        unsafe { (0..(*(*self.0).tts_tupleDescriptor).natts).map(|column| self.text(column)).collect() }
    }

    /// All its values, without replacement of invalid characters.
    pub fn cells(&self) -> Vec<Cell> {
        let cell = |column| {
            // SAFETY: as in `texts`.
            let Some(text) = (unsafe { self.output(column) }) else { return Cell::Null };
            to_utf8_exactly(text).map_or_else(|| Cell::Bytes(text.count_bytes() as u64), Cell::Text)
        };
        // SAFETY: as in `texts`.
        let columns = unsafe { (*(*self.0).tts_tupleDescriptor).natts };
        (0..columns).map(cell).collect()
    }

    /// The value of a column as text, without replacement of invalid characters.
    pub fn cell(&self, column: usize) -> Cell {
        // SAFETY: the slot holds a row; its columns are counted.
        unsafe {
            if column >= (*(*self.0).tts_tupleDescriptor).natts as usize {
                return Cell::Null;
            }
            let Some(text) = self.output(column as i32) else { return Cell::Null };
            to_utf8_exactly(text).map_or_else(|| Cell::Bytes(text.count_bytes() as u64), Cell::Text)
        }
    }

    /// The hash over a column's text in UTF-8, whatever this database's encoding is, and the length of that text in
    /// bytes; None: it is NULL. Bytes that the encoding gives no meaning are hashed as they are.
    pub fn hash(&self, column: usize, seed: i64) -> Option<(i64, u64)> {
        // SAFETY: the slot holds a row; its columns are counted.
        let text = unsafe {
            if column >= (*(*self.0).tts_tupleDescriptor).natts as usize {
                return None;
            }
            self.output(column as i32)?
        };
        let bytes = super::text::utf8_bytes(text);
        Some((digest::quick(bytes, seed), bytes.len() as u64))
    }

    unsafe fn text(&self, column: i32) -> Option<String> {
        // SAFETY: the caller guarantees a column of the row.
        unsafe { self.output(column).map(to_utf8) }
    }

    unsafe fn output(&self, column: i32) -> Option<&CStr> {
        // SAFETY: the caller guarantees a column of the row. The text is palloc'd in the context for one row, and lives
        // as long as the row.
        unsafe {
            let value = self.value(column as usize)?;
            let (mut output, mut is_varlena) = (Oid::INVALID, false);
            let of = (*compat::attribute((*self.0).tts_tupleDescriptor, column)).atttypid;
            pg_sys::getTypeOutputInfo(of, &mut output, &mut is_varlena);
            Some(CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, value)))
        }
    }

    /// The value of a column whose type is an integer of any width, or a transaction id.
    pub fn number(&self, column: usize) -> Option<i64> {
        // SAFETY: the slot holds a row; its columns are counted.
        unsafe {
            let is_there = column < (*(*self.0).tts_tupleDescriptor).natts as usize;
            // C has extended the value to the width of a datum.
            if is_there { self.value(column).map(|value| value.value() as i64) } else { None }
        }
    }

    unsafe fn value(&self, column: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the caller guarantees a column of the row.
        unsafe { (!*(*self.0).tts_isnull.add(column)).then(|| *(*self.0).tts_values.add(column)) }
    }
}

/// Runs a query that only reads, and passes each row to `see` as the executor finds it; `see` returns whether it wants
/// the next row. What `see` allocates in PostgreSQL's memory is freed before the next row. Needs a transaction with a
/// snapshot.
pub fn each_row(query: &str, mut see: impl FnMut(TextRow<'_>) -> bool) {
    let Some(query) = to_server(query) else { pgrx::error!("a query with a null byte") };
    // SAFETY: connected and finished here; receiver and context live as long as the query. An ERROR frees everything.
    unsafe {
        pg_sys::SPI_connect();
        let mut receiver = TextReceiver {
            functions: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(start_up),
                rShutdown: Some(shut_down),
                rDestroy: Some(shut_down),
                mydest: pg_sys::CommandDest::DestNone,
            },
            context: pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"spock_recovery row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            ),
            see: &mut see,
        };
        let options = pg_sys::SPIExecuteOptions {
            read_only: true,
            must_return_tuples: true,
            dest: (&raw mut receiver).cast(),
            ..Default::default()
        };
        let status = pg_sys::SPI_execute_extended(query.as_ptr(), &options);
        if status < 0 {
            pgrx::error!("the query gave no rows");
        }
        pg_sys::SPI_finish();
    }
}

/// The receiver of the executor's rows: a `DestReceiver` followed by its own fields, as in core's receivers.
#[repr(C)]
struct TextReceiver<'a> {
    functions: pg_sys::DestReceiver,
    context: pg_sys::MemoryContext,
    see: &'a mut dyn FnMut(TextRow<'_>) -> bool,
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the executor passes the receiver that it was given, with a row that is valid until this function returns.
    unsafe {
        let receiver = &mut *receiver.cast::<TextReceiver<'_>>();
        pg_sys::slot_getallattrs(slot);
        let previous = pg_sys::MemoryContextSwitchTo(receiver.context);
        let goes_on = (receiver.see)(TextRow(slot, PhantomData));
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextReset(receiver.context);
        goes_on
    }
}

unsafe extern "C-unwind" fn start_up(_: *mut pg_sys::DestReceiver, _operation: core::ffi::c_int, _: pg_sys::TupleDesc) {
}

unsafe extern "C-unwind" fn shut_down(_: *mut pg_sys::DestReceiver) {}
