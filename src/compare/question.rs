//! The questions about ranges of a table's rows, which both nodes are asked, and their answers (pure). They are JSON
//! documents in ASCII. Whatever a peer sends is bounded here.

use crate::document;
use serde::{Deserialize, Serialize};

/// The values of a key's columns as text.
pub type KeyText = Vec<String>;

/// The most ranges of one question. Together they have as many rows as an answer costs little time for.
pub const RANGES: usize = 512;
/// The number of rows after which a range ends. Where one row in a hundred differs, about half of such ranges have none
/// that does, and of a range with one all rows are told one by one, which takes longer than their sum.
pub const ROWS: u64 = 64;
/// The number of bytes of rows as text after which a range ends.
pub const RANGE_BYTES: u64 = 1 << 20;
/// The number of bytes of rows as text after which the first node of a span reads no more. This bounds the time of an
/// answer and the memory for the keys of a span.
pub const SPAN_BYTES: u64 = 8 << 20;
/// A node whose rows between the other node's boundaries are more than this leaves it to the asking node to take its
/// own boundaries.
pub const FOLLOWED_BYTES: u64 = 4 * SPAN_BYTES;
/// The most rows of ranges that are answered at once.
pub const ROWS_AT_ONCE: usize = 8_000;
/// The most keys that are asked for at once.
pub const KEYS: usize = 2_000;
/// The number of bytes of keys after which an answer ends. libpqwalreceiver waits without a limit for a peer that does
/// not read what it is sent, so a question is no longer than this either.
pub const KEY_BYTES: usize = 256 << 10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub schema: String,
    pub name: String,
    /// The columns that are hashed, in this order on both nodes.
    pub columns: Vec<String>,
    /// The positions of the key's columns in `columns`, in the order of the key.
    pub key: Vec<usize>,
    /// The publications of the asked node whose row filters apply. The filters themselves are never sent.
    pub publications: Vec<String>,
    /// Changes with each comparison, so that nobody can make rows whose hashes are alike.
    pub seed: i64,
    pub asked: Asked,
}

/// A run of ranges: the first begins after the key `after`, or at the first row, and each ends with a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub after: Option<KeyText>,
    /// The last key of each range. None, as the last one only: the end of the table.
    pub ends: Vec<Option<KeyText>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// What the table is like. Columns and key are ignored.
    Shape,
    /// The next ranges after a key as the asked node divides them, with their sums. `bytes`: see [`SPAN_BYTES`].
    Cut { after: Option<KeyText>, bytes: u64 },
    /// The sums of ranges that the other node has divided. `bytes`: after so many the answer is `TooMuch`; None: never.
    Sums { span: Span, bytes: Option<u64> },
    /// The keys and hashes of the rows in the ranges with these positions in the span, in the order of the asked node,
    /// from after a key on.
    Rows { span: Span, wanted: Vec<usize>, from: Option<KeyText> },
    /// The hashes of the rows with these keys, whether or not a row filter excludes them.
    Keys { keys: Vec<KeyText> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Shape(Box<Shape>),
    Cut(Vec<CutRange>),
    Sums(Vec<Sum>),
    /// The node has far more rows between the boundaries than the other one.
    TooMuch,
    Rows {
        rows: Vec<(KeyText, i64)>,
        /// Whether there may be further rows.
        has_more: bool,
    },
}

/// A range and its sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRange {
    /// Its last key; None: it reaches to the end of the table.
    pub end: Option<KeyText>,
    pub sum: Sum,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    pub rows: u64,
    /// The sum of the rows' hashes, which wraps around.
    pub hash: i64,
    /// The length of the rows as text.
    pub bytes: u64,
}

impl Sum {
    pub fn add(&mut self, (hash, bytes): (i64, u64)) {
        self.rows += 1;
        self.hash = self.hash.wrapping_add(hash);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether both are sums over the same rows.
    pub fn is_like(&self, other: &Sum) -> bool {
        (self.rows, self.hash) == (other.rows, other.hash)
    }
}

/// What a table is like on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// All columns.
    pub columns: Vec<String>,
    /// Those that the publications publish; if none of them publishes the table, those that are not generated.
    pub published: Vec<String>,
    /// Whether one of the publications publishes the table.
    pub is_published: bool,
    /// Whether a row filter excludes some of its rows.
    pub is_filtered: bool,
    /// The columns of the replica identity or the primary key; None if it has neither.
    pub key: Option<Vec<String>>,
    /// What the order of the key's values depends on. Two nodes with the same text order alike. None: it is not known,
    /// because a type is a user's own.
    pub order: Option<String>,
    /// The number of rows, as the planner estimates it.
    pub rows: u64,
    /// Whether a copy of it on that node is under way, or was ended before it was complete.
    #[serde(default)]
    pub is_incomplete: bool,
}

impl Question {
    pub fn to_text(&self) -> String {
        document::to_text(self)
    }

    /// Reads a question that a peer has sent. None if it is malformed, too large, or of a later version.
    pub fn of_text(text: &str) -> Option<Question> {
        let question: Question = serde_json::from_str(text).ok()?;
        question.is_sound().then_some(question)
    }

    fn is_sound(&self) -> bool {
        let is_key = |key: &KeyText| key.len() == self.key.len();
        let may_be_key = |key: &Option<KeyText>| key.as_ref().is_none_or(is_key);
        let is_span = |span: &Span| {
            (1..=RANGES).contains(&span.ends.len())
                && may_be_key(&span.after)
                && span.ends.iter().all(may_be_key)
                && span.ends.iter().rev().skip(1).all(Option::is_some)
        };
        let has_key = !self.key.is_empty() && self.key.iter().all(|column| *column < self.columns.len());
        match &self.asked {
            Asked::Shape => true,
            Asked::Cut { after, .. } => has_key && may_be_key(after),
            Asked::Sums { span, .. } => has_key && is_span(span),
            Asked::Rows { span, wanted, from } => {
                has_key && is_span(span) && may_be_key(from) && wanted.iter().all(|place| *place < span.ends.len())
            }
            Asked::Keys { keys } => has_key && keys.len() <= KEYS && keys.iter().all(is_key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(asked: Asked) -> Question {
        let (columns, key) = (vec!["a".to_owned(), "b".to_owned()], vec![1, 0]);
        Question {
            schema: "public".to_owned(),
            name: "t".to_owned(),
            columns,
            key,
            publications: Vec::new(),
            seed: -7,
            asked,
        }
    }

    fn key(value: &str) -> KeyText {
        vec![value.to_owned(), "ö".to_owned()]
    }

    #[test]
    fn a_question_is_read_as_it_was_written_in_ascii() {
        let span = Span { after: Some(key("1")), ends: vec![Some(key("5")), None] };
        for asked in [
            Asked::Shape,
            Asked::Cut { after: None, bytes: 5 },
            Asked::Sums { span: span.clone(), bytes: None },
            Asked::Rows { span, wanted: vec![1], from: Some(key("3")) },
            Asked::Keys { keys: vec![key("1")] },
        ] {
            let question = question(asked);
            let text = question.to_text();
            assert!(text.is_ascii(), "{text}");
            assert_eq!(Question::of_text(&text), Some(question));
        }
    }

    #[test]
    fn a_malformed_question_is_refused() {
        let short = vec!["1".to_owned()];
        let span = |ends: Vec<Option<KeyText>>| Span { after: None, ends };
        for asked in [
            Asked::Cut { after: Some(short.clone()), bytes: 1 },
            Asked::Sums { span: span(Vec::new()), bytes: None },
            Asked::Sums { span: span(vec![None, Some(key("1"))]), bytes: None },
            Asked::Sums { span: span(vec![Some(short.clone())]), bytes: None },
            Asked::Sums { span: span(vec![Some(key("1")); RANGES + 1]), bytes: None },
            Asked::Rows { span: span(vec![None]), wanted: vec![1], from: None },
            Asked::Keys { keys: vec![short] },
            Asked::Keys { keys: vec![key("1"); KEYS + 1] },
        ] {
            assert_eq!(Question::of_text(&question(asked.clone()).to_text()), None, "{asked:?}");
        }
        let mut no_key = question(Asked::Cut { after: None, bytes: 1 });
        no_key.key.clear();
        assert_eq!(Question::of_text(&no_key.to_text()), None);
        no_key.key = vec![2];
        assert_eq!(Question::of_text(&no_key.to_text()), None);
    }

    #[test]
    fn sums_of_the_same_rows_in_another_order_are_alike() {
        let (mut one, mut other) = (Sum::default(), Sum::default());
        for row in [(i64::MAX, 3), (5, 4), (-9, 5)] {
            one.add(row);
        }
        for row in [(-9, 5), (i64::MAX, 3), (5, 4)] {
            other.add(row);
        }
        assert!(one.is_like(&other));
        other.add((0, 0));
        assert!(!one.is_like(&other), "a row whose hash is 0 is counted");
    }
}
