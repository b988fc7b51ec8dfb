//! A closer look at rows that differ: each is judged as soon as neither node has anything of the other's still to come that bears
//! on it, and then brought, taken away, kept, or looked at again.
//!
//! The source has passed what the target had when its row was read, and the target what the source had when its was. Then the
//! target's row is locked, and judged only if it is still the same. Where the target has no row to lock, the source's is read once
//! more after ours is in place: what it does to it after that finds ours.

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

/// Closer looks at a row that changes under our hands.
const LOOKS: u32 = 20;

pub(super) struct CloserLook<'l, 'a> {
    pub pair: &'l mut Pair<'a>,
    pub waits: &'l mut Waits,
    pub ledger: &'l mut Ledger,
    pub removed: &'l mut Removed,
    pub touched: &'l Touched,
    pub apply_as: ApplyAs,
}

/// Rows as both nodes have them, and of whom each of the two lacked something after they had been read.
struct Both {
    keys: BTreeMap<u32, Vec<KeyText>>,
    source: HashMap<u32, Rows>,
    target: HashMap<u32, Rows>,
    theirs: Reach,
    source_lacks: BTreeSet<String>,
    target_lacks: BTreeSet<String>,
}

/// A row, and what is to be done about it.
struct Judged {
    verdict: Verdict,
    difference: Difference,
    source: Option<Found>,
    target: Option<Found>,
}

impl Judged {
    fn rows(&self) -> (Option<&Found>, Option<&Found>) {
        (self.source.as_ref(), self.target.as_ref())
    }
}

impl CloserLook<'_, '_> {
    /// Judges rows that differ, each as soon as it may be.
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

    /// Returns those that are to be looked at again.
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

    /// The target's rows first: all that made them what they are is within what it had then. What a node refuses is left.
    fn read_both(&mut self, open: Vec<Difference>) -> Result<Both, RecoverError> {
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

    fn read(&mut self, side: Side, keys: &mut BTreeMap<u32, Vec<KeyText>>) -> Result<HashMap<u32, Rows>, RecoverError> {
        let mut rows = HashMap::new();
        for (relation, keys) in keys {
            rows.insert(*relation, self.pair.rows_of(side, self.touched, *relation, keys, self.ledger)?);
        }
        Ok(rows)
    }

    /// What goes first makes room for what comes.
    fn judge_all(&mut self, both: &Both) -> Vec<Judged> {
        let mut found = Vec::new();
        for (relation, keys) in &both.keys {
            let (Some(source), Some(target)) = (both.source.get(relation), both.target.get(relation)) else { continue };
            for key in keys {
                let (Some(source), Some(target)) = (there(source, key), there(target, key)) else {
                    self.ledger.counts.leave(Why::NotComparable, 1);
                    continue;
                };
                let verdict = self.standing(both).verdict(source, target);
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

    /// Does about one row what was judged. Returns it where it is to be looked at again.
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
            // What comes from that node may be an INSERT for which what came late leaves no room. It is judged again when that
            // has come.
            self.take_away(difference, late, &both.theirs)?;
            return Ok(Some(judged.difference));
        }
        match (lacks, verdict) {
            // The later version is the target's: nothing that is still to come bears on that.
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

    fn standing<'s>(&'s self, both: &'s Both) -> Standing<'s> {
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

fn writer<'w, 'a>(
    pair: &'w mut Pair<'a>,
    ledger: &'w mut Ledger,
    touched: &'w Touched,
    apply_as: ApplyAs,
) -> Writer<'w, 'a> {
    Writer { pair, ledger, touched, apply_as }
}
