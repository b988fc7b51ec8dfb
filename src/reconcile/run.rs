//! Compares the rows that a replay has touched with the source's, and writes what the source has of a later version.

use super::closer::CloserLook;
use super::compare::FirstLook;
use super::difference::Differences;
use super::ledger::Ledger;
use super::pair::Pair;
use super::removed::Removed;
use super::waits::Waits;
use crate::apply::touched::Touched;
use crate::guc::{self, Policy};
use crate::intent::document::Intent;
use crate::pg::apply_as::ApplyAs;
use crate::pg::commit_ts;
use crate::recover::error::RecoverError;
use crate::recover::source::Source;
use crate::tally::compared::{Counts, Why};
use std::collections::BTreeSet;

/// Reconciles the target of a recovery with one other node.
pub struct Reconciler<'a> {
    pair: Pair<'a>,
    pub waits: Waits,
    pub ledger: Ledger,
    removed: Removed,
    apply_as: ApplyAs,
    /// The nodes of which the source lacks something that the target had, and may have skipped.
    pub behind: BTreeSet<String>,
    /// The source has something else than the failed node's version of a row, or nothing: others may have given it another
    /// key.
    pub may_have_moved: bool,
}

impl<'a> Reconciler<'a> {
    /// The rows that the recovery of `intent` has touched on this node, with those of its source.
    pub fn new(source: Source, intent: &'a Intent, apply_as: ApplyAs) -> Reconciler<'a> {
        Reconciler {
            pair: Pair::new(source, intent),
            waits: Waits::default(),
            ledger: Ledger::default(),
            removed: Removed::default(),
            apply_as,
            behind: BTreeSet::new(),
            may_have_moved: false,
        }
    }

    fn closer<'l>(&'l mut self, touched: &'l Touched) -> CloserLook<'l, 'a> {
        CloserLook {
            pair: &mut self.pair,
            waits: &mut self.waits,
            ledger: &mut self.ledger,
            removed: &mut self.removed,
            touched,
            apply_as: self.apply_as,
        }
    }
}

impl Reconciler<'_> {
    /// Whether the source has all that the target has of the failed node; None if one of them does not subscribe to it.
    pub fn source_has_enough(&mut self) -> Result<Option<bool>, RecoverError> {
        self.pair.source_has_enough()
    }

    /// Whether the source may have written of its own what others did, as another key, for it was recovered itself.
    pub fn source_was_recovered(&mut self) -> Result<bool, RecoverError> {
        Ok(self.pair.source.reconcile_origin()?.is_some())
    }

    /// From here on what is taken away in vain stays away until rows of other recoveries were looked at.
    pub fn hold_removed(&mut self) {
        self.removed.holds = true;
    }

    /// Something was taken away in vain until now.
    pub fn holds_something(&self) -> bool {
        self.removed.holds_something()
    }

    /// Compares all of them. False: `goes_on` has said no.
    pub fn run(
        &mut self,
        touched: &mut Touched,
        mut goes_on: impl FnMut(&Counts) -> bool,
    ) -> Result<bool, RecoverError> {
        touched.rewind();
        self.ledger.leave_missing(touched, self.pair.local);
        if let Some(why) = self.incomparable()? {
            self.ledger.counts.leave(why, touched.count() as usize);
            return Ok(true);
        }
        // What the target has skipped for lack of a row, the source must have: then what they have alike is alike for good.
        let ours = self.pair.view_target()?;
        self.waits.begin(&ours);
        self.pair.learn()?;
        let behind = self.waits.for_source(&mut self.pair, &mut self.ledger.counts, &ours, false)?;
        self.behind.extend(behind.iter().filter(|node| *node != self.pair.failed).cloned());
        let mut differences = Differences::default();
        loop {
            let keys = touched.next_sorted();
            let mut look =
                FirstLook { closer: self.closer(touched), behind: behind.clone(), differences, may_have_moved: false };
            if keys.is_empty() {
                look.look_closer()?;
                return Ok(goes_on(&self.ledger.counts));
            }
            let is_to_go_on = look.compare_all(&keys, &mut goes_on)?;
            let has_moved = look.may_have_moved;
            differences = look.differences;
            self.may_have_moved |= has_moved;
            if !is_to_go_on {
                return Ok(false);
            }
        }
    }

    /// Why nothing can be compared at all.
    fn incomparable(&mut self) -> Result<Option<Why>, RecoverError> {
        if matches!(guc::rescue_conflict_resolution(), Policy::ApplyRemote | Policy::KeepLocal) {
            return Ok(Some(Why::Policy));
        }
        let theirs = self.pair.source.read_one("SHOW track_commit_timestamp")?;
        let are_known = commit_ts::is_tracked() && theirs.as_deref() == Some("on");
        Ok((!are_known).then_some(Why::NoCommitTimestamps))
    }

    /// As `run`, of rows that a node's own recovery has deleted there.
    pub fn run_gone(&mut self, gone: &mut Touched, goes_on: impl FnMut(&Counts) -> bool) -> Result<bool, RecoverError> {
        if gone.count() == 0 {
            return Ok(true);
        }
        self.ledger.is_of_gone = true;
        let done = self.run(gone, goes_on);
        self.ledger.is_of_gone = false;
        done
    }

    /// Looks once more at what was taken away, and puts it back where that was in vain.
    pub fn let_held_go(&mut self, touched: &Touched) -> Result<(), RecoverError> {
        let mut together = Differences::default();
        for difference in self.removed.let_go() {
            together.push(difference);
            if together.are_many() {
                self.closer(touched).judge(std::mem::take(&mut together))?;
            }
        }
        self.closer(touched).judge(together)
    }
}
