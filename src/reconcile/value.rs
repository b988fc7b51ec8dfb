//! A value of a row as it is compared (pure): a long one by its hash, for a row may be as large as a gigabyte.

use serde::{Deserialize, Serialize};

/// Bytes of text beyond which a value is long. Most values of most tables are shorter, and are at hand when a row is to be
/// written; a hash takes a tenth of it.
const LONG: usize = 1024;

/// As a node tells it: a string, or an object in the place of a long one. No string is taken for a hash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Value {
    Text(String),
    /// Of the text in UTF-8, whatever the encoding of the node's database is.
    Hash {
        bytes: u64,
        sha256: String,
    },
}

impl Value {
    /// A value of which the text is not needed.
    pub fn to_compare(text: String, sha256: impl Fn(&str) -> String) -> Value {
        if text.len() <= LONG {
            return Value::Text(text);
        }
        if !is_readable(&text) {
            // That is all that matters of it.
            return Value::Text(char::REPLACEMENT_CHARACTER.to_string());
        }
        Value::Hash { bytes: text.len() as u64, sha256: sha256(&text) }
    }

    /// None: only its hash is known.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Hash { .. } => None,
        }
    }

    pub fn is_readable(&self) -> bool {
        self.text().is_none_or(is_readable)
    }

    /// Bytes of its text.
    pub fn bytes(&self) -> u64 {
        match self {
            Value::Text(text) => text.len() as u64,
            Value::Hash { bytes, .. } => *bytes,
        }
    }

    /// About what it takes in memory.
    pub fn kept_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Value::Text(text) => text.len(),
                Value::Hash { sha256, .. } => sha256.len(),
            }
    }
}

/// All of it could be written in UTF-8.
fn is_readable(text: &str) -> bool {
    !text.contains(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Value {
        // Any function will do, as long as it tells texts apart.
        Value::to_compare(text.to_owned(), |text| format!("{:?}", text.as_bytes().last()))
    }

    #[test]
    fn a_long_value_is_told_by_its_length_and_hash() {
        assert_eq!(of(&"x".repeat(LONG)).bytes(), LONG as u64);
        assert!(of(&"x".repeat(LONG)).text().is_some());
        let long = "x".repeat(LONG);
        assert_eq!(of(&format!("{long}y")).text(), None);
        assert_ne!(of(&format!("{long}y")), of(&format!("{long}z")));
        assert_ne!(of(&format!("{long}y")), of(&format!("{long}yy")));
    }

    #[test]
    fn no_text_is_taken_for_a_hash() {
        let hash = of(&"x".repeat(LONG + 1));
        let text = serde_json::to_string(&hash).expect("written");
        let told = serde_json::to_string(&Value::Text(text.clone())).expect("written");
        assert_eq!(serde_json::from_str::<Value>(&told).expect("read"), Value::Text(text.clone()));
        assert_eq!(serde_json::from_str::<Value>(&text).expect("read"), hash);
    }

    #[test]
    fn what_cannot_be_read_is_known_whatever_its_length() {
        assert!(of(&"x".repeat(LONG + 1)).is_readable());
        for length in [1, LONG, 10 * LONG] {
            assert!(!of(&(String::from(char::REPLACEMENT_CHARACTER) + &"x".repeat(length))).is_readable());
        }
    }
}
