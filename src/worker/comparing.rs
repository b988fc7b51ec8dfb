//! The worker that compares the tables of this node with those of another one. A session has called it and watches it
//! (sql/compare.sql), or the manager has begun it (comparisons.rs).
//!
//! What was found, and the key up to which a table is compared, are committed together every few seconds. So the worker
//! may be killed between any two lines: the next one goes on from there. A table that cannot be compared is noted with
//! the reason, and does not stop the others.

use super::reconciling::while_reconciling;
use super::trouble::Trouble;
use crate::compare::comparison::{CompareFailure, Comparison, Visitor};
use crate::compare::found::{Found, FoundKeys};
use crate::compare::pace::Pace;
use crate::compare::progress::Progress;
use crate::compare::side::Here;
use crate::compare::table::{Incomparable, Request, Table};
use crate::comparing::begin::subscription_to;
use crate::comparing::difference::Difference;
use crate::comparing::error::ComparisonError;
use crate::comparing::list::{ComparisonList, TableState};
use crate::comparing::storage;
use crate::error::{SqlError, unpack_sqlstate};
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::document::ComparisonRecord;
use crate::intent_id::IntentId;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::{interrupts, latch, logicalrep, process, transaction};
use crate::protocol;
use crate::reconcile::comparing::{Finding, Judge};
use crate::recover::error::RecoverError;
use crate::recover::source::{Source, route_to};
use crate::remote::error::RemoteError;
use crate::shmem::{self, ComparisonEntry, JobError, JobState};
use pgrx::pg_sys::Oid;
use pgrx::spi::quote_literal;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// How many keys are looked at closer together. Each closer look waits for both nodes.
const CLOSER: usize = 1_000;
/// After so many keys that seem to differ, or so much time, they are looked at closer, and all is committed.
const CLOSER_AFTER: u64 = 5_000;
const COMMIT_AFTER: Duration = Duration::from_secs(5);

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Runs the comparison that the shared memory entry at `index` asks for, until it is over or is to stop, and exits.
pub fn run(index: usize, database: Oid) -> ! {
    let Some(entry) = take_entry(index, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    let outcome = interrupts::catch(|| Carrier::carry(index, &entry)).unwrap_or_else(|report| {
        transaction::abort_current();
        // The message may quote a row, so only the log has it.
        pgrx::log!("a comparison has failed: {}", report.message());
        Err(ComparisonError::Failed { sqlstate: report.sql_error_code() })
    });
    finish(index, &outcome);
    interrupts::exit(0)
}

fn take_entry(index: usize, database: Oid) -> Option<ComparisonEntry> {
    let mut shared = shmem::lock();
    let must_leave = shared.must_stand_aside(database);
    let home = shared.databases().get_mut(index)?;
    let entry = &mut home.comparison;
    if home.database != database || entry.state != JobState::Asked {
        return None;
    }
    if must_leave {
        entry.state = JobState::None;
        return None;
    }
    entry.state = JobState::Running;
    entry.worker_pid = process::my_pid();
    ENTRY.set(Some(index));
    Some(*entry)
}

fn with_entry<T>(index: usize, change: impl FnOnce(&mut ComparisonEntry) -> T) -> T {
    change(&mut shmem::lock().databases()[index].comparison)
}

fn finish(index: usize, outcome: &Result<(), ComparisonError>) {
    let mut error = JobError::NONE;
    if let Err(failure) = outcome {
        error.sqlstate = unpack_sqlstate(failure.sqlstate() as i32);
        error.message.set(&failure.to_string());
        error.detail.set(&failure.detail().unwrap_or_default());
        error.hint.set(&failure.hint().unwrap_or_default());
        if with_entry(index, |entry| entry.is_automatic) {
            pgrx::warning!("a comparison with another node has stopped: {failure}");
        }
    }
    ENTRY.set(None);
    let state = if outcome.is_ok() { JobState::Done } else { JobState::Failed };
    leave(index, state, error);
}

/// The worker ends before it is done: by a signal, or by an ERROR where none is expected.
fn on_exit() {
    if let Some(index) = ENTRY.take() {
        leave(index, JobState::Failed, JobError::NONE);
    }
}

fn leave(index: usize, state: JobState, error: JobError) {
    let manager = {
        let mut shared = shmem::lock();
        let entry = &mut shared.databases()[index].comparison;
        if entry.worker_pid == process::my_pid() {
            (entry.state, entry.error, entry.worker_pid) = (state, error, 0);
        }
        shared.call_manager(index)
    };
    latch::wake(manager);
}

/// Whether the comparison is to go on.
fn goes_on(index: usize) -> bool {
    if interrupts::reload_config_if_asked() {
        let is_off = guc::compare_interval().is_none();
        with_entry(index, |entry| entry.must_stop |= entry.is_automatic && is_off);
    }
    with_entry(index, |entry| entry.goes_on())
}

/// Carries one comparison.
struct Carrier<'a> {
    index: usize,
    record: ComparisonRecord,
    list: ComparisonList,
    judge: Judge<'a>,
    here: Here,
    pace: Pace,
    /// The publications by which this node publishes to the other, and the other to this one.
    published_here: Vec<String>,
    published_there: Vec<String>,
}

/// Notes what the comparison of a table finds, and shows how far it is.
struct Watcher {
    index: usize,
    found: FoundKeys,
    begun: Instant,
}

impl Visitor for Watcher {
    fn found(&mut self, found: &Found) {
        self.found.push(found);
    }

    fn goes_on(&mut self, progress: &Progress) -> bool {
        show(self.index, progress);
        goes_on(self.index) && self.found.count() < CLOSER_AFTER && self.begun.elapsed() < COMMIT_AFTER
    }
}

fn show(index: usize, progress: &Progress) {
    with_entry(index, |entry| {
        entry.ranges_done = progress.ranges_done;
        entry.ranges_total = progress.ranges_total;
        entry.rows = progress.rows;
        entry.bytes = progress.bytes;
    });
}

impl Carrier<'_> {
    fn carry(index: usize, entry: &ComparisonEntry) -> Result<(), ComparisonError> {
        let id = IntentId(entry.run);
        let (record, list) = transaction::run(|| {
            let record = storage::record(id)?.ok_or(ComparisonError::Unknown { id })?;
            let list = storage::list(&record)?;
            Ok::<_, ComparisonError>((record, list))
        })?;
        process::report_activity(&format!("comparing with node {}", list.other));
        let (local, subscription, route) = transaction::run(|| {
            let local = NativeProvider.local_node()?.ok_or(ComparisonError::NoNode)?.name.to_string();
            Ok::<_, ComparisonError>((local, subscription_to(&list.other)?, route_to(&list.other)?))
        })?;
        let mut source = Source::open(&list.other, &route)?;
        if source.protocol() < protocol::OURS {
            return Err(ComparisonError::PeerTooOld { node: list.other });
        }
        let no_subscription = || ComparisonError::NoSubscription { node: list.other.clone() };
        let applier = transaction::run(|| logicalrep::become_applier_of(subscription.id));
        let apply_as = applier.ok_or_else(no_subscription)?;
        let published_here = publications_to(&mut source, &local)?;
        process::compare_as_text();
        let mut judge = Judge::new(source, &local, apply_as);
        judge.begin()?;
        let mut carrier = Carrier {
            index,
            record,
            list,
            judge,
            here: Here::new(&local),
            pace: Pace::of(entry.pace_mb_per_s),
            published_here,
            published_there: subscription.publications,
        };
        carrier.compare_all()
    }

    fn compare_all(&mut self) -> Result<(), ComparisonError> {
        let is_done = |state: TableState| matches!(state, TableState::Compared | TableState::NotComparable);
        for place in 0..self.list.tables.len() {
            if is_done(self.list.tables[place].state) {
                continue;
            }
            if !goes_on(self.index) {
                break;
            }
            self.begin_table(place);
            match self.compare(place) {
                Ok(()) => (),
                Err(TableTrouble::Table(reason)) => {
                    let table = &mut self.list.tables[place];
                    pgrx::log!("table {}.{} is not comparable: {reason}", table.schema, table.name);
                    (table.state, table.reason) = (TableState::NotComparable, Some(reason.to_string()));
                    self.note(&[], false)?;
                }
                Err(TableTrouble::All(error)) => {
                    // What was committed before stays, so that the next call goes on from there.
                    self.note(&[], true)?;
                    return Err(error);
                }
            }
        }
        if self.list.done() == self.list.tables.len() {
            self.list.ended_at = Some(Timestamp::now());
        }
        self.note(&[], true)
    }

    fn begin_table(&mut self, place: usize) {
        let table = &mut self.list.tables[place];
        table.state = TableState::Running;
        let name = format!("{}.{}", table.schema, table.name);
        process::report_activity(&format!("comparing {name} with node {}", self.list.other));
        let (tables, done) = (self.list.tables.len() as u32, self.list.done() as u32);
        let before = self.list.tables[place].progress.ranges_done;
        with_entry(self.index, |entry| {
            entry.relation.set(&name);
            (entry.tables, entry.tables_done) = (tables, done);
            (entry.table_began_at, entry.ranges_before) = (Monotonic::now(), before);
        });
        show(self.index, &self.list.tables[place].progress);
    }

    fn compare(&mut self, place: usize) -> Result<(), TableTrouble> {
        let (schema, name) = (self.list.tables[place].schema.clone(), self.list.tables[place].name.clone());
        let request = Request {
            schema: &schema,
            name: &name,
            published_here: &self.published_here,
            published_there: &self.published_there,
            may_be_incomplete_here: false,
        };
        let learnt = Table::learn(&request, &mut self.here, &mut self.judge.source().there());
        let table = learnt.map_err(|error| self.lost(error))?.map_err(TableTrouble::Table)?;
        let number = place as u32 + 1;
        if !self.judge.learn_table(number, &table) {
            return Err(TableTrouble::Table(Incomparable::NoKey { node: self.record.other.clone() }));
        }
        self.list.tables[place].key = table.key.iter().map(|column| table.columns[*column].clone()).collect();
        loop {
            let mut watcher = Watcher { index: self.index, found: FoundKeys::default(), begun: Instant::now() };
            let progress = self.list.tables[place].progress.clone();
            let compared = Comparison::new(&table, self.pace, self.list.seed).run(
                progress,
                &mut self.here,
                &mut self.judge.source().there(),
                &mut watcher,
            );
            let progress = match compared {
                Ok(progress) => progress,
                Err(CompareFailure::Remote(error)) => return Err(self.lost(error)),
                Err(CompareFailure::Incomparable(reason)) => return Err(TableTrouble::Table(reason)),
            };
            let keys = self.look_closer(place, number, watcher.found)?;
            let is_over = progress.is_over;
            self.list.tables[place].progress = progress;
            if is_over {
                self.list.tables[place].state = TableState::Compared;
            }
            failpoint::hit(names::COMPARISON_NOTING);
            self.note(&keys, false)?;
            if is_over || !goes_on(self.index) {
                return Ok(());
            }
        }
    }

    /// Looks closer at the keys that seem to differ, and counts those that do. Returns those that are to be listed.
    fn look_closer(
        &mut self,
        place: usize,
        number: u32,
        mut found: FoundKeys,
    ) -> Result<Vec<Difference>, TableTrouble> {
        found.rewind();
        let (mut listed, repair) = (Vec::new(), self.list.repair);
        loop {
            let some: Vec<Found> = found.next_batch(CLOSER);
            if some.is_empty() {
                return Ok(listed);
            }
            let mut findings: Vec<Finding> = Vec::new();
            let judge = &mut self.judge;
            let mut look = || judge.judge(number, &some, repair, |finding| findings.push(finding));
            if repair {
                let looked = while_reconciling(|| look().map(|()| true));
                process::compare_as_text();
                looked.map_err(TableTrouble::of)?;
            } else {
                look().map_err(|error| TableTrouble::All(error.into()))?;
            }
            listed.extend(findings.into_iter().filter_map(|finding| self.list.note(place, finding)));
        }
    }

    /// Commits how far the comparison is and what it has found.
    fn note(&mut self, keys: &[Difference], is_last: bool) -> Result<(), ComparisonError> {
        let (record, list) = (&self.record, &mut self.list);
        match transaction::run(|| storage::note(record, list, keys, is_last))? {
            true => Ok(()),
            false => Err(ComparisonError::Unknown { id: self.record.id }),
        }
    }

    fn lost(&self, error: RemoteError) -> TableTrouble {
        TableTrouble::All(RecoverError::Remote { source_node: self.record.other.clone(), error }.into())
    }
}

/// Why a table was not compared to its end: this concerns that table only, or all.
enum TableTrouble {
    Table(Incomparable),
    All(ComparisonError),
}

impl TableTrouble {
    fn of(trouble: Trouble) -> TableTrouble {
        TableTrouble::All(match trouble {
            Trouble::Recover(error) => error.into(),
            Trouble::Streaming { error, .. } => (*error).into(),
            Trouble::Raised { report, .. } | Trouble::Unexpected(report) => {
                ComparisonError::Failed { sqlstate: report.sql_error_code() }
            }
            Trouble::MustStop => ComparisonError::WorkerEnded,
        })
    }
}

impl From<ComparisonError> for TableTrouble {
    fn from(error: ComparisonError) -> Self {
        TableTrouble::All(error)
    }
}

/// The publications of this node to which the source subscribes.
fn publications_to(source: &mut Source, local: &str) -> Result<Vec<String>, ComparisonError> {
    let question = format!(
        "SELECT DISTINCT pg_catalog.unnest(s.subpublications) FROM spock.node_positions(false::pg_catalog.bool) p
           JOIN pg_catalog.pg_subscription s ON s.oid = p.subscription WHERE p.origin_node = {}",
        quote_literal(local)
    );
    let mut names = Vec::new();
    for row in source.rows(&question, 1)? {
        names.push(source.read(row.value(0))?);
    }
    Ok(names)
}
