//! A row that a peer has returned; whoever reads a value chooses its type (pure).

use super::error::RemoteError;
use std::str::FromStr;

#[derive(Debug, PartialEq, Eq)]
pub struct PeerRow(Vec<Option<String>>);

impl PeerRow {
    pub fn new(values: Vec<Option<String>>) -> PeerRow {
        PeerRow(values)
    }

    /// All values, unconverted.
    pub fn into_values(self) -> Vec<Option<String>> {
        self.0
    }

    /// The value of a column, counted from zero; None for NULL.
    ///
    /// # Errors
    /// There is no such column, or its value cannot be parsed.
    pub fn optional<T: FromStr>(&self, column: usize) -> Result<Option<T>, RemoteError> {
        let value = self.0.get(column).ok_or_else(|| RemoteError::Unexpected(format!("no column {column}")))?;
        match value {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map(Some)
                .map_err(|_| RemoteError::Unexpected(format!("column {column} is no {}", std::any::type_name::<T>()))),
        }
    }

    /// The value of a column, counted from zero, that is never NULL.
    ///
    /// # Errors
    /// There is no such column, or its value is NULL or cannot be parsed.
    pub fn value<T: FromStr>(&self, column: usize) -> Result<T, RemoteError> {
        self.optional(column)?.ok_or_else(|| RemoteError::Unexpected(format!("column {column} is null")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_and_nulls_are_told_from_values() {
        let row = PeerRow::new(vec![Some("42".into()), None, Some("n1".into())]);
        assert_eq!(row.value::<u64>(0), Ok(42));
        assert_eq!(row.optional::<u64>(1), Ok(None));
        assert_eq!(row.value::<String>(2), Ok("n1".to_owned()));
    }

    #[test]
    fn what_is_not_there_or_of_another_type_is_an_error() {
        let row = PeerRow::new(vec![Some("n1".into()), None]);
        assert!(row.value::<u64>(0).is_err());
        assert!(row.value::<String>(1).is_err());
        assert!(row.value::<String>(2).is_err());
    }
}
