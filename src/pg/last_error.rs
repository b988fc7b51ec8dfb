//! The last ERROR of this process, including what pgrx drops when an ERROR crosses Rust: context, and the names of
//! schema, table, column, type and constraint (utils/elog.h, ErrorData).
//!
//! An error context records the ERROR while it is raised. The code that catches it looks it up with the report at hand,
//! because an ERROR that was raised and caught in Rust never came from the server.

use super::error_context::BottomContext;
use super::text::Text;
use crate::error::unpack_sqlstate;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::CStr;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    pub context: Option<String>,
    pub schema: Option<String>,
    pub table: Option<String>,
    pub column: Option<String>,
    pub datatype: Option<String>,
    pub constraint: Option<String>,
}

thread_local! {
    static PLACE: RefCell<BottomContext> = const { RefCell::new(BottomContext::NONE) };
    static LAST: RefCell<Option<ServerError>> = const { RefCell::new(None) };
}

/// Makes this process record its last ERROR from now on.
pub fn watch() {
    // SAFETY: the callback copies; a worker's own code calls this, between calls into core.
    PLACE.with_borrow_mut(|place| unsafe { place.install(remember) });
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn remember(_argument: *mut core::ffi::c_void) {
    // SAFETY: errfinish calls this while it processes an error; the copy is made outside ErrorContext, as CopyErrorData
    // requires.
    unsafe {
        let code = unpack_sqlstate(pg_sys::geterrcode());
        // The report is a LOG, NOTICE or WARNING.
        if code.starts_with(b"00") || code.starts_with(b"01") {
            return;
        }
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let data = pg_sys::CopyErrorData();
        let text = |text: *const core::ffi::c_char| {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        };
        let error = ServerError {
            sqlstate: String::from_utf8_lossy(&code).into_owned(),
            message: text((*data).message).unwrap_or_default(),
            detail: text((*data).detail),
            hint: text((*data).hint),
            context: text((*data).context),
            schema: text((*data).schema_name),
            table: text((*data).table_name),
            column: text((*data).column_name),
            datatype: text((*data).datatype_name),
            constraint: text((*data).constraint_name),
        };
        let is_error = (*data).elevel >= pg_sys::elog::PgLogLevel::ERROR as i32;
        pg_sys::FreeErrorData(data);
        pg_sys::MemoryContextSwitchTo(previous);
        if is_error {
            LAST.with_borrow_mut(|last| {
                // When an ERROR leaves Rust, pgrx raises it again with fewer fields. The first report is kept.
                let is_again = last.as_ref().is_some_and(|known| known.is_of(&error.sqlstate, &error.message));
                if !is_again || error.table.is_some() || error.constraint.is_some() {
                    *last = Some(error);
                }
            });
        }
    }
}

/// The server's report of an ERROR that was caught. An ERROR that was raised in Rust has no more than its report.
pub fn of(report: &ErrorReportWithLevel) -> ServerError {
    let sqlstate = unpack_sqlstate(report.sql_error_code() as i32).map(char::from).iter().collect::<String>();
    let known = LAST.take().filter(|known| known.is_of(&sqlstate, report.message()));
    known.unwrap_or_else(|| ServerError {
        sqlstate,
        message: report.message().to_owned(),
        detail: report.detail().map(str::to_owned),
        hint: report.hint().map(str::to_owned),
        ..ServerError::default()
    })
}

const NAMES: &str = "
    SELECT pg_catalog.max(r.relname)::pg_catalog.text,
           pg_catalog.max(a.attname)::pg_catalog.text
      FROM pg_catalog.pg_namespace n
      JOIN pg_catalog.pg_class r ON r.relnamespace = n.oid
      LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = r.oid AND a.attname::pg_catalog.text = $3
     WHERE n.nspname::pg_catalog.text = $1 AND r.relname::pg_catalog.text = $2";

const CONSTRAINT: &str = "
    SELECT pg_catalog.max(name) FROM (
        SELECT c.conname::pg_catalog.text AS name
          FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
          LEFT JOIN pg_catalog.pg_class r ON r.oid = c.conrelid
          LEFT JOIN pg_catalog.pg_type t ON t.oid = c.contypid
         WHERE n.nspname::pg_catalog.text = $1 AND $2 IN (r.relname::pg_catalog.text, t.typname::pg_catalog.text)
         UNION ALL
        SELECT x.relname::pg_catalog.text
          FROM pg_catalog.pg_index i
          JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
          JOIN pg_catalog.pg_class r ON r.oid = i.indrelid
          JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
         WHERE n.nspname::pg_catalog.text = $1 AND r.relname::pg_catalog.text = $2) known
     WHERE name = $3";

/// Names in an ERROR that belong to existing objects. The code that raises an ERROR (RAISE … USING CONSTRAINT) may give
/// any text as a name, even a row's value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KnownNames {
    /// `schema.table`.
    pub relation: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl ServerError {
    fn is_of(&self, sqlstate: &str, message: &str) -> bool {
        self.sqlstate == sqlstate && self.message == message
    }

    /// The names in this error that belong to existing objects. Needs a transaction with a snapshot.
    pub fn known_names(&self) -> KnownNames {
        let text = |text: &Option<String>| Text::of_message(text.as_deref().unwrap_or_default());
        let ask = |question: &str, second: &Option<String>, third: &Option<String>| {
            Spi::connect(|client| {
                let arguments = [text(&self.schema).into(), text(second).into(), text(third).into()];
                let row = client.select(question, Some(1), &arguments)?.first();
                let first = row.get::<Text>(1)?;
                Ok::<_, pgrx::spi::Error>((first, if question == NAMES { row.get::<Text>(2)? } else { None }))
            })
            .unwrap_or_default()
        };
        let named = |text: Option<Text>| text.map(|text| text.to_utf8());
        let (table, column) = ask(NAMES, &self.table, &self.column);
        let constraint = match &self.constraint {
            Some(_) => {
                let owner = if self.table.is_some() { &self.table } else { &self.datatype };
                ask(CONSTRAINT, owner, &self.constraint).0
            }
            None => None,
        };
        let relation = named(table).and_then(|table| Some(format!("{}.{table}", self.schema.as_deref()?)));
        KnownNames { relation, column: named(column), constraint: named(constraint) }
    }
}
