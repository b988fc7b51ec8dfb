//! Conversion of this library's errors into PostgreSQL errors: each area has an enum that gives every variant its
//! SQLSTATE, detail and hint.
//!
//! Errors travel as `Result` and are raised only at the entry of a SQL function or of a worker. Otherwise the ERROR
//! would skip Rust values that must be dropped.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// An error that a user can read. Messages have PostgreSQL's style: lower case, no full stop, quoted names, and never a
/// connection string. Detail and hint are sentences.
pub trait SqlError: std::error::Error {
    fn sqlstate(&self) -> PgSqlErrorCode;

    fn detail(&self) -> Option<String> {
        None
    }

    /// The command or action that the user should try next.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// The report of an error, ready to be raised or logged at any level.
pub fn report_of(error: &impl SqlError) -> ErrorReport {
    let mut report = ErrorReport::new(error.sqlstate(), error.to_string(), "spock_recovery");
    if let Some(detail) = error.detail() {
        report = report.set_detail(detail);
    }
    if let Some(hint) = error.hint() {
        report = report.set_hint(hint);
    }
    report
}

/// The five characters of a SQLSTATE that core has packed into an int (utils/elog.h, MAKE_SQLSTATE): six bits each, the
/// first character in the lowest bits.
pub fn unpack_sqlstate(packed: i32) -> [u8; 5] {
    std::array::from_fn(|index| ((packed >> (6 * index)) & 0x3f) as u8 + b'0')
}

/// The error code for the five characters of a SQLSTATE; None if this library does not know it.
pub fn known_sqlstate(text: &str) -> Option<PgSqlErrorCode> {
    let code: &[u8; 5] = text.as_bytes().try_into().ok()?;
    if !code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()) {
        return None;
    }
    let packed =
        code.iter().enumerate().fold(0, |sum, (index, byte)| sum | (i32::from(byte - b'0') & 0x3f) << (6 * index));
    let known = PgSqlErrorCode::from(packed);
    (known as i32 == packed).then_some(known)
}

/// Raises the error, which ends the statement.
pub fn raise(error: &impl SqlError) -> ! {
    report_of(error).report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return")
}

/// For SQL functions: returns the value, or raises the error.
pub trait OrRaise<T> {
    fn or_raise(self) -> T;
}

impl<T, E: SqlError> OrRaise<T> for Result<T, E> {
    fn or_raise(self) -> T {
        match self {
            Ok(value) => value,
            Err(error) => raise(&error),
        }
    }
}

/// A session has loaded the library, instead of the postmaster.
#[derive(Debug, thiserror::Error)]
#[error("spock_recovery must be loaded by shared_preload_libraries")]
pub struct NotPreloaded;

impl SqlError for NotPreloaded {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
    }

    fn detail(&self) -> Option<String> {
        Some("It needs shared memory and background workers, which are reserved when the server starts.".to_owned())
    }

    fn hint(&self) -> Option<String> {
        Some(
            "Add spock_recovery to shared_preload_libraries (ALTER SYSTEM SET shared_preload_libraries = \
             'spock_recovery', after the libraries that are there already) and restart the server."
                .to_owned(),
        )
    }
}

/// A query of this library on the catalogs has failed: this is a bug, or a catalog was tampered with.
impl SqlError for pgrx::spi::Error {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_known_by_its_text() {
        for (text, code) in [
            ("23505", Some(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION)),
            ("P0001", Some(PgSqlErrorCode::ERRCODE_RAISE_EXCEPTION)),
            ("XX000", Some(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR)),
            ("ZZ123", None),
            ("", None),
            ("2350", None),
            ("2350a", None),
        ] {
            let known = known_sqlstate(text);
            assert_eq!(known, code, "{text}");
            if let Some(known) = known {
                assert_eq!(unpack_sqlstate(known as i32), text.as_bytes());
            }
        }
    }
}
