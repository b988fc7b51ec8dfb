//! A poller: asks one peer, every spock.recovery_poll_interval, who it is and how far it has applied each origin. It is
//! a process of its own, so that it may hang or die without affecting the others.
//!
//! It survives a restart of its manager, and exits when its entry is taken from it or when no manager has come back.

mod asking;
mod commands;
mod storing;

use crate::failpoint::{self, names};
use crate::guc;
use crate::health::judge::{NO_ROUTE, OWN_ERROR};
use crate::identity::DatabaseIdentity;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::error::RegistryError;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Route};
use crate::node::servers::{self, NodeServer, Role};
use crate::node_name::NodeName;
use crate::older_copy::{Former, first_of};
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::plan::readiness::Readiness;
use crate::remote::connection::Connection;
use crate::remote::error::RemoteError;
use crate::shmem::{self, CloneEntry, OwnConfirmed, PeerEntry, PeerKey, PeerState, PinState, Shared, TargetSays};
use crate::slot::positions;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A poller without a manager exits after this time, which is far longer than the launcher takes to start another
/// manager.
const ORPHAN_LIMIT: Duration = Duration::from_secs(90);

/// Number of polls between two questions of how ready a peer is to be the source of a recovery, and of what its slot may
/// have released.
const READINESS_POLLS: u32 = 5;

/// A peer that was to be asked at once and has not answered is asked again after this time at the latest.
const CALLED_RETRY: Duration = Duration::from_millis(500);

thread_local! {
    /// The indexes of the database and of the peer whose entry this process has taken.
    static ENTRY: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// What a peer answers about itself.
struct PollAnswer {
    node_name: String,
    identity: DatabaseIdentity,
    timeline: u32,
    wal_end: OriginLsn,
    start: OriginLsn,
    forks: Vec<(u32, OriginLsn)>,
    started_at: Timestamp,
    protocol: u32,
    positions: Vec<Position>,
    /// Up to which position of each origin the peer's slot may have released its transactions; None: it was not asked.
    released: Option<Vec<(String, OriginLsn)>>,
    /// The subscriptions here that come from the peer, and how far the slot of each is confirmed at the peer.
    own: OwnConfirmed,
    /// How ready the peer is to be the source of a recovery; None: it was not asked, or cannot tell.
    readiness: Option<Readiness>,
    /// Of each clone that was made for the peer: whether its recovery is unfinished.
    clones: Vec<(CloneEntry, TargetSays)>,
    /// Of each intent for which a snapshot is held here: whether it is unfinished.
    pins: Vec<(IntentId, TargetSays)>,
    asked_at: Monotonic,
}

struct Position {
    origin: Option<String>,
    applied: OriginLsn,
    passed: OriginLsn,
    committed_at: Timestamp,
    is_ready: bool,
    subscription: u32,
    origin_id: u16,
}

/// What is looked up here before the peer is asked.
struct PollQuestion {
    route: Route,
    /// The name that the peer should have; None for a subscription whose origin is not known yet.
    expected: Option<String>,
    /// The server and database that the peer should be; None before it has first answered.
    bound: Option<DatabaseIdentity>,
    /// The subscriptions that come from the peer, and the names of their slots there.
    own: Vec<(Oid, String)>,
    /// Some subscription of this node has applied nothing: how far it is past its provider must be recorded as soon as
    /// that is beyond what a peer's slot may have released.
    asks_released: bool,
    /// How far the peer was applied here before it was asked. So if the run that answers was known before, all of that
    /// was received from this run or an earlier one.
    former: Former,
    /// All nodes, to look up the origins that the peer names.
    nodes: Vec<NodeServer>,
    /// This node, if the peer is to be asked how ready it is to be the source of a recovery.
    local: Option<(String, DatabaseIdentity)>,
    /// The clones here that were made for the peer. They are read before it is asked, so that its answer is later than
    /// their claims.
    clones: Vec<CloneEntry>,
    /// The intents of the peer for which snapshots are held here.
    pins: Vec<IntentId>,
}

struct Poller {
    index: usize,
    peer: usize,
    key: PeerKey,
    connection: Option<(Route, Connection)>,
    manager_seen: Instant,
    /// The first command of the sender that this poller serves (commands.rs).
    serves: u64,
}

/// Runs the poller of `database` whose peer has place `peer` in the shared memory entry at `index`.
pub fn run(index: usize, peer: usize, database: Oid) -> ! {
    let Some(key) = take_entry(index, peer, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    let mut poller = Poller { index, peer, key, connection: None, manager_seen: Instant::now(), serves: 0 };
    loop {
        if interrupts::shutdown_requested() || !poller.is_wanted(database) {
            interrupts::exit(0);
        }
        interrupts::check();
        interrupts::reload_config_if_asked();
        process::report_activity("asking");
        poller.round();
        process::report_idle();
        let mut wait = guc::recovery_poll_interval();
        if poller.is_called() {
            wait = wait.min(CALLED_RETRY);
        }
        // Both before and after: a command that was given during the round has set the latch in vain.
        poller.serve();
        latch::wait(Some(wait), WaitEvent::PollerMain);
        poller.serve();
    }
}

fn take_entry(index: usize, peer: usize, database: Oid) -> Option<PeerKey> {
    let mut shared = shmem::lock();
    let home = *shared.databases().get(index)?;
    let must_leave = shared.must_stand_aside(database);
    let entry = shared.peers(index).get_mut(peer)?;
    if home.database != database || entry.key == PeerKey::None || entry.poller_pid != 0 {
        return None;
    }
    entry.is_coming_up = false;
    if must_leave {
        // A session has asked the workers to leave this database after this poller was registered, and has not seen it.
        entry.started_at = Monotonic::NEVER;
        return None;
    }
    entry.poller_pid = process::my_pid();
    let key = entry.key;
    ENTRY.set(Some((index, peer)));
    Some(key)
}

fn on_exit() {
    let Some((index, peer)) = ENTRY.take() else { return };
    let manager = {
        let mut shared = shmem::lock();
        let stands_aside = shared.must_stand_aside(process::my_database());
        if let Some(entry) = own_entry(&mut shared, index, peer) {
            entry.poller_pid = 0;
            // No question is open any more.
            entry.answered_at = entry.asked_at;
            if stands_aside {
                // Leaving on request is no failure: the next poller starts at once.
                entry.started_at = Monotonic::NEVER;
            }
        }
        shared.call_manager(index)
    };
    latch::wake(manager);
}

/// Returns this process's entry; None if the launcher or the manager has given it to another process.
fn own_entry(shared: &mut Shared, index: usize, peer: usize) -> Option<&mut PeerEntry> {
    let entry = &mut shared.peers(index)[peer];
    (entry.poller_pid == process::my_pid()).then_some(entry)
}

impl Poller {
    fn is_wanted(&mut self, database: Oid) -> bool {
        let mut shared = shmem::lock();
        let home = shared.databases()[self.index];
        if home.manager_pid != 0 {
            self.manager_seen = Instant::now();
        }
        let key = own_entry(&mut shared, self.index, self.peer).map(|entry| entry.key);
        home.database == database && key == Some(self.key) && self.manager_seen.elapsed() < ORPHAN_LIMIT
    }

    /// Whether the peer was to be asked at once and has not answered since.
    fn is_called(&self) -> bool {
        let mut shared = shmem::lock();
        own_entry(&mut shared, self.index, self.peer).is_some_and(|entry| entry.is_called)
    }

    fn round(&mut self) {
        let question = match transaction::run(|| self.prepare()) {
            Ok(Some(question)) => question,
            Ok(None) => {
                self.connection = None;
                return self.note(PeerState::Unreachable, NO_ROUTE);
            }
            Err(error) => return self.note(PeerState::Unreachable, &error.to_string()),
        };
        match self.ask(&question) {
            Ok(answer) => self.judge(&question, &answer),
            Err(error) => {
                self.connection = None;
                self.note(state_after(&error), &told(&error));
                if matches!(error, RemoteError::TimedOut(_)) {
                    // On PostgreSQL 17 the attempt has leaked its socket, which only the end of the process closes.
                    interrupts::exit(0);
                }
            }
        }
    }

    /// Looks up how to reach the peer and what to ask. None: there is no route to it.
    fn prepare(&self) -> Result<Option<PollQuestion>, RegistryError> {
        let nodes = servers::servers()?;
        let (route, node) = match self.key {
            PeerKey::Node(id) => (NativeProvider.route_to_peer(id)?, nodes.iter().find(|node| node.id == id)),
            PeerKey::Subscription(id) => (NativeProvider.route_of_subscription(id)?, None),
            PeerKey::None => (None, None),
        };
        let expected = node.map(|node| node.name.to_string());
        let bound = node.and_then(|node| node.bound);
        // The apply workers are counted first: what one of these applies later was received from the run that answers,
        // or from an earlier one.
        let lives = shmem::lock().lives();
        let mut positions = if expected.is_some() { positions::own_positions()? } else { Vec::new() };
        let is_young = |position: &positions::OwnPosition| position.applied().is_none() && position.origin_id != 0;
        let asks_released = positions.iter().any(is_young) && self.is_readiness_due();
        positions.retain(|position| position.origin.as_ref().map(NodeName::as_str) == expected.as_deref());
        let applied = positions.iter().filter_map(positions::OwnPosition::applied).max();
        let mut origins = positions.iter().map(|position| position.origin_id);
        let former = Former {
            applied: applied.unwrap_or(OriginLsn::ZERO),
            subscriptions: first_of(positions.iter().map(|position| position.subscription.to_u32())),
            origins: std::array::from_fn(|_| origins.next().unwrap_or(0)),
            lives,
        };
        let own = positions.into_iter().filter_map(|position| Some((position.subscription, position.slot?))).collect();
        let (clones, pins) = (self.clones(), self.pins());
        let local = nodes.iter().find(|node| node.role == Role::Local && self.is_readiness_due());
        let local = local.map(|local| (local.name.to_string(), servers::here()));
        let question =
            |route| PollQuestion { route, expected, bound, own, asks_released, former, nodes, local, clones, pins };
        Ok(route.map(question))
    }

    /// Whether it is time to ask the peer how ready it is: seldom, except for a peer that does not know this node yet.
    fn is_readiness_due(&self) -> bool {
        let PeerKey::Node(_) = self.key else { return false };
        let mut shared = shmem::lock();
        own_entry(&mut shared, self.index, self.peer).is_some_and(|entry| {
            let readiness = &entry.readiness;
            readiness.said_at.is_never()
                || !readiness.knows_this_node
                || Monotonic::now().since(readiness.said_at) >= READINESS_POLLS * guc::recovery_poll_interval()
        })
    }

    /// Returns the clones whose target the peer is.
    fn clones(&self) -> Vec<CloneEntry> {
        let PeerKey::Node(node) = self.key else { return Vec::new() };
        let entries = shmem::lock().databases()[self.index].clones;
        entries.into_iter().filter(|clone| clone.target == node).collect()
    }

    /// Returns the intents whose target the peer is and for which a snapshot is held.
    fn pins(&self) -> Vec<IntentId> {
        let PeerKey::Node(node) = self.key else { return Vec::new() };
        let pins = shmem::lock().databases()[self.index].pins;
        let held = pins.into_iter().filter(|pin| pin.state == PinState::Held && pin.target == node);
        held.map(|pin| pin.intent).collect()
    }

    fn ask(&mut self, question: &PollQuestion) -> Result<PollAnswer, RemoteError> {
        self.note_question();
        let limit = guc::peer_timeout();
        if self.connection.as_ref().is_none_or(|(used, _)| *used != question.route) {
            self.connection = None;
            let mut connection = Connection::open(&question.route, "poller", limit)?;
            transaction::run_without_snapshot(|| connection.prepare())?;
            self.connection = Some((question.route.clone(), connection));
        }
        failpoint::hit(names::POLLER_CONNECTED);
        let Some((_, connection)) = &mut self.connection else {
            return Err(RemoteError::Lost("no connection".to_owned()));
        };
        transaction::run_without_snapshot(|| asking::ask_all(connection, question))
    }

    fn note_question(&self) {
        let mut shared = shmem::lock();
        let Some(entry) = own_entry(&mut shared, self.index, self.peer) else {
            return;
        };
        entry.asked_at = Monotonic::now();
        if entry.state == PeerState::Unknown {
            entry.state = PeerState::Connecting;
        }
    }

    /// Publishes the outcome, and logs it if it differs from the previous one.
    fn note(&self, state: PeerState, error: &str) {
        let (before, manager) = {
            let mut shared = shmem::lock();
            let Some(entry) = own_entry(&mut shared, self.index, self.peer) else {
                return;
            };
            let before = entry.state;
            entry.state = state;
            if state != PeerState::Connected && entry.lost_at.is_never() {
                entry.lost_at = Monotonic::now();
            }
            entry.error.set(error);
            entry.answered_at = Monotonic::now();
            (before, if before == state { 0 } else { shared.call_manager(self.index) })
        };
        if before == state {
            return;
        }
        latch::wake(manager);
        let name = BackgroundWorker::get_name();
        match state {
            PeerState::Connected => pgrx::log!("{name}: the peer answers"),
            PeerState::Unknown | PeerState::Connecting => (),
            PeerState::NotANode | PeerState::OtherNode | PeerState::OtherServer | PeerState::Unreachable => {
                pgrx::log!("{name}: {error}")
            }
        }
    }
}

/// Returns what is reported of a peer that could not be asked. A peer that answers with an ERROR may be a node all the
/// same, and its own health check tells what is wrong.
fn told(error: &RemoteError) -> String {
    let RemoteError::Peer { sqlstate, message, .. } = error else { return error.to_string() };
    let advice = match sqlstate.as_str() {
        "42501" => "its role there needs REPLICATION or pg_monitor",
        _ => "SELECT * FROM spock.quick_health_check() there tells more",
    };
    format!("{OWN_ERROR}, SQLSTATE {sqlstate} ({advice}): {message}")
}

fn state_after(error: &RemoteError) -> PeerState {
    match error {
        RemoteError::Peer { .. } | RemoteError::Stream(_) | RemoteError::Unexpected(_) => PeerState::NotANode,
        RemoteError::Connect(_) | RemoteError::TimedOut(_) | RemoteError::Lost(_) => PeerState::Unreachable,
    }
}
