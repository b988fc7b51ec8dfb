//! A first look at rows that were touched: most are alike on both nodes, and those that are not are judged by a closer look.

use super::answer::Answer;
use super::ask::{CHUNK, Side, Told};
use super::closer::CloserLook;
use super::difference::{Difference, Differences};
use super::judge::{self, Author, Found, Verdict};
use super::pieces::Pieces;
use super::rows::{KeyText, Question, Rows, columns_of, text_of, there};
use crate::apply::touched::Key;
use crate::recover::error::RecoverError;
use crate::tally::compared::{Counts, Why};
use std::collections::BTreeSet;

/// Rows of which one hash is asked for.
const HASHED: usize = 2_000;

/// What the hashes of rows on both nodes tell.
enum Likeness {
    /// They surely are alike; so many bytes were read.
    Alike(u64),
    Unknown,
    TooMuch {
        fit: usize,
    },
}

/// Looks at rows of `touched` for the first time.
pub(super) struct FirstLook<'l, 'a> {
    /// Looks closer at those that differ.
    pub closer: CloserLook<'l, 'a>,
    /// The nodes of which the source lacks something that the target had, when this began.
    pub behind: BTreeSet<String>,
    pub differences: Differences,
    /// The source has something else than the failed node's version of a row, or nothing.
    pub may_have_moved: bool,
}

impl FirstLook<'_, '_> {
    /// Compares rows of any tables. False: `goes_on` has said no.
    pub fn compare_all(
        &mut self,
        keys: &[Key],
        mut goes_on: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, RecoverError> {
        for of_table in keys.chunk_by(|one, other| one.relation == other.relation) {
            for chunk in of_table.chunks(HASHED) {
                if !self.compare(chunk, &mut goes_on)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// A first look at rows of one table: most are alike, and then a hash over all of them tells it. False: `goes_on` has said no.
    fn compare(&mut self, keys: &[Key], mut goes_on: impl FnMut(&Counts) -> bool) -> Result<bool, RecoverError> {
        let Some(relation) = keys.first().map(|key| key.relation) else { return Ok(true) };
        let texts: Vec<KeyText> = keys.iter().filter_map(text_of).collect();
        self.closer.ledger.counts.leave(Why::NotComparable, keys.len() - texts.len());
        let (mut pieces, mut rest) = (Pieces::of(HASHED), texts.as_slice());
        while !rest.is_empty() {
            let piece = pieces.next(rest);
            match self.likeness(relation, piece)? {
                Likeness::TooMuch { fit } => {
                    pieces.shrink(piece.len(), fit);
                    continue;
                }
                Likeness::Alike(bytes) => {
                    pieces.grow(bytes);
                    self.count_alike(relation, piece.iter());
                }
                Likeness::Unknown => self.compare_rows(relation, piece)?,
            }
            rest = &rest[piece.len()..];
            if !goes_on(&self.closer.ledger.counts) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether both nodes have the same of these rows.
    fn likeness(&mut self, relation: u32, keys: &[KeyText]) -> Result<Likeness, RecoverError> {
        let Some(columns) = columns_of(self.closer.touched, relation) else { return Ok(Likeness::Alike(0)) };
        let pair = &mut *self.closer.pair;
        let failed = pair.origins.iter().find(|(_, node)| *node == pair.failed).map(|(origin, _)| *origin);
        let question = Question::sums(&columns, keys, failed);
        let mut sums = Vec::new();
        for side in [Side::Source, Side::Target] {
            match pair.ask(side, &question, 0)? {
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

    /// Row by row: which of them differ.
    fn compare_rows(&mut self, relation: u32, keys: &[KeyText]) -> Result<(), RecoverError> {
        let Some(columns) = columns_of(self.closer.touched, relation) else { return Ok(()) };
        let (mut pieces, mut rest) = (Pieces::of(CHUNK), keys);
        'pieces: while !rest.is_empty() {
            let piece = pieces.next(rest);
            let question = Question::rows(&columns, piece, false);
            let (mut told, mut read) = (Vec::new(), 0);
            for side in [Side::Source, Side::Target] {
                match self.closer.pair.tell(side, &columns, &question, 0)? {
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
                        let CloserLook { ledger, touched, .. } = &mut self.closer;
                        let left = ledger.leave_refused(touched, relation, rest, asked, &mut pieces, &refused);
                        rest = &rest[left..];
                        continue 'pieces;
                    }
                }
            }
            if let [source, target] = told.as_slice() {
                pieces.grow(read);
                self.note_differences(relation, piece, (source, target));
            }
            rest = &rest[piece.len()..];
            if self.differences.are_many() {
                self.look_closer()?;
            }
        }
        Ok(())
    }

    fn note_differences(&mut self, relation: u32, keys: &[KeyText], (source, target): (&Rows, &Rows)) {
        let replay = self.closer.pair.replay(self.closer.ledger.is_of_gone);
        let mut found: BTreeSet<&KeyText> = source.keys().collect();
        found.extend(target.keys());
        // Both have nothing of the others.
        let mut alike: Vec<&KeyText> = keys.iter().filter(|key| !found.contains(key)).collect();
        self.may_have_moved |= !alike.is_empty();
        for key in found {
            let of_source = there(source, key).flatten().and_then(|found| found.committed.as_ref());
            self.may_have_moved |=
                !of_source.is_some_and(|(_, author)| matches!(author, Author::Node(node) if node == replay.failed));
            match (there(source, key), there(target, key)) {
                (Some(source), Some(target)) if judge::judge(source, target, replay) == Verdict::Settled => {
                    alike.push(key);
                }
                (Some(source), Some(target)) => {
                    let rows = [source, target].into_iter().flatten().map(Found::kept_bytes).sum();
                    self.differences.push(Difference { relation, key: key.clone(), rows_bytes: rows });
                }
                _ => self.closer.ledger.counts.leave(Why::NotComparable, 1),
            }
        }
        self.count_alike(relation, alike.into_iter());
    }

    fn count_alike<'k>(&mut self, relation: u32, keys: impl Iterator<Item = &'k KeyText>) {
        self.closer.ledger.count_alike(self.closer.touched, relation, keys, &self.behind);
    }

    /// Judges those that were found to differ until now.
    pub fn look_closer(&mut self) -> Result<(), RecoverError> {
        self.closer.judge(std::mem::take(&mut self.differences))
    }
}
