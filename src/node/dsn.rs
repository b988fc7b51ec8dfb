//! Connection strings. libpq checks them, and no message repeats them, because they may contain a password.

use crate::error::SqlError;
use crate::pg::text::Text;
use crate::pg::{interrupts, walreceiver};
use pgrx::PgSqlErrorCode;
use std::ffi::{CStr, CString};
use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DsnError {
    #[error("connection string must not be empty")]
    Empty,
    #[error("invalid connection string syntax")]
    Malformed,
}

/// A connection string that libpq can parse, in this database's encoding, as libpq receives it. It has no Display, and
/// its Debug does not show it, because it may contain a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Dsn(CString);

impl Dsn {
    /// Takes what a user has given.
    ///
    /// # Errors
    /// The string is empty, or libpq cannot parse it.
    pub fn parse(text: &CStr) -> Result<Dsn, DsnError> {
        if text.to_bytes().trim_ascii().is_empty() {
            return Err(DsnError::Empty);
        }
        // libpq's message repeats the part that it could not parse, which may be part of the password.
        interrupts::catch(|| walreceiver::check_conninfo(text, false)).map_err(|_| DsnError::Malformed)?;
        Ok(Dsn(text.to_owned()))
    }

    /// Takes what a catalog has: it was checked when it was written.
    pub fn of_catalog(text: Text) -> Dsn {
        Dsn(text.0)
    }

    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl fmt::Debug for Dsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Dsn(…)")
    }
}

impl SqlError for DsnError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            DsnError::Empty => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            // The SQLSTATE that core uses for a subscription's connection string (libpqwalreceiver.c).
            DsnError::Malformed => PgSqlErrorCode::ERRCODE_SYNTAX_ERROR,
        }
    }

    fn detail(&self) -> Option<String> {
        matches!(self, DsnError::Malformed).then(|| {
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
