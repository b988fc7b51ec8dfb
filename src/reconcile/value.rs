//! A value of a row as it is compared (pure). A long value is represented by its hash, because a row may be as large as
//! a gigabyte.

use serde::{Deserialize, Serialize};

/// A value with more bytes of text than this is long. Most values of most tables are shorter, and are at hand when a
/// row is to be written. A hash takes a tenth of this.
const LONG: usize = 1024;

/// A value in a node's answer: a JSON string, or a JSON object in its place. So no text is taken for anything else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Value {
    Text(String),
    /// The length and hash of the text in UTF-8, whatever the encoding of the node's database is.
    Hash {
        bytes: u64,
        sha256: String,
    },
    /// The number of bytes of a value that is no text, because the database's encoding gives its bytes no meaning
    /// (SQL_ASCII).
    Bytes {
        no_text: u64,
    },
}

impl Value {
    /// A value to be compared, whose text need not be known.
    pub fn to_compare(text: String, sha256: impl Fn(&str) -> String) -> Value {
        if text.len() <= LONG {
            return Value::Text(text);
        }
        Value::Hash { bytes: text.len() as u64, sha256: sha256(&text) }
    }

    /// The text; None if it is not known.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            Value::Hash { .. } | Value::Bytes { .. } => None,
        }
    }

    /// Like [`Value::text`], without a copy.
    pub fn into_text(self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text),
            Value::Hash { .. } | Value::Bytes { .. } => None,
        }
    }

    /// Whether the value can be compared with another one.
    pub fn is_comparable(&self) -> bool {
        !matches!(self, Value::Bytes { .. })
    }

    /// The length of the text in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Value::Text(text) => text.len() as u64,
            Value::Hash { bytes, .. } | Value::Bytes { no_text: bytes } => *bytes,
        }
    }

    /// Converts a value for a node of version 0.1.0, which knows only U+FFFD for a value that cannot be compared.
    pub fn into_first_version(self) -> Value {
        match self {
            Value::Bytes { .. } => Value::Text(char::REPLACEMENT_CHARACTER.to_string()),
            value => value,
        }
    }

    /// Converts a value that a node of version 0.1.0 has answered.
    pub fn from_first_version(value: Value) -> Value {
        match value {
            Value::Text(text) if text.contains(char::REPLACEMENT_CHARACTER) => {
                Value::Bytes { no_text: text.len() as u64 }
            }
            value => value,
        }
    }

    /// The approximate size in memory, in bytes.
    pub fn kept_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Value::Text(text) => text.len(),
                Value::Hash { sha256, .. } => sha256.len(),
                Value::Bytes { .. } => 0,
            }
    }
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
    fn no_text_is_taken_for_anything_else() {
        for value in [of(&"x".repeat(LONG + 1)), Value::Bytes { no_text: 3 }] {
            let text = serde_json::to_string(&value).expect("written");
            let told = serde_json::to_string(&Value::Text(text.clone())).expect("written");
            assert_eq!(serde_json::from_str::<Value>(&told).expect("read"), Value::Text(text.clone()));
            assert_eq!(serde_json::from_str::<Value>(&text).expect("read"), value);
        }
        // U+FFFD is text like any other.
        assert!(of("\u{fffd}").is_comparable());
        assert!(of(&"\u{fffd}".repeat(LONG)).is_comparable());
        assert!(!Value::Bytes { no_text: 1 }.is_comparable());
    }

    #[test]
    fn a_node_of_the_first_version_is_told_and_tells_by_a_character_what_cannot_be_compared() {
        let told = Value::Bytes { no_text: 5 }.into_first_version();
        assert_eq!(told, Value::Text("\u{fffd}".to_owned()));
        assert!(!Value::from_first_version(told).is_comparable());
        assert_eq!(Value::from_first_version(of("x").into_first_version()), of("x"));
    }
}
