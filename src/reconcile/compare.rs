//! The first look at the rows that were touched: most are alike on both nodes, and those that differ are judged by a
//! closer look.

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

/// The most rows over which one hash is asked for.
const HASHED: usize = 2_000;

/// What the hashes of both nodes tell about rows.
enum Likeness {
    /// The rows are certainly alike. The number is that of the bytes that were read.
    Alike(u64),
    Unknown,
    TooMuch {
        fit: usize,
    },
}

/// Looks at rows of `touched` for the first time.
pub(super) struct FirstLook<'l, 'a> {
    /// Judges the rows that differ.
    pub closer: CloserLook<'l, 'a>,
    /// The nodes of whose transactions the source lacked some that the target had, when the comparison began.
    pub behind: &'l BTreeSet<String>,
    pub differences: Differences,
    /// Whether the source has something other than the failed node's version of a row, or no row.
    pub may_have_moved: bool,
}

impl FirstLook<'_, '_> {
    /// Compares rows of any tables. Returns false if `goes_on` said that the comparison must stop.
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

    /// Compares rows of one table. Most are alike, and one hash over all of them shows it. Returns false if `goes_on`
    /// said that the comparison must stop.
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

    /// Whether hashes show that both nodes have these rows alike.
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
                // If a node does not show the rows, or has no such column, each row is asked for and left by itself.
                _ => return Ok(Likeness::Unknown),
            }
        }
        let [theirs, ours] = sums.as_slice() else { return Ok(Likeness::Unknown) };
        if !theirs.are_alike(ours) {
            return Ok(Likeness::Unknown);
        }
        self.may_have_moved |= theirs.of_origin != keys.len() as u64;
        self.closer.ledger.has_missed |= theirs.rows < keys.len() as u64;
        Ok(Likeness::Alike(theirs.bytes.max(ours.bytes)))
    }

    /// Compares rows one by one, and notes those that differ.
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
        // Neither node has a row for the keys that no answer mentions.
        let mut alike: Vec<&KeyText> = keys.iter().filter(|key| !found.contains(key)).collect();
        self.may_have_moved |= !alike.is_empty();
        self.closer.ledger.has_missed |= keys.iter().any(|key| there(source, key) == Some(None));
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
        self.closer.ledger.count_alike(self.closer.touched, relation, keys, self.behind);
    }

    /// Judges the rows that were found to differ so far.
    pub fn look_closer(&mut self) -> Result<(), RecoverError> {
        self.closer.judge(std::mem::take(&mut self.differences))
    }
}
