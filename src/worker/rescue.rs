//! The rescue worker: carries one recovery on its target from the point that its intent has reached to its end.
//!
//! What is about to be done is recorded and committed before it is done. So the worker may be killed between any two
//! lines: the next one continues from the intent, and from the replication origin's progress, which is committed
//! together with the rows. An attempt that fails leaves the target at a transaction boundary, resumes the subscriptions
//! to the other survivors, records why it has failed, and ends; the manager starts the next attempt after a while. If
//! there is no recovery to carry, the worker compares the rows again that earlier recoveries could not judge.

use super::trouble::Trouble;
use crate::failpoint::{self, names};
use crate::intent::document::{Intent, Phase};
use crate::intent::journal::Resumable;
use crate::intent::storage;
use crate::node::error::RegistryError;
use crate::pg::clock::Monotonic;
use crate::pg::last_error;
use crate::pg::{interrupts, latch, origin, process, transaction, untrusted_user};
use crate::recover::target;
use crate::shmem::{self, AttemptEnd, BlockedEntry, RescueEntry};
use crate::tally::replayed::Totals;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
    /// Whether there is nothing left to record of how this attempt ended.
    pub(super) static HAS_SETTLED: Cell<bool> = const { Cell::new(false) };
}

pub(super) struct Rescue {
    pub(super) index: usize,
    /// The recovery that this worker carries, as this process has last written it; None: the worker compares kept rows
    /// again.
    pub(super) intent: Option<Rc<Intent>>,
    /// What this attempt has done and no checkpoint has counted yet.
    pub(super) done: Totals,
    /// Since when this attempt keeps the subscriptions to the other survivors suspended.
    pub(super) suspended_since: Option<Instant>,
}

/// Runs the rescue worker of `database`, for the shared memory entry at `index`: makes one attempt and exits.
pub fn run(index: usize, database: Oid) -> ! {
    if !take_entry(index, database) {
        interrupts::exit(0);
    }
    interrupts::at_exit(on_exit);
    last_error::watch();
    interrupts::note_reports();
    process::connect_worker(database);
    process::report_activity("looking at the intent");
    let intent = transaction::run(|| match storage::read()?.resumable() {
        Resumable::One(intent) => Ok(Some(intent.clone())),
        Resumable::Nothing | Resumable::Several(_) => Ok::<_, RegistryError>(None),
    });
    // A journal that cannot be read is treated as one without a recovery; the manager reports why it cannot be read.
    let intent = intent.ok().flatten();
    let intent = intent.map(Rc::new);
    let mut rescue = Rescue { index, intent: intent.clone(), done: Totals::default(), suspended_since: None };
    let Some(intent) = intent else {
        // Without a recovery, the end of this process is no failed attempt, whatever the reason.
        HAS_SETTLED.set(true);
        with_entry(index, |entry| entry.intent = [0; 16]);
        rescue.judge_again(&[]);
        interrupts::exit(0)
    };
    with_entry(index, |entry| entry.intent = intent.id.0);
    let outcome = if intent.must_abort { Err(Trouble::MustStop) } else { rescue.attempt_or_tell() };
    match outcome {
        Ok(()) => with_entry(index, |entry| *entry = RescueEntry { worker_pid: entry.worker_pid, ..RescueEntry::FREE }),
        Err(Trouble::MustStop) => rescue.abort(),
        Err(trouble) => rescue.fail(trouble),
    }
    HAS_SETTLED.set(true);
    interrupts::exit(0)
}

fn take_entry(index: usize, database: Oid) -> bool {
    let mut shared = shmem::lock();
    let must_leave = shared.must_stand_aside(database);
    let Some(entry) = shared.databases().get_mut(index) else { return false };
    if entry.database != database || entry.rescue.worker_pid != 0 {
        return false;
    }
    entry.rescue.is_coming_up = false;
    if must_leave {
        return false;
    }
    entry.rescue.worker_pid = process::my_pid();
    entry.rescue.blocked = BlockedEntry::FREE;
    entry.rescue.stood_still = None;
    // What earlier attempts have done is in the journal.
    show_counts(&mut entry.rescue, &Totals::default());
    ENTRY.set(Some(index));
    true
}

fn on_exit() {
    let Some(index) = ENTRY.take() else { return };
    let manager = {
        let mut shared = shmem::lock();
        let database = shared.databases()[index].database;
        let is_asked = shared.must_stand_aside(database);
        let rescue = &mut shared.databases()[index].rescue;
        rescue.worker_pid = 0;
        rescue.ended_at = Monotonic::now();
        // The session that held the lock for which the attempt failed is shown until the next attempt begins.
        match rescue.stood_still {
            Some(_) => rescue.blocked.seen_at = Monotonic::NEVER,
            None => rescue.blocked = BlockedEntry::FREE,
        }
        rescue.end = match HAS_SETTLED.get() {
            true => AttemptEnd::Told,
            false if is_asked || rescue.must_stop => AttemptEnd::Asked,
            false => AttemptEnd::Untold,
        };
        rescue.end_sqlstate = interrupts::reported();
        if rescue.end == AttemptEnd::Untold {
            // The manager records the reason, because this process cannot (cut_short.rs).
            rescue.failures = rescue.failures.saturating_add(1);
        }
        shared.call_manager(index)
    };
    latch::wake(manager);
}

pub(super) fn with_entry(index: usize, change: impl FnOnce(&mut RescueEntry)) {
    change(&mut shmem::lock().databases()[index].rescue);
}

impl Rescue {
    /// Returns the recovery that this worker carries, as this process has last written it. Later writes do not change
    /// the returned value.
    ///
    /// # Panics
    /// If the worker carries no recovery: such a worker must not call this.
    pub(super) fn intent(&self) -> Rc<Intent> {
        self.intent.clone().expect("a recovery is carried")
    }

    pub(super) fn carries_one(&self) -> bool {
        self.intent.is_some()
    }

    /// Makes one attempt. The journal first records that an attempt is running, so that it is known of even if this
    /// process ends without recording why.
    fn attempt_or_tell(&mut self) -> Result<(), Trouble> {
        let id = self.intent().id;
        self.write(|journal, _| Ok(journal.begin_attempt(id)?))?;
        failpoint::hit(names::RESCUE_BEGUN);
        interrupts::catch(|| self.attempt()).unwrap_or_else(|report| {
            // An ERROR where none is expected is reported like any other.
            origin::forget_stamp();
            transaction::abort_current();
            origin::reset();
            untrusted_user::leave_session();
            process::keep_books();
            Err(Trouble::Unexpected(report))
        })
    }

    /// Makes one attempt, from the point that the intent has reached.
    fn attempt(&mut self) -> Result<(), Trouble> {
        let intent: &Intent = &self.intent();
        let request = &intent.request;
        if intent.is_rebuild() {
            return self.carry_rebuild();
        }
        let is_replayed = intent.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.phase >= Phase::Resuming);
        let (position, reconciled) = if is_replayed {
            let facts = transaction::run(|| target::look(&request.failed))?;
            (facts.applied, self.collect_and_reconcile(&facts)?)
        } else {
            let (position, apply_as, mut touched) = self.replay()?;
            self.resume()?;
            (position, self.reconcile(apply_as, &mut touched)?)
        };
        // Rows that other recoveries could not judge may be comparable now.
        self.judge_again(&[]);
        self.finish(position, reconciled)
    }
}

/// Whether nobody has asked the recovery to stop.
pub(super) fn goes_on(index: usize) -> bool {
    let mut goes_on = true;
    with_entry(index, |entry| goes_on = !entry.must_stop);
    goes_on
}

/// Shows in shared memory what no checkpoint has counted yet.
pub(super) fn show_counts(entry: &mut RescueEntry, totals: &Totals) {
    entry.transactions = totals.transactions;
    entry.rows = totals.rows;
    entry.bytes = totals.bytes;
    entry.conflicts = totals.conflicts;
}
