//! Connection strings. libpq checks them, and no message repeats them, because they may contain a password.

use crate::error::SqlError;
use crate::pg::{interrupts, walreceiver};
use pgrx::PgSqlErrorCode;
use std::ffi::CStr;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConninfoError {
    #[error("connection string must not be empty")]
    Empty,
    #[error("invalid connection string syntax")]
    Malformed,
}

/// Checks that libpq can parse the connection string, which is in this database's encoding, as libpq receives the
/// connection strings of subscriptions.
///
/// # Errors
/// The string is empty, or libpq cannot parse it.
pub fn check(conninfo: &CStr) -> Result<(), ConninfoError> {
    if conninfo.to_bytes().trim_ascii().is_empty() {
        return Err(ConninfoError::Empty);
    }
    // libpq's message repeats the part that it could not parse, which may be part of the password.
    interrupts::catch(|| walreceiver::check_conninfo(conninfo, false)).map_err(|_| ConninfoError::Malformed)
}

impl SqlError for ConninfoError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            ConninfoError::Empty => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            // The SQLSTATE that core uses for a subscription's connection string (libpqwalreceiver.c).
            ConninfoError::Malformed => PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        matches!(self, ConninfoError::Malformed).then(|| {
            "libpq cannot parse it. The string is not repeated here, because it may hold a password.".to_owned()
        })
    }

    fn hint(&self) -> Option<String> {
        Some(
            "Use keywords of libpq, such as 'host=… port=5432 dbname=… user=…', or a URI; keep the password in a \
              passfile or a service file."
                .to_owned(),
        )
    }
}
