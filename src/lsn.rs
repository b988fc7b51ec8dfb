//! WAL positions, as two types that cannot be compared with each other (pure). Confusing a position in the WAL of the
//! node that committed a transaction with one in the WAL of the server at hand would lose data.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! lsn_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            pub const ZERO: $name = $name(0);

            /// None for 0/0, which PostgreSQL uses for "no position".
            pub fn known(self) -> Option<$name> {
                (self != $name::ZERO).then_some(self)
            }

            /// The bytes from `earlier` to `self`; zero if `earlier` is not earlier.
            pub fn bytes_since(self, earlier: $name) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = ParseLsnError;

            fn from_str(text: &str) -> Result<$name, ParseLsnError> {
                parse(text).map($name).ok_or(ParseLsnError)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

lsn_type! {
    /// A position in the WAL of the node that first committed a transaction: the end of the commit record there.
    OriginLsn
}
lsn_type! {
    /// A position in the WAL of the server at hand.
    LocalLsn
}

impl OriginLsn {
    /// A position after all others. As a released position it means that a node cannot prove to have any of an origin's
    /// WAL.
    pub const INFINITY: OriginLsn = OriginLsn(u64::MAX);
}

impl LocalLsn {
    /// This position as other nodes record it for transactions that were first committed on the server at hand.
    pub fn as_origin(self) -> OriginLsn {
        OriginLsn(self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a WAL position")]
pub struct ParseLsnError;

/// Parses `X/Y` in hexadecimal, as the type pg_lsn does.
fn parse(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |digits: &str| {
        let legal = !digits.is_empty() && digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        legal.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
    };
    Some((part(high)? << 32) | part(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_position_is_refused() {
        for text in ["", "0", "/", "0/", "/0", "0/0/0", "g/0", "0/123456789", "+1/0", " 0/0"] {
            assert_eq!(text.parse::<LocalLsn>(), Err(ParseLsnError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_position_survives_being_written_and_read(value: u64) {
            prop_assert_eq!(OriginLsn(value).to_string().parse(), Ok(OriginLsn(value)));
        }
    }
}
