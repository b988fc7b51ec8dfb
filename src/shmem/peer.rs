//! The peers of a database, and what each has reported of each origin, as the pollers and the manager share them.

use super::{BlockedReason, ReadinessEntry, ShortName, ShortText};
use crate::identity::DatabaseIdentity;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::older_copy::{Former, KnownRun, MAX_FORKS};
use crate::pg::clock::{Monotonic, Timestamp};
use pgrx::pg_sys;

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

/// The first subscriptions that receive from a peer, with the confirmed position of each one's slot there; 0/0: not
/// read. Of any further subscription, this node becomes certain with the next transaction that it applies.
pub type OwnConfirmed = [(pg_sys::Oid, OriginLsn); 4];

pub const NONE_CONFIRMED: OwnConfirmed = [(pg_sys::InvalidOid, OriginLsn::ZERO); 4];

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
