//! Rows that the source lacks because it has no partition for them: their absence proves nothing.

use super::answer::Answer;
use super::ask::{CHUNK, Side};
use super::difference::Difference;
use super::ledger::Ledger;
use super::pair::Pair;
use super::pieces::Pieces;
use super::rows::{KeyText, Question, columns_of, name};
use crate::apply::touched::Touched;
use crate::protocol;
use crate::recover::error::RecoverError;
use std::collections::{BTreeMap, HashSet};

impl Pair<'_> {
    /// Those of the rows to be deleted that the source cannot have.
    pub(super) fn without_place<'d>(
        &mut self,
        touched: &Touched,
        deleted: impl Iterator<Item = &'d Difference>,
        ledger: &mut Ledger,
    ) -> Result<HashSet<(u32, KeyText)>, RecoverError> {
        let mut keys: BTreeMap<u32, Vec<KeyText>> = BTreeMap::new();
        for difference in deleted {
            keys.entry(difference.relation).or_default().push(difference.key.clone());
        }
        let mut found = HashSet::new();
        for (relation, keys) in keys {
            let of_table = self.without_place_in(touched, relation, &keys, ledger)?;
            found.extend(of_table.into_iter().map(|key| (relation, key)));
        }
        Ok(found)
    }

    /// Those of the keys whose rows the source cannot have, because the partition for them was detached or dropped.
    /// That the source lacks such a row says nothing about what has become of it.
    fn without_place_in(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        ledger: &mut Ledger,
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
                Ok(_) => return Err(self.source.unexpected("no places of rows")),
                // A node of version 0.1.0 does not know the question.
                Err(refused) if refused.sqlstate == "22023" && self.source.protocol() == protocol::UNTOLD => (),
                Err(refused) => {
                    pgrx::log!("rows of {} are not deleted: {refused}", name(touched, relation));
                    ledger.note_refused(touched, relation, &refused);
                    found.extend(piece.iter().cloned());
                }
            }
            rest = &rest[piece.len()..];
        }
        if !found.is_empty() {
            let told = format!("node \"{}\" has no partition for rows of it", self.source_name);
            ledger.counts.refuse(name(touched, relation), told);
        }
        Ok(found)
    }
}
