//! Rows by their keys, as the source and the target have them now.

use super::counts::Why;
use super::rows::{FIRST_VALUE, KeyText, Rows, columns_of, name, question, take};
use super::run::{CHUNK, Reconciler};
use super::touched::Touched;
use crate::pg::{spi_text, transaction};
use crate::recover::error::RecoverError;
use crate::remote::connection::RemoteError;

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
            let quoted = || question(&columns, keys, with_storage);
            // What quoting allocates goes with the transaction.
            let question = if transaction::is_open() { quoted() } else { transaction::run_without_snapshot(quoted) };
            let count = columns.relation.columns.len() * (1 + usize::from(with_storage)) + FIRST_VALUE;
            match self.source.rows(&question, count) {
                Ok(answer) => {
                    let answer = answer.into_iter().map(crate::remote::row::Row::into_values);
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

    pub(super) fn rows_of_target(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        with_storage: bool,
    ) -> Rows {
        let mut rows = Rows::new();
        let Some(columns) = columns_of(touched, relation) else { return rows };
        for keys in keys.chunks(CHUNK) {
            let answer = transaction::run(|| spi_text::rows(&question(&columns, keys, with_storage)));
            take(&mut rows, &columns, answer, &self.own_origins, self.own_reconcile, self.local);
        }
        rows
    }
}
