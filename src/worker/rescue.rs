//! The rescue worker: carries one recovery on its target from where its intent stands to its end.
//!
//! The order is the product: what is about to be done is written down and committed, then done. It may be killed between
//! any two lines; the next one goes on from the intent, and from the origin's progress, which is committed with the data.
//! An attempt that fails leaves the target at a transaction boundary, resumes the subscriptions to living peers, writes
//! down why, and ends; the manager starts the next one after a while. Without a recovery to carry, it looks again at the
//! rows that earlier ones could not judge.

use super::trouble::Trouble;
use crate::failpoint::{self, names};
use crate::intent::document::{Intent, Phase};
use crate::intent::journal::Resumable;
use crate::intent::storage;
use crate::node::error::RegistryError;
use crate::pg::clock::Monotonic;
use crate::pg::last_error::{self};
use crate::pg::{interrupts, latch, origin, process, transaction, untrusted_user};
use crate::recover::target::{self};
use crate::shmem::{self, AttemptEnd, BlockedEntry, RescueEntry};
use crate::tally::replayed::Totals;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
    /// The attempt has come to an end that is accounted for.
    pub(super) static HAS_SETTLED: Cell<bool> = const { Cell::new(false) };
}

pub(super) struct Rescue {
    pub(super) index: usize,
    /// The recovery that it carries, as it stands since this process has last written; None: it looks again at rows that are kept.
    pub(super) intent: Option<Rc<Intent>>,
    /// What this attempt has done and no checkpoint has counted yet.
    pub(super) done: Totals,
    /// Since when it keeps the subscriptions to living peers suspended.
    pub(super) suspended_since: Option<Instant>,
}

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
    // What is not known to be there is not carried; the manager tells why.
    let intent = intent.ok().flatten();
    let intent = intent.map(Rc::new);
    let mut rescue = Rescue { index, intent: intent.clone(), done: Totals::default(), suspended_since: None };
    let Some(intent) = intent else {
        // It is no recovery's failure, whatever becomes of it.
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
    // What one before it has done is in the journal.
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
        // Who has held the lock for which it failed is told until the next one.
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
            // The manager writes down what this one cannot (recoveries.rs).
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
    /// The recovery that is carried, as this process has last written it down. What writes it anew leaves this as it was.
    ///
    /// # Panics
    /// If none is: only what carries one asks.
    pub(super) fn intent(&self) -> Rc<Intent> {
        self.intent.clone().expect("a recovery is carried")
    }

    pub(super) fn carries_one(&self) -> bool {
        self.intent.is_some()
    }

    /// One attempt. That it goes on is written down first: where this process ends without a word, it is known to have been.
    fn attempt_or_tell(&mut self) -> Result<(), Trouble> {
        let id = self.intent().id;
        self.write(|journal, _| Ok(journal.begin_attempt(id)?))?;
        failpoint::hit(names::RESCUE_BEGUN);
        interrupts::catch(|| self.attempt()).unwrap_or_else(|report| {
            // Where none is expected: it is told as any other.
            origin::forget_stamp();
            transaction::abort_current();
            origin::reset();
            untrusted_user::leave_session();
            process::keep_books();
            Err(Trouble::Unexpected(report))
        })
    }

    /// One attempt, from where the intent stands.
    fn attempt(&mut self) -> Result<(), Trouble> {
        let intent: &Intent = &self.intent();
        let request = &intent.request;
        let is_replayed = intent.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.phase >= Phase::Resuming);
        let (position, reconciled) = if is_replayed {
            let facts = transaction::run(|| target::look(&request.failed))?;
            (facts.applied, self.collect_and_reconcile(&facts)?)
        } else {
            let (position, apply_as, mut touched) = self.replay()?;
            self.resume()?;
            (position, self.reconcile(apply_as, &mut touched)?)
        };
        // What other recoveries had to leave may be judged now.
        self.judge_again(&[]);
        self.finish(position, reconciled)
    }
}

/// Nobody has asked the recovery to stop.
pub(super) fn goes_on(index: usize) -> bool {
    let mut goes_on = true;
    with_entry(index, |entry| goes_on = !entry.must_stop);
    goes_on
}

/// What no checkpoint has counted yet.
pub(super) fn show_counts(entry: &mut RescueEntry, totals: &Totals) {
    entry.transactions = totals.transactions;
    entry.rows = totals.rows;
    entry.bytes = totals.bytes;
    entry.conflicts = totals.conflicts;
}
