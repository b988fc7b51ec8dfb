//! Which events an intent may undergo, and in which order (pure).
//!
//! begun → suspending → replaying → resuming → reconciling → completed. An attempt that fails before everything is
//! replayed goes back to suspending, because the subscriptions to the other survivors run in between. An abort ends a
//! recovery in any phase. The rescue worker resumes an intent that has not ended; one recovery is carried at a time.

use super::document::{
    Checkpoint, CloneRecord, End, EndOutcome, Failure, Intent, Journal, Phase, Request, Step, Suspension, Until,
};
use super::error::IntentError;
use super::fault;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::tally::compared::Counts;
use crate::tally::replayed::Totals;
use std::collections::BTreeSet;

/// How many intents that have ended are kept: those that have ended last.
const KEPT: usize = 20;

/// Which recovery is to be resumed.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumable<'a> {
    Nothing,
    One(&'a Intent),
    /// There should be only one. None is resumed, because nobody knows which of them is right.
    Several(Vec<&'a Intent>),
}

/// What is known of a recovery when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    pub id: IntentId,
    pub subscription: u32,
    pub request: Request,
    pub has_own_dsn: bool,
    pub applied_before: OriginLsn,
    pub passed_before: OriginLsn,
    /// The next transaction id on this node.
    pub transaction: u32,
    pub at: Timestamp,
}

impl Journal {
    /// Begins a recovery, or joins the one that runs if that has the same request. Returns its id. At most one recovery runs on a
    /// target: if several are unfinished, nobody knows which is right, and none is joined.
    ///
    /// # Errors
    /// [`IntentError::AlreadyRunning`] if another recovery runs, or one that is to be aborted.
    pub fn begin(&mut self, beginning: Beginning) -> Result<IntentId, IntentError> {
        let at = beginning.at;
        let (touched_from, since_transaction) = self.uncompared(&beginning.request.failed).unzip();
        let mut unfinished = self.intents.iter_mut().filter(|intent| intent.is_unfinished());
        let (running, is_alone) = (unfinished.next(), unfinished.next().is_none());
        let id = match running {
            Some(running) if is_alone && running.request == beginning.request && !running.must_abort => {
                // A caller that joins may have just given a connection string to the source, which is then removed with
                // this recovery.
                running.has_own_dsn |= beginning.has_own_dsn;
                running.id
            }
            Some(running) => {
                return Err(IntentError::AlreadyRunning {
                    failed: running.request.failed.clone(),
                    source_node: running.request.source.clone(),
                    id: running.id,
                });
            }
            None => {
                self.intents.push(Intent {
                    id: beginning.id,
                    subscription: beginning.subscription,
                    request: beginning.request,
                    clone: None,
                    has_own_dsn: beginning.has_own_dsn,
                    applied_before: beginning.applied_before,
                    passed_before: beginning.passed_before,
                    begun_at: at,
                    checkpoint: None,
                    steps: Vec::new(),
                    failure: None,
                    since_transaction: since_transaction.unwrap_or(beginning.transaction),
                    touched_from,
                    reconciled: None,
                    kept_rows: None,
                    skips: Vec::new(),
                    is_attempted: false,
                    cut_short: 0,
                    must_abort: false,
                    rebuild: None,
                    end: None,
                });
                beginning.id
            }
        };
        Ok(id)
    }

    /// Returns where the aborted recoveries of a node began whose touched rows nobody has compared, and the first
    /// transaction id here that may have written these rows.
    fn uncompared(&self, failed: &str) -> Option<(OriginLsn, u32)> {
        let of_node = self.intents.iter().filter(|intent| intent.request.failed == failed);
        of_node.fold(None, |known: Option<(OriginLsn, u32)>, intent| match (&intent.end, &intent.checkpoint) {
            (Some(End { outcome: EndOutcome::Completed, .. }), _) => None,
            // The rows that this recovery has kept are compared by themselves.
            (Some(End { outcome: EndOutcome::Aborted, .. }), Some(checkpoint)) if !intent.has_kept_all() => {
                let first = (checkpoint.skip, intent.since_transaction);
                Some(known.map_or(first, |(from, since)| (from.min(checkpoint.skip), since)))
            }
            _ => known,
        })
    }

    pub fn intent(&self, id: IntentId) -> Option<&Intent> {
        self.intents.iter().find(|intent| intent.id == id)
    }

    pub fn unfinished(&self) -> impl Iterator<Item = &Intent> {
        self.intents.iter().filter(|intent| intent.is_unfinished())
    }

    pub fn resumable(&self) -> Resumable<'_> {
        let unfinished: Vec<&Intent> = self.unfinished().collect();
        match unfinished.as_slice() {
            [] => Resumable::Nothing,
            [one] => Resumable::One(one),
            _ => Resumable::Several(unfinished),
        }
    }

    fn running(&mut self, id: IntentId) -> Result<&mut Intent, IntentError> {
        match self.intents.iter_mut().find(|intent| intent.id == id) {
            None => Err(IntentError::Unknown { id }),
            Some(intent) if !intent.is_unfinished() => Err(IntentError::Ended { id }),
            Some(intent) => Ok(intent),
        }
    }

    pub(super) fn running_rebuild(&mut self, id: IntentId) -> Result<&mut Intent, IntentError> {
        match self.running(id)? {
            intent if intent.is_rebuild() => Ok(intent),
            _ => Err(IntentError::OutOfOrder { id }),
        }
    }

    /// Records the clone that a recovery has made for itself.
    pub fn note_clone(&mut self, id: IntentId, clone: &str) -> Result<(), IntentError> {
        self.running(id)?.clone = Some(clone.to_owned());
        Ok(())
    }

    /// Records the next checkpoint, and adds `done` to its totals. `range`: what is to be replayed, which the first
    /// checkpoint fixes. `at`: microseconds since 2000.
    ///
    /// # Errors
    /// [`IntentError::OutOfOrder`] if the phase cannot follow the present one.
    pub fn checkpoint(
        &mut self,
        id: IntentId,
        phase: Phase,
        range: Option<(OriginLsn, OriginLsn)>,
        done: Totals,
        at: Timestamp,
    ) -> Result<(), IntentError> {
        let intent = self.running(id)?;
        let before = intent.checkpoint.as_ref();
        let is_legal = match (before.map(|checkpoint| checkpoint.phase), phase) {
            // Each attempt begins by suspending. From Resuming on everything is replayed, and an attempt only goes
            // forward.
            (None, Phase::Suspending)
            | (Some(Phase::Suspending | Phase::Replaying), Phase::Suspending)
            | (Some(Phase::Suspending | Phase::Replaying), Phase::Replaying)
            | (Some(Phase::Replaying | Phase::Resuming), Phase::Resuming)
            | (Some(Phase::Resuming | Phase::Reconciling), Phase::Reconciling) => true,
            (None, Phase::Replaying | Phase::Resuming | Phase::Reconciling)
            | (Some(Phase::Suspending), Phase::Resuming | Phase::Reconciling)
            | (Some(Phase::Replaying), Phase::Reconciling)
            | (Some(Phase::Resuming), Phase::Suspending | Phase::Replaying)
            | (Some(Phase::Reconciling), Phase::Suspending | Phase::Replaying | Phase::Resuming) => false,
        };
        if !is_legal {
            return Err(IntentError::OutOfOrder { id });
        }
        let fixed = before.map(|checkpoint| (checkpoint.skip, checkpoint.stop)).or(range);
        let Some((skip, stop)) = fixed else { return Err(IntentError::OutOfOrder { id }) };
        let mut totals = intent.totals();
        totals += done;
        let number = before.map_or(1, |checkpoint| checkpoint.number.saturating_add(1));
        if intent.steps.iter().all(|step| step.phase != phase) {
            intent.steps.push(Step { phase, at });
        }
        intent.checkpoint = Some(Checkpoint { number, phase, at, skip, stop, totals });
        Ok(())
    }

    /// Records that an attempt begins. Until the attempt has recorded how it ended, it is not known what has become of
    /// it.
    pub fn begin_attempt(&mut self, id: IntentId) -> Result<(), IntentError> {
        self.running(id)?.is_attempted = true;
        Ok(())
    }

    /// Records the end of an attempt that could not do so itself.
    pub fn note_cut_short(&mut self, id: IntentId, failure: Failure) -> Result<(), IntentError> {
        let intent = self.running(id)?;
        intent.failure = Some(failure);
        intent.is_attempted = false;
        intent.cut_short = intent.cut_short.saturating_add(1);
        Ok(())
    }

    /// Records that an attempt has failed, and counts what it had done.
    pub fn fail(&mut self, id: IntentId, failure: Failure, done: Totals) -> Result<(), IntentError> {
        let intent = self.running(id)?;
        if let Some(checkpoint) = &mut intent.checkpoint {
            checkpoint.totals += done;
        }
        intent.failure = Some(failure);
        (intent.is_attempted, intent.cut_short) = (false, 0);
        Ok(())
    }

    /// Ends a recovery: everything is replayed and reconciled, and the subscriptions to the other survivors run again.
    /// `at`: microseconds since 2000.
    ///
    /// # Errors
    /// [`IntentError::OutOfOrder`] if the recovery is in another phase than reconciling.
    pub fn complete(&mut self, id: IntentId, position: OriginLsn, at: Timestamp) -> Result<(), IntentError> {
        let intent = self.running(id)?;
        if intent.checkpoint.as_ref().map(|checkpoint| checkpoint.phase) != Some(Phase::Reconciling) {
            return Err(IntentError::OutOfOrder { id });
        }
        intent.failure = None;
        (intent.is_attempted, intent.cut_short) = (false, 0);
        intent.end = Some(End { outcome: EndOutcome::Completed, at, position: Some(position) });
        self.forget_old();
        Ok(())
    }

    /// Records what reconciling has done, before the recovery itself ends. `kept`: the large object with the rows that
    /// could not be judged. Returns the large object that kept rows before.
    pub fn note_reconciled(
        &mut self,
        id: IntentId,
        counts: Counts,
        kept: Option<u32>,
    ) -> Result<Option<u32>, IntentError> {
        let intent = self.running(id)?;
        intent.reconciled = Some(counts);
        Ok(std::mem::replace(&mut intent.kept_rows, kept))
    }

    /// Records the outcome of comparing kept rows again. `kept`: the large object with the rows that stay kept. Returns
    /// the large object that kept the rows before.
    pub fn note_judged_again(&mut self, id: IntentId, again: Counts, kept: Option<u32>) -> Option<u32> {
        let intent = self.intents.iter_mut().find(|intent| intent.id == id)?;
        intent.reconciled.get_or_insert_default().look_again(again);
        let before = std::mem::replace(&mut intent.kept_rows, kept);
        self.forget_old();
        before
    }

    /// Recoveries that have ended and whose kept rows are to be compared again.
    pub fn with_kept_rows(&self) -> impl Iterator<Item = &Intent> {
        self.intents.iter().filter(|intent| !intent.is_unfinished() && intent.kept_rows.is_some())
    }

    /// The failed nodes of which something was replayed here.
    pub fn recovered_of(&self) -> BTreeSet<String> {
        let replayed = self.intents.iter().filter(|intent| intent.totals().rows > 0);
        replayed.map(|intent| intent.request.failed.clone()).collect()
    }

    /// The large objects that keep rows, also those of recoveries that have not ended.
    pub fn kept_objects(&self) -> BTreeSet<u32> {
        self.intents.iter().filter_map(|intent| intent.kept_rows).collect()
    }

    /// All large objects that the journal names.
    pub fn objects(&self) -> BTreeSet<u32> {
        let of_comparisons = self.comparisons.iter().flat_map(|record| [record.progress_object, record.keys_object]);
        let manifests = self.manifests.iter().map(|manifest| manifest.object);
        self.kept_objects().into_iter().chain(self.slot_files).chain(of_comparisons).chain(manifests).collect()
    }

    /// Adds what an attempt has done to the totals.
    pub fn count(&mut self, id: IntentId, done: Totals) -> Result<(), IntentError> {
        if let Some(checkpoint) = &mut self.running(id)?.checkpoint {
            checkpoint.totals += done;
        }
        Ok(())
    }

    /// Aborts a recovery in whatever phase it is; what the last attempt had done counts. `at`: microseconds since 2000.
    pub fn abort(&mut self, id: IntentId, done: Totals, at: Timestamp) -> Result<(), IntentError> {
        let intent = self.running(id)?;
        if let Some(checkpoint) = &mut intent.checkpoint {
            checkpoint.totals += done;
        }
        (intent.is_attempted, intent.cut_short) = (false, 0);
        intent.end = Some(End { outcome: EndOutcome::Aborted, at, position: None });
        self.forget_old();
        Ok(())
    }

    /// Asks the rescue worker to end the recovery of a failed node.
    pub fn ask_to_abort(&mut self, failed: &str) -> Result<IntentId, IntentError> {
        let running = self.intents.iter_mut().find(|intent| intent.is_unfinished() && intent.request.failed == failed);
        let Some(intent) = running else { return Err(IntentError::NotRunning { failed: failed.to_owned() }) };
        intent.must_abort = true;
        Ok(intent.id)
    }

    /// Gives up the transaction that the recovery of a failed node could not apply, and no other. `lsn`: where that
    /// transaction ended at the failed node.
    ///
    /// # Errors
    /// [`IntentError::NotFailing`] if the recovery does not wait at that transaction.
    pub fn skip(&mut self, failed: &str, lsn: OriginLsn) -> Result<IntentId, IntentError> {
        let running = self.intents.iter_mut().find(|intent| intent.is_unfinished() && intent.request.failed == failed);
        let Some(intent) = running else { return Err(IntentError::NotRunning { failed: failed.to_owned() }) };
        if intent.skips.contains(&lsn) {
            return Ok(intent.id);
        }
        let failing = intent.failure.as_ref().and_then(|failure| failure.origin_lsn);
        if failing != Some(lsn) {
            let is_at_fault = intent.failure.as_ref().is_some_and(fault::is_transactions);
            return Err(IntentError::NotFailing { failed: failed.to_owned(), asked: lsn, failing, is_at_fault });
        }
        intent.skips.push(lsn);
        Ok(intent.id)
    }

    /// Takes out the suspensions that last `until` then. The subscriptions to the other survivors are enabled again
    /// when the replay is over or an attempt has failed; the one to the failed node stays disabled until that node is
    /// back and was judged.
    pub fn take_suspended(&mut self, until: Until, which: impl Fn(u32) -> bool) -> Vec<Suspension> {
        let is_taken = |entry: &Suspension| entry.until == until && which(entry.subscription);
        let (taken, left) = std::mem::take(&mut self.suspensions).into_iter().partition(is_taken);
        self.suspensions = left;
        taken
    }

    /// Registers a clone, in place of what was registered for its slot before.
    pub fn register_clone(&mut self, clone: CloneRecord) {
        self.clones.retain(|known| known.slot != clone.slot);
        self.clones.push(clone);
    }

    /// Forgets the intents that have ended first, so that the one that has just ended can always be looked at. Intents
    /// that keep rows are not forgotten.
    fn forget_old(&mut self) {
        let end_of = |intent: &Intent| intent.end.as_ref().filter(|_| intent.kept_rows.is_none()).map(|end| end.at);
        let mut ends: Vec<Timestamp> = self.intents.iter().filter_map(end_of).collect();
        let surplus = ends.len().saturating_sub(KEPT);
        ends.sort_unstable();
        let Some(last_to_go) = surplus.checked_sub(1).and_then(|index| ends.get(index)).copied() else { return };
        let mut left = surplus;
        self.intents.retain(|intent| {
            let goes = left > 0 && end_of(intent).is_some_and(|at| at <= last_to_go);
            left -= usize::from(goes);
            !goes
        });
    }
}
