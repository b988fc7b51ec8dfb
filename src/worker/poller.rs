//! A poller: asks one peer, every spock.recovery_poll_interval, who it is and how far it has applied each origin. It is
//! a process of its own, so that it may hang or die without affecting the others.
//!
//! It survives a restart of its manager, and exits when its entry is taken from it or when no manager has come back.

mod commands;
mod storing;

use crate::failpoint::{self, names};
use crate::health::judge::{NO_ROUTE, OWN_ERROR};
use crate::identity::DatabaseIdentity;
use crate::lsn::OriginLsn;
use crate::node::error::RegistryError;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Route};
use crate::node::servers::{self, NodeServer, Role};
use crate::node_name::NodeName;
use crate::older_copy::{Former, first_of, forks_from_text};
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::plan::readiness::Readiness;
use crate::recover::source::{from_ascii, in_ascii};
use crate::remote::argument;
use crate::remote::connection::Connection;
use crate::remote::error::RemoteError;
use crate::shmem::{self, CloneEntry, NONE_CONFIRMED, OwnConfirmed, PeerEntry, PeerKey, PeerState, Shared, TargetSays};
use crate::slot::positions;
use crate::{guc, protocol};
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

const IDENTITY: &str = "SELECT node_name, system_identifier, database, timeline, wal_end, \
                        started_at_lsn, timeline_forks, \
                        (extract(epoch FROM started_at - '2000-01-01 00:00:00+00') * 1000000)::pg_catalog.int8, \
                        pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.->>) 'protocol_version' FROM";

/// What it costs the peer to list what its slot may have released is spent only where that matters (`asks_released`).
const RELEASED: &str = "SELECT origin_node, max(released_lsn) FROM spock.recovery_horizon() GROUP BY origin_node";

const POSITIONS: &str = "SELECT origin_node, applied_lsn, passed_lsn, \
                         (extract(epoch FROM commit_timestamp - '2000-01-01 00:00:00+00') * 1000000)::pg_catalog.int8, ready, \
                         subscription, origin_id FROM spock.node_positions(true::pg_catalog.bool)";

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
}

struct Poller {
    index: usize,
    peer: usize,
    key: PeerKey,
    connection: Option<(Route, Connection)>,
    manager_seen: Instant,
}

/// Runs the poller of `database` whose peer has place `peer` in the shared memory entry at `index`.
pub fn run(index: usize, peer: usize, database: Oid) -> ! {
    let Some(key) = take_entry(index, peer, database) else { interrupts::exit(0) };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    let mut poller = Poller { index, peer, key, connection: None, manager_seen: Instant::now() };
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
        let clones = self.clones();
        let local = nodes.iter().find(|node| node.role == Role::Local && self.is_readiness_due());
        let local = local.map(|local| (local.name.to_string(), servers::here()));
        Ok(route.map(|route| PollQuestion { route, expected, bound, own, asks_released, former, nodes, local, clones }))
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
        transaction::run_without_snapshot(|| ask_all(connection, question))
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

fn ask_all(connection: &mut Connection, question: &PollQuestion) -> Result<PollAnswer, RemoteError> {
    let asked_at = Monotonic::now();
    connection.require_extension()?;
    let rows = connection.query(&format!("{IDENTITY} {}.node_identity() i", connection.internal_schema()), 9)?;
    let Some(row) = rows.first() else {
        return Err(RemoteError::Unexpected("it is not a node (spock.node_create was not called there)".to_owned()));
    };
    let wal_end: OriginLsn = row.optional(4)?.unwrap_or_default();
    let own = ask_own_confirmed(connection, question, wal_end)?;
    let positions = ask_positions(connection)?;
    let released = question.asks_released.then(|| ask_released(connection)).transpose()?;
    let clones = ask_clones(connection, question)?;
    Ok(PollAnswer {
        readiness: ask_readiness(connection, question)?,
        node_name: row.value(0)?,
        identity: DatabaseIdentity { system_identifier: row.value(1)?, database: row.value(2)? },
        timeline: row.value(3)?,
        wal_end,
        start: row.optional(5)?.unwrap_or_default(),
        forks: forks_from_text(&row.value::<String>(6)?)
            .ok_or_else(|| RemoteError::Unexpected("timelines in another form".to_owned()))?,
        started_at: Timestamp(row.value(7)?),
        // Version 0.1.0 does not have this column.
        protocol: row.optional(8)?.unwrap_or(protocol::UNTOLD),
        positions,
        released,
        own,
        clones,
        asked_at,
    })
}

/// Returns how far this node's slots are confirmed at the peer, but no further than `wal_end`, the end of WAL that it has
/// reported before. What that covers was applied here before, and is durable by the time the reading is used, because
/// this node's WAL is flushed in between.
fn ask_own_confirmed(
    connection: &mut Connection,
    question: &PollQuestion,
    wal_end: OriginLsn,
) -> Result<OwnConfirmed, RemoteError> {
    let mut own = NONE_CONFIRMED;
    for (place, (subscription, slot)) in own.iter_mut().zip(&question.own) {
        let slot = pgrx::spi::quote_literal(slot);
        let confirmed = connection.query(
            &format!(
                "SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = {slot} AND confirmed_flush_lsn IS NOT NULL"
            ),
            1,
        )?;
        if let Some(row) = confirmed.first() {
            *place = (*subscription, row.value::<OriginLsn>(0)?.min(wal_end));
        }
    }
    Ok(own)
}

fn ask_positions(connection: &mut Connection) -> Result<Vec<Position>, RemoteError> {
    let mut positions = Vec::new();
    for row in connection.query(POSITIONS, 7)? {
        positions.push(Position {
            origin: row.optional(0)?,
            applied: row.optional(1)?.unwrap_or_default(),
            passed: row.optional(2)?.unwrap_or_default(),
            committed_at: Timestamp(row.optional(3)?.unwrap_or(0)),
            is_ready: row.value::<String>(4)? == "t",
            subscription: row.value(5)?,
            origin_id: row.value(6)?,
        });
    }
    Ok(positions)
}

fn ask_released(connection: &mut Connection) -> Result<Vec<(String, OriginLsn)>, RemoteError> {
    let rows = match connection.query(RELEASED, 2) {
        Ok(rows) => rows,
        // The peer does not tell; the rest of its answer counts all the same.
        Err(RemoteError::Peer { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let released = rows.iter().filter_map(|row| row.optional::<String>(0).ok()?.zip(row.optional(1).ok()?));
    Ok(released.collect())
}

/// Asks of each clone that was made for the peer whether its recovery is unfinished. A clone of which the peer cannot
/// tell is left out.
fn ask_clones(
    connection: &mut Connection,
    question: &PollQuestion,
) -> Result<Vec<(CloneEntry, TargetSays)>, RemoteError> {
    let mut clones = Vec::new();
    for clone in &question.clones {
        let schema = connection.internal_schema();
        match connection.query(&format!("SELECT {schema}.recovery_is_open({})", argument::uuid(Some(clone.intent))), 1)
        {
            Ok(rows) => {
                let is_open: Option<String> = rows.first().map(|row| row.value(0)).transpose()?;
                match is_open.as_deref() {
                    Some("t") => clones.push((*clone, TargetSays::Unfinished)),
                    Some("f") => clones.push((*clone, TargetSays::Ended)),
                    _ => (),
                }
            }
            // The peer cannot tell whether that recovery is open. That is no verdict, and the rest of its answer counts
            // all the same.
            Err(RemoteError::Peer { .. }) => (),
            Err(error) => return Err(error),
        }
    }
    Ok(clones)
}

/// Returns None if the peer is not to be asked, or if its version of the extension cannot tell.
fn ask_readiness(connection: &mut Connection, question: &PollQuestion) -> Result<Option<Readiness>, RemoteError> {
    let Some((name, identity)) = &question.local else { return Ok(None) };
    // The function is looked up first: a call of one that does not exist would be an ERROR in the peer's log.
    let schema = connection.internal_schema();
    let is_there = format!(
        "SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE n.nspname = '{schema}' AND p.proname = 'peer_readiness'"
    );
    if connection.query(&is_there, 0)?.is_empty() {
        return Ok(None);
    }
    let asked = format!(
        "{schema}.peer_readiness({}, {}, {}::pg_catalog.oid)",
        argument::name(name),
        argument::text(Some(&identity.system_identifier.to_string())),
        identity.database
    );
    let text: Option<String> = match connection.query(&in_ascii(&asked), 1) {
        Ok(rows) => rows.first().map(|row| row.optional(0)).transpose()?.flatten(),
        // The peer cannot tell; the rest of its answer counts all the same.
        Err(RemoteError::Peer { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(text.and_then(|text| serde_json::from_str(&from_ascii(&text)?).ok()))
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
