//! The recovery of which a database is the target, as the rescue worker and the manager share it.

use super::{LongText, ShortText};
use crate::lsn::OriginLsn;
use crate::pg::clock::Monotonic;
use std::time::Duration;

/// How the last attempt of a recovery has ended, in this run of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AttemptEnd {
    /// There was no attempt.
    None,
    /// The worker has recorded how it ended, or the manager has recorded it in the worker's place.
    Told,
    /// This extension asked the worker to exit.
    Asked,
    /// The worker ended without recording why: by a signal, a FATAL, or an ERROR where none is expected.
    Untold,
}

/// Which sessions hold the lock that a recovery waits for, as the manager has last seen it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BlockedEntry {
    /// When that was seen; never: the recovery waits for no lock.
    pub seen_at: Monotonic,
    /// Their description for users who may see recoveries.
    pub by: ShortText,
    /// Their description for every user.
    pub by_in_short: ShortText,
}

impl BlockedEntry {
    pub const FREE: BlockedEntry =
        BlockedEntry { seen_at: Monotonic::NEVER, by: ShortText::EMPTY, by_in_short: ShortText::EMPTY };
}

/// How far the rescue worker is with the table that it rebuilds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FillingEntry {
    /// Its oid; 0: none is being rebuilt.
    pub table: u32,
    pub since: Monotonic,
    pub chunks_done: u64,
    pub chunks_total: u64,
    pub rows: u64,
    pub differing: u64,
    pub bytes: u64,
}

impl FillingEntry {
    pub const NONE: FillingEntry = FillingEntry {
        table: 0,
        since: Monotonic::NEVER,
        chunks_done: 0,
        chunks_total: 0,
        rows: 0,
        differing: 0,
        bytes: 0,
    };
}

/// The recovery of which a database is the target.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RescueEntry {
    /// The rescue worker. It claims this field, so that a recovery has only one worker.
    pub worker_pid: i32,
    /// When the manager last registered a rescue worker.
    pub started_at: Monotonic,
    /// A rescue worker was registered at `started_at` and has not started yet.
    pub is_coming_up: bool,
    /// How many attempts have failed in a row.
    pub failures: u32,
    /// When the last worker ended.
    pub ended_at: Monotonic,
    /// Set if the last attempt failed because it waited for a lock or for another process: for how long that attempt
    /// had suspended the subscriptions to running nodes.
    pub stood_still: Option<Duration>,
    /// How the last worker ended, and with which SQLSTATE, as core packs it.
    pub end: AttemptEnd,
    pub end_sqlstate: i32,
    pub blocked: BlockedEntry,
    /// The id of the intent that the worker works on.
    pub intent: [u8; 16],
    /// When and from which origin position the present attempt's replay began.
    pub replay_began_at: Monotonic,
    pub replay_began_from: OriginLsn,
    /// How far the replay is.
    pub applied: OriginLsn,
    /// What the present worker has done and no checkpoint has counted yet.
    pub transactions: u64,
    pub rows: u64,
    pub bytes: u64,
    pub conflicts: u64,
    /// How many rows the replay has touched, and how many of them have been looked at.
    pub touched: u64,
    pub compared: u64,
    pub filling: FillingEntry,
    /// recover_abort() was called: the worker stops at the next point where it can.
    pub must_stop: bool,
    /// What the server has reported of the last failure, as a document. Only superusers may see it, because it may
    /// quote rows.
    pub said: LongText,
}

impl RescueEntry {
    pub const FREE: RescueEntry = RescueEntry {
        worker_pid: 0,
        started_at: Monotonic::NEVER,
        is_coming_up: false,
        failures: 0,
        ended_at: Monotonic::NEVER,
        stood_still: None,
        end: AttemptEnd::None,
        end_sqlstate: 0,
        blocked: BlockedEntry::FREE,
        intent: [0; 16],
        replay_began_at: Monotonic::NEVER,
        replay_began_from: OriginLsn::ZERO,
        applied: OriginLsn::ZERO,
        transactions: 0,
        rows: 0,
        bytes: 0,
        conflicts: 0,
        touched: 0,
        compared: 0,
        filling: FillingEntry::NONE,
        must_stop: false,
        said: LongText::EMPTY,
    };
}
