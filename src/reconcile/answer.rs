//! What a node answers to a question about rows (pure): bounded by bytes, for rows are as large as their users make them.
//!
//! An answer is whole, or it says that it would be too much and how many rows are not; then fewer are asked for. So a key without a
//! row is one that a whole answer does not tell of, and what was not reached is never taken for it.

use super::value::Value;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Bytes of text of the rows that are read for one answer. It bounds what either node takes of memory and of time: hashed, they
/// take a tenth of a second; as they are, they come over a line of 1 Mbit/s in half a minute.
pub const BUDGET: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// From and to nodes of the first version.
    Rows(Vec<Version>),
    ExactRows(Vec<Version>),
    Sums(Sums),
    /// Of each key, whether there could be a row of it.
    Places(Vec<bool>),
    /// Never where one key was asked for.
    TooMuch {
        /// How many rows are not.
        fit: usize,
    },
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// When its transaction was committed, and the origin of that; None: too old for that to be known.
    pub committed: Option<(i64, u16)>,
    pub transaction: u32,
    pub values: Vec<Option<Value>>,
    /// Which of them are kept out of line; empty where nobody has asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub out_of_line: Vec<bool>,
}

/// All rows in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    pub rows: u64,
    /// The sum of a hash of each.
    pub hash: i64,
    /// How many were written under the origin that was asked for.
    pub of_origin: u64,
    /// Of all rows as text.
    pub bytes: u64,
}

impl Sums {
    /// The same rows on two nodes give the same sums.
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
    /// Of rows, for a node that asks in the words of this version or of the first.
    pub fn of_rows(rows: Vec<Version>, is_exact: bool) -> Answer {
        match is_exact {
            true => Answer::ExactRows(rows),
            false => Answer::Rows(rows.into_iter().map(|row| row.map(Value::into_first_version)).collect()),
        }
    }

    /// As this version tells it.
    pub fn exact(self) -> Answer {
        match self {
            Answer::Rows(rows) => {
                Answer::ExactRows(rows.into_iter().map(|row| row.map(Value::from_first_version)).collect())
            }
            answer => answer,
        }
    }

    /// Bytes of text that were read for it.
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

/// Counts what is read for an answer.
pub struct Meter {
    /// One key was asked for: its rows are answered, however large.
    is_single: bool,
    rows: usize,
    bytes: u64,
}

impl Meter {
    pub fn new(keys: usize) -> Meter {
        Meter { is_single: keys <= 1, rows: 0, bytes: 0 }
    }

    /// A row was read; false: it is too much, and no more is read.
    pub fn take(&mut self, bytes: u64) -> bool {
        self.rows += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.is_single || self.bytes <= BUDGET
    }

    /// What is answered, if not too much was taken.
    pub fn answer(self, whole: impl FnOnce(u64) -> Answer) -> Answer {
        if self.is_single || self.bytes <= BUDGET { whole(self.bytes) } else { Answer::TooMuch { fit: self.rows - 1 } }
    }
}

/// Sums up rows: how many there are of each transaction, and their hashes.
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
            // Not even one; the one is asked for alone.
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
