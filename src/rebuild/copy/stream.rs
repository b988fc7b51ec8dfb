//! What one worker of the target does: it takes every n-th chunk, feeds it to the table, and commits it with its entry in
//! the manifest.

use super::error::CopyError;
use super::feed::{Damaged, Reader, Step, Sum};
use super::layout::{Chunk, Layout, Leaf};
use super::manifest::{self, Begun, CopiedChunk};
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::provider::Route;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::last_error;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::walreceiver::{self, Received};
use crate::pg::{catalog, copy_from, interrupts, origin, transaction, untrusted_user};
use crate::remote::argument;
use crate::remote::connection::Connection;
use crate::remote::error::RemoteError;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::spi::quote_literal;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::time::Duration;

/// How often a chunk is sent before it is given up.
const TRIES: u32 = 3;

/// A source that is silent for this long is given up if wal_receiver_timeout does not say otherwise.
const SILENCE: Duration = Duration::from_secs(60);

/// How long to wait at a time for what the source sends.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is to be copied. It is passed to the workers as JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopyJob {
    pub intent: IntentId,
    pub source: String,
    /// The table's schema and name, which are the same on both nodes.
    pub table: (String, String),
    /// Its oid on the target.
    pub oid: u32,
    /// The pin, and its snapshot.
    pub pin: String,
    pub snapshot: String,
    /// The publications of the target's subscription to the source; none: all rows and columns.
    pub publications: Vec<String>,
    /// How many workers copy.
    pub streams: u64,
    /// The commit time that the rows get; never: the present time.
    pub written_at: Timestamp,
}

/// What a worker is to do for a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyTask {
    /// Empty the table and enter the begin, unless the copy has begun under this pin.
    Begin,
    /// Copy the chunks whose number modulo the number of streams is this.
    Stream(u64),
}

/// What a worker has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Copied {
    pub chunks: u64,
    pub rows: u64,
    pub bytes: u64,
}

impl CopyJob {
    fn shown(&self) -> String {
        format!("{}.{}", self.table.0, self.table.1)
    }

    /// The arguments by which the source's functions know the table.
    fn arguments(&self) -> String {
        let publications: Vec<String> = self.publications.iter().map(quote_literal).collect();
        format!(
            "{}, {}, ARRAY[{}]::pg_catalog.text[]",
            argument::name(&self.table.0),
            argument::name(&self.table.1),
            publications.join(", ")
        )
    }
}

/// The connection to the source, whose session has imported the pin's snapshot.
pub struct Importer<'a> {
    job: &'a CopyJob,
    route: &'a Route,
    connection: Option<Connection>,
}

impl<'a> Importer<'a> {
    pub fn new(job: &'a CopyJob, route: &'a Route) -> Importer<'a> {
        Importer { job, route, connection: None }
    }

    fn remote(&self) -> impl Fn(RemoteError) -> CopyError + use<> {
        let node = self.job.source.clone();
        move |error| CopyError::Remote { node: node.clone(), error }
    }

    /// The connection; a new one if there is none, or if the last chunk was not read to its end. Needs a transaction.
    fn connection(&mut self) -> Result<&mut Connection, CopyError> {
        let remote = self.remote();
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = Connection::open(self.route, "copy", guc::peer_timeout()).map_err(&remote)?;
                connection.prepare().map_err(&remote)?;
                connection.require_extension().map_err(&remote)?;
                let snapshot = quote_literal(&self.job.snapshot);
                for command in [
                    "SET statement_timeout = 0".to_owned(),
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY".to_owned(),
                    format!("SET TRANSACTION SNAPSHOT {snapshot}"),
                ] {
                    connection.command(&command).map_err(&remote)?;
                }
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    /// How the table is divided on the source. Needs a transaction.
    fn layout(&mut self) -> Result<Layout, CopyError> {
        let (remote, arguments) = (self.remote(), self.job.arguments());
        let connection = self.connection()?;
        let schema = connection.internal_schema();
        let question = format!("SELECT kind, name, part, blocks, chunk_blocks FROM {schema}.copy_layout({arguments})");
        let rows = connection.query(&question, 5).map_err(&remote)?;
        let mut layout = Layout { columns: Vec::new(), leaves: Vec::new() };
        for row in rows {
            let kind: String = row.value(0).map_err(&remote)?;
            let name: String = row.value(1).map_err(&remote)?;
            match kind.as_str() {
                "column" => layout.columns.push(name),
                "part" => layout.leaves.push(Leaf {
                    schema: name,
                    name: row.value(2).map_err(&remote)?,
                    blocks: row.value(3).map_err(&remote)?,
                    chunk_blocks: row.value(4).map_err(&remote)?,
                }),
                _ => return Err(remote(RemoteError::Unexpected("another kind of part".to_owned()))),
            }
        }
        if layout.is_sound() { Ok(layout) } else { Err(remote(RemoteError::Unexpected("no sound layout".to_owned()))) }
    }

    /// Begins to receive a chunk. Needs a transaction.
    fn begin(&mut self, layout: &Layout, chunk: &Chunk<'_>) -> Result<(), CopyError> {
        let (remote, arguments) = (self.remote(), self.job.arguments());
        let columns: Vec<String> = layout.columns.iter().map(quote_literal).collect();
        let connection = self.connection()?;
        let statement = format!(
            "COPY (SELECT {}.copy_rows({arguments}, {}, {}, ARRAY[{}]::pg_catalog.text[], {}, {})) TO STDOUT (FORMAT binary)",
            connection.internal_schema(),
            argument::name(&chunk.leaf.schema),
            argument::name(&chunk.leaf.name),
            columns.join(", "),
            argument::bigint(chunk.from_block as i64),
            argument::bigint(chunk.to_block as i64),
        );
        connection.begin_copy(&statement).map_err(remote)
    }
}

/// Empties the table and enters the begin of the copy, unless it has begun under this pin. The process must apply under the
/// origin of copies.
///
/// # Errors
/// If the source or the table does not allow it.
pub fn begin(job: &CopyJob, importer: &mut Importer<'_>) -> Result<(), CopyError> {
    let has_begun = || {
        let manifest = manifest::read(job.intent)?;
        Ok::<_, CopyError>(manifest.tables.get(&job.table).is_some_and(|copy| copy.begun.pin == job.pin))
    };
    let done = as_owner(job, || {
        if has_begun()? {
            return Ok(());
        }
        let layout = importer.layout()?;
        copy_from::empty(&job.table.0, &job.table.1)?;
        require_same(job)?;
        let begun = Begun { pin: job.pin.clone(), layout, at: Timestamp::now() };
        manifest::begin(job.intent, job.table.clone(), begun)?;
        stamp(job);
        Ok(())
    })?;
    done.map_err(|cause| not_written(job, 0, cause))?
}

/// Runs `f` in a transaction of its own in a session of the table's owner, and commits it if `f` returns Ok: whatever code of
/// the owner leaves to be done at the commit, it is done as the owner. The outer Err is that of a table that cannot be filled,
/// the inner one an ERROR of core.
fn as_owner<T>(
    job: &CopyJob,
    f: impl FnOnce() -> Result<T, CopyError>,
) -> Result<Result<Result<T, CopyError>, Box<CaughtError>>, CopyError> {
    let owner = transaction::run(|| copy_from::owner_of(&job.table.0, &job.table.1))?;
    transaction::run(|| untrusted_user::enter_session_of(owner));
    let done = transaction::commit_if_ok(|| {
        untrusted_user::confine_transaction();
        f()
    });
    untrusted_user::release_session();
    untrusted_user::leave_session();
    origin::take_up();
    Ok(done)
}

/// The table was found by its name, and is locked by now: whoever has given another table its name gets nothing of it.
fn require_same(job: &CopyJob) -> Result<(), CopyError> {
    let is_same = catalog::is_named(job.oid, &job.table.0, &job.table.1);
    if is_same { Ok(()) } else { Err(CopyError::AnotherTable { table: job.shown() }) }
}

/// Gives the present transaction the commit time of the copied rows, and a position of no node.
fn stamp(job: &CopyJob) {
    origin::stamp_commit(OriginLsn::ZERO, job.written_at.0);
}

/// Copies the chunks of one stream. `goes_on` is asked between two messages. The process must apply under an origin of its
/// own.
///
/// # Errors
/// As soon as one chunk cannot be copied. What was committed before stays.
pub fn run(
    job: &CopyJob,
    stream: u64,
    importer: &mut Importer<'_>,
    goes_on: &dyn Fn() -> bool,
) -> Result<Copied, CopyError> {
    let superseded = || CopyError::Superseded { table: job.shown() };
    let manifest = transaction::run(|| manifest::read(job.intent))?;
    let copy = manifest.tables.get(&job.table).filter(|copy| copy.begun.pin == job.pin).ok_or_else(superseded)?;
    let layout = &copy.begun.layout;
    let mine = (0..layout.chunks()).filter(|number| number % job.streams.max(1) == stream);
    let mut copied = Copied::default();
    for chunk in mine.filter(|number| !copy.chunks.contains_key(number)).filter_map(|number| layout.chunk(number)) {
        let sum = chunk_in_tries(job, layout, &chunk, importer, goes_on)?;
        copied = Copied { chunks: copied.chunks + 1, rows: copied.rows + sum.rows, bytes: copied.bytes + sum.bytes };
        failpoint::hit(names::COPY_AFTER_COMMIT);
    }
    Ok(copied)
}

fn chunk_in_tries(
    job: &CopyJob,
    layout: &Layout,
    chunk: &Chunk<'_>,
    importer: &mut Importer<'_>,
    goes_on: &dyn Fn() -> bool,
) -> Result<Sum, CopyError> {
    for number in 1..=TRIES {
        match one_chunk(job, layout, chunk, importer, goes_on) {
            Err(CopyError::Damaged { .. }) if number < TRIES => {
                pgrx::warning!(
                    "chunk {} of table {} has arrived damaged, and is sent again",
                    chunk.number,
                    job.shown()
                );
            }
            Err(CopyError::Damaged { table, chunk, .. }) => {
                return Err(CopyError::Damaged { table, chunk, tries: TRIES });
            }
            outcome => return outcome,
        }
    }
    Err(CopyError::Damaged { table: job.shown(), chunk: chunk.number, tries: TRIES })
}

/// Writes, verifies and commits a chunk.
fn one_chunk(
    job: &CopyJob,
    layout: &Layout,
    chunk: &Chunk<'_>,
    importer: &mut Importer<'_>,
    goes_on: &dyn Fn() -> bool,
) -> Result<Sum, CopyError> {
    // What has failed while core was reading, which may then have failed because of that.
    let failed: Cell<Option<CopyError>> = Cell::new(None);
    let mut arriving = Arriving {
        job,
        chunk: chunk.number,
        reader: Reader::default(),
        lines: Vec::new(),
        read_to: 0,
        complete: None,
        goes_on,
    };
    let done = as_owner(job, || {
        importer.begin(layout, chunk)?;
        let written = {
            let mut source = |buffer: &mut [u8]| {
                arriving.fill(importer, buffer).unwrap_or_else(|error| {
                    failed.set(Some(error));
                    0
                })
            };
            copy_from::rows(&job.table.0, &job.table.1, &layout.columns, &mut source)?
        };
        require_same(job)?;
        if let Some(error) = failed.take() {
            return Err(error);
        }
        // Triggers and partitions may have left rows out: what has arrived is compared, and what was written is core's.
        let sum = arriving.finish(importer)?;
        pgrx::debug1!("chunk {}: {} rows have arrived, {written} were written", chunk.number, sum.rows);
        enter(job, chunk, sum)?;
        failpoint::hit(names::COPY_BEFORE_COMMIT);
        stamp(job);
        Ok(sum)
    })?;
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(cause) => {
            // A byte that has changed may be what core cannot read: the rest of the chunk tells.
            let damaged = || match arriving.finish(importer) {
                Err(error @ CopyError::Damaged { .. }) => Some(error),
                _ => None,
            };
            let known = failed.take().or_else(damaged);
            Err(known.unwrap_or_else(|| not_written(job, chunk.number, cause)))
        }
    };
    if outcome.is_err() {
        importer.connection = None;
    }
    outcome
}

fn enter(job: &CopyJob, chunk: &Chunk<'_>, sum: Sum) -> Result<(), CopyError> {
    let entry = CopiedChunk {
        number: chunk.number,
        schema: chunk.leaf.schema.clone(),
        name: chunk.leaf.name.clone(),
        from_block: chunk.from_block,
        to_block: chunk.to_block,
        rows: sum.rows,
        bytes: sum.bytes,
        checksum: format!("{:016x}", sum.checksum),
        at: Timestamp::now(),
    };
    // A worker of an earlier attempt may still have been running.
    let is_new = manifest::enter(job.intent, job.table.clone(), &job.pin, entry)?;
    if is_new { Ok(()) } else { Err(CopyError::Superseded { table: job.shown() }) }
}

/// The error for an ERROR of core, without its message, which may contain a row's values.
fn not_written(job: &CopyJob, chunk: u64, cause: Box<CaughtError>) -> CopyError {
    let report = match *cause {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => report,
        rust_panic @ CaughtError::RustPanic { .. } => rust_panic.rethrow(),
    };
    let error = last_error::of(&report);
    let known = transaction::run(|| error.known_names());
    let mut place = String::new();
    for (what, name) in [("column", known.column), ("constraint", known.constraint)] {
        if let Some(name) = name {
            place.push_str(&format!(", {what} \"{name}\""));
        }
    }
    place.push_str(&format!(" (SQLSTATE {})", error.sqlstate));
    CopyError::NotWritten { table: job.shown(), chunk, sqlstate: error.sqlstate, place }
}

/// A chunk that is arriving.
struct Arriving<'a> {
    job: &'a CopyJob,
    chunk: u64,
    reader: Reader,
    /// The piece that is being read by core, and how far.
    lines: Vec<u8>,
    read_to: usize,
    complete: Option<Sum>,
    goes_on: &'a dyn Fn() -> bool,
}

impl Arriving<'_> {
    /// Fills core's buffer. Zero: the chunk has ended, and is what was sent.
    fn fill(&mut self, importer: &mut Importer<'_>, buffer: &mut [u8]) -> Result<usize, CopyError> {
        while self.read_to == self.lines.len() {
            if self.complete.is_some() {
                return Ok(0);
            }
            self.next(importer)?;
        }
        let length = buffer.len().min(self.lines.len() - self.read_to);
        buffer[..length].copy_from_slice(&self.lines[self.read_to..self.read_to + length]);
        self.read_to += length;
        Ok(length)
    }

    /// Reads what follows the last line. Returns what the chunk sums up to.
    fn finish(&mut self, importer: &mut Importer<'_>) -> Result<Sum, CopyError> {
        while self.next(importer)? {}
        self.complete.ok_or_else(|| self.damaged())
    }

    fn damaged(&self) -> CopyError {
        CopyError::Damaged { table: self.job.shown(), chunk: self.chunk, tries: 1 }
    }

    /// Waits for the next message and takes it. False: nothing follows.
    fn next(&mut self, importer: &mut Importer<'_>) -> Result<bool, CopyError> {
        let remote = importer.remote();
        let damaged = self.damaged();
        let Some(connection) = &mut importer.connection else {
            return Err(remote(RemoteError::Lost("it was closed".to_owned())));
        };
        let begun = Monotonic::now();
        let silence = walreceiver::receiver_timeout().unwrap_or(SILENCE);
        loop {
            interrupts::check();
            if !(self.goes_on)() {
                return Err(CopyError::Stopped);
            }
            let socket = match connection.receive().map_err(&remote)? {
                Received::End => return if self.complete.is_some() { Ok(false) } else { Err(damaged) },
                Received::Nothing(socket) => socket,
                Received::Failed(_) => return Err(remote(RemoteError::Lost("the stream has ended".to_owned()))),
                Received::Message(message) => {
                    match self.reader.read(message) {
                        Ok(Step::Lines(lines)) => {
                            self.lines.clear();
                            self.lines.extend_from_slice(lines);
                            self.read_to = 0;
                            failpoint::hit(names::COPY_PIECE);
                        }
                        Ok(Step::Complete(sum)) => self.complete = Some(sum),
                        Ok(Step::Over) => (),
                        Err(Damaged) => return Err(damaged),
                    }
                    return Ok(true);
                }
            };
            if Monotonic::now().since(begun) > silence {
                return Err(remote(RemoteError::TimedOut(silence)));
            }
            latch::wait_for_socket(socket, LOOK_AGAIN, WaitEvent::Copy);
        }
    }
}
