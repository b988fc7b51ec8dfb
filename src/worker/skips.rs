//! The objects that a round of the manager could not process. Each object is processed in a subtransaction of its own,
//! so that one that somebody has made unusable, by mistake or on purpose, does not affect the others.

use crate::error::{OrRaise, SqlError};
use crate::pg::transaction::{self, is_contention};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Contention that lasts longer than this is reported like any other error.
const LONGEST_CONTENTION: Duration = Duration::from_secs(60);

/// Returns an ERROR in one line: its message, followed by its hint if it has one.
pub fn in_one_line(report: &ErrorReportWithLevel) -> String {
    match report.hint() {
        Some(hint) => format!("{} ({hint})", report.message()),
        None => report.message().to_owned(),
    }
}

#[derive(Debug, Default)]
pub struct Skips {
    /// What was skipped, and why.
    found: Vec<String>,
    /// What was skipped because another session had locked or was changing it: the next round comes soon.
    contended: Vec<String>,
}

impl Skips {
    /// Processes one object, which `what` names, as in `subscription "s"`. If that fails, returns None and rolls back
    /// what was changed for the object. A query cancel is thrown on.
    pub fn each<T, E: SqlError>(
        &mut self,
        what: impl FnOnce() -> String,
        tend: impl FnOnce() -> Result<T, E>,
    ) -> Option<T> {
        match transaction::nested(|| tend().or_raise()) {
            Ok(value) => Some(value),
            Err(cause) => {
                match *cause {
                    CaughtError::PostgresError(report) | CaughtError::ErrorReport(report)
                        if !transaction::is_cancel(&report) =>
                    {
                        let is_busy = is_contention(&report) && !is_of_ours(&report);
                        let list = if is_busy { &mut self.contended } else { &mut self.found };
                        list.push(format!("{}: {}", what(), in_one_line(&report)));
                    }
                    cause => cause.rethrow(),
                }
                None
            }
        }
    }

    pub fn must_retry(&self) -> bool {
        !self.contended.is_empty()
    }

    /// Returns what was skipped in this round. `busy_since` carries from round to round what was skipped by contention,
    /// and since when; what has been contended for [`LONGEST_CONTENTION`] is returned as well.
    pub fn into_found(mut self, busy_since: &mut HashMap<String, Instant>) -> Vec<String> {
        busy_since.retain(|skipped, _| self.contended.contains(skipped));
        for skipped in self.contended {
            let since = *busy_since.entry(skipped.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= LONGEST_CONTENTION {
                self.found.push(skipped);
            }
        }
        self.found
    }
}

/// Whether a "duplicate object" error is one of our own, which have a hint. Core's may come from a race with another
/// session; ours means a name that is taken and stays taken.
fn is_of_ours(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT && report.hint().is_some()
}
