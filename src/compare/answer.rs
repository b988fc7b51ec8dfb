//! Answers questions about ranges from this node's table.

use super::query;
use super::question::{
    Answer, Asked, CutRange, FOLLOWED_BYTES, KEY_BYTES, KeyText, Question, RANGE_BYTES, RANGES, ROWS, ROWS_AT_ONCE,
    Shape, Span, Sum,
};
use crate::pg::owned_table::{self, OwnedTableError};
use crate::pg::spi_text::{Cell, TextRow};
use std::cell::OnceCell;

impl Question {
    /// Answers the question. Needs a transaction with a snapshot.
    ///
    /// # Errors
    /// The table or a column does not exist, the caller may not read the table, the key has no order, or a key is not
    /// valid text.
    pub fn answer(&self) -> Result<Answer, OwnedTableError> {
        match &self.asked {
            Asked::Shape => self.tell_shape(),
            Asked::Cut { bytes, .. } => self.cut(*bytes),
            Asked::Sums { span, bytes } => self.sum_up(span, bytes.map(|bytes| bytes.min(FOLLOWED_BYTES))),
            Asked::Rows { .. } => self.tell_rows(ROWS_AT_ONCE),
            Asked::Keys { keys } => self.tell_rows(2 * keys.len()),
        }
    }

    fn each_row(&self, see: impl FnMut(TextRow<'_>) -> bool) -> Result<(), OwnedTableError> {
        owned_table::each_row(&self.schema, &self.name, |table| query::of_rows(self, table, false), see)
    }

    fn tell_shape(&self) -> Result<Answer, OwnedTableError> {
        let mut shape = Shape::default();
        let query = |table: &owned_table::OwnedTable| Ok(query::shape(table.oid(), &self.publications));
        owned_table::each_row(&self.schema, &self.name, query, |row| {
            if let Cell::Text(text) = row.cell(0) {
                shape =
                    serde_json::from_str(&text).unwrap_or_else(|error| pgrx::error!("the shape of a table: {error}"));
            }
            false
        })?;
        Ok(Answer::Shape(Box::new(shape)))
    }

    fn cut(&self, most_bytes: u64) -> Result<Answer, OwnedTableError> {
        let (mut ranges, mut sum, mut read) = (Vec::new(), Sum::default(), (0_u64, 0_u64));
        let (mut is_broken_off, mut no_text, mut key_bytes) = (false, false, 0);
        self.each_row(|row| {
            let hashed = self.hash(&row);
            sum.add(hashed);
            read = (read.0 + 1, read.1.saturating_add(hashed.1));
            is_broken_off = read.0 >= RANGES as u64 * ROWS || read.1 >= most_bytes;
            if sum.rows >= ROWS || sum.bytes >= RANGE_BYTES || is_broken_off {
                let Some(end) = self.key_of(&row) else {
                    no_text = true;
                    return false;
                };
                // All these keys are sent to the other node in one question.
                key_bytes += end.iter().map(String::len).sum::<usize>();
                ranges.push(CutRange { end: Some(end), sum: std::mem::take(&mut sum) });
                is_broken_off |= ranges.len() >= RANGES || key_bytes >= KEY_BYTES / 2;
            }
            !is_broken_off
        })?;
        if no_text {
            return Err(OwnedTableError::KeyNotText(self.table()));
        }
        if !is_broken_off {
            ranges.push(CutRange { end: None, sum });
        }
        Ok(Answer::Cut(ranges))
    }

    fn sum_up(&self, span: &Span, most_bytes: Option<u64>) -> Result<Answer, OwnedTableError> {
        let (mut sums, mut bytes) = (vec![Sum::default(); span.ends.len()], 0_u64);
        let ends = OnceCell::new();
        let query = |table: &owned_table::OwnedTable| {
            let found = ends.get_or_init(|| query::integer_ends(self, span, table));
            query::of_rows(self, table, found.is_none())
        };
        owned_table::each_row(&self.schema, &self.name, query, |row| {
            let told = row.number(self.columns.len());
            let place = match ends.get().and_then(Option::as_ref) {
                Some(ends) => told.map(|key| ends.partition_point(|end| *end < key)),
                None => told.and_then(|place| usize::try_from(place).ok()),
            };
            if let Some(sum) = place.and_then(|place| sums.get_mut(place)) {
                let hashed = self.hash(&row);
                sum.add(hashed);
                bytes = bytes.saturating_add(hashed.1);
            }
            most_bytes.is_none_or(|most| bytes <= most)
        })?;
        Ok(if most_bytes.is_some_and(|most| bytes > most) { Answer::TooMuch } else { Answer::Sums(sums) })
    }

    fn tell_rows(&self, most: usize) -> Result<Answer, OwnedTableError> {
        let (mut rows, mut bytes, mut no_text) = (Vec::new(), 0, false);
        self.each_row(|row| {
            let Some(key) = self.key_of(&row) else {
                no_text = true;
                return false;
            };
            let (hash, _) = self.hash(&row);
            bytes += key.iter().map(String::len).sum::<usize>();
            rows.push((key, hash));
            bytes < KEY_BYTES
        })?;
        if no_text {
            return Err(OwnedTableError::KeyNotText(self.table()));
        }
        let has_more = rows.len() >= most || bytes >= KEY_BYTES;
        Ok(Answer::Rows { rows, has_more })
    }

    /// The hash of a row, and the length of its text.
    fn hash(&self, row: &TextRow<'_>) -> (i64, u64) {
        row.hash(self.columns.len(), self.seed)
    }

    /// The key of a row; None if a value is not valid text.
    fn key_of(&self, row: &TextRow<'_>) -> Option<KeyText> {
        let value = |column: &usize| match row.cell(*column) {
            Cell::Text(text) => Some(text),
            Cell::Null | Cell::Bytes(_) => None,
        };
        self.key.iter().map(value).collect()
    }

    fn table(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}
