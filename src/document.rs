//! The JSON documents in our security labels, as text (pure).
//!
//! Labels of databases and subscriptions stand in a shared catalog, which databases of every encoding read: they are
//! ASCII, all other characters escaped.

use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DocumentError(pub String);

/// The document as ASCII.
pub fn to_text(document: &impl Serialize) -> String {
    // Structs of strings, numbers and lists cannot fail to be written.
    let json = serde_json::to_string(document).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, DocumentError> {
    if !text.is_ascii() {
        return Err(DocumentError("characters beyond ASCII must be written as \\uXXXX".to_owned()));
    }
    serde_json::from_str(text).map_err(|error| DocumentError(error.to_string()))
}
