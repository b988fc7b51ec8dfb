//! Answers questions about ranges from this node's table.

use super::query;
use super::question::{
    Answer, Asked, CutRange, FOLLOWED_BYTES, KEY_BYTES, KeyText, Question, RANGE_BYTES, RANGES, ROWS, ROWS_AT_ONCE,
    Shape, Sum,
};
use crate::pg::owned_table::{self, OwnedTableError};
use crate::pg::spi_text::{Cell, TextRow};

/// The position of the first column of the key in the rows of a query that has the key.
const FIRST_KEY_COLUMN: usize = 1;

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
            Asked::Sums { span, bytes } => self.sum_up(span.ends.len(), bytes.map(|bytes| bytes.min(FOLLOWED_BYTES))),
            Asked::Rows { .. } => self.tell_rows(ROWS_AT_ONCE),
            Asked::Keys { keys } => self.tell_rows(2 * keys.len()),
        }
    }

    fn each_row(&self, see: impl FnMut(TextRow<'_>) -> bool) -> Result<(), OwnedTableError> {
        owned_table::each_row(&self.schema, &self.name, |table| query::of_rows(self, table), see)
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
            let Some(hashed) = row.hash(0, self.seed) else { return true };
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

    fn sum_up(&self, ranges: usize, most_bytes: Option<u64>) -> Result<Answer, OwnedTableError> {
        let (mut sums, mut bytes) = (vec![Sum::default(); ranges], 0_u64);
        self.each_row(|row| {
            let place = row.number(1).and_then(|place| usize::try_from(place).ok());
            if let (Some(hashed), Some(sum)) = (row.hash(0, self.seed), place.and_then(|place| sums.get_mut(place))) {
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
            let (Some(key), Some((hash, _))) = (self.key_of(&row), row.hash(0, self.seed)) else {
                no_text = true;
                return false;
            };
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

    /// The key of a row; None if a value is not valid text.
    fn key_of(&self, row: &TextRow<'_>) -> Option<KeyText> {
        let value = |place| match row.cell(FIRST_KEY_COLUMN + place) {
            Cell::Text(text) => Some(text),
            Cell::Null | Cell::Bytes(_) => None,
        };
        (0..self.key.len()).map(value).collect()
    }

    fn table(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }
}
