//! The identity of an intent: a random UUID (pure).

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use uuid::{Builder, Uuid};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct IntentId(pub [u8; 16]);

impl IntentId {
    /// Makes a version 4 UUID out of 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> IntentId {
        IntentId(Builder::from_random_bytes(bytes).into_uuid().into_bytes())
    }
}

impl fmt::Display for IntentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).as_hyphenated().fmt(formatter)
    }
}

impl fmt::Debug for IntentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the id of an intent")]
pub struct ParseIdError;

impl FromStr for IntentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<IntentId, ParseIdError> {
        Uuid::try_parse(text).map(|id| IntentId(id.into_bytes())).map_err(|_| ParseIdError)
    }
}

impl Serialize for IntentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IntentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IntentId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_type_uuid_writes_it() {
        let id = IntentId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "x", "ffffffff-ffff-4fff-bfff-fffffffffff", "gfffffff-ffff-4fff-bfff-ffffffffffff"] {
            assert_eq!(text.parse::<IntentId>(), Err(ParseIdError), "{text}");
        }
    }
}
