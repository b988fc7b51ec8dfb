//! A rebuild of some tables: the others go on meanwhile.
//!
//! The subscriptions are suspended for a moment only. Where a provider can keep what comes for these tables in a slot of
//! its own, the tables are set apart and the subscription goes on; core's own workers catch up with each table when it is
//! there. Where it cannot, because it does not answer or the subscription's slot is lost, that subscription stays
//! suspended until the rebuild is over.

use super::super::rescue::{Rescue, goes_on};
use super::super::trouble::Trouble;
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::rebuild::{HeldSlot, Table, TablePhase};
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, origin, process, transaction, wal};
use crate::recover::error::RecoverError;
use crate::recover::rebuild::{self, Stream};
use crate::recover::rebuild_slots::{self, SlotState};
use crate::recover::{rebuild_apart, suspend};
use pgrx::pg_sys::Oid;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The next table does not wait longer than this for core.
const PATIENCE: Duration = Duration::from_secs(60);
/// The time between two looks at how far core is.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

impl Rescue {
    /// Sets the tables apart, if only some are rebuilt, and has the subscriptions go on. What was recorded by an earlier
    /// attempt holds.
    pub(super) fn set_apart(&mut self, intent: &Intent) -> Result<(), Trouble> {
        if intent.request.rebuild.as_ref().is_none_or(|wanted| wanted.tables.is_empty()) {
            return Ok(());
        }
        process::report_activity("setting tables apart");
        let going_on = self.going_on();
        for (stream, slot) in self.slots_of_living(intent)? {
            if going_on.contains(&stream.position.subscription.to_u32()) {
                continue;
            }
            let node = stream.node.clone();
            if let Err(reason) = self.hold_for(intent, &stream, slot)? {
                pgrx::log!("the subscription from node \"{node}\" is suspended until the rebuild is over: {reason}");
            }
        }
        failpoint::hit(names::REBUILD_APART_HELD);
        self.let_go_on(intent)
    }

    /// Makes the slot that keeps what comes for the tables that are set apart. The inner error: why there is none.
    fn hold_for(&mut self, intent: &Intent, stream: &Stream, slot: String) -> Result<Result<(), String>, RecoverError> {
        let subscription = stream.position.subscription.to_u32();
        if let Some(reason) = transaction::run(|| rebuild_apart::must_stay(subscription))? {
            return Ok(Err(reason.to_owned()));
        }
        let holder = rebuild_slots::holder_name(subscription, &intent.id.to_string());
        let mut held = HeldSlot { subscription, node: stream.node.clone(), slot, holder, begins: None, applied: None };
        self.note_slot(intent, &held, |state| &mut state.set_apart)?;
        let made = self.try_at(&stream.node, |provider| {
            if rebuild_slots::slot_state(provider, &held.slot)? != SlotState::Usable {
                return Err(provider.unexpected("a lost slot"));
            }
            held.begins = Some(rebuild_apart::make_holder(provider, &held)?);
            Ok(())
        });
        if made.is_ok() {
            self.note_slot(intent, &held, |state| &mut state.set_apart)?;
        }
        Ok(made)
    }

    /// Sets the tables aside in the subscriptions that are held, and enables these, in one commit.
    fn let_go_on(&mut self, intent: &Intent) -> Result<(), Trouble> {
        // What was applied with asynchronous commits is on disk before the journal says how far the tables have it.
        wal::flush();
        let unready: Vec<u32> = self.unready().iter().map(|table| table.oid).collect();
        self.write(|journal, _| {
            let applied: BTreeMap<u32, OriginLsn> = rebuild::streams()?
                .iter()
                .map(|stream| (stream.position.subscription.to_u32(), stream.position.applied().unwrap_or_default()))
                .collect();
            let state = journal.intent(intent.id).and_then(|intent| intent.rebuild.clone()).unwrap_or_default();
            for held in state.set_apart.iter().filter(|held| held.begins.is_some() && held.applied.is_none()) {
                for table in &unready {
                    rebuild::set_aside_in(held.subscription, *table)?;
                }
            }
            journal.rebuild(intent.id, |state| {
                for held in state.set_apart.iter_mut().filter(|held| held.begins.is_some()) {
                    held.applied = held.applied.or_else(|| applied.get(&held.subscription).copied());
                }
            })?;
            let going_on = journal.intent(intent.id).and_then(|intent| intent.rebuild.as_ref());
            let going_on = going_on.map(|state| state.going_on()).unwrap_or_default();
            suspend::resume_those(journal, |subscription| going_on.contains(&subscription));
            Ok(())
        })?;
        failpoint::hit(names::REBUILD_SET_APART);
        Ok(())
    }

    /// The subscriptions that go on with their other tables.
    pub(super) fn going_on(&self) -> BTreeSet<u32> {
        self.rebuild_state().going_on()
    }

    fn unready(&self) -> Vec<Table> {
        self.rebuild_state().tables.into_iter().filter(|table| table.phase != TablePhase::Ready).collect()
    }

    /// Makes, for a table, the slots and replication origins by which core catches up with it, after a snapshot with this
    /// vector. The commit that follows hands the table over.
    ///
    /// # Errors
    /// If a provider cannot be asked.
    pub(super) fn prepare_catch_up(
        &mut self,
        table: &Table,
        vector: &BTreeMap<String, OriginLsn>,
    ) -> Result<(), RecoverError> {
        for held in self.rebuild_state().set_apart.iter().filter(|held| held.applied.is_some()) {
            let at = rebuild_apart::position_after(held, vector);
            rebuild_apart::make_sync_slot(&mut self.open(&held.node)?, held, table.oid)?;
            set_sync_origin(held, table, at)?;
        }
        Ok(())
    }

    /// Waits for a while until core has caught up with the tables that are ready: each takes a slot on every provider, and
    /// for each of these a replication origin here, of which a server has ten by default.
    pub(super) fn wait_for_room(&self) -> Result<(), Trouble> {
        self.wait_for_core(Some(PATIENCE))
    }

    /// Waits until core has caught up with all tables.
    pub(super) fn wait_until_caught_up(&self) -> Result<(), Trouble> {
        process::report_activity("waiting until core has caught up");
        self.wait_for_core(None)
    }

    fn wait_for_core(&self, patience: Option<Duration>) -> Result<(), Trouble> {
        let state = self.rebuild_state();
        let going_on = state.going_on();
        if going_on.is_empty() {
            return Ok(());
        }
        let ready: Vec<u32> =
            state.tables.iter().filter(|table| table.phase == TablePhase::Ready).map(|table| table.oid).collect();
        let subscriptions: Vec<Oid> = going_on.iter().map(|id| Oid::from_u32(*id)).collect();
        let since = Instant::now();
        while transaction::run(|| rebuild_apart::is_behind(&going_on, &ready))? {
            if patience.is_some_and(|patience| since.elapsed() >= patience) {
                break;
            }
            if !goes_on(self.index) {
                return Err(Trouble::MustStop);
            }
            // An apply worker without changes looks at its tables once a second.
            let workers = transaction::run(|| NativeProvider.processes(&subscriptions))?;
            workers.iter().for_each(|worker| latch::wake(worker.pid));
            interrupts::check();
            latch::wait(Some(LOOK_INTERVAL), WaitEvent::RescueSuspend);
        }
        Ok(())
    }

    /// Has core catch up with the tables that an aborted rebuild has not changed, from where they were set apart. A table
    /// that is incomplete, or of which what has come since cannot be had, stays set apart.
    pub(in crate::worker) fn put_back(&mut self) -> Result<(), RecoverError> {
        let state = self.rebuild_state();
        for held in state.set_apart.iter().filter(|held| held.applied.is_some()) {
            for table in state.tables.iter().filter(|table| table.phase != TablePhase::Ready) {
                if !transaction::run(|| rebuild_apart::is_set_aside(held.subscription, table.oid))? {
                    continue;
                }
                let is_whole = table.phase == TablePhase::Waiting;
                let made = self.try_at(&held.node, |provider| match is_whole {
                    true => rebuild_apart::make_sync_slot(provider, held, table.oid),
                    false => rebuild_apart::drop_sync_slot(provider, held, table.oid),
                });
                match made {
                    Ok(()) if is_whole => {
                        set_sync_origin(held, table, rebuild_apart::position_after(held, &BTreeMap::new()))?;
                        transaction::run(|| rebuild_apart::hand_over(held.subscription, table.oid))?;
                    }
                    Ok(()) => transaction::run(|| origin::drop_sync(held.subscription, table.oid)),
                    Err(reason) => pgrx::warning!(
                        "table {} lacks what node \"{}\" has sent since the rebuild began, and receives nothing more from \
                         there until it is rebuilt: {reason}",
                        table.shown(),
                        held.node
                    ),
                }
            }
        }
        Ok(())
    }
}

/// Makes the replication origin from which core catches up with a table.
fn set_sync_origin(held: &HeldSlot, table: &Table, at: OriginLsn) -> Result<(), RecoverError> {
    transaction::run(|| origin::of_sync(held.subscription, table.oid));
    transaction::run(|| rebuild_apart::set_sync_origin(held.subscription, table.oid, at))
}
