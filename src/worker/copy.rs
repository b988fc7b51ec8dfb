//! The workers that copy tables into this database (src/rebuild/copy/), and how they are started and waited for. Each is a
//! process of its own, because it commits chunk by chunk, under an origin of its own, as a replica.

use super::start;
use crate::guc;
use crate::pg::clock::Monotonic;
use crate::pg::dsm::Segment;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{catalog, interrupts, last_error, origin, process, transaction};
use crate::rebuild::copy::error::CopyError;
use crate::rebuild::copy::stream::{self, Copied, CopyJob, CopyTask, Importer};
use crate::rebuild::pin::PinFailure;
use crate::recover::error::RecoverError;
use crate::recover::source;
use crate::shmem::{self, MAX_COPIERS};
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys::Oid;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::time::Duration;

/// How many streams a table may have. Each needs a replication origin, two connections and a process.
pub const MOST_STREAMS: u64 = guc::MOST_REBUILD_STREAMS as u64;

/// The room for a worker's answer.
const ROOM: usize = 16 << 10;

/// How long to wait between two looks at workers that are copying.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A worker that has not begun within this time never will.
const START_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Serialize, Deserialize)]
struct Question {
    job: CopyJob,
    task: CopyTask,
    /// The process that waits for the worker; without it the worker has nobody to copy for.
    asked_by: i32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Copied),
    Failed(PinFailure),
}

thread_local! {
    static PLACE: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// Copies a table, or goes on with a copy that has begun under the same pin. The table must be parked (src/rebuild/park.rs).
#[derive(Debug)]
pub struct Copy {
    job: CopyJob,
}

impl Copy {
    pub fn new(job: CopyJob) -> Copy {
        Copy { job: CopyJob { streams: job.streams.clamp(1, MOST_STREAMS), ..job } }
    }

    /// Runs the copy to its end. `goes_on` is asked ten times a second; if it says no, the workers are ended, and what was
    /// committed stays. Returns what was copied in this run.
    ///
    /// # Errors
    /// The first error of a worker. The other workers are ended then.
    pub fn run(&self, mut goes_on: impl FnMut() -> bool) -> Result<Copied, CopyError> {
        self.run_tasks(&[CopyTask::Begin], &mut goes_on)?;
        let tasks: Vec<CopyTask> = (0..self.job.streams).map(CopyTask::Stream).collect();
        self.run_tasks(&tasks, &mut goes_on)
    }

    fn run_tasks(&self, tasks: &[CopyTask], goes_on: &mut dyn FnMut() -> bool) -> Result<Copied, CopyError> {
        let mut workers = Vec::new();
        let mut outcome = Ok(Copied::default());
        for task in tasks {
            match Running::start(&self.job, *task) {
                Ok(worker) => workers.push(worker),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        while outcome.is_ok() && !workers.is_empty() {
            interrupts::check();
            if !goes_on() {
                outcome = Err(CopyError::Stopped);
                break;
            }
            let mut left = Vec::new();
            for worker in workers {
                match worker.answer() {
                    None => left.push(worker),
                    Some(answer) => outcome = outcome.and_then(|so_far| Ok(plus(so_far, answer?))),
                }
            }
            workers = left;
            if outcome.is_ok() && !workers.is_empty() {
                latch::wait(Some(LOOK_AGAIN), WaitEvent::Copy);
            }
        }
        workers.into_iter().for_each(Running::end);
        outcome
    }
}

fn plus(one: Copied, other: Copied) -> Copied {
    Copied { chunks: one.chunks + other.chunks, rows: one.rows + other.rows, bytes: one.bytes + other.bytes }
}

/// A worker that was started. It is told to end when this is dropped, also while an ERROR unwinds: a caller that was cancelled
/// must not leave it behind.
struct Running {
    /// None: it was told to end.
    handle: Option<DynamicBackgroundWorker>,
    segment: Segment,
    since: Monotonic,
}

impl Running {
    fn start(job: &CopyJob, task: CopyTask) -> Result<Running, CopyError> {
        let question = Question { job: job.clone(), task, asked_by: process::my_pid() };
        let segment = Segment::create(&serde_json::to_vec(&question).unwrap_or_default(), ROOM);
        let name = transaction::in_any(catalog::my_database_name);
        let handle = start::start_copy_worker(segment.handle(), &name).map_err(|_| CopyError::NoWorker)?;
        Ok(Running { handle: Some(handle), segment, since: Monotonic::now() })
    }

    /// What has come of it; None: it is running.
    fn answer(&self) -> Option<Result<Copied, CopyError>> {
        match self.handle.as_ref()?.pid() {
            Ok(_) => return None,
            Err(BackgroundWorkerStatus::NotYetStarted) => {
                let is_late = Monotonic::now().since(self.since) > START_PATIENCE;
                return is_late.then_some(Err(CopyError::NoWorker));
            }
            Err(_) => (),
        }
        Some(match serde_json::from_slice(&self.segment.answer()) {
            Ok(Answer::Done(copied)) => Ok(copied),
            Ok(Answer::Failed(failure)) => Err(failure.into()),
            Err(_) => Err(CopyError::WorkerEnded),
        })
    }

    /// Ends it, and waits until it has ended: it may be committing.
    fn end(mut self) {
        if let Some(handle) = self.handle.take() {
            let _ = handle.terminate().wait_for_shutdown();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.terminate();
        }
    }
}

/// Does the task that the segment describes in `database`, and exits.
pub fn run(segment: u32, database: Oid) -> ! {
    let Some(mut segment) = Segment::attach(segment) else { interrupts::exit(0) };
    let Ok(Question { job, task, asked_by }) = serde_json::from_slice(&segment.question()) else { interrupts::exit(0) };
    if !take_place(database) {
        interrupts::exit(0);
    }
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    process::report_activity(&format!("copying table {}.{} from node {}", job.table.0, job.table.1, job.source));
    last_error::watch();
    let answer = match work(&job, task, asked_by) {
        Ok(copied) => Answer::Done(copied),
        Err(error) => Answer::Failed(PinFailure::of(&error)),
    };
    segment.set_answer(&serde_json::to_vec(&answer).unwrap_or_default());
    interrupts::exit(0)
}

fn take_place(database: Oid) -> bool {
    let mut shared = shmem::lock();
    let Some(index) = shared.index_of(database).filter(|_| !shared.must_stand_aside(database)) else { return false };
    let copiers = &mut shared.databases()[index].copiers;
    let Some(place) = (0..MAX_COPIERS).find(|place| !process::is_backend(copiers[*place])) else { return false };
    copiers[place] = process::my_pid();
    PLACE.set(Some((index, place)));
    true
}

fn on_exit() {
    let Some((index, place)) = PLACE.take() else { return };
    let mut shared = shmem::lock();
    let copier = &mut shared.databases()[index].copiers[place];
    if *copier == process::my_pid() {
        *copier = 0;
    }
}

fn work(job: &CopyJob, task: CopyTask, asked_by: i32) -> Result<Copied, CopyError> {
    let route = transaction::run(|| source::route_to(&job.source)).map_err(|error| match error {
        RecoverError::NoRoute { .. } => CopyError::NoRoute { node: job.source.clone() },
        other => CopyError::from(PinFailure::of(&other)),
    })?;
    process::apply_like_a_replica();
    process::compare_as_text();
    let stream = match task {
        CopyTask::Begin => 0,
        CopyTask::Stream(stream) => stream,
    };
    // Before the transactions that carry it: an origin that is created in one of them would be gone with its abort.
    let origin = transaction::run(|| origin::of_copies(stream));
    transaction::run(|| origin::set_up(origin));
    let mut importer = Importer::new(job, &route);
    let goes_on = || process::is_backend(asked_by);
    let done = match task {
        CopyTask::Begin => stream::begin(job, &mut importer).map(|()| Copied::default()),
        CopyTask::Stream(stream) => stream::run(job, stream, &mut importer, &goes_on),
    };
    origin::reset();
    done
}
