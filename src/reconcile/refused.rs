//! A node that does not tell rows of a table.

use crate::error::unpack_sqlstate;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use std::fmt;

/// A node does not tell rows of one table: its owner may not see them, his code fails, or the question is beyond a limit of the
/// server. That concerns this table alone, and maybe one row of it.
pub(super) struct Refused {
    /// By which node.
    pub node: String,
    pub sqlstate: String,
    message: String,
}

/// So much of what a node says is kept with the rows, and told: a table's owner may have written it.
const TOLD_CHARACTERS: usize = 500;

impl Refused {
    pub(super) fn new(node: &str, sqlstate: String, message: &str) -> Refused {
        let message = message.chars().take(TOLD_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Refused { node: node.to_owned(), sqlstate, message }
    }

    pub fn by(node: &str, report: &ErrorReportWithLevel) -> Refused {
        let sqlstate = unpack_sqlstate(report.sql_error_code() as i32).map(char::from).iter().collect();
        Refused::new(node, sqlstate, report.message())
    }

    /// An answer within the limit cannot be had.
    pub fn took_too_long(&self) -> bool {
        self.sqlstate == "57014"
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node \"{}\" reports {} (SQLSTATE {})", self.node, self.message, self.sqlstate)
    }
}
