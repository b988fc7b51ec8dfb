//! Compares the rows that a replay has touched with those of the source, and writes the source's version where it is
//! the later one.

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

/// Reconciles the target of a recovery with one other node, which is called the source here.
pub struct Reconciler<'a> {
    pair: Pair<'a>,
    pub waits: Waits,
    pub ledger: Ledger,
    removed: Removed,
    apply_as: ApplyAs,
    /// The nodes of whose transactions the source lacks some that the target had received, and may have skipped.
    pub behind: BTreeSet<String>,
    /// Whether the source has something other than the failed node's version of a row, or no row: another node may have
    /// given such a row another key.
    pub may_have_moved: bool,
}

impl<'a> Reconciler<'a> {
    /// Reconciles the rows that the recovery of `intent` has touched on this node with those of `source`.
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
    /// Whether the source has all that the target has of the failed node's transactions; None if one of the two does
    /// not subscribe to the failed node.
    pub fn source_has_enough(&mut self) -> Result<Option<bool>, RecoverError> {
        self.pair.source_has_enough()
    }

    /// Whether the source was itself recovered. It may then have skipped other nodes' changes of keys, and have written
    /// their outcome while reconciling.
    pub fn source_was_recovered(&mut self) -> Result<bool, RecoverError> {
        self.pair.source.was_recovered()
    }

    /// From now on, rows that were deleted to unblock an INSERT are restored only after the pending rows of other
    /// recoveries have been compared.
    pub fn hold_removed(&mut self) {
        self.removed.holds = true;
    }

    /// From here on [`Reconciler::has_missed`] speaks of rows that are compared later.
    pub fn forget_missed(&mut self) {
        self.ledger.has_missed = false;
    }

    /// The source did not have one of the rows that were compared: it may have another key by now.
    pub fn has_missed(&self) -> bool {
        self.ledger.has_missed
    }

    /// Whether rows that were deleted to unblock an INSERT, in vain so far, are waiting to be restored.
    pub fn holds_something(&self) -> bool {
        self.removed.holds_something()
    }

    /// Compares all rows of `touched`. Returns false if `goes_on` said that the comparison must stop.
    ///
    /// # Errors
    ///
    /// If the source cannot be asked, or gives an unexpected answer.
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
        // The source must have received whatever the target may have skipped for lack of a row: only then do rows that
        // are alike now stay alike.
        let ours = self.pair.view_target()?;
        self.waits.begin(&ours);
        self.pair.learn()?;
        let behind = self.waits.for_source(&mut self.pair, &mut self.ledger.counts, &ours, false)?;
        self.behind.extend(behind.iter().filter(|node| *node != self.pair.failed).cloned());
        let mut differences = Differences::default();
        loop {
            let keys = touched.next_sorted();
            let mut look =
                FirstLook { closer: self.closer(touched), behind: &behind, differences, may_have_moved: false };
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

    /// The reason why no row can be compared; None if rows can be.
    fn incomparable(&mut self) -> Result<Option<Why>, RecoverError> {
        if matches!(guc::rescue_conflict_resolution(), Policy::ApplyRemote | Policy::KeepLocal) {
            return Ok(Some(Why::Policy));
        }
        let theirs = self.pair.source.read_one("SHOW track_commit_timestamp")?;
        let are_known = commit_ts::is_tracked() && theirs.as_deref() == Some("on");
        Ok((!are_known).then_some(Why::NoCommitTimestamps))
    }

    /// Like `run`, but for rows that another node has deleted while reconciling its own recovery.
    pub fn run_gone(&mut self, gone: &mut Touched, goes_on: impl FnMut(&Counts) -> bool) -> Result<bool, RecoverError> {
        if gone.count() == 0 {
            return Ok(true);
        }
        self.ledger.is_of_gone = true;
        let done = self.run(gone, goes_on);
        self.ledger.is_of_gone = false;
        done
    }

    /// Judges once more the rows that are waiting to be restored, and restores those that were deleted in vain.
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
