//! The entries by which our processes inform each other: plain values, which are copied in and out under the lock.

use super::{AskerEntry, CloneEntry, MAX_ASKERS, MAX_CLONES};
use crate::identity::DatabaseIdentity;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node_name::NodeName;
use crate::older_copy::{Former, KnownRun, MAX_FORKS};
use crate::pg::clock::{Monotonic, Timestamp};
use pgrx::pg_sys;
use std::time::Duration;

/// The most bytes of an error message that are kept.
const MAX_ERROR: usize = 255;

/// How far the manager of a database is. The launcher and the manager inform each other by this.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ManagerPhase {
    /// The entry is free.
    Free,
    /// The launcher has registered a manager that has not started yet.
    Starting,
    /// A manager has started, and does not know yet whether the database has the extension.
    Looking,
    /// A manager runs in a database with the extension.
    Running,
    /// The manager has ended, and the launcher has not noticed it yet.
    Ended,
    /// The manager has exited because a session needs the database without workers. This is no failure.
    StoodAside,
    /// The launcher has noticed the end, and will start another manager when it is time. Pollers continue meanwhile.
    Waiting,
    /// The manager has found no extension, and the launcher will free the entry.
    NoExtension,
    /// The manager has found the extension, but it has only the spare entry.
    NoRoom,
}

/// One database. The last entry is a spare one, for a look at a database beyond spock.max_databases: the launcher then
/// warns only of a database that has the extension.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DatabaseEntry {
    pub database: pg_sys::Oid,
    pub phase: ManagerPhase,
    pub manager_pid: i32,
    /// When the launcher last registered a manager.
    pub started_at: Monotonic,
    /// Counts the calls of the manager. Its latch alone is not enough: a wait for a lock resets the latch, so that a
    /// call during the manager's work would be lost.
    pub calls: u32,
    pub manager: ManagerEntry,
    pub slot: SlotEntry,
    pub rescue: RescueEntry,
    pub clones: [CloneEntry; MAX_CLONES],
    pub askers: [AskerEntry; MAX_ASKERS],
}

/// What the manager of a database has noted of its own rounds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ManagerEntry {
    /// When the manager last finished a round in which it saw everything that it could read.
    pub good_round_at: Monotonic,
    /// How many objects the manager skipped in its last round because of an error; at least 1 if the round itself
    /// failed.
    pub skips: u32,
    /// The first of these objects with the reason, or why the round failed.
    pub skipped: ShortText,
}

impl ManagerEntry {
    pub const FREE: ManagerEntry =
        ManagerEntry { good_round_at: Monotonic::NEVER, skips: 0, skipped: ShortText::EMPTY };
}

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
    /// recover_abort() was called: the worker stops at the next point where it can.
    pub must_stop: bool,
    /// What the server has reported of the last failure, as a document. Only superusers may see it, because it may
    /// quote rows.
    pub said: LongText,
}

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

/// What a peer has reported of an origin, and what the manager concludes from it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PositionEntry {
    /// The origin's foreign server on this node; invalid: the place is free.
    pub origin: pg_sys::Oid,
    /// The peer's subscription to the origin, and its replication origin there.
    pub subscription: u32,
    pub origin_id: u16,
    pub is_ready: bool,
    pub applied: OriginLsn,
    pub passed: OriginLsn,
    /// The position of the origin up to which the peer's recovery slot may have released its transactions. 0/0: the
    /// peer was not asked, because it does not matter here.
    pub released: OriginLsn,
    pub committed_at: Timestamp,
    /// Written by the manager: how far the peer counts as having passed the origin. This may be more than it now
    /// reports, because it may have lost what it reported before.
    pub counted: OriginLsn,
    /// Written by the manager: how far this pair lets the slot advance.
    pub local: LocalLsn,
    pub blocked: BlockedReason,
}

/// Whom a poller asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum PeerKey {
    None,
    /// A peer, by its foreign server.
    Node(pg_sys::Oid),
    /// The provider of a subscription, while it is not known which node that is.
    Subscription(pg_sys::Oid),
}

/// What a poller has found out about its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PeerState {
    /// The peer has not been asked yet.
    Unknown,
    Connecting,
    /// The peer has answered, and has the expected name.
    Connected,
    /// A server was reached, but its answer is of no use; `error` says why (no extension, no local node, an error of
    /// its own).
    NotANode,
    /// A server was reached, but it is another node than the expected one.
    OtherNode,
    /// A server was reached that says that it is the expected node, but it is another server or database than that node
    /// was.
    OtherServer,
    Unreachable,
}

impl PeerState {
    /// The state as spock.peer_status() shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            PeerState::Unknown => "unknown",
            PeerState::Connecting => "connecting",
            PeerState::Connected => "connected",
            PeerState::NotANode => "not a node",
            PeerState::OtherNode => "other node",
            PeerState::OtherServer => "other server",
            PeerState::Unreachable => "unreachable",
        }
    }
}

/// What a peer has reported about its readiness as a source of recoveries, and what its poller concludes from that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReadinessEntry {
    /// When the peer last reported it; never: it has not yet.
    pub said_at: Monotonic,
    pub knows_this_node: bool,
    /// How many things a recovery from the peer would lack. `told` has as many of them as fit, with what to do.
    pub lacks: u32,
    told: [u8; MAX_TOLD],
    told_length: u16,
}

/// The most bytes of these texts that are kept: three findings with their commands.
const MAX_TOLD: usize = 1000;

impl ReadinessEntry {
    pub const FREE: ReadinessEntry = ReadinessEntry {
        said_at: Monotonic::NEVER,
        knows_this_node: true,
        lacks: 0,
        told: [0; MAX_TOLD],
        told_length: 0,
    };

    /// Keeps as many of the findings as fit. Each is kept whole or not at all, because half a command is useless; only
    /// the first may be cut.
    pub fn set_lacks(&mut self, lacks: &[String]) {
        self.lacks = lacks.len() as u32;
        let mut text = String::new();
        // A peer may send texts of any length, and other processes wait for the lock: each is cut first.
        for lack in lacks.iter().map(|lack| &lack[..lack.floor_char_boundary(MAX_TOLD)]) {
            let between = if text.is_empty() { "" } else { "; " };
            if !text.is_empty() && text.len() + between.len() + lack.len() > MAX_TOLD {
                break;
            }
            text.push_str(between);
            text.push_str(lack);
        }
        let end = text.floor_char_boundary(MAX_TOLD);
        self.told[..end].copy_from_slice(&text.as_bytes()[..end]);
        self.told_length = end as u16;
    }

    /// The findings that were kept, as one text.
    pub fn told(&self) -> &str {
        std::str::from_utf8(&self.told[..usize::from(self.told_length)]).unwrap_or_default()
    }
}

/// One peer of one database.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PeerEntry {
    pub key: PeerKey,
    pub state: PeerState,
    pub poller_pid: i32,
    /// When the manager last registered a poller for the peer.
    pub started_at: Monotonic,
    /// How many pollers in a row have ended soon after their start.
    pub failures: u32,
    /// A poller was registered at `started_at` and has not started yet.
    pub is_coming_up: bool,
    /// When the present question was asked, and when the last one was answered.
    pub asked_at: Monotonic,
    pub answered_at: Monotonic,
    /// When the peer last said who it is: by the clock that users see, and by the clock that waiting is measured with.
    pub last_contact_at: Timestamp,
    pub heard_at: Monotonic,
    /// The name and the identity that the peer gives, whether they are believed or not.
    pub node_name: ShortName,
    pub said: Option<DatabaseIdentity>,
    /// The system identifier of the server whose answers were last believed. What follows comes from them.
    pub system_identifier: u64,
    pub error: ShortText,
    pub timeline: u32,
    /// The protocol of the questions that the peer answers (src/protocol.rs); 0: it has never answered.
    pub protocol: u32,
    /// The end of the peer's WAL.
    pub wal_end: OriginLsn,
    /// Where the peer's present run began to write WAL; zero: it has not reported that.
    pub start: OriginLsn,
    /// When that run began, by the peer's clock.
    pub server_started_at: Timestamp,
    /// The peer's timelines and where each forked, the present one first.
    pub forks: [(u32, OriginLsn); MAX_FORKS],
    /// The peer is to be asked at once, because it may be running from an older copy by now.
    pub is_called: bool,
    /// How far this node had applied the peer when the peer's present run last answered.
    pub former: Former,
    /// When the peer first did not answer after that; never: it has always answered.
    pub lost_at: Monotonic,
    /// Set if the peer was restarted while it was watched, and the manager has not judged yet whether it may continue:
    /// what was known of it before.
    pub to_judge: Option<KnownRun>,
    /// When the peer last reported its positions. What follows is from that report.
    pub reported_at: Timestamp,
    /// The peer has a subscription and does not know from which node it receives: anything may still be needed.
    pub has_unknown_origin: bool,
    /// The subscriptions of this node that receive from the peer, with the confirmed position of each one's slot there.
    pub own_confirmed: OwnConfirmed,
    /// When the question was begun whose answer contained `wal_end` and, after it, `own_confirmed`.
    pub own_asked_at: Monotonic,
    /// The peer's readiness as a source of recoveries.
    pub readiness: ReadinessEntry,
    /// Written by the manager: the peer was given up because of the retention budget.
    pub is_unprotected: bool,
}

/// The first subscriptions that receive from a peer, with the confirmed position of each one's slot there; 0/0: not
/// read. Of any further subscription, this node becomes certain with the next transaction that it applies.
pub type OwnConfirmed = [(pg_sys::Oid, OriginLsn); 4];

pub const NONE_CONFIRMED: OwnConfirmed = [(pg_sys::InvalidOid, OriginLsn::ZERO); 4];

/// A message, cut to what fits.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShortText {
    length: u8,
    bytes: [u8; MAX_ERROR],
}

impl ShortText {
    pub const EMPTY: ShortText = ShortText { length: 0, bytes: [0; MAX_ERROR] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, text: &str) {
        let end = text.floor_char_boundary(MAX_ERROR);
        self.bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        self.length = end as u8;
    }
}

/// A text that is kept whole if it fits, and not at all otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LongText {
    length: u16,
    bytes: [u8; LongText::CAPACITY],
}

impl LongText {
    pub const CAPACITY: usize = 2048;
    pub const EMPTY: LongText = LongText { length: 0, bytes: [0; LongText::CAPACITY] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, text: &str) {
        let text = if text.len() <= LongText::CAPACITY { text.as_bytes() } else { &[] };
        self.bytes[..text.len()].copy_from_slice(text);
        self.length = text.len() as u16;
    }
}

/// A name of at most 63 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShortName {
    length: u8,
    bytes: [u8; 63],
}

impl ShortName {
    pub const EMPTY: ShortName = ShortName { length: 0, bytes: [0; 63] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, name: &str) {
        let end = name.floor_char_boundary(self.bytes.len());
        self.bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        self.length = end as u8;
    }
}

/// What is shown in place of a name that cannot be a node's.
const NO_NAME: &str = "(a name that no node can have)";

impl ShortName {
    /// The name as a message may repeat it. A name that another node has sent and that cannot be a node's is not
    /// repeated.
    pub fn shown(&self) -> String {
        let name = self.as_str();
        if name.is_empty() {
            String::new()
        } else {
            NodeName::parse(name).map_or(NO_NAME.to_owned(), |name| name.to_string())
        }
    }
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

impl PositionEntry {
    pub const FREE: PositionEntry = PositionEntry {
        origin: pg_sys::InvalidOid,
        subscription: 0,
        origin_id: 0,
        is_ready: false,
        applied: OriginLsn::ZERO,
        passed: OriginLsn::ZERO,
        released: OriginLsn::ZERO,
        committed_at: Timestamp::NEVER,
        counted: OriginLsn::ZERO,
        local: LocalLsn::ZERO,
        blocked: BlockedReason::None,
    };
}

impl DatabaseEntry {
    pub const FREE: DatabaseEntry = DatabaseEntry {
        database: pg_sys::InvalidOid,
        phase: ManagerPhase::Free,
        manager_pid: 0,
        started_at: Monotonic::NEVER,
        calls: 0,
        manager: ManagerEntry::FREE,
        slot: SlotEntry::FREE,
        rescue: RescueEntry::FREE,
        clones: [CloneEntry::FREE; MAX_CLONES],
        askers: [AskerEntry::FREE; MAX_ASKERS],
    };
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
        must_stop: false,
        said: LongText::EMPTY,
    };
}

impl PeerEntry {
    pub const FREE: PeerEntry = PeerEntry {
        key: PeerKey::None,
        state: PeerState::Unknown,
        poller_pid: 0,
        started_at: Monotonic::NEVER,
        failures: 0,
        is_coming_up: false,
        asked_at: Monotonic::NEVER,
        answered_at: Monotonic::NEVER,
        last_contact_at: Timestamp::NEVER,
        heard_at: Monotonic::NEVER,
        node_name: ShortName::EMPTY,
        said: None,
        system_identifier: 0,
        error: ShortText::EMPTY,
        timeline: 0,
        protocol: 0,
        wal_end: OriginLsn::ZERO,
        start: OriginLsn::ZERO,
        server_started_at: Timestamp::NEVER,
        forks: [(0, OriginLsn::ZERO); MAX_FORKS],
        is_called: false,
        former: Former::NONE,
        lost_at: Monotonic::NEVER,
        to_judge: None,
        reported_at: Timestamp::NEVER,
        has_unknown_origin: false,
        own_confirmed: NONE_CONFIRMED,
        own_asked_at: Monotonic::NEVER,
        readiness: ReadinessEntry::FREE,
        is_unprotected: false,
    };

    /// An entry for a peer that has not been asked yet.
    pub fn new(key: PeerKey) -> PeerEntry {
        PeerEntry { key, ..PeerEntry::FREE }
    }
}
