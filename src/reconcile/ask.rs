//! Asks the source and the target for the rows with certain keys, as they are now.

use super::answer::Answer;
use super::judge::Found;
use super::ledger::Ledger;
use super::pair::Pair;
use super::pieces::Pieces;
use super::rows::{Columns, KeyText, Question, Rows, columns_of, take};
use crate::apply::touched::Touched;
use crate::error::OrRaise;
use crate::guc;
use crate::pg::transaction;
use crate::recover::error::RecoverError;
use crate::refused::Refused;
use crate::remote::error::RemoteError;
use std::time::Duration;

/// The most rows that are asked for at once.
pub(super) const CHUNK: usize = 500;

/// The time that the source has for one answer, which is far more than a bounded answer takes.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The time limit grows with a value that is fetched as it is, by a second for so many bytes: a line of 1 Mbit/s.
const BYTES_PER_SECOND: u64 = 125_000;

/// Which of the two nodes is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// The values of a row as text, as they are written.
pub type Texts = Vec<Option<String>>;

/// A node's answer to a question for rows.
pub(super) enum Told {
    /// The rows, and the number of bytes that were read for them.
    Rows(Rows, u64),
    TooMuch {
        fit: usize,
    },
}

impl Pair<'_> {
    /// Asks one of the nodes. `bytes` is how much the answer is known to hold beyond the usual bound; it extends the
    /// time limit.
    ///
    /// # Errors
    ///
    /// If the source cannot be asked, or gives an unexpected answer. The inner Err is a node's refusal.
    pub(super) fn ask(
        &mut self,
        side: Side,
        question: &Question,
        bytes: u64,
    ) -> Result<Result<Answer, Refused>, RecoverError> {
        if side == Side::Target {
            let answer = transaction::caught(|| question.answer().or_raise());
            return Ok(answer.map_err(|report| Refused::by(self.local, &report)));
        }
        let limit = ANSWER_LIMIT.max(guc::peer_timeout()) + Duration::from_secs(bytes / BYTES_PER_SECOND);
        match self.source.touched_rows(&question.to_text(), limit) {
            Ok(answer) => match serde_json::from_str(&answer) {
                // Otherwise the question would be repeated for ever.
                Ok(Answer::TooMuch { .. }) if question.is_single() => Err(self.source.unexpected("too many rows")),
                Ok(answer) => Ok(Ok(answer)),
                Err(_) => Err(self.source.unexpected("rows in an unknown form")),
            },
            Err(RecoverError::Remote { error: RemoteError::Peer { sqlstate, message, .. }, .. }) => {
                Ok(Err(Refused::new(&self.source_name, sqlstate, &message)))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks one of the nodes for rows. `bytes` and errors are those of `ask`.
    pub(super) fn tell(
        &mut self,
        side: Side,
        columns: &Columns<'_>,
        question: &Question,
        bytes: u64,
    ) -> Result<Result<Told, Refused>, RecoverError> {
        let answer = match self.ask(side, question, bytes)? {
            Ok(answer) => answer.exact(),
            Err(refused) => return Ok(Err(refused)),
        };
        let bytes = answer.bytes();
        let versions = match answer {
            Answer::ExactRows(versions) => versions,
            Answer::TooMuch { fit } => return Ok(Ok(Told::TooMuch { fit })),
            Answer::Rows(_) | Answer::Sums(_) | Answer::Places(_) => {
                return Err(self.source.unexpected("sums instead of rows"));
            }
        };
        let (mut rows, answered) = (Rows::new(), versions.len());
        match side {
            Side::Source => take(&mut rows, columns, versions, &self.origins, None, &self.source_name),
            Side::Target => take(&mut rows, columns, versions, &self.own_origins, self.own_reconcile, self.local),
        }
        Ok(Ok(match question.fewer_than(answered, rows.len()) {
            Some(fit) => Told::TooMuch { fit },
            None => Told::Rows(rows, bytes),
        }))
    }

    /// Reads rows, with long values as hashes, and which values are stored out of line. Rows that the node refuses to
    /// show are left, and their keys are removed from `keys`.
    pub(super) fn rows_of(
        &mut self,
        side: Side,
        touched: &Touched,
        relation: u32,
        keys: &mut Vec<KeyText>,
        ledger: &mut Ledger,
    ) -> Result<Rows, RecoverError> {
        let asked = std::mem::take(keys);
        let Some(columns) = columns_of(touched, relation) else { return Ok(Rows::new()) };
        let (mut rows, mut pieces, mut rest) = (Rows::new(), Pieces::of(CHUNK), asked.as_slice());
        while !rest.is_empty() {
            let piece = pieces.next(rest);
            match self.tell(side, &columns, &Question::rows(&columns, piece, true), 0)? {
                Ok(Told::Rows(some, bytes)) => {
                    rows.extend(some);
                    pieces.grow(bytes);
                    keys.extend_from_slice(piece);
                    rest = &rest[piece.len()..];
                }
                Ok(Told::TooMuch { fit }) => pieces.shrink(piece.len(), fit),
                Err(refused) => {
                    rest = &rest[ledger.leave_refused(touched, relation, rest, piece.len(), &mut pieces, &refused)..];
                }
            }
        }
        Ok(rows)
    }

    /// The values of a row as they are, if the node still has the version `found`. None if it has not, or if a value
    /// cannot be read.
    pub(super) fn whole_row(
        &mut self,
        side: Side,
        touched: &Touched,
        relation: u32,
        key: &KeyText,
        found: &Found,
    ) -> Result<Result<Option<Texts>, Refused>, RecoverError> {
        let Some(columns) = columns_of(touched, relation) else { return Ok(Ok(None)) };
        let rows = match self.tell(side, &columns, &Question::whole(&columns, key), found.bytes())? {
            Ok(Told::Rows(rows, _)) => rows,
            Ok(Told::TooMuch { .. }) => return Ok(Ok(None)),
            Err(refused) => return Ok(Err(refused)),
        };
        let now = rows.into_iter().find_map(|(found, row)| if found == *key { row } else { None });
        let now = now.filter(|now| now.transaction == found.transaction);
        Ok(Ok(now.and_then(Found::into_texts)))
    }

    /// The id of the transaction that has written the row that the source has now. None if it has no row, or does not
    /// show it.
    pub(super) fn transaction_at_source(
        &mut self,
        touched: &Touched,
        relation: u32,
        key: &KeyText,
    ) -> Result<Option<u32>, RecoverError> {
        let Some(columns) = columns_of(touched, relation) else { return Ok(None) };
        match self.tell(Side::Source, &columns, &Question::rows(&columns, std::slice::from_ref(key), false), 0)? {
            Ok(Told::Rows(mut rows, _)) => Ok(rows.remove(key).flatten().map(|now| now.transaction)),
            _ => Ok(None),
        }
    }
}
