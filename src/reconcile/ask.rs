//! Rows by their keys, as the source and the target have them now.

use super::counts::Why;
use super::rows::{KeyText, Question, Rows, columns_of, name, take};
use super::run::{CHUNK, Reconciler};
use super::touched::Touched;
use crate::error::OrRaise;
use crate::pg::transaction;
use crate::recover::error::RecoverError;
use crate::remote::connection::RemoteError;
use pgrx::pg_sys::panic::ErrorReportWithLevel;

/// The answer of this node. The Err is an ERROR of one table's, which concerns that table alone.
pub(super) fn answer_here(question: &Question) -> Result<Vec<Vec<Option<String>>>, Box<ErrorReportWithLevel>> {
    transaction::caught(|| question.answer().or_raise())
}

impl Reconciler<'_> {
    /// None: the source does not show them, which is counted.
    pub(super) fn rows_of_source(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        with_storage: bool,
    ) -> Result<Option<Rows>, RecoverError> {
        let Some(columns) = columns_of(touched, relation) else { return Ok(None) };
        let mut rows = Rows::new();
        for keys in keys.chunks(CHUNK) {
            match self.source.touched_rows(&Question::rows(&columns, keys, with_storage).to_text()) {
                Ok(answer) => {
                    take(&mut rows, &columns, answer, &self.origins, None, &self.source_name);
                }
                Err(RecoverError::Remote { error: RemoteError::Peer { sqlstate, message }, .. }) => {
                    pgrx::log!(
                        "rows of {} are not compared: node \"{}\" reports {message} (SQLSTATE {sqlstate})",
                        name(touched, relation),
                        self.source_name
                    );
                    for key in keys {
                        self.leave(touched, relation, key, Why::Refused);
                    }
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(rows))
    }

    /// None: this node does not show them to their owner, or his code fails, which is counted.
    pub(super) fn rows_of_target(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        with_storage: bool,
    ) -> Option<Rows> {
        let columns = columns_of(touched, relation)?;
        let mut rows = Rows::new();
        for keys in keys.chunks(CHUNK) {
            match answer_here(&Question::rows(&columns, keys, with_storage)) {
                Ok(answer) => take(&mut rows, &columns, answer, &self.own_origins, self.own_reconcile, self.local),
                Err(error) => {
                    pgrx::log!("rows of {} are not compared: {}", name(touched, relation), error.message());
                    keys.iter().for_each(|key| self.leave(touched, relation, key, Why::Refused));
                    return None;
                }
            }
        }
        Some(rows)
    }
}
