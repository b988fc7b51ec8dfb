//! Rows of a query as text, made by each type's output function (executor/spi.h, tcop/dest.h).

use super::column_text::ColumnText;
use super::compat;
use super::digest;
use super::text::{to_server, to_utf8, to_utf8_exactly};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::CStr;

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
pub struct TextRow<'a> {
    slot: *mut pg_sys::TupleTableSlot,
    state: &'a RefCell<State>,
}

/// What the rows of one query share.
struct State {
    /// Where the state of output functions lives: longer than a row.
    context: pg_sys::MemoryContext,
    columns: Vec<ColumnText>,
    /// The text of a row that is hashed.
    text: Vec<u8>,
}

/// Ahead of a value in the text of a row; a NULL has neither this nor the text.
const VALUE: u8 = 1;
/// Behind each column. No text contains it.
const END: u8 = 0;

impl TextRow<'_> {
    /// All its values, as text.
    pub fn texts(&self) -> Vec<Option<String>> {
        (0..self.width()).map(|column| self.output(column).map(to_utf8)).collect()
    }

    /// All its values, without replacement of invalid characters.
    pub fn cells(&self) -> Vec<Cell> {
        (0..self.width()).map(|column| self.cell(column)).collect()
    }

    /// The number of its columns.
    pub fn width(&self) -> usize {
        // SAFETY: the slot holds a row.
        unsafe { (*(*self.slot).tts_tupleDescriptor).natts as usize }
    }

    /// The value of a column as text, without replacement of invalid characters.
    pub fn cell(&self, column: usize) -> Cell {
        let Some(text) = self.output(column) else { return Cell::Null };
        to_utf8_exactly(text).map_or_else(|| Cell::Bytes(text.count_bytes() as u64), Cell::Text)
    }

    /// The hash over the texts of the first columns in UTF-8, whatever this database's encoding is, and the length of them
    /// in bytes. Bytes that the encoding gives no meaning are hashed as they are. The same texts have the same hash,
    /// whatever the types are.
    pub fn hash(&self, columns: usize, seed: i64) -> (i64, u64) {
        let state = &mut *self.state.borrow_mut();
        let State { columns: writers, text, .. } = state;
        text.clear();
        for (column, writer) in writers.iter_mut().enumerate().take(columns) {
            // SAFETY: the column is one of the row; the row's context is the current one.
            if let Some(value) = unsafe { self.value(column) } {
                text.push(VALUE);
                unsafe { writer.append(value, text) };
            }
            text.push(END);
        }
        (digest::quick(text, seed), text.len() as u64)
    }

    /// The text lives as long as the row: it is in the row's context.
    fn output(&self, column: usize) -> Option<&CStr> {
        if column >= self.width() {
            return None;
        }
        // SAFETY: the column is one of the row.
        unsafe { self.value(column).map(|value| self.state.borrow_mut().columns[column].text(value)) }
    }

    /// The value of a column whose type is an integer of any width, or a transaction id.
    pub fn number(&self, column: usize) -> Option<i64> {
        // SAFETY: as in `output`. C has extended the value to the width of a datum.
        unsafe { if column < self.width() { self.value(column).map(|value| value.value() as i64) } else { None } }
    }

    unsafe fn value(&self, column: usize) -> Option<pg_sys::Datum> {
        // SAFETY: the caller guarantees a column of the row, all of whose attributes have been read.
        unsafe { (!*(*self.slot).tts_isnull.add(column)).then(|| *(*self.slot).tts_values.add(column)) }
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
            state: RefCell::new(State { context: pg_sys::CurrentMemoryContext, columns: Vec::new(), text: Vec::new() }),
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
    /// Of one row.
    context: pg_sys::MemoryContext,
    state: RefCell<State>,
    see: &'a mut dyn FnMut(TextRow<'_>) -> bool,
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn receive(slot: *mut pg_sys::TupleTableSlot, receiver: *mut pg_sys::DestReceiver) -> bool {
    // SAFETY: the executor passes the receiver that it was given, with a row that is valid until this function returns.
    unsafe {
        let receiver = &mut *receiver.cast::<TextReceiver<'_>>();
        pg_sys::slot_getallattrs(slot);
        let previous = pg_sys::MemoryContextSwitchTo(receiver.context);
        let goes_on = (receiver.see)(TextRow { slot, state: &receiver.state });
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextReset(receiver.context);
        goes_on
    }
}

/// Before the first row.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn start_up(
    receiver: *mut pg_sys::DestReceiver,
    _operation: core::ffi::c_int,
    descriptor: pg_sys::TupleDesc,
) {
    // SAFETY: the executor passes the receiver that it was given, and the descriptor of the rows that follow; the state's
    // context is that of the query.
    unsafe {
        let state = &mut *(*receiver.cast::<TextReceiver<'_>>()).state.borrow_mut();
        let context = state.context;
        let column = |column| ColumnText::of((*compat::attribute(descriptor, column)).atttypid, context);
        state.columns = (0..(*descriptor).natts).map(column).collect();
    }
}

unsafe extern "C-unwind" fn shut_down(_: *mut pg_sys::DestReceiver) {}
