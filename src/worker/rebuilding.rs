//! A rebuild, as the rescue worker carries it on the target: the tables are brought to a snapshot that the source has
//! pinned, and core's own apply goes on from there.
//!
//! What is about to be done is recorded first. So the worker may be killed between any two lines: the next one goes on
//! with the tables that are not ready, under the same pin if that still serves. While the subscriptions are suspended
//! their slots keep what is to be applied afterwards.

mod apart;
mod bring;
mod compare;
mod copy;
mod horizon;
mod tables;
mod young;

use super::rescue::{Rescue, goes_on};
use super::trouble::Trouble;
use crate::barrier;
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::document::{Intent, Phase};
use crate::intent::rebuild::{Cut, HeldSlot, Pinned, Rebuild, TablePhase};
use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, random, transaction, wal};
use crate::rebuild::copy::manifest;
use crate::recover::error::RecoverError;
use crate::recover::rebuild::{self, Stream};
use crate::recover::rebuild_error::RebuildError;
use crate::recover::rebuild_slots::{self, SlotState};
use crate::recover::source::{Source, route_to};
use crate::recover::{facts, suspend};
use crate::remote::error::RemoteError;
use crate::shmem::gate::Holds;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long this node's own commits may be held back in each try.
const LEASES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// The time between two looks while they are.
const SHORT_INTERVAL: Duration = Duration::from_millis(10);
/// A source that has made no progress for so long gets no further.
const STANDSTILL: Duration = Duration::from_secs(60);
/// The same if it lacks something of a node that does not answer this one either.
const SILENCE: Duration = Duration::from_secs(3);
/// The time between two looks at the source's progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Rescue {
    /// Carries a rebuild from the point that its intent has reached to its end.
    pub(super) fn carry_rebuild(&mut self) -> Result<(), Trouble> {
        let phase = self.intent().checkpoint.as_ref().map(|checkpoint| checkpoint.phase);
        if phase.is_none_or(|phase| phase < Phase::Resuming) {
            self.rebuild()?;
        }
        if phase.is_none_or(|phase| phase < Phase::Reconciling) {
            self.resume()?;
        }
        let id = self.intent().id;
        self.give_back();
        self.write(|journal, done| Ok(journal.checkpoint(id, Phase::Reconciling, None, done, Timestamp::now())?))?;
        let position = self.rebuild_state().failed_at.unwrap_or_default();
        self.finish(position, None)
    }

    fn rebuild_state(&self) -> Rebuild {
        self.intent().rebuild.clone().unwrap_or_default()
    }

    /// Brings all tables to the snapshot, and sets the origins and slots to where the subscriptions go on.
    fn rebuild(&mut self) -> Result<(), Trouble> {
        let intent: &Intent = &self.intent();
        let request = &intent.request;
        process::report_activity("asking the source");
        let mut source = self.open(&request.source)?;
        self.stand_still(intent)?;
        self.choose_tables(intent)?;
        let silent = self.hold_lost_slots(intent)?;
        self.set_apart(intent)?;
        // Nothing is refused, nor left out, before it is known that the source can serve.
        let needed = self.needed(&self.rebuild_state())?;
        self.wait_for_source(intent, &mut source, &needed)?;
        self.park_first(intent)?;
        self.pin(intent, &mut source, &needed)?;
        self.write(|journal, done| {
            Ok(journal.checkpoint(intent.id, Phase::Replaying, None, done, Timestamp::now())?)
        })?;
        let failed = self.compare_tables()?;
        if self.rebuild_state().tables.iter().any(|table| table.phase == TablePhase::Copying) {
            // What was parked in the course of that is copied from a later snapshot.
            self.pin(intent, &mut source, &needed)?;
        }
        drop(source);
        failed.or(self.copy_tables()?).map_or(Ok(()), Err)?;
        self.wait_until_caught_up()?;
        self.settle(&silent)
    }

    pub(super) fn open(&self, node: &str) -> Result<Source, RecoverError> {
        let route = transaction::run(|| route_to(node))?;
        Source::open(node, &route)
    }

    /// Suspends this node's subscriptions, and waits until their processes have ended.
    fn stand_still(&mut self, intent: &Intent) -> Result<(), Trouble> {
        process::report_activity("suspending subscriptions");
        let at = intent.applied_before;
        self.write(|journal, done| {
            journal.checkpoint(intent.id, Phase::Suspending, Some((at, at)), done, Timestamp::now())?;
            suspend::suspend(journal, &intent.request.failed)
        })?;
        self.suspended_since = Some(Instant::now());
        failpoint::hit(names::RESCUE_SUSPENDED);
        Ok(suspend::wait_until_gone(&intent.request.failed, guc::rescue_lock_timeout())?)
    }

    /// Records which tables are to be rebuilt, once.
    fn choose_tables(&mut self, intent: &Intent) -> Result<(), Trouble> {
        if !self.rebuild_state().tables.is_empty() {
            return Ok(());
        }
        let request = &intent.request;
        let Some(wanted) = &request.rebuild else { return Err(Trouble::MustStop) };
        let tables = transaction::run(|| rebuild::tables(&request.source, wanted))?;
        Ok(self.write(|journal, _| Ok(journal.rebuild(intent.id, |state| state.tables.clone_from(&tables))?))?)
    }

    /// Makes slots that hold what is to be received after the snapshot, for those that were lost. If only some tables
    /// are rebuilt, the others would miss what lies in between, so that such a subscription stays as it is. Returns the
    /// nodes that do not answer.
    fn hold_lost_slots(&mut self, intent: &Intent) -> Result<Vec<String>, Trouble> {
        let mut silent = Vec::new();
        let Some(wanted) = &intent.request.rebuild else { return Ok(silent) };
        if !wanted.tables.is_empty() {
            return Ok(silent);
        }
        process::report_activity("looking at the slots of this node's subscriptions");
        for (stream, slot) in self.slots_of_living(intent)? {
            let Some(mut provider) = self.provider(&stream.node, &slot)? else {
                silent.push(stream.node);
                continue;
            };
            if rebuild_slots::slot_state(&mut provider, &slot)? == SlotState::Usable {
                continue;
            }
            let subscription = stream.position.subscription.to_u32();
            let holder = rebuild_slots::holder_name(subscription, &intent.id.to_string());
            let known = self.rebuild_state().lost_slots.into_iter().find(|lost| lost.subscription == subscription);
            let mut lost = known.unwrap_or(HeldSlot {
                subscription,
                node: stream.node.clone(),
                slot,
                holder,
                begins: None,
                applied: None,
            });
            self.note_slot(intent, &lost, |state| &mut state.lost_slots)?;
            failpoint::hit(names::REBUILD_BEFORE_HOLDER);
            let begins = rebuild_slots::make_holder(&mut provider, &lost)?;
            failpoint::hit(names::REBUILD_HOLDER_MADE);
            // A holder that was lost as well begins later now, and so must the snapshot.
            lost.begins = Some(begins);
            self.note_slot(intent, &lost, |state| &mut state.lost_slots)?;
        }
        Ok(silent)
    }

    /// Connects to a node whose slot is to be looked at. None: it does not answer, as another lost node does not, and
    /// must not keep this one from being rebuilt. Should it come back without its slot, the subscription fails loudly.
    fn provider(&self, node: &str, slot: &str) -> Result<Option<Source>, Trouble> {
        let since = Instant::now();
        loop {
            let error = match self.open(node) {
                Err(RecoverError::Remote {
                    error: error @ (RemoteError::Connect(_) | RemoteError::TimedOut(_)),
                    ..
                }) => error,
                outcome => return Ok(Some(outcome?)),
            };
            if since.elapsed() >= guc::peer_timeout() {
                let kind = error.kind();
                pgrx::warning!("whether node \"{node}\" still has replication slot \"{slot}\" is not known: {kind}");
                return Ok(None);
            }
            if !goes_on(self.index) {
                return Err(Trouble::MustStop);
            }
            interrupts::check();
            latch::wait(Some(LOOK_INTERVAL), WaitEvent::RescueSuspend);
        }
    }

    /// Records a slot in one of the lists of slots, in the place of what is known there of its subscription.
    fn note_slot(
        &mut self,
        intent: &Intent,
        slot: &HeldSlot,
        list: fn(&mut Rebuild) -> &mut Vec<HeldSlot>,
    ) -> Result<(), RecoverError> {
        self.write(|journal, _| {
            Ok(journal.rebuild(intent.id, |state| {
                let slots = list(state);
                slots.retain(|known| known.subscription != slot.subscription);
                slots.push(slot.clone());
            })?)
        })
    }

    /// The subscriptions that run when the rebuild is over, from nodes other than the failed one, with their slots.
    fn slots_of_living(&self, intent: &Intent) -> Result<Vec<(Stream, String)>, RecoverError> {
        let suspended: BTreeSet<u32> = transaction::run(crate::intent::storage::read)?
            .suspensions
            .iter()
            .map(|suspension| suspension.subscription)
            .collect();
        let found = transaction::run(|| rebuild::to_look_at(&suspended))?;
        let is_living = |stream: &Stream| stream.node != intent.request.failed;
        Ok(found
            .into_iter()
            .filter(|(stream, _)| is_living(stream))
            .filter_map(|(stream, _)| stream.position.slot.clone().map(|slot| (stream, slot)))
            .collect())
    }

    /// Has the source pin a snapshot that has everything that this node has, unless the one that is pinned still
    /// serves.
    fn pin(
        &mut self,
        intent: &Intent,
        source: &mut Source,
        needed: &BTreeMap<String, OriginLsn>,
    ) -> Result<(), Trouble> {
        let id = intent.id;
        let state = self.rebuild_state();
        if let Some(pinned) = state.pinned.as_ref().filter(|_| state.serves(needed))
            && rebuild::has_pin(source, id, pinned)?
            && (!state.may_compare() || transaction::run(|| rebuild::is_held_here(id))?)
        {
            return Ok(());
        }
        let clocks = self.read_clocks(intent)?;
        let (cut, mut pinned) = self.take_pins(intent, source, needed)?;
        pinned.horizon = self.horizon(intent, &pinned, &clocks)?;
        failpoint::hit(names::REBUILD_PINNED);
        Ok(self.write(|journal, _| {
            journal.rebuild(id, |state| state.cut = Some(cut.clone()))?;
            Ok(journal.note_pin(id, pinned.clone())?)
        })?)
    }

    /// What the snapshot must have: what the tables have. That does not change during an attempt, for the subscriptions are
    /// suspended, or go on and apply nothing to these tables any more.
    fn needed(&self, state: &Rebuild) -> Result<BTreeMap<String, OriginLsn>, RecoverError> {
        let (going_on, failed) = (state.going_on(), self.intent().request.failed.clone());
        let mut streams = transaction::run(rebuild::streams)?;
        streams.retain(|stream| !going_on.contains(&stream.position.subscription.to_u32()));
        let mut needed = rebuild::applied(&streams);
        // A transaction of which apply has left everything out moves the slot and not the origin, and is not sent again.
        for stream in &streams {
            let Some(slot) = stream.position.slot.as_deref().filter(|_| stream.node != failed) else { continue };
            let _ = self.try_at(&stream.node, |provider| {
                let confirmed = rebuild_slots::confirmed(provider, slot)?;
                confirmed.into_iter().for_each(|at| rebuild::raise(&mut needed, stream.node.clone(), at));
                Ok(())
            });
        }
        for held in &state.set_apart {
            held.applied
                .and_then(OriginLsn::known)
                .into_iter()
                .for_each(|at| rebuild::raise(&mut needed, held.node.clone(), at));
        }
        for lost in &state.lost_slots {
            lost.begins.into_iter().for_each(|at| rebuild::raise(&mut needed, lost.node.clone(), at));
        }
        Ok(needed)
    }

    /// Takes both snapshots, this node's and then the source's, while no commit of this node's own ends: a row that this
    /// node has made and deleted in between would come back. Commits wait no longer than the lease, which grows with
    /// each try.
    fn take_pins(
        &mut self,
        intent: &Intent,
        source: &mut Source,
        needed: &BTreeMap<String, OriginLsn>,
    ) -> Result<(Cut, Pinned), Trouble> {
        for lease in LEASES {
            // The source is close behind before anybody has to wait for it.
            let mut soon = needed.clone();
            soon.insert(intent.request.target.clone(), OriginLsn(wal::flushed().0));
            process::report_activity("waiting for the source");
            self.wait_for_source(intent, source, &soon)?;
            process::report_activity("having the source pin a snapshot");
            transaction::run(|| rebuild::let_go_here(intent.id))?;
            rebuild::release_pin(source, intent.id)?;
            let number = random::number();
            transaction::run(barrier::wait_for_the_last);
            let Ok(end) = transaction::run(|| barrier::close(number, Holds::Own, lease)) else { continue };
            let taken = self.pin_while_closed(intent, source, needed, (end, Instant::now() + lease));
            let opened = transaction::run(|| barrier::open(number));
            match taken? {
                Some(pins) if opened.is_some_and(|opened| opened.held) => return Ok(pins),
                _ => interrupts::check(),
            }
        }
        Err(RecoverError::from(RebuildError::NoCut { source_node: intent.request.source.clone() }).into())
    }

    /// None: the source has not passed this node's last commit in time.
    fn pin_while_closed(
        &self,
        intent: &Intent,
        source: &mut Source,
        needed: &BTreeMap<String, OriginLsn>,
        (end, until): (LocalLsn, Instant),
    ) -> Result<Option<(Cut, Pinned)>, RecoverError> {
        let snapshot = transaction::run(|| rebuild::hold_here(intent.id, &intent.request.target))?;
        failpoint::hit(names::REBUILD_BEFORE_PIN);
        let mut needed = needed.clone();
        needed.insert(intent.request.target.clone(), OriginLsn(end.0));
        let passed = loop {
            let passed = rebuild::passed_by(source)?;
            if rebuild::first_lag(&passed, &needed, &intent.request.source).is_none() {
                break passed;
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            source.ask_pollers()?;
            latch::wait(Some(SHORT_INTERVAL), WaitEvent::RescueSuspend);
        };
        let tables = self.rebuild_state().tables;
        let mut pinned = rebuild::pin(source, intent.id, &intent.request.target, &tables)?;
        // The source has received what it has passed, even where it had nothing to apply. Of the failed node this one
        // must not claim more than the source has applied.
        for (node, at) in passed.into_iter().filter(|(node, _)| *node != intent.request.failed) {
            rebuild::raise(&mut pinned.vector, node, at);
        }
        Ok(Some((Cut { end, snapshot }, pinned)))
    }

    /// Waits until the source has passed what it must have. Returns how far it is past each node.
    fn wait_for_source(
        &self,
        intent: &Intent,
        source: &mut Source,
        needed: &BTreeMap<String, OriginLsn>,
    ) -> Result<BTreeMap<String, OriginLsn>, Trouble> {
        let (mut last, mut since) = (BTreeMap::new(), Instant::now());
        loop {
            let passed = rebuild::passed_by(source)?;
            let Some((node, is_at, must)) = rebuild::first_lag(&passed, needed, &intent.request.source) else {
                return Ok(passed);
            };
            // A node that is gone sends no more.
            let is_lost = node == intent.request.failed;
            if passed != last {
                (last, since) = (passed, Instant::now());
            }
            let is_silent = transaction::run(|| facts::known_to_be_silent(&node))?.is_some();
            if is_lost || since.elapsed() >= if is_silent { SILENCE } else { STANDSTILL } {
                let source_node = intent.request.source.clone();
                return Err(RecoverError::from(RebuildError::SourceLags { source_node, node, is_at, must }).into());
            }
            if !goes_on(self.index) {
                return Err(Trouble::MustStop);
            }
            source.ask_pollers()?;
            interrupts::check();
            latch::wait(Some(LOOK_INTERVAL), WaitEvent::RescueSuspend);
        }
    }

    /// Sets the origins and slots to where the subscriptions go on: all tables are ready. Each step may be repeated.
    /// `silent`: the nodes that did not answer.
    fn settle(&mut self, silent: &[String]) -> Result<(), Trouble> {
        let intent: &Intent = &self.intent();
        let state = self.rebuild_state();
        process::report_activity("setting replication origins");
        // What was written is on disk before anything says that nothing below is needed.
        wal::flush();
        failpoint::hit(names::REBUILD_FILLED);
        let is_whole = intent.request.rebuild.as_ref().is_some_and(|wanted| wanted.tables.is_empty());
        if let Some(at) = state.failed_at.filter(|_| is_whole) {
            transaction::run(|| rebuild::advance_failed(&intent.request.failed, at))?;
        }
        for node in silent {
            transaction::run(|| rebuild::advance_silent(node))?;
        }
        let streams = transaction::run(rebuild::streams)?;
        for lost in &state.lost_slots {
            let stream = streams.iter().find(|stream| stream.position.subscription.to_u32() == lost.subscription);
            if let Some((stream, begins)) = stream.zip(lost.begins) {
                transaction::run(|| rebuild::advance(stream, begins))?;
            }
        }
        wal::flush();
        failpoint::hit(names::REBUILD_ORIGINS_SET);
        for lost in &state.lost_slots {
            rebuild_slots::replace_lost(&mut self.open(&lost.node)?, lost)?;
        }
        failpoint::hit(names::REBUILD_SLOTS_MADE);
        Ok(())
    }

    /// Does something on another node that may fail without harm. The error is the reason.
    fn try_at(&self, node: &str, f: impl FnOnce(&mut Source) -> Result<(), RecoverError>) -> Result<(), String> {
        match interrupts::catch(|| f(&mut self.open(node)?)) {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(report) => {
                transaction::abort_current();
                Err(report.message().to_owned())
            }
        }
    }

    /// Forgets which chunks were copied, which nobody asks for when the rebuild is over.
    fn forget_manifest(&self, id: crate::intent_id::IntentId) {
        if interrupts::catch(|| transaction::run(|| manifest::forget(id))).is_err() {
            transaction::abort_current();
        }
    }

    /// Drops what was made on other nodes for the rebuild, as far as they answer. The source asks by itself about a
    /// pin; a slot that cannot be dropped is told.
    pub(super) fn give_back(&mut self) {
        let intent: &Intent = &self.intent();
        let state = self.rebuild_state();
        for lost in state.lost_slots.iter().chain(&state.set_apart) {
            let Err(reason) = self.try_at(&lost.node, |node| rebuild_slots::drop_slot(node, &lost.holder)) else {
                continue;
            };
            pgrx::warning!(
                "replication slot \"{}\" on node \"{}\" could not be dropped, and keeps WAL there: {reason}",
                lost.holder,
                lost.node
            );
        }
        self.forget_manifest(intent.id);
        if state.pinned.is_some() || state.cut.is_some() {
            if interrupts::catch(|| transaction::run(|| rebuild::let_go_here(intent.id))).is_err() {
                transaction::abort_current();
            }
            let released =
                interrupts::catch(|| rebuild::release_pin(&mut self.open(&intent.request.source)?, intent.id));
            if released.is_err() {
                transaction::abort_current();
            }
        }
    }
}
