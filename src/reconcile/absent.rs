//! Where it proves nothing that a row is not there: the source has no partition for it, or its table was changed on the target.

use super::answer::Answer;
use super::ask::Side;
use super::pieces::Pieces;
use super::rows::{KeyText, Question, columns_of, name};
use super::run::{CHUNK, Difference, Reconciler};
use crate::apply::touched::Touched;
use crate::pg::{spi_text, transaction};
use crate::protocol;
use crate::recover::error::RecoverError;
use crate::tally::compared::Why;
use pgrx::spi::{quote_literal, quote_qualified_identifier};
use std::collections::{BTreeMap, HashSet};

impl Reconciler<'_> {
    /// Rows of tables that were changed here since they were touched. What was dropped has none to compare.
    pub(super) fn leave_missing(&mut self, touched: &Touched) {
        for (relation, rows) in touched.of_missing() {
            let table = quote_qualified_identifier(&relation.schema, &relation.name);
            let question = format!("SELECT pg_catalog.to_regclass({}) IS NULL", quote_literal(&table));
            if transaction::run(|| spi_text::rows(&question)) == [[Some("f".to_owned())]] {
                self.counts.leave(Why::NotComparable, rows);
                let told = format!("on node \"{}\" it is not what it was", self.local);
                self.counts.refuse(format!("{}.{}", relation.schema, relation.name), told);
            }
        }
    }

    /// Which of the rows that are to be deleted the source could not have.
    pub(super) fn without_place<'d>(
        &mut self,
        touched: &Touched,
        deleted: impl Iterator<Item = &'d Difference>,
    ) -> Result<HashSet<(u32, KeyText)>, RecoverError> {
        let mut keys: BTreeMap<u32, Vec<KeyText>> = BTreeMap::new();
        for difference in deleted {
            keys.entry(difference.relation).or_default().push(difference.key.clone());
        }
        let mut found = HashSet::new();
        for (relation, keys) in keys {
            let of_table = self.without_place_in(touched, relation, &keys)?;
            found.extend(of_table.into_iter().map(|key| (relation, key)));
        }
        Ok(found)
    }

    /// Which of these keys the source cannot have a row of, for it has no partition for it: one was detached or dropped. That it has
    /// none then says nothing of what became of it.
    fn without_place_in(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
    ) -> Result<HashSet<KeyText>, RecoverError> {
        let mut found = HashSet::new();
        let Some(columns) = columns_of(touched, relation) else { return Ok(found) };
        let (pieces, mut rest) = (Pieces::of(CHUNK), keys);
        while !rest.is_empty() {
            let piece = pieces.next(rest);
            match self.ask(Side::Source, &Question::places(&columns, piece), 0)? {
                Ok(Answer::Places(places)) if places.len() == piece.len() => {
                    found
                        .extend(piece.iter().zip(places).filter(|(_, is_there)| !is_there).map(|(key, _)| key.clone()));
                }
                Ok(_) => return Err(self.source.unexpected("something else than places of rows")),
                // A node of the first version does not know the question.
                Err(refused) if refused.sqlstate == "22023" && self.source.protocol() == protocol::UNTOLD => (),
                Err(refused) => {
                    pgrx::log!("rows of {} are not deleted: {refused}", name(touched, relation));
                    self.note_refused(touched, relation, &refused);
                    found.extend(piece.iter().cloned());
                }
            }
            rest = &rest[piece.len()..];
        }
        if !found.is_empty() {
            let told = format!("node \"{}\" has no partition for rows of it", self.source_name);
            self.counts.refuse(name(touched, relation), told);
        }
        Ok(found)
    }
}
