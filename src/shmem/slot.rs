//! The recovery slot of a database and the origins that it keeps, as the manager and the slot worker share them.

use super::{ShortName, ShortText};
use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::{Monotonic, Timestamp};
use pgrx::pg_sys;

/// The job of a database's slot worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum SlotJob {
    Nothing,
    Create,
    /// Advance the slot to this position of this server's WAL.
    Advance(LocalLsn),
    /// Acquire and release the slot, so that it does not count as idle.
    Touch,
    Drop,
}

/// Why the slot does not advance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BlockedReason {
    None,
    PeerUnreachable,
    PeerLagging,
    PeerUnknown,
    NoSample,
    RescueInProgress,
    OpenTransaction,
    SlotCreationPending,
    BudgetExceeded,
    Disabled,
    /// The retention record cannot be read.
    RecordUnreadable,
    /// The subscriber of an outgoing slot of this node has not confirmed more.
    OutgoingSlot,
}

impl BlockedReason {
    /// The reason as get_recovery_slot_status() and recovery_horizon() show it; None if nothing blocks.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            BlockedReason::None => None,
            BlockedReason::PeerUnreachable => Some("peer_unreachable"),
            BlockedReason::PeerLagging => Some("peer_lagging"),
            BlockedReason::PeerUnknown => Some("peer_unknown"),
            BlockedReason::NoSample => Some("no_sample"),
            BlockedReason::RescueInProgress => Some("rescue_in_progress"),
            BlockedReason::OpenTransaction => Some("open_transaction"),
            BlockedReason::SlotCreationPending => Some("slot_creation_pending"),
            BlockedReason::BudgetExceeded => Some("budget_exceeded"),
            BlockedReason::Disabled => Some("disabled"),
            BlockedReason::RecordUnreadable => Some("record_unreadable"),
            BlockedReason::OutgoingSlot => Some("outgoing_slot"),
        }
    }
}

/// The recovery slot of a database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SlotEntry {
    /// The slot worker.
    pub worker_pid: i32,
    /// What the slot worker was started for. It resets the job when it is done.
    pub job: SlotJob,
    pub job_ended_at: Monotonic,
    /// How many jobs have failed in a row.
    pub failures: u32,
    pub error: ShortText,
    /// How many requests have been made by hand.
    pub requested: u32,
    /// The number of the last request that has been answered. That answers all requests before it too.
    pub answered: u32,
    /// The number of the last request that is answered in the round after the job under way.
    pub serving: u32,
    /// What follows is what the manager has last seen and decided.
    pub name: ShortName,
    pub exists: bool,
    pub is_usable: bool,
    /// A recovery on another node may use a clone of the slot: the slot does not advance.
    pub in_recovery: bool,
    pub generation: u64,
    pub blocked: BlockedReason,
    /// The foreign server of the peer that blocks; invalid: none does.
    pub blocked_by: pg_sys::Oid,
    /// When the oldest transaction that some peer lacks was first seen here.
    pub min_unacknowledged_at: Timestamp,
    pub wal_bytes_per_s: f64,
}

impl SlotEntry {
    pub const FREE: SlotEntry = SlotEntry {
        worker_pid: 0,
        job: SlotJob::Nothing,
        job_ended_at: Monotonic::NEVER,
        failures: 0,
        error: ShortText::EMPTY,
        requested: 0,
        answered: 0,
        serving: 0,
        name: ShortName::EMPTY,
        exists: false,
        is_usable: false,
        in_recovery: false,
        generation: 0,
        blocked: BlockedReason::None,
        blocked_by: pg_sys::InvalidOid,
        min_unacknowledged_at: Timestamp::NEVER,
        wal_bytes_per_s: 0.0,
    };

    /// Notes that a job has failed. This answers those who requested it by hand; the next try waits as after any
    /// failure.
    pub fn note_failure(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.job_ended_at = Monotonic::now();
        (self.serving, self.answered) = (self.requested, self.requested);
    }
}

/// A subscription of a database to an origin, as the manager has last seen it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OriginEntry {
    /// The foreign server of the origin's node; invalid: the place is free.
    pub node: pg_sys::Oid,
    pub subscription: pg_sys::Oid,
    /// How far this node has applied the origin; 0/0: unknown.
    pub own: OriginLsn,
    /// The position of the origin up to which the slot may have released its transactions.
    pub released: OriginLsn,
    /// Since when this node is not certain to hold anything of the origin's stream; never: it is certain.
    pub waits_since: Timestamp,
    /// When the last transaction that this server applied of the origin was committed, as far as commit timestamps
    /// tell.
    pub committed_at: Timestamp,
    pub blocked: BlockedReason,
}

impl OriginEntry {
    pub const FREE: OriginEntry = OriginEntry {
        node: pg_sys::InvalidOid,
        subscription: pg_sys::InvalidOid,
        own: OriginLsn::ZERO,
        released: OriginLsn::INFINITY,
        waits_since: Timestamp::NEVER,
        committed_at: Timestamp::NEVER,
        blocked: BlockedReason::None,
    };
}
