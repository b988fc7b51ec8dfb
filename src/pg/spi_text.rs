//! Rows of a query as text, by each type's output function (executor/spi.h).

use super::text::{to_server, to_utf8};
use pgrx::pg_sys;
use std::ffi::CStr;

/// Runs a query that reads. Needs a transaction with a snapshot.
pub fn rows(query: &str) -> Vec<Vec<Option<String>>> {
    let Some(query) = to_server(query) else { pgrx::error!("a query with a null byte") };
    // SAFETY: connected and finished here; values are copied before that. An ERROR frees all of it.
    unsafe {
        pg_sys::SPI_connect();
        if pg_sys::SPI_execute(query.as_ptr(), true, 0) != pg_sys::SPI_OK_SELECT as i32 {
            pgrx::error!("the query gave no rows");
        }
        let table = pg_sys::SPI_tuptable;
        let descriptor = (*table).tupdesc;
        let columns = (*descriptor).natts;
        let rows = (0..pg_sys::SPI_processed as usize)
            .map(|index| {
                let tuple = *(*table).vals.add(index);
                let value = |column| {
                    let text = pg_sys::SPI_getvalue(tuple, descriptor, column);
                    (!text.is_null()).then(|| to_utf8(CStr::from_ptr(text)))
                };
                (1..=columns).map(value).collect()
            })
            .collect();
        pg_sys::SPI_finish();
        rows
    }
}
