//! The pin of a rebuild: a snapshot of tables on the source, exported, with the positions of all nodes in it.
//!
//! The tables are locked first, because that may have to wait. Then the gate of the commit barrier is closed for all
//! transactions, applied ones as well: while it is, no transaction is between what a snapshot sees and what an origin's
//! progress says. The snapshot is taken and the positions are read; the gate is opened; and if it was closed all the
//! time, both fit together. Otherwise everything is done again.

use super::error::RebuildError;
use crate::barrier::{self, BarrierError};
use crate::error::{SqlError, unpack_sqlstate};
use crate::failpoint::{self, names};
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::incomplete;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::text::Text;
use crate::pg::{interrupts, pinned, process, random, transaction, wal};
use crate::shmem::gate::Holds;
use crate::slot::positions;
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReportWithLevel;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a target asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinQuestion {
    /// Qualified and quoted names; none: the target's own snapshot, which needs no positions.
    pub tables: Vec<String>,
}

/// What it gets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinAnswer {
    /// For SET TRANSACTION SNAPSHOT.
    pub snapshot: String,
    /// Up to where every other node had been applied in the snapshot, by the nodes' names.
    pub vector: BTreeMap<String, OriginLsn>,
    /// The end of the source's own last commit in the snapshot: what it commits afterwards lies behind.
    pub end: LocalLsn,
    /// Tells this pin from a later one for the same intent.
    pub pin: String,
    pub since: Timestamp,
}

/// Why there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinFailure {
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PinOutcome {
    Taken(PinAnswer),
    Failed(PinFailure),
}

impl PinFailure {
    pub fn of(error: &impl SqlError) -> PinFailure {
        PinFailure {
            sqlstate: String::from_utf8_lossy(&unpack_sqlstate(error.sqlstate() as i32)).into_owned(),
            message: error.to_string(),
            detail: error.detail().unwrap_or_default(),
            hint: error.hint().unwrap_or_default(),
        }
    }

    /// The failure for an ERROR of core.
    pub fn of_report(report: &ErrorReportWithLevel) -> PinFailure {
        PinFailure {
            sqlstate: String::from_utf8_lossy(&unpack_sqlstate(report.sql_error_code() as i32)).into_owned(),
            message: report.message().to_owned(),
            detail: report.detail().unwrap_or_default().to_owned(),
            hint: report.hint().unwrap_or_default().to_owned(),
        }
    }
}

impl From<PinFailure> for RebuildError {
    fn from(PinFailure { sqlstate, message, detail, hint }: PinFailure) -> RebuildError {
        RebuildError::Reported { sqlstate, message, detail, hint }
    }
}

/// A snapshot that was taken and that the open transaction of this process holds.
#[derive(Debug)]
pub struct Taken {
    pub answer: PinAnswer,
    pub xmin: u32,
    pub held_for: Duration,
}

/// How often the gate is closed before the attempt is given up.
const TRIES: u32 = 5;

thread_local! {
    /// The number under which this process has closed the gate; zero: it has not.
    static CLOSED: Cell<u64> = const { Cell::new(0) };
}

/// Opens the gate, if this process has closed it. Called after an ERROR as well.
pub fn open_gate() -> Option<crate::shmem::gate::Opened> {
    match CLOSED.replace(0) {
        0 => None,
        number => barrier::open(number),
    }
}

/// Takes the snapshot. If this succeeds, the transaction of this process stays open and holds it.
///
/// # Errors
/// If a table cannot be read, or if the snapshot would not fit the positions. The transaction is open then, too.
pub fn take(question: &PinQuestion, lease: Duration) -> Result<Taken, RebuildError> {
    let mut last = RebuildError::NotHeld;
    for _ in 0..TRIES {
        transaction::abort_current();
        pinned::begin();
        let mut locked = Vec::new();
        for table in &question.tables {
            locked.push(pinned::lock_table(table)?);
        }
        failpoint::hit(names::PIN_LOCKED);
        if question.tables.is_empty() {
            return target_snapshot();
        }
        match attempt(lease) {
            Ok((taken, unready)) => {
                // By the snapshot itself: what it has of a table does not change any more.
                require_complete(&locked, &question.tables)?;
                require_settled(&locked, &unready)?;
                return Ok(taken);
            }
            Err(RebuildError::Barrier(BarrierError::IsClosed { left })) => {
                wait(left);
                last = BarrierError::IsClosed { left }.into();
            }
            Err(error @ (RebuildError::NotHeld | RebuildError::Barrier(BarrierError::NotQuiet { .. }))) => last = error,
            Err(other) => return Err(other),
        }
    }
    Err(last)
}

/// Waits until another gate's lease is over; it is opened sooner as a rule.
fn wait(left: Duration) {
    const STEP: Duration = Duration::from_millis(5);
    let begun = Monotonic::now();
    while Monotonic::now().since(begun) < left {
        interrupts::check();
        std::thread::sleep(STEP.min(left));
    }
}

/// A table without its rows, or with a part of them, must not be taken for what the others are to have.
fn require_complete(locked: &[Vec<u32>], names: &[String]) -> Result<(), RebuildError> {
    let tables: Vec<u32> = locked.iter().filter_map(|relations| relations.first().copied()).collect();
    let Some(place) = incomplete::first(&tables)? else { return Ok(()) };
    let node = NativeProvider.local_node()?.map(|local| local.name.to_string()).unwrap_or_default();
    Err(RebuildError::Incomplete { node, table: names.get(place).cloned().unwrap_or_default() })
}

/// A subscription that has a table whose initial copy is under way, or that was rebuilt and has not come as far as that,
/// and the node that it comes from.
struct Unready {
    subscription: Oid,
    /// How far its changes are applied: a table that was rebuilt up to there or less is settled, also where nothing more comes.
    applied: OriginLsn,
    provider: String,
}

/// The position of such a subscription says nothing of that table.
fn require_settled(locked: &[Vec<u32>], unready: &[Unready]) -> Result<(), RebuildError> {
    let relations: Vec<String> = locked.iter().flatten().map(u32::to_string).collect();
    for one in unready {
        let question = format!(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r
                             WHERE r.srsubid = {}::pg_catalog.oid AND r.srsubstate <> 'r'
                               AND NOT (r.srsubstate = 's' AND r.srsublsn <= '{}'::pg_catalog.pg_lsn)
                               AND (r.srrelid = ANY (ARRAY[{2}]::pg_catalog.oid[])
                                    OR EXISTS (SELECT FROM pg_catalog.unnest(ARRAY[{2}]::pg_catalog.oid[]) t(oid),
                                                      pg_catalog.pg_partition_ancestors(t.oid) a(relid)
                                                WHERE a.relid = r.srrelid)))",
            one.subscription.to_u32(),
            one.applied,
            relations.join(", ")
        );
        if Spi::get_one::<bool>(&question)?.unwrap_or(true) {
            return Err(RebuildError::Unsettled { provider: one.provider.clone() });
        }
    }
    Ok(())
}

fn attempt(lease: Duration) -> Result<(Taken, Vec<Unready>), RebuildError> {
    barrier::wait_for_the_last();
    let number = random::number();
    CLOSED.set(number);
    // What is committed by now is on disk when this returns.
    let end = barrier::close(number, Holds::All, lease).inspect_err(|_| CLOSED.set(0))?;
    failpoint::hit(names::PIN_CLOSED);
    let (snapshot, xmin) = pinned::export_snapshot();
    let vector = vector();
    let prepared = prepared();
    let since = Timestamp::now();
    let opened = open_gate();
    let ((vector, unready), prepared) = (vector?, prepared?);
    let opened = opened.filter(|opened| opened.held).ok_or(RebuildError::NotHeld)?;
    if let Some(gid) = prepared {
        return Err(RebuildError::Prepared { gid });
    }
    // An origin's progress may come from WAL of before the last commits, which was flushed with them.
    wal::flush_to(end);
    let answer = PinAnswer { snapshot, vector, end, pin: format!("{number:016x}"), since };
    Ok((Taken { answer, xmin, held_for: opened.closed_for }, unready))
}

/// How many sessions of targets read a snapshot. `end`: they are ended. The names are those under which this library connects
/// (src/remote/connection.rs); a session that has imported a snapshot has its oldest transaction.
pub fn readers(xmin: u32, end: bool) -> u64 {
    let what = if end { "pg_catalog.pg_terminate_backend(a.pid)" } else { "a.pid" };
    let question = format!(
        "SELECT pg_catalog.count({what}) FROM pg_catalog.pg_stat_get_activity(NULL) a
          WHERE a.datid = {}::pg_catalog.oid AND a.backend_xmin = '{xmin}'::pg_catalog.xid
            AND a.application_name IN ('spock_recovery rescue', 'spock_recovery copy')",
        process::my_database().to_u32()
    );
    Spi::get_one::<i64>(&question).ok().flatten().unwrap_or(0).max(0) as u64
}

/// The target's own snapshot. The rebuild itself holds back the target's commits meanwhile, and until the source has
/// taken its snapshot.
fn target_snapshot() -> Result<Taken, RebuildError> {
    let (snapshot, xmin) = pinned::export_snapshot();
    if let Some(gid) = prepared()? {
        return Err(RebuildError::Prepared { gid });
    }
    let (end, since) = (wal::flushed(), Timestamp::now());
    let answer = PinAnswer { snapshot, vector: BTreeMap::new(), end, pin: String::new(), since };
    Ok(Taken { answer, xmin, held_for: Duration::ZERO })
}

fn vector() -> Result<(BTreeMap<String, OriginLsn>, Vec<Unready>), RebuildError> {
    let (mut vector, mut unready) = (BTreeMap::new(), Vec::new());
    for position in positions::own_positions()? {
        let applied = position.applied();
        let Some(origin) = position.origin else { continue };
        if !position.is_ready {
            let (subscription, applied) = (position.subscription, position.remote);
            unready.push(Unready { subscription, applied, provider: origin.to_string() });
        }
        // Two subscriptions from one node carry different tables: what both have applied is the lesser position.
        let known = vector.entry(origin.to_string()).or_insert(applied.unwrap_or_default());
        *known = (*known).min(applied.unwrap_or_default());
    }
    Ok((vector, unready))
}

/// A prepared transaction that an apply worker has prepared here, or that some consumer of this node has received as
/// prepared. Apply workers end the former without passing the gate; and who has received the latter takes it for older
/// than the snapshot.
fn prepared() -> Result<Option<String>, RebuildError> {
    let question = "SELECT gid FROM pg_catalog.pg_prepared_xact()
                     WHERE dbid = $1
                       AND (pg_catalog.starts_with(gid, 'pg_gid_')
                            OR EXISTS (SELECT FROM pg_catalog.pg_replication_slots
                                        WHERE two_phase AND datoid = $1)) LIMIT 1";
    Ok(Spi::connect(|client| {
        let rows = client.select(question, Some(1), &[process::my_database().into()])?;
        let gid = rows.into_iter().next().map(|row| row.get::<Text>(1)).transpose()?.flatten();
        Ok::<_, pgrx::spi::Error>(gid.map(|gid| gid.to_utf8()))
    })?)
}
