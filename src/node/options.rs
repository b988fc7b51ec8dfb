//! The options of the foreign-data wrapper `spock_node`. They are checked whenever a server or user mapping of it is
//! created or altered, by node_create() or by CREATE SERVER.

use super::dsn::{Dsn, DsnError};
use super::servers::DSN;
use crate::error::SqlError;
use crate::identity::{DATABASE, PEER_DATABASE, PEER_SYSTEM_IDENTIFIER, SYSTEM_IDENTIFIER};
use crate::pg::process;
use crate::pg::text::{Text, to_utf8};
use pgrx::{PgSqlErrorCode, pg_sys};
use std::ffi::CString;

#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    #[error("permission denied to define a node")]
    NotSuperuser,
    #[error("invalid option \"{name}\"")]
    Unknown { name: String, valid: &'static [&'static str] },
    #[error("invalid value for option \"{name}\"")]
    NotANumber { name: String },
    #[error(transparent)]
    Dsn(#[from] DsnError),
}

/// Checks the options of a server or user mapping. Only superusers define nodes, even if others have USAGE on the
/// wrapper, because a poller connects to where a node's options point, as the operating system user of the server.
///
/// # Errors
/// The user is not a superuser, or an option is unknown or has an invalid value.
pub fn check(options: &[Option<Text>], catalog: pg_sys::Oid) -> Result<(), OptionError> {
    if !process::is_superuser() {
        return Err(OptionError::NotSuperuser);
    }
    let valid: &[&str] = match catalog {
        pg_sys::ForeignServerRelationId => &[SYSTEM_IDENTIFIER, DATABASE, PEER_SYSTEM_IDENTIFIER, PEER_DATABASE],
        pg_sys::UserMappingRelationId => &[DSN],
        _ => &[],
    };
    for option in options.iter().flatten() {
        let bytes = option.0.to_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        // Both parts are cut from a C string, so they contain no null byte.
        let name = to_utf8(&CString::new(&bytes[..end]).unwrap_or_default());
        let value = CString::new(bytes.get(end + 1..).unwrap_or_default()).unwrap_or_default();
        if !valid.contains(&name.as_str()) {
            return Err(OptionError::Unknown { name, valid });
        }
        if name == DSN {
            Dsn::parse(&value)?;
        } else if value.is_empty() || !value.to_bytes().iter().all(u8::is_ascii_digit) {
            return Err(OptionError::NotANumber { name });
        }
    }
    Ok(())
}

impl SqlError for OptionError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            OptionError::NotSuperuser => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            OptionError::Unknown { .. } => PgSqlErrorCode::ERRCODE_FDW_INVALID_OPTION_NAME,
            OptionError::NotANumber { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            OptionError::Dsn(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            OptionError::NotSuperuser => Some("Only a superuser may do this.".to_owned()),
            OptionError::Dsn(error) => error.detail(),
            OptionError::Unknown { .. } | OptionError::NotANumber { .. } => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            OptionError::Unknown { valid: [], .. } => Some("There are no valid options in this context.".to_owned()),
            OptionError::Unknown { valid, .. } => {
                Some(format!("Valid options in this context are: {}.", valid.join(", ")))
            }
            OptionError::NotSuperuser | OptionError::NotANumber { .. } => Some(
                "Nodes are made by spock.node_create() and spock.peer_create(), which a superuser calls.".to_owned(),
            ),
            OptionError::Dsn(error) => error.hint(),
        }
    }
}
