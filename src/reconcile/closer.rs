//! The closer look at rows that differ. Each row is judged as soon as neither node has still to receive anything from
//! the other that bears on it; then it is written, deleted, kept, or looked at again.
//!
//! When a row is judged, the source has passed what the target had when the target's row was read, and the target has
//! passed what the source had when the source's row was read. The target's row is then locked, and changed only if it
//! still is the version that was read. If the target has no row to lock, the source's row is read once more after the
//! target's is in place: whatever the source does to the row after that finds the target's row.

use super::ask::Side;
use super::bring::Writer;
use super::difference::{Difference, Differences};
use super::judge::{Found, Verdict};
use super::ledger::Ledger;
use super::pair::Pair;
use super::reach::Reach;
use super::removed::Removed;
use super::rows::{KeyText, Rows, there};
use super::standing::Standing;
use super::waits::Waits;
use crate::apply::touched::Touched;
use crate::pg::apply_as::ApplyAs;
use crate::pg::{interrupts, untrusted_user};
use crate::recover::error::RecoverError;
use crate::tally::compared::Why;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The number of closer looks at a row that changes each time.
const LOOKS: u32 = 20;

pub(super) struct CloserLook<'l, 'a> {
    pub pair: &'l mut Pair<'a>,
    pub waits: &'l mut Waits,
    pub ledger: &'l mut Ledger,
    pub removed: &'l mut Removed,
    pub touched: &'l Touched,
    pub apply_as: ApplyAs,
}

/// Rows as both nodes have them, and the nodes of whose transactions each of the two lacked some after the rows had
/// been read.
pub(super) struct Both {
    keys: BTreeMap<u32, Vec<KeyText>>,
    source: HashMap<u32, Rows>,
    target: HashMap<u32, Rows>,
    pub(super) theirs: Reach,
    pub(super) source_lacks: BTreeSet<String>,
    target_lacks: BTreeSet<String>,
}

/// A row, and what is to be done about it.
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    pub(super) difference: Difference,
    source: Option<Found>,
    target: Option<Found>,
}

impl Judged {
    pub(super) fn rows(&self) -> (Option<&Found>, Option<&Found>) {
        (self.source.as_ref(), self.target.as_ref())
    }
}

impl CloserLook<'_, '_> {
    /// Judges rows that differ, each as soon as nothing that is still to be received bears on it.
    pub fn judge(&mut self, differences: Differences) -> Result<(), RecoverError> {
        let mut open = differences.rows;
        for _ in 0..LOOKS {
            if open.is_empty() {
                return Ok(());
            }
            interrupts::check();
            open = self.look_once(open)?;
            untrusted_user::leave_session();
        }
        for difference in &open {
            self.ledger.leave(self.touched, difference.relation, &difference.key, Why::Busy);
        }
        let theirs = Reach::default();
        for difference in open {
            self.put_back(&difference, None, &theirs);
        }
        untrusted_user::leave_session();
        Ok(())
    }

    /// Looks at rows once, and returns those that must be looked at again.
    fn look_once(&mut self, open: Vec<Difference>) -> Result<Vec<Difference>, RecoverError> {
        let both = self.read_both(open)?;
        let found = self.judge_all(&both);
        let deleted = found.iter().filter(|judged| judged.verdict == Verdict::Delete);
        let deleted = deleted.map(|judged| &judged.difference);
        let without_place = self.pair.without_place(self.touched, deleted, self.ledger)?;
        let mut again = Vec::new();
        for judged in found {
            if judged.target.is_some() {
                self.removed.forget(&judged.difference);
            }
            again.extend(self.settle(judged, &both, &without_place)?);
        }
        Ok(again)
    }

    /// Reads the target's rows before its progress: everything that made the rows what they are then lies within that
    /// progress. Rows that a node refuses to show are left.
    pub(super) fn read_both(&mut self, open: Vec<Difference>) -> Result<Both, RecoverError> {
        let mut keys: BTreeMap<u32, Vec<KeyText>> = BTreeMap::new();
        for difference in open {
            keys.entry(difference.relation).or_default().push(difference.key);
        }
        let target = self.read(Side::Target, &mut keys)?;
        let ours = self.pair.view_target()?;
        let source_lacks = self.waits.for_source(self.pair, &mut self.ledger.counts, &ours, true)?;
        let source = self.read(Side::Source, &mut keys)?;
        let theirs = self.pair.view_source(&ours)?;
        let target_lacks = self.waits.for_target(self.pair, &theirs, self.removed.errors_before())?;
        Ok(Both { keys, source, target, theirs, source_lacks, target_lacks })
    }

    pub(super) fn read(
        &mut self,
        side: Side,
        keys: &mut BTreeMap<u32, Vec<KeyText>>,
    ) -> Result<HashMap<u32, Rows>, RecoverError> {
        let mut rows = HashMap::new();
        for (relation, keys) in keys {
            rows.insert(*relation, self.pair.rows_of(side, self.touched, *relation, keys, self.ledger)?);
        }
        Ok(rows)
    }

    /// Judges all rows, and sorts them: deletions come first and updates next, because they make room for insertions.
    pub(super) fn judge_all(&mut self, both: &Both) -> Vec<Judged> {
        let mut found = Vec::new();
        for (relation, keys) in &both.keys {
            let (Some(source), Some(target)) = (both.source.get(relation), both.target.get(relation)) else { continue };
            for key in keys {
                let (Some(source), Some(target)) = (there(source, key), there(target, key)) else {
                    self.ledger.counts.leave(Why::NotComparable, 1);
                    continue;
                };
                let verdict = self.standing(both).verdict(source, target);
                self.ledger.has_missed |= source.is_none();
                let (source, target) = (source.cloned(), target.cloned());
                let rows_bytes = [&source, &target].into_iter().flatten().map(Found::kept_bytes).sum();
                let difference = Difference { relation: *relation, key: key.clone(), rows_bytes };
                found.push(Judged { verdict, difference, source, target });
            }
        }
        found.sort_by_key(|judged| match judged.verdict {
            Verdict::Delete => 0,
            Verdict::Update => 1,
            _ => 2,
        });
        found
    }

    /// Carries out the verdict on one row. Returns the row if it must be looked at again.
    fn settle(
        &mut self,
        judged: Judged,
        both: &Both,
        without_place: &HashSet<(u32, KeyText)>,
    ) -> Result<Option<Difference>, RecoverError> {
        let Judged { verdict, difference, .. } = &judged;
        let (source, target) = judged.rows();
        if *verdict == Verdict::Delete && without_place.contains(&(difference.relation, difference.key.clone())) {
            self.ledger.leave(self.touched, difference.relation, &difference.key, Why::Refused);
            return Ok(None);
        }
        let standing = self.standing(both);
        let must_write = matches!(verdict, Verdict::Insert | Verdict::Update | Verdict::Delete);
        let lacks = match standing.lacks(*verdict, source, target) {
            None if must_write && !self.pair.is_replicated(self.touched, difference.relation, source) => {
                Some(Why::NotReplicated)
            }
            lacks => lacks,
        };
        let late = target.filter(|target| standing.replay.has_written(target));
        if let Some(late) = late.filter(|_| standing.is_stuck(*verdict, source)) {
            // That node may have sent an INSERT for which the late row leaves no room. The row is judged again when the
            // INSERT has been applied.
            self.take_away(difference, late, &both.theirs)?;
            return Ok(Some(judged.difference));
        }
        match (lacks, verdict) {
            // The target has the later version, and nothing that is still to be received bears on that.
            (_, Verdict::Keep) | (None, Verdict::Settled) => self.ledger.counts.compared += 1,
            (Some(_), _) if self.removed.holds && self.removed.has(difference) => self.removed.hold(judged.difference),
            (Some(why), _) => {
                self.ledger.leave(self.touched, difference.relation, &difference.key, why);
                self.put_back(difference, target, &both.theirs);
            }
            (None, Verdict::OfUnknownAge) => self.ledger.counts.leave(Why::UnknownAge, 1),
            (None, Verdict::Insert | Verdict::Update | Verdict::Delete) => {
                let must_look_again = *verdict == Verdict::Insert;
                let did = writer(self.pair, self.ledger, self.touched, self.apply_as).bring(
                    difference,
                    *verdict,
                    (source, target),
                    &both.theirs,
                    must_look_again,
                )?;
                if self.ledger.count_brought(self.touched, difference, *verdict, did) {
                    return Ok(Some(judged.difference));
                }
            }
        }
        Ok(None)
    }

    pub(super) fn standing<'s>(&'s self, both: &'s Both) -> Standing<'s> {
        Standing {
            replay: self.pair.replay(self.ledger.is_of_gone),
            local: self.pair.local,
            source: &self.pair.source_name,
            source_lacks: &both.source_lacks,
            target_lacks: &both.target_lacks,
            late_at_source: &self.waits.late_at_source,
            stuck: &self.waits.stuck,
            passed_by_source: &both.theirs.passed,
        }
    }

    fn take_away(&mut self, difference: &Difference, late: &Found, theirs: &Reach) -> Result<(), RecoverError> {
        let mut writer = writer(self.pair, self.ledger, self.touched, self.apply_as);
        self.removed.take_away(&mut writer, difference, late, theirs, &self.waits.errors_now)
    }

    fn put_back(&mut self, difference: &Difference, target: Option<&Found>, theirs: &Reach) {
        let mut writer = writer(self.pair, self.ledger, self.touched, self.apply_as);
        self.removed.put_back(&mut writer, difference, target, theirs);
    }
}

pub(super) fn writer<'w, 'a>(
    pair: &'w mut Pair<'a>,
    ledger: &'w mut Ledger,
    touched: &'w Touched,
    apply_as: ApplyAs,
) -> Writer<'w, 'a> {
    Writer { pair, ledger, touched, apply_as }
}
