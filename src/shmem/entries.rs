//! What the processes tell each other: plain values, copied in and out under the lock.

use super::{AskerEntry, CloneEntry, MAX_ASKERS, MAX_CLONES};
use crate::identity::DatabaseIdentity;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node_name::NodeName;
use crate::older_copy::{Former, KnownRun, MAX_FORKS};
use crate::pg::clock::{Monotonic, Timestamp};
use pgrx::pg_sys;
use std::time::Duration;

/// Bytes of an error message that are kept for a peer.
const MAX_ERROR: usize = 255;

/// What the launcher and the manager of a database tell each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ManagerPhase {
    /// Nobody's.
    Free,
    /// The launcher has registered a manager, which has not come up yet.
    Starting,
    /// A manager is up, and has not yet seen whether the extension is there.
    Looking,
    /// A manager runs, in a database with the extension.
    Running,
    /// The manager has ended; the launcher has not taken note of it yet.
    Ended,
    /// The manager has left because a session needs the database free: no failure.
    StoodAside,
    /// The launcher has taken note, and starts another manager when it is time. Pollers go on meanwhile.
    Waiting,
    /// The manager has found no extension: the launcher frees the entry.
    NoExtension,
    /// The manager has found the extension, but only in the spare entry.
    NoRoom,
}

/// One database. The last entry of all is a spare one: a database beyond spock.max_databases is looked at there, so
/// that only one that has the extension is complained about.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct DatabaseEntry {
    pub database: pg_sys::Oid,
    pub phase: ManagerPhase,
    pub manager_pid: i32,
    pub started_at: Monotonic,
    /// Counts the calls of the manager: one that comes while it works must not be lost with its latch, which a wait for a
    /// lock resets.
    pub calls: u32,
    pub manager: ManagerEntry,
    pub slot: SlotEntry,
    pub rescue: RescueEntry,
    pub clones: [CloneEntry; MAX_CLONES],
    pub askers: [AskerEntry; MAX_ASKERS],
}

/// How the manager of a database fares.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ManagerEntry {
    /// When it last ended a round in which it saw everything that it could read.
    pub good_round_at: Monotonic,
    /// How many objects it could not tend in its last round, and the first of them with the reason; or why there was no round.
    pub skips: u32,
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
    /// There was none.
    None,
    /// It has said how, or what it says has been said for it.
    Told,
    /// Its process was asked to leave, by us.
    Asked,
    /// By a signal, a FATAL, or an ERROR where none is expected.
    Untold,
}

/// Who holds the lock that a recovery waits for, as the manager has seen it last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BlockedEntry {
    /// Never: it waits for none.
    pub seen_at: Monotonic,
    /// For those who may see recoveries, and for everybody.
    pub by: ShortText,
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
    /// The rescue worker; it claims the place, so that a recovery has one carrier.
    pub worker_pid: i32,
    /// When the manager last registered one, and how often one ended without having finished since.
    pub started_at: Monotonic,
    pub is_coming_up: bool,
    pub failures: u32,
    pub ended_at: Monotonic,
    /// The last one has failed for a lock that somebody holds, and so long the subscriptions to living peers stood still for it.
    pub stood_still: Option<Duration>,
    /// How the last one ended, and by which SQLSTATE, as core packs it.
    pub end: AttemptEnd,
    pub end_sqlstate: i32,
    pub blocked: BlockedEntry,
    /// What the worker carries, by the intent's id, and how far it is; what it has done since it began.
    pub intent: [u8; 16],
    pub replay_began_at: Monotonic,
    pub replay_began_from: OriginLsn,
    pub applied: OriginLsn,
    pub transactions: u64,
    pub rows: u64,
    pub bytes: u64,
    pub conflicts: u64,
    /// Rows that the replay has touched, and how many of them were looked at.
    pub touched: u64,
    pub compared: u64,
    /// recover_abort() was called: the worker stops at the next boundary.
    pub must_stop: bool,
    /// What the server has said of the last failure, as a document: for superusers alone, for it may quote rows.
    pub said: LongText,
}

/// What the slot worker of a database is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum SlotJob {
    Nothing,
    Create,
    /// To this position of this server's WAL.
    Advance(LocalLsn),
    /// Acquire and release, so that the slot does not count as idle.
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
    /// The word for it in get_recovery_slot_status() and recovery_horizon(); None if nothing blocks.
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
    /// The slot worker, and what it was started for. It resets the job when it is done.
    pub worker_pid: i32,
    pub job: SlotJob,
    pub job_ended_at: Monotonic,
    /// How often a job has failed in a row, and why the last one did.
    pub failures: u32,
    pub error: ShortText,
    /// Requests by hand are counted; an answer answers all up to its number.
    pub requested: u32,
    pub answered: u32,
    /// What will be answered in the round after the job under way.
    pub serving: u32,
    /// What the manager has seen and decided last.
    pub name: ShortName,
    pub exists: bool,
    pub is_usable: bool,
    pub in_recovery: bool,
    pub generation: u64,
    pub blocked: BlockedReason,
    /// The peer that blocks, by its foreign server; invalid: none.
    pub blocked_by: pg_sys::Oid,
    pub min_unacknowledged_at: Timestamp,
    pub wal_bytes_per_s: f64,
}

/// An origin of a database, as the manager has seen it last.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OriginEntry {
    /// The node's foreign server; invalid: the place is free.
    pub node: pg_sys::Oid,
    pub subscription: pg_sys::Oid,
    pub own: OriginLsn,
    pub released: OriginLsn,
    /// Since when nothing of it is vouched for; never: something is.
    pub waits_since: Timestamp,
    /// When this server last applied a transaction of it, as far as commit timestamps tell.
    pub committed_at: Timestamp,
    pub blocked: BlockedReason,
}

/// What a peer has said of an origin, and what the manager makes of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PositionEntry {
    /// The origin's foreign server here; invalid: the place is free.
    pub origin: pg_sys::Oid,
    /// The subscription and the replication origin at the peer.
    pub subscription: u32,
    pub origin_id: u16,
    pub is_ready: bool,
    pub applied: OriginLsn,
    pub passed: OriginLsn,
    pub committed_at: Timestamp,
    /// By the manager: what counts as passed (the peer may have forgotten what it once reported), and how far it lets the
    /// slot go.
    pub counted: OriginLsn,
    pub local: LocalLsn,
    pub blocked: BlockedReason,
}

/// What a poller is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum PeerKey {
    None,
    /// A peer with a node: its foreign server.
    Node(pg_sys::Oid),
    /// A subscription of which nobody knows yet which node it comes from.
    Subscription(pg_sys::Oid),
}

/// How a poller fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PeerState {
    /// Not asked yet.
    Unknown,
    Connecting,
    /// It has answered, and is known by name.
    Connected,
    /// Reached, but the answer is of no use; `error` says why (no extension, no local node, an error of its own).
    NotANode,
    /// Reached, but it is another node than the one that it is taken for.
    OtherNode,
    /// Reached, and it says that it is the node, but it is another server or database than the one that the node was.
    OtherServer,
    Unreachable,
}

impl PeerState {
    /// The word for it in spock.peer_status().
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

/// What a peer has said of how ready it is for a recovery from it, and what its poller makes of that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReadinessEntry {
    /// When it last said so; never: it has not yet.
    pub said_at: Monotonic,
    pub knows_this_node: bool,
    /// How many things a recovery would lack, and those of them that fit, with what to do.
    pub lacks: u32,
    told: [u8; MAX_TOLD],
    told_length: u16,
}

/// Bytes of what a peer lacks that are kept: three findings with their commands.
const MAX_TOLD: usize = 1000;

impl ReadinessEntry {
    pub const FREE: ReadinessEntry = ReadinessEntry {
        said_at: Monotonic::NEVER,
        knows_this_node: true,
        lacks: 0,
        told: [0; MAX_TOLD],
        told_length: 0,
    };

    /// Each is kept whole or not at all, but for the first one: half a command is none.
    pub fn set_lacks(&mut self, lacks: &[String]) {
        self.lacks = lacks.len() as u32;
        let mut text = String::new();
        // A peer's own words may be as long as it likes, and others wait for the lock.
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
    /// When the manager last registered a poller for it, and how often one ended at once since.
    pub started_at: Monotonic,
    pub failures: u32,
    /// A poller was registered at `started_at` and has not come up yet.
    pub is_coming_up: bool,
    /// When the present question was asked, and when the last one was answered.
    pub asked_at: Monotonic,
    pub answered_at: Monotonic,
    /// When the peer last said who it is, for users and for waiting.
    pub last_contact_at: Timestamp,
    pub heard_at: Monotonic,
    /// What the peer says it is, whether it is believed or not.
    pub node_name: ShortName,
    pub said: Option<DatabaseIdentity>,
    /// Of which server what follows was last believed.
    pub system_identifier: u64,
    pub error: ShortText,
    pub timeline: u32,
    /// Of the questions that it answers (src/protocol.rs); 0: never heard.
    pub protocol: u32,
    /// The end of its WAL.
    pub wal_end: OriginLsn,
    /// Where its present run began to write (zero: not told), and where its timelines forked, the present one first.
    pub start: OriginLsn,
    pub server_started_at: Timestamp,
    pub forks: [(u32, OriginLsn); MAX_FORKS],
    /// It is to be asked at once, for it may be another one by now.
    pub is_called: bool,
    /// How far it was applied here when its present run last answered.
    pub former: Former,
    /// When it was first asked in vain since then; never: it was not.
    pub lost_at: Monotonic,
    /// It was restarted while it was watched, and is to be judged: what was known of it before.
    pub to_judge: Option<KnownRun>,
    /// When it last told its positions; what follows is of that moment.
    pub reported_at: Timestamp,
    /// It has a subscription of which it does not know the origin: anything may still be needed.
    pub has_unknown_origin: bool,
    /// The subscriptions here that come from it, and how far the slot of each there was confirmed.
    pub own_confirmed: OwnConfirmed,
    /// When the question began whose answer told `wal_end` and, after it, `own_confirmed`.
    pub own_asked_at: Monotonic,
    /// How ready it is for a recovery from it.
    pub readiness: ReadinessEntry,
    /// By the manager: it was given up for the retention budget.
    pub is_unprotected: bool,
}

/// The first of the subscriptions that come from a peer, and how far each was confirmed there; 0/0: that was not read. Of more
/// than these, each vouches from its next transaction on.
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

/// A text that is short enough, or none of it.
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

/// What to show of a name that somebody else has given.
const NO_NAME: &str = "(a name that no node can have)";

impl ShortName {
    /// As a message may repeat it: what cannot be a node's name is not repeated.
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

    /// A job has failed. That answers who has asked for it: the next try waits as after any failure.
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

    /// An entry for a peer that was not asked yet.
    pub fn new(key: PeerKey) -> PeerEntry {
        PeerEntry { key, ..PeerEntry::FREE }
    }
}
