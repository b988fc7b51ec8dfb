//! A first look at rows that were touched: most are alike on both nodes, and those that are not are judged in run.

use super::answer::Answer;
use super::ask::{Side, Told};
use super::judge::{self, Author, Found, Verdict};
use super::pieces::Pieces;
use super::rows::{KeyText, Question, Rows, columns_of, text_of, there};
use super::run::{CHUNK, Difference, Differences, Reconciler};
use crate::apply::touched::{Key, Touched};
use crate::recover::error::RecoverError;
use crate::tally::compared::{Counts, Why};
use std::collections::BTreeSet;

/// Rows of which one hash is asked for.
pub(super) const HASHED: usize = 2_000;

/// What the hashes of rows on both nodes tell.
enum Likeness {
    /// They surely are alike; so many bytes were read.
    Alike(u64),
    Unknown,
    TooMuch {
        fit: usize,
    },
}

impl Reconciler<'_> {
    /// A first look at rows of one table: most are alike, and then a hash over all of them tells it. False: `goes_on` has said no.
    pub(super) fn compare(
        &mut self,
        touched: &Touched,
        keys: &[Key],
        behind: &BTreeSet<String>,
        differences: &mut Differences,
        mut goes_on: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, RecoverError> {
        let Some(relation) = keys.first().map(|key| key.relation) else { return Ok(true) };
        let texts: Vec<KeyText> = keys.iter().filter_map(text_of).collect();
        self.counts.leave(Why::NotComparable, keys.len() - texts.len());
        let (mut pieces, mut rest) = (Pieces::of(HASHED), texts.as_slice());
        while !rest.is_empty() {
            let piece = pieces.next(rest);
            match self.likeness(touched, relation, piece)? {
                Likeness::TooMuch { fit } => {
                    pieces.shrink(piece.len(), fit);
                    continue;
                }
                Likeness::Alike(bytes) => {
                    pieces.grow(bytes);
                    self.count_alike(touched, relation, piece.iter(), behind);
                }
                Likeness::Unknown => self.compare_rows(touched, relation, piece, behind, differences)?,
            }
            rest = &rest[piece.len()..];
            if !goes_on(&self.counts) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether both nodes have the same of these rows.
    fn likeness(&mut self, touched: &Touched, relation: u32, keys: &[KeyText]) -> Result<Likeness, RecoverError> {
        let Some(columns) = columns_of(touched, relation) else { return Ok(Likeness::Alike(0)) };
        let failed = self.origins.iter().find(|(_, node)| *node == self.failed).map(|(origin, _)| *origin);
        let question = Question::sums(&columns, keys, failed);
        let mut sums = Vec::new();
        for side in [Side::Source, Side::Target] {
            match self.ask(side, &question, 0)? {
                Ok(Answer::TooMuch { fit }) => return Ok(Likeness::TooMuch { fit }),
                Ok(Answer::Sums(of_side)) => sums.push(of_side),
                // Where a node does not show them, or has no such column, each row is to be left by itself.
                _ => return Ok(Likeness::Unknown),
            }
        }
        let [theirs, ours] = sums.as_slice() else { return Ok(Likeness::Unknown) };
        if !theirs.are_alike(ours) {
            return Ok(Likeness::Unknown);
        }
        self.may_have_moved |= theirs.of_origin != keys.len() as u64;
        Ok(Likeness::Alike(theirs.bytes.max(ours.bytes)))
    }

    fn count_alike<'k>(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: impl Iterator<Item = &'k KeyText>,
        behind: &BTreeSet<String>,
    ) {
        if behind.is_empty() {
            self.counts.compared += keys.count() as u64;
        } else {
            keys.for_each(|key| self.leave(touched, relation, key, Why::SourceLags));
        }
    }

    /// Row by row: which of them differ.
    fn compare_rows(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        behind: &BTreeSet<String>,
        differences: &mut Differences,
    ) -> Result<(), RecoverError> {
        let Some(columns) = columns_of(touched, relation) else { return Ok(()) };
        let (mut pieces, mut rest) = (Pieces::of(CHUNK), keys);
        'pieces: while !rest.is_empty() {
            let piece = pieces.next(rest);
            let question = Question::rows(&columns, piece, false);
            let (mut told, mut read) = (Vec::new(), 0);
            for side in [Side::Source, Side::Target] {
                match self.tell(side, &columns, &question, 0)? {
                    Ok(Told::Rows(rows, bytes)) => {
                        told.push(rows);
                        read = bytes.max(read);
                    }
                    Ok(Told::TooMuch { fit }) => {
                        pieces.shrink(piece.len(), fit);
                        continue 'pieces;
                    }
                    Err(refused) => {
                        let asked = piece.len();
                        let left = self.leave_refused(touched, relation, rest, asked, &mut pieces, &refused);
                        rest = &rest[left..];
                        continue 'pieces;
                    }
                }
            }
            if let [source, target] = told.as_slice() {
                pieces.grow(read);
                self.note_differences(touched, relation, piece, (source, target), behind, differences);
            }
            rest = &rest[piece.len()..];
            if differences.are_many() {
                self.look_closer(touched, std::mem::take(differences))?;
            }
        }
        Ok(())
    }

    fn note_differences(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        (source, target): (&Rows, &Rows),
        behind: &BTreeSet<String>,
        differences: &mut Differences,
    ) {
        let mut found: BTreeSet<&KeyText> = source.keys().collect();
        found.extend(target.keys());
        // Both have nothing of the others.
        let mut alike: Vec<&KeyText> = keys.iter().filter(|key| !found.contains(key)).collect();
        self.may_have_moved |= !alike.is_empty();
        for key in found {
            let of_source = there(source, key).flatten().and_then(|found| found.committed.as_ref());
            self.may_have_moved |=
                !of_source.is_some_and(|(_, author)| matches!(author, Author::Node(node) if node == self.failed));
            match (there(source, key), there(target, key)) {
                (Some(source), Some(target)) if judge::judge(source, target, self.replay()) == Verdict::Settled => {
                    alike.push(key);
                }
                (Some(source), Some(target)) => {
                    let rows = [source, target].into_iter().flatten().map(Found::kept_bytes).sum();
                    differences.push(Difference { relation, key: key.clone(), rows_bytes: rows });
                }
                _ => self.counts.leave(Why::NotComparable, 1),
            }
        }
        self.count_alike(touched, relation, alike.into_iter(), behind);
    }
}
