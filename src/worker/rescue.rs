//! The rescue worker: carries one recovery on its target from where its intent stands to its end.
//!
//! The order is the product: what is about to be done is written down and committed, then done. It may be killed between
//! any two lines; the next one goes on from the intent, and from the origin's progress, which is committed with the data.
//! An attempt that fails leaves the target at a transaction boundary, resumes the subscriptions to living peers, writes
//! down why, and ends; the manager starts the next one after a while. Without a recovery to carry, it looks again at the
//! rows that earlier ones could not judge.

use crate::apply::change::{Setting, nodes_by_origin};
use crate::apply::stream::{Ended, Stream};
use crate::apply::touched::Touched;
use crate::apply::transaction::Applier;
use crate::error::{SqlError, unpack_sqlstate};
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::document::{Failure, Intent, Journal, Phase};
use crate::intent::journal::Resumable;
use crate::intent::{fault, storage};
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::error::RegistryError;
use crate::node::provider::Route;
use crate::node::registry;
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::last_error::{self, ServerError};
use crate::pg::logicalrep;
use crate::pg::{interrupts, latch, origin, process, transaction, untrusted_user, wal};
use crate::plan::Wishes;
use crate::reconcile::kept::{self, KeptRows};
use crate::recover::error::RecoverError;
use crate::recover::prove::prove;
use crate::recover::said::Said;
use crate::recover::source::{Source, SourceFacts, route_to};
use crate::recover::target::{self, TargetFacts};
use crate::recover::{facts, suspend};
use crate::remote::error::RemoteError;
use crate::remote::report::PeerReport;
use crate::shmem::{self, AttemptEnd, BlockedEntry, LongText, RescueEntry, ShortText};
use crate::tally::compared::Counts;
use crate::tally::replayed::Totals;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
    /// The attempt has come to an end that is accounted for.
    static HAS_SETTLED: Cell<bool> = const { Cell::new(false) };
}

/// Why an attempt has ended before the recovery was finished.
pub(super) enum Trouble {
    /// By our own judgement, or the source's.
    Recover(RecoverError),
    /// An ERROR while applying.
    Raised { report: Box<ErrorReportWithLevel>, relation: Option<String>, origin_lsn: Option<OriginLsn> },
    /// The stream has broken off; within a transaction, if that is known.
    Streaming { error: Box<RecoverError>, origin_lsn: Option<OriginLsn> },
    /// An ERROR where none is expected.
    Unexpected(Box<ErrorReportWithLevel>),
    /// recover_abort() was called.
    MustStop,
}

impl<E: Into<RecoverError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Recover(error.into())
    }
}

pub(super) struct Rescue {
    pub(super) index: usize,
    /// There is a recovery to carry.
    pub(super) carries: bool,
    /// What this attempt has done and no checkpoint has counted yet.
    done: Totals,
    /// Since when it keeps the subscriptions to living peers suspended.
    suspended_since: Option<Instant>,
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
    let mut rescue = Rescue { index, carries: intent.is_some(), done: Totals::default(), suspended_since: None };
    let Some(intent) = intent else {
        // It is no recovery's failure, whatever becomes of it.
        HAS_SETTLED.set(true);
        with_entry(index, |entry| entry.intent = [0; 16]);
        rescue.judge_again(&[]);
        interrupts::exit(0)
    };
    with_entry(index, |entry| entry.intent = intent.id.0);
    let outcome = if intent.must_abort { Err(Trouble::MustStop) } else { rescue.attempt_or_tell(&intent) };
    match outcome {
        Ok(()) => with_entry(index, |entry| *entry = RescueEntry { worker_pid: entry.worker_pid, ..RescueEntry::FREE }),
        Err(Trouble::MustStop) => rescue.abort(&intent),
        Err(trouble) => rescue.fail(&intent, trouble),
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
            // The manager writes down what this one cannot (rescues.rs).
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
    /// One attempt. That it goes on is written down first: where this process ends without a word, it is known to have been.
    fn attempt_or_tell(&mut self, intent: &Intent) -> Result<(), Trouble> {
        self.write(|journal, _| Ok(journal.begin_attempt(intent.id)?))?;
        failpoint::hit(names::RESCUE_BEGUN);
        interrupts::catch(|| self.attempt(intent)).unwrap_or_else(|report| {
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
    fn attempt(&mut self, intent: &Intent) -> Result<(), Trouble> {
        let request = &intent.request;
        let is_replayed = intent.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.phase >= Phase::Resuming);
        let (position, reconciled) = if is_replayed {
            let facts = transaction::run(|| target::look(&request.failed))?;
            (facts.applied, self.collect_and_reconcile(intent, &facts)?)
        } else {
            let (position, apply_as, mut touched) = self.replay(intent)?;
            self.resume(intent)?;
            (position, self.reconcile(intent, apply_as, &mut touched)?)
        };
        // What other recoveries had to leave may be judged now.
        self.judge_again(&[]);
        self.finish(intent, position, reconciled)
    }

    /// Everything up to the origin's final position. Nothing is changed here before the source has been found in order.
    fn replay(&mut self, intent: &Intent) -> Result<(OriginLsn, ApplyAs, Touched), Trouble> {
        let request = &intent.request;
        process::report_activity("asking the source");
        let (target, route) =
            transaction::run(|| Ok::<_, RecoverError>((target::look(&request.failed)?, route_to(&request.source)?)))?;
        let mut source = Source::open(&request.source, &route)?;
        let (clone, is_new) = self.clone_on(&mut source, intent)?;
        failpoint::hit(names::RESCUE_CLAIMED);
        // Where its WAL ends is asked last: everything that it says it has applied lies before that.
        let theirs = source.node_facts(&request.failed)?;
        let streamed = source.facts(&request.failed, &target.tables)?;
        drop(source);
        let ours = transaction::run(|| facts::gather(&request.failed))?;
        let bounded = |skip, stop| Wishes { skip, stop, has_clone: true, ..Wishes::default() };
        let range = match &intent.checkpoint {
            None => {
                let range = prove(request, &ours, &theirs, bounded(request.skip, request.stop))?;
                (range.skip, range.stop)
            }
            // The range stays what it was; what a clone made later still has is looked at again.
            Some(checkpoint) => {
                let skip = ours.lacks_from().unwrap_or(target.applied).max(checkpoint.skip);
                if is_new && skip < checkpoint.stop {
                    prove(request, &ours, &theirs, bounded(Some(skip), Some(checkpoint.stop)))?;
                }
                (checkpoint.skip, checkpoint.stop)
            }
        };
        process::report_activity("suspending subscriptions");
        self.write(|journal, done| {
            journal.checkpoint(intent.id, Phase::Suspending, range, done, Timestamp::now().0)?;
            suspend::suspend(journal, &request.failed)
        })?;
        self.suspended_since = Some(Instant::now());
        failpoint::hit(names::RESCUE_SUSPENDED);
        suspend::wait_until_gone(&request.failed, guc::rescue_lock_timeout())?;
        self.write(|journal, done| {
            journal.checkpoint(intent.id, Phase::Replaying, range, done, Timestamp::now().0)?;
            Ok(())
        })?;
        let replayed = self.stream(intent, &clone, &target, &streamed, &route, range)?;
        failpoint::hit(names::RESCUE_ORIGIN_SET);
        Ok(replayed)
    }

    /// The clone to stream from, ours alone, and whether it was made just now.
    fn clone_on(&mut self, source: &mut Source, intent: &Intent) -> Result<(String, bool), Trouble> {
        let request = &intent.request;
        if let Some(clone) = intent.clone_name() {
            match source.clone_facts(clone) {
                Ok(_) => {
                    source.claim(clone, intent.id, &request.failed, &request.target)?;
                    return Ok((clone.to_owned(), false));
                }
                // One of our own making that was lost there (a promoted standby has no slots) is made again.
                Err(RecoverError::NoClone { .. } | RecoverError::CloneInvalid { .. }) if request.clone.is_none() => (),
                Err(error) => return Err(error.into()),
            }
        }
        let clone = source.make_clone(intent.id, intent.begun_at, &request.failed, &request.target)?;
        failpoint::hit(names::RESCUE_CLONE_MADE);
        self.write(|journal, _| Ok(journal.note_clone(intent.id, &clone)?))?;
        Ok((clone, true))
    }

    /// Streams and applies under the failed node's origin; the origin's final position.
    fn stream(
        &mut self,
        intent: &Intent,
        clone: &str,
        target: &TargetFacts,
        facts: &SourceFacts,
        route: &Route,
        (skip, stop): (OriginLsn, OriginLsn),
    ) -> Result<(OriginLsn, ApplyAs, Touched), Trouble> {
        process::report_activity(&format!("replaying node {}", intent.request.failed));
        process::apply_like_a_replica();
        // Meanwhile the subscriptions to living peers stand still.
        process::wait_for_locks(guc::rescue_lock_timeout().unwrap_or_default());
        let begun = transaction::run(|| {
            logicalrep::become_applier_of(target.subscription).map(|apply_as| {
                untrusted_user::enter_session_of(apply_as.owner);
                (apply_as, origin::set_up(target.origin_id))
            })
        });
        let Some((apply_as, progress)) = begun else {
            process::keep_books();
            return Err(RecoverError::NoSubscription { failed: intent.request.failed.clone() }.into());
        };
        // What was copied lies before skip; what an earlier attempt has applied is in the origin's progress.
        let applied = progress.max(skip);
        // From the beginning of the range: what was applied before is read for the rows that it has touched.
        let from = touched_from(intent, skip);
        let settings = plugin_settings(intent, facts, from, stop);
        let setting = setting_of(intent, target, apply_as);
        let mut applier = Applier::new(setting, progress, skip, from, intent.skips.clone());
        let index = self.index;
        with_entry(index, |entry| {
            entry.replay_began_at = Monotonic::now();
            entry.replay_began_from = applied;
            show_progress(entry, &applier);
        });
        let goes_on = |applier: &Applier| {
            with_entry(index, |entry| show_progress(entry, applier));
            goes_on(index)
        };
        let outcome = interrupts::catch(|| {
            let ended = if from < stop {
                let mut stream = Stream::open(route, clone, &settings, guc::peer_timeout())
                    .map_err(|error| remote(intent, error))?;
                let is_complete = |applier: &Applier| applier.is_over() || applier.seen() >= stop;
                stream.run(&mut applier, facts.until, is_complete, goes_on).map_err(|error| remote(intent, error))?
            } else {
                Ended::Complete
            };
            if ended == Ended::Complete {
                failpoint::hit(names::RESCUE_REPLAYED);
                applier.finish(stop);
            }
            Ok::<_, RecoverError>(ended)
        });
        // First of all: what is written from here on is no transaction of the failed node.
        let (relation, origin_lsn, position) = (applier.relation(), applier.at(), applier.applied());
        origin::forget_stamp();
        if outcome.is_err() || transaction::is_open() {
            // An ERROR, or a stream that broke off within a transaction.
            transaction::abort_current();
        }
        origin::reset();
        untrusted_user::leave_session();
        process::keep_books();
        with_entry(index, |entry| show_progress(entry, &applier));
        self.done += applier.totals;
        match outcome {
            Err(report) => Err(Trouble::Raised { report, relation, origin_lsn }),
            Ok(Err(error)) => {
                // What the source says of another transaction than those that were asked for is not believed.
                let told = error.origin_lsn().filter(|lsn| position < *lsn && *lsn <= stop);
                Err(Trouble::Streaming { origin_lsn: told.or(origin_lsn), error: Box::new(error) })
            }
            Ok(Ok(Ended::Stopped)) => Err(Trouble::MustStop),
            Ok(Ok(Ended::Complete)) => Ok((position, apply_as, applier.touched)),
        }
    }

    /// Subscriptions run again.
    fn resume(&mut self, intent: &Intent) -> Result<(), Trouble> {
        process::report_activity("resuming subscriptions");
        // What was applied with asynchronous commits is on disk before anybody hears that it is done.
        wal::flush();
        self.write(|journal, done| {
            let range = (OriginLsn::ZERO, OriginLsn::ZERO);
            journal.checkpoint(intent.id, Phase::Resuming, range, done, Timestamp::now().0)?;
            suspend::resume(journal);
            Ok(())
        })?;
        self.suspended_since = None;
        failpoint::hit(names::RESCUE_RESUMED);
        Ok(())
    }

    /// The intent is closed, with the rows that are kept; only then the clone goes, without which they could not be found out
    /// again. Where this process dies in between, the source asks whether the intent has ended, and drops it.
    fn finish(
        &mut self,
        intent: &Intent,
        position: OriginLsn,
        reconciled: Option<(Counts, KeptRows)>,
    ) -> Result<(), Trouble> {
        // What was reconciled with asynchronous commits is on disk as well.
        wal::flush();
        failpoint::hit(names::RESCUE_CLOSING);
        let (counts, kept) = reconciled.unzip();
        let kept = RefCell::new(kept);
        self.write(|journal, _| {
            forget_dsn(journal, intent.id)?;
            if let (Some(counts), Some(kept)) = (&counts, kept.borrow_mut().as_mut())
                && let Some(before) = journal.note_reconciled(intent.id, counts.clone(), kept.store()?)?
            {
                kept::forget(before)?;
            }
            Ok(journal.complete(intent.id, position, Timestamp::now().0)?)
        })?;
        failpoint::hit(names::RESCUE_COMPLETED);
        self.release(intent);
        pgrx::log!(
            "recovery of node \"{}\" from node \"{}\" is complete: applied up to {position}",
            intent.request.failed,
            intent.request.source
        );
        Ok(())
    }

    /// The source need not wait until it asks us. Where it cannot be told it asks, and drops the clone then.
    fn release(&self, intent: &Intent) {
        let id = intent.id;
        let name =
            transaction::run(|| storage::read().map(|journal| Some(journal.intent(id)?.clone_name()?.to_owned())));
        let Ok(Some(name)) = name else { return };
        let told = interrupts::catch(|| {
            let route = transaction::run(|| route_to(&intent.request.source))?;
            Source::open(&intent.request.source, &route)?.release_clone(&name, id)
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

    /// Changes the journal, and gives it what was done since it was last told. Waits for locks as long as an attempt may.
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

    /// The same for the end of an attempt, which must be written down: whoever is in the way is told of, and waited for.
    fn write_end(
        &mut self,
        intent: &Intent,
        change: impl Fn(&mut Journal, Totals) -> Result<(), RecoverError>,
    ) -> Result<(), RecoverError> {
        let (since, has_told, index) = (Instant::now(), Cell::new(false), self.index);
        self.write_while(change, || {
            let is_long = guc::rescue_lock_timeout().is_some_and(|limit| since.elapsed() >= limit);
            if is_long && !has_told.replace(true) {
                pgrx::warning!(
                    "the end of an attempt to recover node \"{}\" cannot be written down, nor subscriptions enabled, for a lock is \
                     not to be had{}",
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
        let done = self.done.clone();
        // Somebody may hold the label's lock, or a subscription's: each wait is bounded, and tried again.
        loop {
            let written = transaction::attempt(|| storage::update(|journal| change(journal, done.clone())));
            if let Some(written) = written {
                written?;
                self.done = Totals::default();
                with_entry(self.index, |entry| show_counts(entry, &Totals::default()));
                return Ok(());
            }
            interrupts::check();
            interrupts::reload_config_if_asked();
            may_wait_on()?;
        }
    }

    /// Writes down why the attempt has ended, with the subscriptions to living peers running again: they need not wait.
    fn fail(&mut self, intent: &Intent, trouble: Trouble) {
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
        // Who sees that it has failed sees why.
        let document = said.to_text(LongText::CAPACITY);
        with_entry(self.index, |entry| entry.said.set(&document));
        let written = self.write_end(intent, |journal, done| {
            journal.fail(intent.id, failure.clone(), done)?;
            suspend::resume(journal);
            Ok(())
        });
        if written.is_ok() {
            // It is told, whatever ends this process from here on.
            HAS_SETTLED.set(true);
        }
        let stood_still = self.suspended_since.map_or(Duration::ZERO, |since| since.elapsed());
        with_entry(self.index, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.stood_still = is_wait.then_some(stood_still);
        });
        let text = intent.describe(&failure);
        if is_news {
            said.log(&format!("recovery of node \"{}\" waits: {text}", intent.request.failed));
        }
        if let Err(error) = written {
            pgrx::warning!("recovery of node \"{}\" cannot write down why it waits: {error}", intent.request.failed);
        }
    }

    /// Ends the recovery. The living go on first; then the rows that it has touched are kept, for nobody may ever recover the rest.
    fn abort(&mut self, intent: &Intent) {
        let written = self
            .write_end(intent, |journal, done| {
                suspend::resume(journal);
                Ok(journal.count(intent.id, done)?)
            })
            .and_then(|()| {
                self.keep_touched(intent)?;
                self.write_end(intent, |journal, done| {
                    forget_dsn(journal, intent.id)?;
                    Ok(journal.abort(intent.id, done, Timestamp::now().0)?)
                })
            });
        match written {
            Ok(()) => {
                self.release(intent);
                pgrx::log!("recovery of node \"{}\" was aborted", intent.request.failed)
            }
            Err(error) => pgrx::warning!("recovery of node \"{}\" cannot be aborted: {error}", intent.request.failed),
        }
    }
}

/// Who was in the way when the manager last looked, as it follows what was waited for; nothing where nobody was seen.
fn held_by(index: usize, tell: impl FnOnce(&BlockedEntry) -> ShortText) -> String {
    let mut text = ShortText::EMPTY;
    with_entry(index, |entry| text = tell(&entry.blocked));
    if text.as_str().is_empty() { String::new() } else { format!("; it is held by {}", text.as_str()) }
}

/// The connection string that the caller gave goes with the recovery.
fn forget_dsn(journal: &Journal, id: IntentId) -> Result<(), RecoverError> {
    match journal.intent(id) {
        Some(intent) if intent.has_own_dsn => Ok(registry::forget_recovery_dsn(&intent.request.source)?),
        _ => Ok(()),
    }
}

/// Nobody has asked the recovery to stop.
pub(super) fn goes_on(index: usize) -> bool {
    let mut goes_on = true;
    with_entry(index, |entry| goes_on = !entry.must_stop);
    goes_on
}

/// Where what is to be compared begins: earlier recoveries may have been aborted, for another source to go on.
pub(super) fn touched_from(intent: &Intent, skip: OriginLsn) -> OriginLsn {
    intent.touched_from.map_or(skip, |from| from.min(skip))
}

pub(super) fn plugin_settings(
    intent: &Intent,
    facts: &SourceFacts,
    skip: OriginLsn,
    stop: OriginLsn,
) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        // What the source's role has been given for its sessions does not end this one.
        ("statement_timeout", "0".to_owned()),
        ("transaction_timeout", "0".to_owned()),
        ("lock_timeout", "0".to_owned()),
        ("spock.rescue_origin", facts.origin_id.to_string()),
        ("spock.rescue_skip_lsn", skip.min(stop).to_string()),
        ("spock.rescue_stop_lsn", stop.to_string()),
        ("spock.rescue_stop_timestamp", intent.request.stop_timestamp.map_or(String::new(), |at| at.to_string())),
        ("spock.rescue_tables", facts.tables.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        ("spock.rescue_packed", "on".to_owned()),
    ];
    if !intent.skips.is_empty() {
        let skips = intent.skips.iter().map(OriginLsn::to_string).collect::<Vec<_>>();
        settings.push(("spock.rescue_given_up", skips.join(",")));
    }
    // The source was lost and could not say at which transaction: it may have been ended by what that one took.
    if intent.failure.as_ref().is_some_and(|failure| failure.origin_lsn.is_none()) {
        settings.push(("spock.rescue_announced", "on".to_owned()));
    }
    settings
}

pub(super) fn setting_of(intent: &Intent, target: &TargetFacts, apply_as: ApplyAs) -> Setting {
    Setting {
        apply_as,
        origin_id: target.origin_id,
        failed_node: intent.request.failed.clone(),
        nodes: nodes_by_origin(&target.local, &target.nodes),
        tables: target.tables.iter().map(|table| (table.oid.to_u32(), table.from)).collect(),
        subscribed: target.table_names(),
    }
}

fn show_progress(entry: &mut RescueEntry, applier: &Applier) {
    entry.applied = applier.applied();
    show_counts(entry, &applier.totals);
}

/// What no checkpoint has counted yet.
fn show_counts(entry: &mut RescueEntry, totals: &Totals) {
    entry.transactions = totals.transactions;
    entry.rows = totals.rows;
    entry.bytes = totals.bytes;
    entry.conflicts = totals.conflicts;
}

pub(super) fn remote(intent: &Intent, error: crate::remote::error::RemoteError) -> RecoverError {
    RecoverError::Remote { source_node: intent.request.source.clone(), error }
}

/// What is written down of a failure, and what the server has said of it, which may quote a row's value: the label can be read
/// by everybody, the log and what superusers ask for cannot.
pub(super) fn failure_of(trouble: Trouble) -> (Failure, Said) {
    let at = Timestamp::now().0;
    let failure = |sqlstate: &str, reason: String| Failure {
        sqlstate: sqlstate.to_owned(),
        reason,
        relation: None,
        column: None,
        constraint: None,
        origin_lsn: None,
        at,
    };
    let (error, origin_lsn) = match trouble {
        Trouble::Recover(error) => (error, None),
        Trouble::Streaming { error, origin_lsn } => (*error, origin_lsn),
        Trouble::Raised { report, relation, origin_lsn } => {
            let error = last_error::of(&report);
            let names = transaction::caught(|| error.known_names()).unwrap_or_default();
            let what = if error.sqlstate == fault::LOCK {
                "a lock was not to be had within spock.rescue_lock_timeout"
            } else if origin_lsn.is_some() {
                "a transaction could not be applied"
            } else {
                "the stream could not be read"
            };
            let failure = failure(&error.sqlstate, format!("{what}: {}", condition(report.sql_error_code())));
            let relation = relation.or(names.relation);
            let failure =
                Failure { relation, column: names.column, constraint: names.constraint, origin_lsn, ..failure };
            return (failure, Said { node: None, error });
        }
        Trouble::Unexpected(report) => {
            let error = last_error::of(&report);
            let what = format!("the attempt ended by an error: {}", condition(report.sql_error_code()));
            return (failure(&error.sqlstate, what), Said { node: None, error });
        }
        // Handled by the caller.
        Trouble::MustStop => return (failure("57014", "aborted".to_owned()), Said::default()),
    };
    let own = || sqlstate_text(error.sqlstate() as i32);
    // What libpq or a peer says may tell hosts and roles.
    let (sqlstate, reason, said) = match &error {
        RecoverError::Remote { source_node, error: remote } => {
            let report = match remote {
                RemoteError::Stream(report) => (**report).clone(),
                RemoteError::Peer { sqlstate, message, detail, hint } => PeerReport {
                    sqlstate: sqlstate.clone(),
                    message: message.clone(),
                    detail: detail.clone(),
                    hint: hint.clone(),
                    ..PeerReport::default()
                },
                other => PeerReport { message: other.to_string(), ..PeerReport::default() },
            };
            let sqlstate = if report.sqlstate.is_empty() { own() } else { report.sqlstate.clone() };
            let said = ServerError {
                sqlstate: sqlstate.clone(),
                message: report.message,
                detail: report.detail,
                hint: report.hint,
                context: report.context,
                ..ServerError::default()
            };
            let said = Said { node: Some(source_node.clone()), error: said };
            (sqlstate, format!("node \"{source_node}\": {}", remote.kind()), said)
        }
        _ => {
            let said = ServerError {
                sqlstate: own(),
                message: error.to_string(),
                detail: error.detail(),
                hint: error.hint(),
                ..ServerError::default()
            };
            (own(), error.to_string(), Said { node: None, error: said })
        }
    };
    (Failure { origin_lsn, ..failure(&sqlstate, reason) }, said)
}

/// The condition's name in words: `check violation`.
fn condition(code: PgSqlErrorCode) -> String {
    format!("{code:?}").trim_start_matches("ERRCODE_").to_lowercase().replace('_', " ")
}

pub(super) fn sqlstate_text(packed: i32) -> String {
    unpack_sqlstate(packed).map(char::from).iter().collect()
}
