//! What a round of the manager could not tend. Each object is looked at in a subtransaction of its own: one that somebody has
//! made unusable, by mistake or on purpose, costs the others nothing.

use crate::error::{OrRaise, SqlError};
use crate::pg::transaction::{self, is_contention};
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::{CaughtError, ErrorReportWithLevel};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What looks like contention for longer than this is something else.
const LONGEST_CONTENTION: Duration = Duration::from_secs(60);

/// An ERROR in one line: its message, with its hint where it has one.
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
    /// The same of what somebody else had a hand on just then: the next round comes soon.
    contended: Vec<String>,
}

impl Skips {
    /// Tends one object. None: it could not be, and whatever was changed for it is rolled back. `what` names it, as in
    /// `subscription "s"`.
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

    /// What was skipped in this round. `busy_since`: what was contended in the rounds before; what has been so for
    /// [`LONGEST_CONTENTION`] is told as well.
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

/// Our own errors have a hint: a name that is taken is nothing that goes away.
fn is_of_ours(report: &ErrorReportWithLevel) -> bool {
    report.sql_error_code() == PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT && report.hint().is_some()
}
