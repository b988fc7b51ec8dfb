//! The last part of a rescue: the rows that the replay has touched are reconciled (src/reconcile), by the attempt that
//! has replayed them or by a later one, which collects their keys again.

use super::replaying::{plugin_settings, setting_of, touched_from};
use super::rescue::{Rescue, goes_on, with_entry};
use super::trouble::{Trouble, failure_of, remote};

use crate::apply::stream::{Ended, Stream};
use crate::apply::touched::Touched;
use crate::apply::transaction::Applier;
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::document::{Intent, Phase};
use crate::lsn::OriginLsn;
use crate::node::provider::Route;
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::Timestamp;
use crate::pg::logicalrep;
use crate::pg::{interrupts, large_object, origin, process, transaction};
use crate::reconcile;
use crate::reconcile::kept::KeptRows;
use crate::reconcile::moves::{KnownKeys, MoveReader, Moves};
use crate::reconcile::run::Reconciler;
use crate::recover::error::RecoverError;
use crate::recover::source::{Source, route_to};
use crate::recover::target::{self, TargetFacts};
use crate::tally::compared::{Counts, Why};
use std::cell::RefCell;

/// When this many attempts to reconcile have failed, the recovery ends without reconciling: the rows that are left are
/// no reason to keep it open.
const RECONCILE_ATTEMPTS: u32 = 4;

impl Rescue {
    /// Reconciles after an earlier attempt has replayed everything: reads again which rows were touched. After
    /// [`RECONCILE_ATTEMPTS`] failures the recovery ends without reconciling.
    pub(super) fn collect_and_reconcile(
        &mut self,
        target: &TargetFacts,
    ) -> Result<Option<(Counts, KeptRows)>, Trouble> {
        let intent: &Intent = &self.intent();
        let index = self.index;
        let collected = interrupts::catch(|| {
            let Some(checkpoint) = &intent.checkpoint else { return Err(Trouble::MustStop) };
            Self::collect(intent, target, checkpoint.stop, || goes_on(index))
        });
        let outcome = match collected {
            Ok(Ok((apply_as, mut touched))) => self.reconcile(apply_as, &mut touched),
            Ok(Err(trouble)) => Err(trouble),
            Err(report) => {
                transaction::abort_current();
                Err(Trouble::Raised { report, relation: None, origin_lsn: None })
            }
        };
        process::keep_books();
        let mut failures = 0;
        with_entry(self.index, |entry| failures = entry.failures);
        match outcome {
            Err(trouble @ (Trouble::Recover(_) | Trouble::Raised { .. })) if failures + 1 >= RECONCILE_ATTEMPTS => {
                let (failure, said) = failure_of(trouble);
                pgrx::warning!(
                    "the rows that the recovery of node \"{}\" has touched could not be compared with those of node \
                     \"{}\" yet: {} (SQLSTATE {}) {}",
                    intent.request.failed,
                    intent.request.source,
                    failure.reason,
                    failure.sqlstate,
                    said.error.message
                );
                // Rows that an earlier attempt has kept are compared again later. If no attempt has come that far, it
                // is not known any more which rows they were, and they are counted as lost.
                let is_kept = self.intent().reconciled.is_some();
                let mut lost = Counts::default();
                lost.leave(Why::Lost, intent.totals().rows as usize);
                Ok((!is_kept && lost.lost() > 0).then(|| (lost, KeptRows::default())))
            }
            outcome => outcome,
        }
    }

    /// Keeps the rows that an aborted recovery has touched; they are compared as soon as possible. If it cannot be
    /// found out any more which rows they are, they are counted as lost; a later recovery from another source may
    /// compare them all the same.
    pub(super) fn keep_touched(&mut self) -> Result<(), RecoverError> {
        let now: &Intent = &self.intent();
        if now.reconciled.is_some() || now.totals().rows == 0 {
            return Ok(());
        }
        process::report_activity("keeping what was touched");
        let kept = interrupts::catch(|| {
            let facts = transaction::run(|| target::look(&now.request.failed))?;
            let stop = now.checkpoint.as_ref().map_or(OriginLsn::ZERO, |checkpoint| checkpoint.stop);
            let (_, mut touched) = Self::collect(now, &facts, stop.min(facts.applied), || true)?;
            self.keep_all(&mut touched)
        });
        process::keep_books();
        let trouble = match kept {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(trouble)) => trouble,
            Err(report) => {
                transaction::abort_current();
                Trouble::Raised { report, relation: None, origin_lsn: None }
            }
        };
        let (failure, said) = failure_of(trouble);
        let rows = now.totals().rows;
        pgrx::warning!(
            "{rows} rows that the aborted recovery of node \"{}\" from node \"{}\" has touched are not compared with those of other \
             nodes unless a later recovery of that node does it: {} (SQLSTATE {}) {}",
            now.request.failed,
            now.request.source,
            failure.reason,
            failure.sqlstate,
            said.error.message
        );
        let mut lost = Counts::default();
        lost.leave(Why::Lost, rows as usize);
        self.write(|journal, _| Ok(journal.note_reconciled(now.id, lost.clone(), None).map(drop)?))
    }

    /// Streams again what was replayed, up to `stop`, and returns the rows that it has touched.
    fn collect(
        intent: &Intent,
        target: &TargetFacts,
        stop: OriginLsn,
        goes_on: impl Fn() -> bool,
    ) -> Result<(ApplyAs, Touched), Trouble> {
        let request = &intent.request;
        let (Some(checkpoint), Some(clone)) = (&intent.checkpoint, intent.clone_name()) else {
            return Err(Trouble::MustStop);
        };
        process::report_activity("collecting what was touched");
        let route = transaction::run(|| route_to(&request.source))?;
        let mut source = Source::open(&request.source, &route)?;
        source.clone_facts(clone)?;
        let facts = source.facts(&request.failed, &target.tables)?;
        drop(source);
        process::apply_like_a_replica();
        process::wait_for_locks(guc::rescue_lock_timeout().unwrap_or_default());
        let Some(apply_as) = transaction::run(|| logicalrep::become_applier_of(target.subscription)) else {
            return Err(RecoverError::NoSubscription { failed: request.failed.clone() }.into());
        };
        let from = touched_from(intent, checkpoint.skip);
        let setting = setting_of(intent, target, apply_as);
        let mut collector = Applier::collector(setting, from, intent.skips.clone());
        let settings = plugin_settings(intent, &facts, from, stop);
        let mut stream = Stream::open(&route, clone, &settings, guc::peer_timeout()).map_err(|e| remote(intent, e))?;
        let is_complete = |collector: &Applier| collector.is_over() || collector.seen() >= stop;
        let ended =
            stream.run(&mut collector, facts.until, is_complete, |_| goes_on()).map_err(|e| remote(intent, e))?;
        match ended {
            Ended::Stopped => Err(Trouble::MustStop),
            Ended::Complete => {
                // What is written from here on is durable when it is committed.
                process::keep_books();
                Ok((apply_as, collector.touched))
            }
        }
    }

    /// Brings the touched rows to what they would be if no change had come late. None: there was nothing to compare.
    ///
    /// # Errors
    /// [`Trouble::MustStop`] if the recovery is to be aborted; otherwise why this attempt has failed, after the rows
    /// were kept.
    pub(super) fn reconcile(
        &mut self,
        apply_as: ApplyAs,
        touched: &mut Touched,
    ) -> Result<Option<(Counts, KeptRows)>, Trouble> {
        let id = self.intent().id;
        self.write(|journal, done| Ok(journal.checkpoint(id, Phase::Reconciling, None, done, Timestamp::now())?))?;
        failpoint::hit(names::RESCUE_RECONCILING);
        // Even without touched rows there is something to compare if the source was recovered itself: it may have
        // skipped all of the failed node's changes, so that none was streamed, and have written their outcome under an
        // origin of its own since.
        if touched.count() == 0 && touched.of_missing().next().is_none() && !was_recovered(&self.intent())? {
            return Ok(None);
        }
        let reconciled = self.compare(apply_as, touched);
        if reconciled.is_err() {
            self.keep_all(touched)?;
        }
        let reconciled = reconciled?;
        failpoint::hit(names::RESCUE_RECONCILED);
        Ok(Some(reconciled))
    }

    fn compare(&mut self, apply_as: ApplyAs, touched: &mut Touched) -> Result<(Counts, KeptRows), Trouble> {
        let intent: &Intent = &self.intent();
        process::report_activity("reconciling");
        let request = &intent.request;
        let route = transaction::run(|| route_to(&request.source))?;
        let mut reconciler = Reconciler::new(Source::open(&request.source, &route)?, intent, apply_as);
        let index = self.index;
        let goes_on = |counts: &Counts| {
            with_entry(index, |entry| entry.compared = counts.compared + counts.unjudged());
            goes_on(index)
        };
        with_entry(index, |entry| entry.touched = touched.count());
        reconciler.hold_removed();
        if !while_reconciling(|| reconciler.run(touched, goes_on))? {
            return Err(Trouble::MustStop);
        }
        if reconciler.holds_something() {
            self.judge_again(&[]);
        }
        let is_done = while_reconciling(|| {
            reconciler.let_held_go(touched)?;
            let is_to_be_followed =
                reconciler.may_have_moved || reconciler.has_missed() || reconciler.source_was_recovered()?;
            if !is_to_be_followed && reconciler.behind.is_empty() {
                return Ok(true);
            }
            let mut known = KnownKeys::of(touched);
            if is_to_be_followed {
                let mut source = Source::open(&request.source, &route)?;
                let clone = intent.clone_name().unwrap_or_default();
                let read = |known: &mut KnownKeys| follow_moves(intent, &mut source, &route, clone, known, index);
                if !follow(&mut reconciler, &mut known, read, (ROUNDS_OF_CLONE, index), goes_on)
                    .map_err(FollowError::into_inner)?
                {
                    return Ok(false);
                }
            }
            // For lack of a row the target may have skipped what the source has yet to receive of a node, also a change
            // of the row's key. So the changes of keys of these nodes are followed as well.
            let behind = reconciler.behind.clone();
            compare_moved(&mut reconciler, intent, behind, None, &mut known, index, goes_on)
        })?;
        if is_done { Ok((reconciler.ledger.counts, reconciler.ledger.kept)) } else { Err(Trouble::MustStop) }
    }

    /// Keeps all touched rows, because the next attempt may find the source gone for good; they are then compared with
    /// another node's rows.
    fn keep_all(&mut self, touched: &mut Touched) -> Result<(), Trouble> {
        let id = self.intent().id;
        let mut kept = KeptRows::default();
        let mut counts = Counts::default();
        touched.rewind();
        while let Some(key) = touched.next() {
            if !transaction::run(|| kept.add_touched(touched, &key, Why::SourceLost)) {
                counts.leave(Why::NotComparable, 1);
                continue;
            }
            counts.leave(Why::SourceLost, 1);
        }
        let kept = RefCell::new(kept);
        Ok(self.write(|journal, _| {
            let kept = kept.borrow_mut().store()?;
            match journal.note_reconciled(id, counts.clone(), kept)? {
                Some(before) => Ok(large_object::remove(before)?),
                None => Ok(()),
            }
        })?)
    }
}

/// Runs `f` with this process set up to reconcile, and undoes that afterwards, also after an ERROR, which becomes
/// [`RecoverError::NotCompared`].
pub(super) fn while_reconciling(f: impl FnOnce() -> Result<bool, RecoverError>) -> Result<bool, Trouble> {
    reconcile::write::begin_writing();
    let outcome = interrupts::catch(f);
    if outcome.is_err() {
        origin::forget_stamp();
        transaction::abort_current();
    }
    reconcile::write::end_writing();
    match outcome {
        Err(report) => {
            // The message may quote a row, so only the log has it.
            pgrx::log!("rows could not be compared: {}", report.message());
            Err(RecoverError::NotCompared { sqlstate: report.sql_error_code() }.into())
        }
        Ok(outcome) => Ok(outcome?),
    }
}

/// Whether the source was itself the target of a recovery.
fn was_recovered(intent: &Intent) -> Result<bool, RecoverError> {
    let source = &intent.request.source;
    let route = transaction::run(|| route_to(source))?;
    Source::open(source, &route)?.was_recovered()
}

/// Compares the rows that touched rows have become through changes of keys at these nodes, and the rows that these
/// nodes' own recoveries have written; the nodes' recovery slots have kept both. A node that cannot be asked is left
/// out, unless it is `needed`. Returns false if the recovery is to stop.
pub(super) fn compare_moved(
    reconciler: &mut Reconciler<'_>,
    intent: &Intent,
    nodes: impl IntoIterator<Item = String>,
    needed: Option<&str>,
    known: &mut KnownKeys,
    index: usize,
    goes_on: impl Fn(&Counts) -> bool,
) -> Result<bool, RecoverError> {
    for node in nodes {
        let read = |known: &mut KnownKeys| moves_of(intent, &node, known, index);
        match follow(reconciler, known, read, (ROUNDS_OF_OTHERS, index), &goes_on) {
            Ok(true) => (),
            Ok(false) => return Ok(false),
            Err(FollowError::Compare(error)) => return Err(error),
            Err(FollowError::Read(error @ RecoverError::Remote { .. })) if needed == Some(node.as_str()) => {
                return Err(error);
            }
            Err(FollowError::Read(error)) => pgrx::log!("could not read changes of keys by node \"{node}\": {error}"),
        }
    }
    Ok(true)
}

/// How often the changes of keys are read because a row was missing at the source: from the clone of the recovery itself,
/// and from a clone of another node's recovery slot, which is made for it each time.
const ROUNDS_OF_CLONE: u32 = 20;
const ROUNDS_OF_OTHERS: u32 = 3;

/// What went wrong while changes of keys were followed.
enum FollowError {
    Read(RecoverError),
    Compare(RecoverError),
}

impl FollowError {
    fn into_inner(self) -> RecoverError {
        match self {
            FollowError::Read(error) | FollowError::Compare(error) => error,
        }
    }
}

/// Compares what touched rows have moved to, as `read` tells it. A row that the source does not have may have been given one
/// more key since that was read: the target had no row for that change, and has skipped it. So it is read again, until no key
/// is new. Returns false if the recovery is to stop.
fn follow(
    reconciler: &mut Reconciler<'_>,
    known: &mut KnownKeys,
    mut read: impl FnMut(&mut KnownKeys) -> Result<Option<Moves>, RecoverError>,
    (rounds, index): (u32, usize),
    goes_on: impl Fn(&Counts) -> bool,
) -> Result<bool, FollowError> {
    for round in 0..rounds {
        let Some(mut moves) = read(known).map_err(FollowError::Read)? else { return Ok(false) };
        failpoint::hit(names::RESCUE_MOVES_READ);
        if round > 0 {
            // What the node's own recoveries have deleted was compared in the first round.
            moves.gone = Touched::default();
            if moves.moved.count() == 0 {
                return Ok(true);
            }
        }
        with_entry(index, |entry| entry.touched += moves.count());
        reconciler.forget_missed();
        if !compare_with(reconciler, &mut moves, &goes_on).map_err(FollowError::Compare)? {
            return Ok(false);
        }
        if !reconciler.has_missed() {
            return Ok(true);
        }
    }
    pgrx::log!("keys of rows keep changing: no more changes of keys are read");
    Ok(true)
}

/// Compares the rows that were read from a node's WAL. Returns false if the recovery is to stop.
fn compare_with(
    reconciler: &mut Reconciler<'_>,
    moves: &mut Moves,
    goes_on: impl Fn(&Counts) -> bool,
) -> Result<bool, RecoverError> {
    Ok(reconciler.run(&mut moves.moved, &goes_on)? && reconciler.run_gone(&mut moves.gone, &goes_on)?)
}

/// Reads what touched rows have become, and what the node's recoveries have written, from a clone of the node's
/// recovery slot, which is dropped afterwards. None: the recovery is to stop.
fn moves_of(intent: &Intent, node: &str, known: &mut KnownKeys, index: usize) -> Result<Option<Moves>, RecoverError> {
    let request = &intent.request;
    let route = transaction::run(|| route_to(node))?;
    let mut source = Source::open(node, &route)?;
    let clone = source.make_clone(intent.id, intent.begun_at, &request.failed, &request.target)?;
    let followed = follow_moves(intent, &mut source, &route, &clone, known, index);
    // A node that cannot be told asks by itself whether the recovery is still open, and drops the clone then.
    let _ = source.release_clone(&clone, intent.id);
    followed
}

/// Streams from `clone` the changes of keys that a node has seen since the clone's position, and what the node's
/// recoveries have written. None: the recovery is to stop.
fn follow_moves(
    intent: &Intent,
    source: &mut Source,
    route: &Route,
    clone: &str,
    known: &mut KnownKeys,
    index: usize,
) -> Result<Option<Moves>, RecoverError> {
    let request = &intent.request;
    let target = transaction::run(|| target::look(&request.failed))?;
    let facts = source.facts(&request.failed, &target.tables)?;
    let mut settings = plugin_settings(intent, &facts, OriginLsn::ZERO, OriginLsn::INFINITY).to_vec();
    settings.push(("spock.rescue_key_changes", "on".to_owned()));
    settings.extend(source.reconcile_origin()?.map(|origin| ("spock.rescue_reconciled_by", origin.to_string())));
    let node = source.name().to_owned();
    let lost = |error| RecoverError::Remote { source_node: node.clone(), error };
    let mut stream = Stream::open(route, clone, &settings, guc::peer_timeout()).map_err(lost)?;
    let wanted = target.tables.iter().map(|table| table.oid).collect();
    let mut reader = MoveReader::new(known, wanted);
    let ended = stream.run(&mut reader, facts.until, |_| false, |_| goes_on(index)).map_err(lost)?;
    Ok((ended == Ended::Complete).then_some(reader.moves))
}
