//! The refusal of a node to show rows of a table.

use crate::error::unpack_sqlstate;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use std::fmt;

/// A node refuses to show rows of one table: their owner may not read them, the owner's code fails, or the question
/// exceeds a limit of the server. This concerns that table only, and perhaps only one of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The node that refuses.
    pub node: String,
    pub sqlstate: String,
    message: String,
}

/// The number of characters of a node's message that are stored with the rows and reported: a table's owner may have
/// written the message.
const TOLD_CHARACTERS: usize = 500;

impl Refused {
    pub fn new(node: &str, sqlstate: String, message: &str) -> Refused {
        let message = message.chars().take(TOLD_CHARACTERS).map(|c| if c.is_control() { ' ' } else { c }).collect();
        Refused { node: node.to_owned(), sqlstate, message }
    }

    pub fn by(node: &str, report: &ErrorReportWithLevel) -> Refused {
        let sqlstate = unpack_sqlstate(report.sql_error_code() as i32).map(char::from).iter().collect();
        Refused::new(node, sqlstate, report.message())
    }

    /// Whether the node could not answer within the time limit (57014 is query_canceled).
    pub fn took_too_long(&self) -> bool {
        self.sqlstate == "57014"
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "node \"{}\" reports {} (SQLSTATE {})", self.node, self.message, self.sqlstate)
    }
}
