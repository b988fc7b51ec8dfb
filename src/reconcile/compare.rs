//! A first look at rows that were touched: most are alike on both nodes, and those that are not are judged in run.

use super::ask::answer_here;
use super::counts::Why;
use super::judge::{self, Author, Verdict};
use super::rows::{KeyText, Question, columns_of, text_of, there};
use super::run::{CHUNK, Difference, Reconciler};
use super::touched::{Key, Touched};
use crate::recover::error::RecoverError;
use std::collections::BTreeSet;

/// Rows of which one hash is asked for.
pub(super) const HASHED: usize = 2_000;

impl Reconciler<'_> {
    /// A first look at rows of one table: most are alike, and then a hash over all of them tells it.
    pub(super) fn compare(
        &mut self,
        touched: &Touched,
        keys: &[Key],
        behind: &BTreeSet<String>,
        differences: &mut Vec<Difference>,
    ) -> Result<(), RecoverError> {
        let Some(relation) = keys.first().map(|key| key.relation) else { return Ok(()) };
        let texts: Vec<KeyText> = keys.iter().filter_map(text_of).collect();
        self.counts.leave(Why::NotComparable, keys.len() - texts.len());
        if self.are_alike(touched, relation, &texts)? {
            self.count_alike(touched, relation, texts.iter(), behind);
            return Ok(());
        }
        texts.chunks(CHUNK).try_for_each(|texts| self.compare_rows(touched, relation, texts, behind, differences))
    }

    /// Whether both nodes surely have the same of these rows.
    fn are_alike(&mut self, touched: &Touched, relation: u32, texts: &[KeyText]) -> Result<bool, RecoverError> {
        let Some(columns) = columns_of(touched, relation).filter(|_| !texts.is_empty()) else { return Ok(true) };
        let failed = self.origins.iter().find(|(_, node)| *node == self.failed).map(|(origin, _)| *origin);
        let question = Question::sums(&columns, texts, failed);
        // Where the source does not show them, or sees no such column, each row is to be left by itself.
        let Ok(answer) = self.source.touched_rows(&question.to_text()) else { return Ok(false) };
        let answer = answer.into_iter().next().unwrap_or_default();
        let Ok(ours) = answer_here(&question) else { return Ok(false) };
        let ours = ours.into_iter().next().unwrap_or_default();
        let are_alike = answer.get(..2) == ours.get(..2);
        let of_failed = answer.get(2).and_then(|count| count.as_ref()?.parse::<usize>().ok());
        self.may_have_moved |= are_alike && of_failed != Some(texts.len());
        Ok(are_alike)
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
        texts: &[KeyText],
        behind: &BTreeSet<String>,
        differences: &mut Vec<Difference>,
    ) -> Result<(), RecoverError> {
        let Some(source) = self.rows_of_source(touched, relation, texts, false)? else { return Ok(()) };
        let Some(target) = self.rows_of_target(touched, relation, texts, false) else { return Ok(()) };
        let mut found: BTreeSet<&KeyText> = source.keys().collect();
        found.extend(target.keys());
        // Both have nothing of the others.
        let mut alike: Vec<&KeyText> = texts.iter().filter(|key| !found.contains(key)).collect();
        self.may_have_moved |= !alike.is_empty();
        for key in found {
            let of_source = there(&source, key).flatten().and_then(|found| found.committed.as_ref());
            self.may_have_moved |=
                !of_source.is_some_and(|(_, author)| matches!(author, Author::Node(node) if node == self.failed));
            match (there(&source, key), there(&target, key)) {
                (Some(source), Some(target)) if judge::judge(source, target, self.replay()) == Verdict::Settled => {
                    alike.push(key);
                }
                (Some(_), Some(_)) => differences.push(Difference { relation, key: key.clone() }),
                _ => self.counts.leave(Why::NotComparable, 1),
            }
        }
        self.count_alike(touched, relation, alike.into_iter(), behind);
        Ok(())
    }
}
