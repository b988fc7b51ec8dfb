//! What a node answers to a question about rows (pure). An answer is bounded by bytes, because rows may be of any size.
//!
//! An answer is complete, or it says that it would be too large and how many rows would fit; then fewer rows are asked
//! for. So a key that a complete answer does not mention has no row, and a key that was not reached is never taken for
//! one without a row.

use super::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The most bytes of text of the rows that are read for one answer. This bounds memory and time on both nodes: hashing
/// takes a tenth of a second; rows that are sent as they are take half a minute over a line of 1 Mbit/s.
pub const BUDGET: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Rows in the format of version 0.1.0, from or for a node of that version.
    Rows(Vec<Version>),
    /// Rows in the format of this version.
    ExactRows(Vec<Version>),
    Sums(Sums),
    /// For each key, whether the table could hold its row.
    Places(Vec<bool>),
    /// The answer would be too large. This is never the answer to a question for one key.
    TooMuch {
        /// How many rows would fit.
        fit: usize,
    },
}

/// A row as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The commit time, in microseconds since 2000-01-01, and the id of the replication origin. None if the version is
    /// too old for these to be known.
    pub committed: Option<(i64, u16)>,
    pub transaction: u32,
    pub values: Vec<Option<Value>>,
    /// Which of the values are stored out of line; empty if this was not asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_line: Vec<bool>,
}

/// A summary of all rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub rows: u64,
    /// The sum of the rows' hashes, which wraps around.
    pub hash: i64,
    /// How many rows were written under the origin that was asked for.
    pub of_origin: u64,
    /// The length of all rows as text, in bytes.
    pub bytes: u64,
}

impl Sums {
    /// Whether both are sums over the same rows.
    pub fn are_alike(&self, other: &Sums) -> bool {
        (self.rows, self.hash) == (other.rows, other.hash)
    }
}

impl Version {
    fn map(self, f: impl Fn(Value) -> Value) -> Version {
        Version { values: self.values.into_iter().map(|value| value.map(&f)).collect(), ..self }
    }
}

impl Answer {
    /// An answer of rows, in the format of this version or, for a node of version 0.1.0, in that one's.
    pub fn of_rows(rows: Vec<Version>, is_exact: bool) -> Answer {
        match is_exact {
            true => Answer::ExactRows(rows),
            false => Answer::Rows(rows.into_iter().map(|row| row.map(Value::into_first_version)).collect()),
        }
    }

    /// Converts an answer to the format of this version.
    pub fn exact(self) -> Answer {
        match self {
            Answer::Rows(rows) => {
                Answer::ExactRows(rows.into_iter().map(|row| row.map(Value::from_first_version)).collect())
            }
            answer => answer,
        }
    }

    /// The number of bytes of text that were read for the answer.
    pub fn bytes(&self) -> u64 {
        match self {
            Answer::Rows(rows) | Answer::ExactRows(rows) => {
                let values = rows.iter().flat_map(|row| row.values.iter().flatten());
                values.map(Value::bytes).fold(0, u64::saturating_add)
            }
            Answer::Sums(sums) => sums.bytes,
            Answer::Places(_) => 0,
            Answer::TooMuch { .. } => BUDGET,
        }
    }
}

/// Counts the bytes that are read for an answer.
pub struct Meter {
    /// Whether one key was asked for: all rows with it are answered, however large.
    is_single: bool,
    rows: usize,
    bytes: u64,
}

impl Meter {
    pub fn new(keys: usize) -> Meter {
        Meter { is_single: keys <= 1, rows: 0, bytes: 0 }
    }

    /// Counts a row of so many bytes. Returns false if that is too much: no more rows are to be read.
    pub fn take(&mut self, bytes: u64) -> bool {
        self.rows += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_single || self.bytes <= BUDGET
    }

    /// The answer: what `whole` makes of the number of bytes, or `TooMuch`.
    pub fn answer(self, whole: impl FnOnce(u64) -> Answer) -> Answer {
        if self.is_single || self.bytes <= BUDGET { whole(self.bytes) } else { Answer::TooMuch { fit: self.rows - 1 } }
    }
}

/// Sums up rows: the number of rows per transaction, and the sum of their hashes.
#[derive(Default)]
pub struct Summing {
    pub transactions: HashMap<u32, u64>,
    pub hash: i64,
}

impl Summing {
    pub fn add(&mut self, transaction: u32, hash: i64) {
        *self.transactions.entry(transaction).or_default() += 1;
        self.hash = self.hash.wrapping_add(hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_says_how_many_rows_would_be() {
        for (keys, sizes, expected) in [
            (3, vec![10, 20], Answer::Rows(vec![])),
            (3, vec![BUDGET], Answer::Rows(vec![])),
            (3, vec![BUDGET, 1], Answer::TooMuch { fit: 1 }),
            (3, vec![1, BUDGET / 2, BUDGET], Answer::TooMuch { fit: 2 }),
            // Not even one row fits; that row is then asked for alone.
            (2, vec![BUDGET + 1], Answer::TooMuch { fit: 0 }),
            (1, vec![BUDGET + 1, u64::MAX], Answer::Rows(vec![])),
            (5, vec![], Answer::Rows(vec![])),
        ] {
            let mut meter = Meter::new(keys);
            let is_whole = sizes.iter().all(|bytes| meter.take(*bytes));
            assert_eq!(is_whole, !matches!(expected, Answer::TooMuch { .. }), "{sizes:?}");
            assert_eq!(meter.answer(|_| Answer::Rows(vec![])), expected, "{sizes:?}");
        }
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let values = vec![None, Some(Value::Text("{\"bytes\":1}".to_owned()))];
        let row = Version { committed: Some((5, 1)), transaction: 7, values, out_of_line: vec![] };
        for answer in [
            Answer::Rows(vec![row.clone()]),
            Answer::ExactRows(vec![row]),
            Answer::Sums(Sums { rows: 1, hash: -1, of_origin: 0, bytes: 9 }),
            Answer::TooMuch { fit: 3 },
        ] {
            let text = serde_json::to_string(&answer).expect("written");
            assert_eq!(serde_json::from_str::<Answer>(&text).expect("read"), answer, "{text}");
        }
    }
}
