//! What has become of the rows that are compared: they are counted, and kept if they may be judged later.

use super::difference::Difference;
use super::judge::Verdict;
use super::kept::KeptRows;
use super::pieces::{Blame, Pieces};
use super::rows::{KeyText, columns_of, name};
use super::write::Did;
use crate::apply::touched::Touched;
use crate::counted::counted;
use crate::pg::{spi_text, transaction};
use crate::refused::Refused;
use crate::tally::compared::{Counts, Why};
use pgrx::spi::{quote_literal, quote_qualified_identifier};
use std::collections::BTreeSet;

#[derive(Default)]
pub struct Ledger {
    pub counts: Counts,
    /// The rows that were left and may be judged later.
    pub kept: KeptRows,
    /// Whether the rows at hand are those that another node has deleted while reconciling its own recovery.
    pub(super) is_of_gone: bool,
    /// The source did not have one of the rows that were compared: it may have another key by now.
    pub(super) has_missed: bool,
}

impl Ledger {
    /// Leaves a row as it is, for the reason `why`.
    pub(super) fn leave(&mut self, touched: &Touched, relation: u32, key: &KeyText, why: Why) {
        self.counts.leave(why, 1);
        if why.may_pass()
            && let Some(columns) = columns_of(touched, relation)
        {
            self.kept.add(&columns, why, key, self.is_of_gone);
        }
    }

    /// The first `asked` of these rows were refused: leaves those that are to blame for it. Returns how many rows,
    /// counted from the first, were left.
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

    /// Records a refusal. Everybody can read the table, the node and the SQLSTATE; the node's own words are stored with
    /// the kept rows, for superusers.
    pub(super) fn note_refused(&mut self, touched: &Touched, relation: u32, refused: &Refused) {
        let Refused { node, sqlstate, .. } = refused;
        self.counts.refuse(name(touched, relation), format!("node \"{node}\" reports SQLSTATE {sqlstate}"));
        if let Some(columns) = columns_of(touched, relation) {
            self.kept.note_refused(&columns, refused.to_string());
        }
    }

    /// Counts rows that both nodes have alike. If the source lacks transactions of the nodes in `behind`, the rows are
    /// left instead.
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

    /// Counts the outcome for a row that was to be written. Returns true if the row must be looked at again.
    pub(super) fn count_brought(
        &mut self,
        touched: &Touched,
        difference: &Difference,
        verdict: Verdict,
        did: Did,
    ) -> bool {
        match did {
            Did::Changed | Did::Again => return true,
            Did::Refused => self.leave(touched, difference.relation, &difference.key, Why::Refused),
            Did::Written => {
                self.counts.compared += 1;
                let is_delete = verdict == Verdict::Delete;
                *(if is_delete { &mut self.counts.deleted } else { &mut self.counts.updated }) += 1;
            }
        }
        false
    }

    /// Counts the rows of tables that were changed on this node since their rows were touched. A table that was dropped
    /// has no rows to compare.
    pub(super) fn leave_missing(&mut self, touched: &Touched, local: &str) {
        for (relation, rows) in touched.of_missing() {
            let table = quote_qualified_identifier(&relation.schema, &relation.name);
            let question = format!("SELECT pg_catalog.to_regclass({}) IS NULL", quote_literal(&table));
            if transaction::run(|| spi_text::rows(&question)) == [[Some("f".to_owned())]] {
                self.counts.leave(Why::NotComparable, rows);
                let told = format!("it was changed on node \"{local}\" meanwhile");
                self.counts.refuse(format!("{}.{}", relation.schema, relation.name), told);
            }
        }
    }
}
