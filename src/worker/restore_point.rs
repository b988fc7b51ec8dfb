//! The worker that makes one restore point: it takes this node and its peers through the steps (restore_point/step.rs)
//! at the same time, and says in shared memory what has come of it. It is a process of its own, because a function
//! cannot commit in the middle of its caller's transaction, and because it goes on when the caller has gone.
//!
//! If it dies, the list of every node that was prepared says that the point is loose, and no commit is held back for
//! longer than the lease.

mod asking;

use self::asking::{Asked, Peers};
use crate::error::SqlError;
use crate::failpoint::{self, names};
use crate::guc;
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::{interrupts, latch, process, random, transaction};
use crate::restore_point::error::RestorePointError;
use crate::restore_point::list::{Part, Point, PointNode, Quality, quality};
use crate::restore_point::step::{
    self, Close, ClosedAt, Forget, Mark, Marked, Open, OpenedAfter, Prepare, Prepared, Record,
};
use crate::shmem::{self, JobError, JobState, PointJob};
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which part of the lease may be spent on waiting until nothing is on its way (60 %). The rest is for writing the
/// records and opening the gates, which must be over before the first lease runs out.
const DRAIN_PART: (u32, u32) = (3, 5);

thread_local! {
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Makes the restore point that the shared memory entry at `index` asks for, and exits.
pub fn run(index: usize, database: Oid) -> ! {
    let Some(job) = take_job(index, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    process::report_activity(&format!("making restore point {}", job.name.as_str()));
    let outcome = make(index, &job);
    finish(index, &job, &outcome);
    interrupts::exit(0)
}

fn take_job(index: usize, database: Oid) -> Option<PointJob> {
    let mut shared = shmem::lock();
    let home = shared.databases().get(index)?.database;
    let job = shared.point_job(index);
    if home != database || job.state != JobState::Asked {
        return None;
    }
    job.state = JobState::Running;
    job.worker_pid = process::my_pid();
    ENTRY.set(Some(index));
    Some(*job)
}

/// Publishes what has come of the job.
fn finish(index: usize, mine: &PointJob, outcome: &Result<String, RestorePointError>) {
    let mut error = JobError::NONE;
    if let Err(failure) = outcome {
        error.sqlstate = crate::error::unpack_sqlstate(failure.sqlstate() as i32);
        error.message.set(&failure.to_string());
        error.detail.set(&failure.detail().unwrap_or_default());
        error.hint.set(&failure.hint().unwrap_or_default());
    }
    let asked_by = {
        let mut shared = shmem::lock();
        shared.end_broadcasts(index);
        let job = shared.point_job(index);
        if job.number == mine.number {
            job.error = error;
            job.note.set(outcome.as_deref().unwrap_or_default());
            job.state = if outcome.is_ok() { JobState::Done } else { JobState::Failed };
            job.worker_pid = 0;
        }
        job.asked_by
    };
    ENTRY.set(None);
    latch::wake(asked_by);
}

/// The worker ends before its job is done: by a signal or an ERROR.
fn on_exit() {
    if let Some(index) = ENTRY.take() {
        let asked_by = {
            let mut shared = shmem::lock();
            shared.end_broadcasts(index);
            let job = shared.point_job(index);
            if job.worker_pid == process::my_pid() {
                job.state = JobState::Failed;
                job.error = JobError::NONE;
                job.worker_pid = 0;
            }
            job.asked_by
        };
        latch::wake(asked_by);
    }
}

/// What is known of a node that takes part.
#[derive(Default)]
struct Progress {
    end: Option<OriginLsn>,
    marked: Option<Marked>,
    opened: Option<OpenedAfter>,
}

struct Making<'a> {
    job: &'a PointJob,
    name: String,
    local: String,
    peers: Peers,
    created_at: Timestamp,
    /// Names the closings of the gates, and the attempt.
    number: u64,
    /// The nodes have been asked to write the record.
    was_marked: bool,
    is_two_phase: bool,
    /// By the names of the nodes.
    progress: BTreeMap<String, Progress>,
    must_be_loose: bool,
    /// Some subscription is too far behind to be waited for.
    is_behind: bool,
    /// Why the point is no better than it is.
    note: String,
}

fn make(index: usize, job: &PointJob) -> Result<String, RestorePointError> {
    let (local, peers) = transaction::run(|| {
        let local = NativeProvider.local_node()?.ok_or(RestorePointError::NoNode)?;
        Ok::<_, RestorePointError>((local, NativeProvider.peers()?))
    })?;
    let number = random::number();
    let mut making = Making {
        job,
        name: job.name.as_str().to_owned(),
        local: local.name.to_string(),
        peers: Peers::find(index, &peers),
        created_at: Timestamp::now(),
        number: number.max(1),
        was_marked: false,
        is_two_phase: false,
        progress: BTreeMap::new(),
        must_be_loose: false,
        is_behind: false,
        note: String::new(),
    };
    if job.drain
        && let Some((node, why)) = making.peers.absent.first()
    {
        let why = format!("{why}. Nothing was changed");
        return Err(RestorePointError::PeerSilent { node: node.clone(), why });
    }
    let holds_all = making.prepare()?;
    failpoint::hit(names::RESTORE_POINT_PREPARED);
    let made = making.close_and_mark(holds_all);
    let opened = making.open();
    failpoint::hit(names::RESTORE_POINT_OPENED);
    match made {
        Ok(()) => {
            making.record(opened)?;
            Ok(making.note)
        }
        Err(error) => {
            making.take_back();
            Err(error)
        }
    }
}

impl Making<'_> {
    fn lease(&self) -> Duration {
        Duration::from_millis(u64::from(self.job.lease_ms))
    }

    /// Does a step on this node, in a transaction of its own.
    fn here(&self, step: &str, argument: &str) -> Result<String, RestorePointError> {
        transaction::run(|| step::run(step, argument))
    }

    /// Enters the point in the list of every node. Returns whether all transactions must be held back: where some node
    /// passes on what it applies, that is on its way to others too.
    fn prepare(&mut self) -> Result<bool, RestorePointError> {
        let mut nodes: Vec<String> = self.peers.names().map(str::to_owned).collect();
        nodes.push(self.local.clone());
        nodes.sort();
        let asked = Prepare {
            name: self.name.clone(),
            attempt: self.number,
            created_at: self.created_at,
            is_automatic: self.job.is_automatic,
            nodes: nodes.clone(),
            absent: self.peers.absent.iter().map(|(name, _)| name.clone()).collect(),
        };
        let argument = asking::json(&asked);
        let own: Prepared = asking::answer(&self.local, &self.here(step::PREPARE, &argument)?)?;
        let asked = Asked::writing(step::PREPARE, &argument, guc::peer_timeout());
        let answers = self.peers.ask(&asked)?;
        let mut holds_all = own.is_forwarded_to;
        self.note_behind(&own);
        let mut refused = None;
        for (node, answer) in answers {
            let outcome = answer.and_then(|text| asking::answer::<Prepared>(&node, &text)).and_then(|answer| {
                holds_all |= answer.is_forwarded_to;
                self.note_behind(&answer);
                match answer.stranger {
                    _ if answer.node != node => Err(RestorePointError::PeerSilent {
                        node: node.clone(),
                        why: "Another node answers".to_owned(),
                    }),
                    Some(stranger) => Err(RestorePointError::Stranger { node: node.clone(), stranger }),
                    None => Ok(()),
                }
            });
            match outcome {
                Ok(()) => {
                    self.progress.insert(node, Progress::default());
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        self.progress.insert(self.local.clone(), Progress::default());
        match refused {
            Some(error) => {
                self.take_back();
                Err(error)
            }
            None => Ok(holds_all),
        }
    }

    fn note_behind(&mut self, prepared: &Prepared) {
        self.is_two_phase |= prepared.is_two_phase;
        self.note_unsettled(&prepared.node, prepared.is_unsettled.as_deref());
        if let Some(provider) = &prepared.is_behind {
            self.is_behind = true;
            self.note(format!("node \"{}\" is too far behind node \"{provider}\" to be waited for", prepared.node));
        }
    }

    fn note_unsettled(&mut self, node: &str, provider: Option<&str>) {
        if let Some(provider) = provider {
            self.must_be_loose = true;
            self.note(format!("a table is being copied from node \"{provider}\" to node \"{node}\""));
        }
    }

    /// Keeps the first reason.
    fn note(&mut self, why: String) {
        if self.note.is_empty() {
            self.note = why;
        }
    }

    /// Closes every gate, and writes the records while all are closed.
    fn close_and_mark(&mut self, holds_all: bool) -> Result<(), RestorePointError> {
        let closed_at = Monotonic::now();
        if holds_all && self.is_two_phase {
            self.must_be_loose = true;
            self.note("a subscription is two-phase where another one has origin = any".to_owned());
        }
        let lease_ms = self.job.lease_ms;
        let argument = asking::json(&Close { number: self.number, holds_all, lease_ms });
        let command = self.peers.send(&Asked::reading(step::CLOSE, &argument, self.lease()))?;
        let own = self.here(step::CLOSE, &argument);
        let answers = self.peers.collect(command);
        for (node, answer) in answers.into_iter().chain([(self.local.clone(), own)]) {
            match answer.and_then(|text| asking::answer::<ClosedAt>(&node, &text)) {
                Ok(closed) => self.of(&node).end = Some(OriginLsn(closed.end.0)),
                Err(error) if error.sqlstate() == pgrx::PgSqlErrorCode::ERRCODE_OBJECT_IN_USE => return Err(error),
                Err(error) => {
                    self.note(format!("node \"{node}\": {error}"));
                    self.must_be_loose = true;
                }
            }
        }
        failpoint::hit(names::RESTORE_POINT_CLOSED);
        let drain_until = self.lease() * DRAIN_PART.0 / DRAIN_PART.1;
        let left = drain_until.saturating_sub(Monotonic::now().since(closed_at));
        let may_drain = self.job.drain && !self.must_be_loose && !holds_all && !self.is_behind;
        let ends = self.progress.iter().filter_map(|(node, known)| Some((node.clone(), known.end?))).collect();
        let wait_ms = if may_drain { left.as_millis() as u32 } else { 0 };
        let argument = asking::json(&Mark { name: self.name.clone(), wait_ms, ends });
        // If a peer answers later than its lease, the point is loose, but its record is there.
        self.was_marked = true;
        let command = self.peers.send(&Asked::marking(&argument, left + guc::peer_timeout()))?;
        let own = self.here(step::SAVE, "{}").and_then(|_| self.here(step::MARK, &argument));
        let answers = self.peers.collect(command);
        for (node, answer) in answers.into_iter().chain([(self.local.clone(), own)]) {
            match answer.and_then(|text| asking::answer::<Marked>(&node, &text)) {
                Ok(marked) => {
                    self.note_unsettled(&node, marked.is_unsettled.as_deref());
                    if !marked.drained {
                        self.note(format!("node \"{node}\" had not received everything in time"));
                    }
                    self.of(&node).marked = Some(marked);
                }
                Err(error) if self.job.drain || node == self.local => return Err(error),
                Err(error) => {
                    self.note(format!("node \"{node}\": {error}"));
                    self.must_be_loose = true;
                }
            }
        }
        failpoint::hit(names::RESTORE_POINT_MARKED);
        Ok(())
    }

    /// Opens every gate that may be closed.
    fn open(&mut self) -> Result<(), RestorePointError> {
        let argument = asking::json(&Open { number: self.number });
        let command = self.peers.send(&Asked::reading(step::OPEN, &argument, guc::peer_timeout()));
        let own = self.here(step::OPEN, &argument);
        let answers = self.peers.collect(command?);
        for (node, answer) in answers.into_iter().chain([(self.local.clone(), own)]) {
            match answer.and_then(|text| asking::answer::<OpenedAfter>(&node, &text)) {
                Ok(opened) => {
                    if !opened.held {
                        self.note = format!("the lease had run out on node \"{node}\" before all records were written");
                    }
                    self.of(&node).opened = Some(opened);
                }
                Err(error) => self.note(format!("node \"{node}\": {error}")),
            }
        }
        Ok(())
    }

    /// Enters in every list what has come of the point.
    fn record(&mut self, opened: Result<(), RestorePointError>) -> Result<(), RestorePointError> {
        let part = |known: &Progress| Part {
            held: known.opened.as_ref().is_some_and(|opened| opened.held) && known.end.is_some(),
            drained: known.marked.as_ref().is_some_and(|marked| marked.drained),
        };
        let parts: Vec<Part> = self.progress.values().map(part).collect();
        let quality = if self.must_be_loose || opened.is_err() {
            Quality::Loose
        } else {
            quality(&parts, self.peers.absent.is_empty())
        };
        let nodes = self.progress.iter().map(|(node, known)| PointNode {
            node: node.clone(),
            lsn: known.marked.as_ref().map(|marked| marked.lsn),
            timeline: known.marked.as_ref().map(|marked| marked.timeline),
            held_us: known.opened.as_ref().map(|opened| opened.held_us),
        });
        let point = Point {
            name: self.name.clone(),
            created_at: self.created_at,
            attempt: self.number,
            is_automatic: self.job.is_automatic,
            quality,
            nodes: nodes.collect(),
        };
        let argument = asking::json(&Record { point, kept: guc::restore_points_kept() });
        let command = self.peers.send(&Asked::writing(step::RECORD, &argument, guc::peer_timeout()));
        self.here(step::RECORD, &argument)?;
        for (node, answer) in self.peers.collect(command?) {
            if let Err(error) = answer {
                pgrx::warning!("node \"{node}\" lists restore point \"{}\" as loose: {error}", self.name);
            }
        }
        Ok(())
    }

    fn of(&mut self, node: &str) -> &mut Progress {
        self.progress.entry(node.to_owned()).or_default()
    }

    /// Removes what this attempt has entered: some node has no record. If another one may have it, the name stays used.
    fn take_back(&mut self) {
        let was_written = self.was_marked;
        let attempt = Some(self.number);
        let argument = asking::json(&Forget { name: self.name.clone(), attempt, was_written });
        let command = self.peers.send(&Asked::writing(step::FORGET, &argument, guc::peer_timeout()));
        let own = self.here(step::FORGET, &argument);
        let answers = command.map(|command| self.peers.collect(command)).unwrap_or_default();
        for (node, answer) in answers.into_iter().chain([(self.local.clone(), own)]) {
            if let Err(error) = answer {
                pgrx::log!("node \"{node}\" still lists restore point \"{}\" as loose: {error}", self.name);
            }
        }
    }
}
