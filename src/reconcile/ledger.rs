//! What has become of the rows that are compared: counted, and kept where they may be judged another time.

use super::difference::Difference;
use super::judge::Verdict;
use super::kept::KeptRows;
use super::pieces::{Blame, Pieces};
use super::refused::Refused;
use super::rows::{KeyText, columns_of, name};
use super::write::Did;
use crate::apply::touched::Touched;
use crate::counted::counted;
use crate::pg::{spi_text, transaction};
use crate::tally::compared::{Counts, Why};
use pgrx::spi::{quote_literal, quote_qualified_identifier};
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Ledger {
    pub counts: Counts,
    /// The rows that were left, and may be judged another time.
    pub kept: KeptRows,
    /// The rows at hand are those that a node's own recovery has deleted there.
    pub(super) is_of_gone: bool,
}

impl Ledger {
    /// A row stays as it is.
    pub(super) fn leave(&mut self, touched: &Touched, relation: u32, key: &KeyText, why: Why) {
        self.counts.leave(why, 1);
        if why.may_pass()
            && let Some(columns) = columns_of(touched, relation)
        {
            self.kept.add(&columns, why, key, self.is_of_gone);
        }
    }

    /// The first of these rows, so many, were refused: those that are to blame for it are left. Returns how many, of the first.
    pub(super) fn leave_refused(
        &mut self,
        touched: &Touched,
        relation: u32,
        keys: &[KeyText],
        asked: usize,
        pieces: &mut Pieces,
        refused: &Refused,
    ) -> usize {
        let left = match pieces.refuse(asked, refused.took_too_long()) {
            Blame::Unknown => return 0,
            Blame::Row => 1,
            Blame::Table => keys.len(),
        };
        pgrx::log!("not compared: {} of {}: {refused}", counted(left as u64, "row"), name(touched, relation));
        self.note_refused(touched, relation, refused);
        keys.iter().take(left).for_each(|key| self.leave(touched, relation, key, Why::Refused));
        left
    }

    /// Tells of it: to all which table, by which node and with which SQLSTATE; to superusers, beside the rows, in its own words.
    pub(super) fn note_refused(&mut self, touched: &Touched, relation: u32, refused: &Refused) {
        let Refused { node, sqlstate, .. } = refused;
        self.counts.refuse(name(touched, relation), format!("node \"{node}\" reports SQLSTATE {sqlstate}"));
        if let Some(columns) = columns_of(touched, relation) {
            self.kept.note_refused(&columns, refused.to_string());
        }
    }

    /// Rows that both nodes have alike; `behind`: of whom the source lacks something that bears on them.
    pub(super) fn count_alike<'k>(
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

    /// Counts what has become of a row that was to be written. True: it is to be looked at again.
    pub(super) fn count_brought(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        verdict: Verdict,
        did: Did,
    ) -> bool {
        match did {
            Did::Again => return true,
            Did::Refused => self.leave(touched, difference.relation, &difference.key, Why::Refused),
            Did::Written => {
                self.counts.compared += 1;
                let is_delete = verdict == Verdict::Delete;
                *(if is_delete { &mut self.counts.deleted } else { &mut self.counts.updated }) += 1;
            }
        }
        false
    }

    /// Rows of tables that were changed here since they were touched. What was dropped has none to compare.
    pub(super) fn leave_missing(&mut self, touched: &Touched, local: &str) {
        for (relation, rows) in touched.of_missing() {
            let table = quote_qualified_identifier(&relation.schema, &relation.name);
            let question = format!("SELECT pg_catalog.to_regclass({}) IS NULL", quote_literal(&table));
            if transaction::run(|| spi_text::rows(&question)) == [[Some("f".to_owned())]] {
                self.counts.leave(Why::NotComparable, rows);
                let told = format!("on node \"{local}\" it is not what it was");
                self.counts.refuse(format!("{}.{}", relation.schema, relation.name), told);
            }
        }
    }
}
