//! How a rescue ends: with a completed or an aborted recovery, or with a failed attempt; and how it writes the journal.
//! What was done is made durable before anything is released that would be needed to do it again.

use super::rescue::{HAS_SETTLED, Rescue, show_counts, with_entry};
use super::trouble::{Trouble, failure_of};
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::document::{Intent, Journal, Phase};
use crate::intent::{fault, storage};
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::registry;
use crate::pg::clock::Timestamp;
use crate::pg::{interrupts, large_object, process, transaction, wal};
use crate::reconcile::kept::KeptRows;
use crate::recover::error::RecoverError;
use crate::recover::source::{Source, route_to};
use crate::recover::suspend;
use crate::shmem::{BlockedEntry, LongText, ShortText};
use crate::tally::compared::Counts;
use crate::tally::replayed::Totals;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

impl Rescue {
    /// Changes the journal, and adds what was done since the last change to its counts. Waits for locks no longer than
    /// spock.rescue_lock_timeout.
    ///
    /// # Errors
    /// [`RecoverError::Locked`] after that time, or what `change` returns.
    pub(super) fn write(
        &mut self,
        change: impl Fn(&mut Journal, Totals) -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let limit = guc::rescue_lock_timeout();
        let since = Instant::now();
        self.write_while(change, || match since.elapsed() {
            waited if limit.is_some_and(|limit| waited >= limit) => {
                Err(RecoverError::Locked { seconds: waited.as_secs() })
            }
            _ => Ok(()),
        })
    }

    /// Like `write`, but for the end of an attempt, which must be recorded: waits without a limit, and logs once which
    /// session is in the way.
    fn write_end(
        &mut self,
        change: impl Fn(&mut Journal, Totals) -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let intent: &Intent = &self.intent();
        let (since, has_told, index) = (Instant::now(), Cell::new(false), self.index);
        self.write_while(change, || {
            let is_long = guc::rescue_lock_timeout().is_some_and(|limit| since.elapsed() >= limit);
            if is_long && !has_told.replace(true) {
                pgrx::warning!(
                    "could not record the end of an attempt to recover node \"{}\", nor enable subscriptions, because \
                     a lock is not available{}",
                    intent.request.failed,
                    held_by(index, |blocked| blocked.by)
                );
            }
            Ok(())
        })
    }

    fn write_while(
        &mut self,
        change: impl Fn(&mut Journal, Totals) -> Result<(), RecoverError>,
        may_wait_on: impl Fn() -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let (done, id) = (self.done.clone(), self.intent.as_ref().map(|intent| intent.id));
        // Another session may hold the label's lock, or a subscription's. Each wait is bounded by lock_timeout and is
        // repeated.
        loop {
            let written = transaction::attempt(|| {
                storage::update(|journal| {
                    change(journal, done.clone())?;
                    Ok::<_, RecoverError>(id.and_then(|id| journal.intent(id).cloned()))
                })
            });
            if let Some(written) = written {
                if let Some(now) = written? {
                    self.intent = Some(Rc::new(now));
                }
                self.done = Totals::default();
                with_entry(self.index, |entry| show_counts(entry, &Totals::default()));
                return Ok(());
            }
            interrupts::check();
            interrupts::reload_config_if_asked();
            may_wait_on()?;
        }
    }

    /// Enables the subscriptions to the other survivors again.
    pub(super) fn resume(&mut self) -> Result<(), Trouble> {
        let id = self.intent().id;
        process::report_activity("resuming subscriptions");
        // What was applied with asynchronous commits must be on disk before the journal says that it is done.
        wal::flush();
        self.write(|journal, done| {
            journal.checkpoint(id, Phase::Resuming, None, done, Timestamp::now())?;
            suspend::resume(journal);
            Ok(())
        })?;
        self.suspended_since = None;
        failpoint::hit(names::RESCUE_RESUMED);
        Ok(())
    }

    /// Closes the intent, with the rows that are kept, and only then has the clone dropped, without which those rows
    /// could not be found out again. If this process dies in between, the source asks whether the intent has ended, and
    /// drops the clone.
    pub(super) fn finish(
        &mut self,
        position: OriginLsn,
        reconciled: Option<(Counts, KeptRows)>,
    ) -> Result<(), Trouble> {
        let intent: &Intent = &self.intent();
        // What was reconciled with asynchronous commits must be on disk as well.
        wal::flush();
        failpoint::hit(names::RESCUE_CLOSING);
        let (counts, kept) = reconciled.unzip();
        let kept = RefCell::new(kept);
        self.write(|journal, _| {
            forget_dsn(journal, intent.id)?;
            if let (Some(counts), Some(kept)) = (&counts, kept.borrow_mut().as_mut())
                && let Some(before) = journal.note_reconciled(intent.id, counts.clone(), kept.store()?)?
            {
                large_object::remove(before)?;
            }
            Ok(journal.complete(intent.id, position, Timestamp::now())?)
        })?;
        failpoint::hit(names::RESCUE_COMPLETED);
        self.release();
        match intent.is_rebuild() {
            true => pgrx::log!("{} is complete", intent.what()),
            false => pgrx::log!(
                "{} from node \"{}\" is complete: applied up to {position}",
                intent.what(),
                intent.request.source
            ),
        }
        Ok(())
    }

    /// Tells the source that the clone is not needed any more. A source that cannot be told asks by itself, and drops
    /// the clone then.
    fn release(&self) {
        let intent: &Intent = &self.intent();
        let Some(name) = intent.clone_name() else { return };
        let told = interrupts::catch(|| {
            let route = transaction::run(|| route_to(&intent.request.source))?;
            Source::open(&intent.request.source, &route)?.release_clone(name, intent.id)
        });
        let reason = match told {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(report) => {
                transaction::abort_current();
                report.message().to_owned()
            }
        };
        pgrx::log!("clone \"{name}\" will be dropped when its server asks: {reason}");
    }

    /// Records why the attempt has failed, and enables the subscriptions to the other survivors, which need not wait.
    pub(super) fn fail(&mut self, trouble: Trouble) {
        let intent: &Intent = &self.intent();
        process::report_activity("resuming subscriptions");
        let waits_for_processes = matches!(trouble, Trouble::Recover(RecoverError::StillApplying { .. }));
        let (mut failure, said) = failure_of(trouble);
        let is_wait = waits_for_processes || fault::is_lock(&failure);
        let index = self.index;
        let holder = if is_wait { held_by(index, |blocked| blocked.by_in_short) } else { String::new() };
        failure.reason.push_str(&holder);
        let is_news = intent.failure.as_ref().is_none_or(|known| {
            (&known.sqlstate, &known.relation, known.origin_lsn)
                != (&failure.sqlstate, &failure.relation, failure.origin_lsn)
        });
        // Whoever sees that the attempt has failed can see why.
        let document = said.to_text(LongText::CAPACITY);
        with_entry(self.index, |entry| entry.said.set(&document));
        let written = self.write_end(|journal, done| {
            journal.fail(intent.id, failure.clone(), done)?;
            suspend::resume_meanwhile(journal, intent.id);
            Ok(())
        });
        if written.is_ok() {
            // From here on the failure is recorded, however this process ends.
            HAS_SETTLED.set(true);
        }
        let stood_still = self.suspended_since.map_or(Duration::ZERO, |since| since.elapsed());
        with_entry(self.index, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.stood_still = is_wait.then_some(stood_still);
        });
        let text = intent.describe(&failure);
        if is_news {
            said.log(&format!("{} waits: {text}", intent.what()));
        }
        if let Err(error) = written {
            pgrx::warning!("{} could not record why it waits: {error}", intent.what());
        }
    }

    /// Aborts the recovery. The subscriptions to the other survivors are enabled first. Then the rows that the recovery
    /// has touched are kept, because it may be that nobody ever recovers the rest.
    pub(super) fn abort(&mut self) {
        let intent: &Intent = &self.intent();
        let written = self
            .write_end(|journal, done| {
                suspend::resume(journal);
                Ok(journal.count(intent.id, done)?)
            })
            .and_then(|()| {
                self.keep_touched()?;
                self.put_back()?;
                self.write_end(|journal, done| {
                    forget_dsn(journal, intent.id)?;
                    Ok(journal.abort(intent.id, done, Timestamp::now())?)
                })
            });
        match written {
            Ok(()) => {
                self.release();
                if intent.is_rebuild() {
                    self.give_back();
                }
                pgrx::log!("{} was aborted", intent.what())
            }
            Err(error) => pgrx::warning!("{} cannot be aborted: {error}", intent.what()),
        }
    }
}

/// Names the sessions that were in the way when the manager last looked, as a clause of a message; empty if there were
/// none.
fn held_by(index: usize, tell: impl FnOnce(&BlockedEntry) -> ShortText) -> String {
    let mut text = ShortText::EMPTY;
    with_entry(index, |entry| text = tell(&entry.blocked));
    if text.as_str().is_empty() { String::new() } else { format!("; it is held by {}", text.as_str()) }
}

/// Removes the connection string that the caller has given for this recovery.
fn forget_dsn(journal: &Journal, id: IntentId) -> Result<(), RecoverError> {
    match journal.intent(id) {
        Some(intent) if intent.has_own_dsn => Ok(registry::forget_recovery_dsn(&intent.request.source)?),
        _ => Ok(()),
    }
}
