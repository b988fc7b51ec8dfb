//! The rules for the name of a node (pure).

use crate::error::SqlError;
use pgrx::PgSqlErrorCode;
use std::fmt;

/// The longest name, in bytes. The type `name` holds 63 bytes and silently truncates a longer literal at a character
/// boundary, so that 60 to 63 bytes remain, since a character has at most four. With a limit of 59 a truncated name is
/// never accepted as a complete one.
pub const MAX_BYTES: usize = 59;

/// The name of a node, which has been checked.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeName(String);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NodeNameError {
    #[error("node name must not be empty")]
    Empty,
    #[error("node name is too long")]
    TooLong,
    #[error("node name must not contain control characters")]
    ControlCharacter,
    #[error("node name is not valid in UTF-8")]
    UnknownEncoding,
}

impl NodeName {
    pub fn parse(name: &str) -> Result<NodeName, NodeNameError> {
        if name.trim().is_empty() {
            Err(NodeNameError::Empty)
        } else if name.len() > MAX_BYTES {
            Err(NodeNameError::TooLong)
        } else if name.chars().any(char::is_control) {
            Err(NodeNameError::ControlCharacter)
        } else if name.contains(char::REPLACEMENT_CHARACTER) {
            // The bytes of an SQL_ASCII database are converted to this character if they are not UTF-8. Such a name
            // could not be sent to peers.
            Err(NodeNameError::UnknownEncoding)
        } else {
            Ok(NodeName(name.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl SqlError for NodeNameError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            NodeNameError::Empty | NodeNameError::ControlCharacter | NodeNameError::UnknownEncoding => {
                PgSqlErrorCode::ERRCODE_INVALID_NAME
            }
            NodeNameError::TooLong => PgSqlErrorCode::ERRCODE_NAME_TOO_LONG,
        }
    }

    fn detail(&self) -> Option<String> {
        matches!(self, NodeNameError::TooLong)
            .then(|| format!("A node name has at most {MAX_BYTES} bytes; type name cuts longer ones silently."))
    }

    fn hint(&self) -> Option<String> {
        Some("Choose a short name that is unique in the cluster, such as 'n1'.".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_and_quoted_names_are_accepted() {
        for name in ["n1", "N 1", "Zürich", "o'hara", "\"quoted\"", "日本", &"x".repeat(MAX_BYTES)] {
            assert_eq!(NodeName::parse(name).map(|name| name.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn illegal_names_are_refused_each_with_its_reason() {
        assert_eq!(NodeName::parse(""), Err(NodeNameError::Empty));
        assert_eq!(NodeName::parse("  "), Err(NodeNameError::Empty));
        assert_eq!(NodeName::parse(&"x".repeat(MAX_BYTES + 1)), Err(NodeNameError::TooLong));
        assert_eq!(NodeName::parse("a\nb"), Err(NodeNameError::ControlCharacter));
        assert_eq!(NodeName::parse("a\u{fffd}"), Err(NodeNameError::UnknownEncoding));
    }

    proptest! {
        /// A text that is too long for the type `name` is refused after that type has truncated it.
        #[test]
        fn a_name_that_was_cut_is_never_accepted(text in "\\PC{16,80}") {
            prop_assume!(text.len() > 63);
            let cut = &text[..text.floor_char_boundary(63)];
            prop_assert!(NodeName::parse(cut).is_err());
        }
    }
}
