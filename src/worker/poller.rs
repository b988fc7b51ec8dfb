//! A poller: asks one peer who it is, every spock.recovery_poll_interval. It may hang or die alone.
//!
//! It outlives its manager's restart, and leaves when its entry is taken from it or no manager has come back.

use crate::failpoint::{self, names};
use crate::guc;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Route};
use crate::node::registry::{self, RegistryError};
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::remote::connection::{Connection, RemoteError};
use crate::shmem::{self, PeerEntry, PeerKey, PeerState, Phase};
use pgrx::bgworkers::BackgroundWorker;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// A poller without a manager leaves after this long: far longer than the launcher takes to start another manager.
const ORPHAN_LIMIT: Duration = Duration::from_secs(90);

/// What a peer without our extension answers (undefined function, schema).
const NO_EXTENSION: [&str; 2] = ["42883", "3F000"];

thread_local! {
    /// The database's and the peer's index of the entry that this process has taken.
    static ENTRY: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// What a peer says it is.
struct Identity {
    node_name: String,
    system_identifier: u64,
    database: u32,
}

struct Poller {
    index: usize,
    peer: usize,
    key: PeerKey,
    connection: Option<(Route, Connection)>,
    manager_seen: Instant,
}

pub fn run(index: usize, peer: usize, database: Oid) -> ! {
    let Some(key) = take_entry(index, peer, database) else {
        interrupts::exit(0)
    };
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    let mut poller = Poller {
        index,
        peer,
        key,
        connection: None,
        manager_seen: Instant::now(),
    };
    loop {
        if interrupts::shutdown_requested() || !poller.is_wanted(database) {
            interrupts::exit(0);
        }
        interrupts::check();
        interrupts::reload_config_if_asked();
        process::report_activity("asking");
        poller.round();
        process::report_idle();
        latch::wait(Some(guc::recovery_poll_interval()), WaitEvent::PollerMain);
    }
}

fn take_entry(index: usize, peer: usize, database: Oid) -> Option<PeerKey> {
    let mut shared = shmem::lock();
    let home = *shared.databases().get(index)?;
    let entry = shared.peers(index).get_mut(peer)?;
    if home.database != database || entry.key == PeerKey::None || entry.poller_pid != 0 {
        return None;
    }
    entry.poller_pid = process::my_pid();
    entry.has_run = true;
    let key = entry.key;
    ENTRY.set(Some((index, peer)));
    Some(key)
}

fn on_exit() {
    let Some((index, peer)) = ENTRY.take() else { return };
    let manager = {
        let mut shared = shmem::lock();
        let entry = &mut shared.peers(index)[peer];
        if entry.poller_pid == process::my_pid() {
            entry.poller_pid = 0;
            // No question is open any more.
            entry.answered_at = entry.asked_at;
        }
        shared.databases()[index].manager_pid
    };
    latch::wake(manager);
}

impl Poller {
    fn is_wanted(&mut self, database: Oid) -> bool {
        let mut shared = shmem::lock();
        let home = shared.databases()[self.index];
        if home.phase == Phase::Running && home.manager_pid != 0 {
            self.manager_seen = Instant::now();
        }
        let entry = shared.peers(self.index)[self.peer];
        home.database == database
            && entry.key == self.key
            && entry.poller_pid == process::my_pid()
            && self.manager_seen.elapsed() < ORPHAN_LIMIT
    }

    fn round(&mut self) {
        match self.ask() {
            Ok(None) => self.note(PeerState::Unreachable, "no connection string is known", None),
            Ok(Some(identity)) => self.judge(identity),
            Err(error) => {
                self.connection = None;
                self.note(state_after(&error), &error.to_string(), None);
                if matches!(error, RemoteError::TimedOut(_)) {
                    // On 17 the attempt has leaked its socket: the process goes, and takes it with it.
                    interrupts::exit(0);
                }
            }
        }
    }

    /// One question. None: there is no way to the peer.
    fn ask(&mut self) -> Result<Option<Identity>, RemoteError> {
        let route = transaction::run(|| self.route()).map_err(|error| RemoteError::Unexpected(error.to_string()))?;
        let Some(route) = route else {
            self.connection = None;
            return Ok(None);
        };
        self.note_question();
        let limit = guc::peer_timeout();
        if self.connection.as_ref().is_none_or(|(used, _)| *used != route) {
            self.connection = None;
            let mut connection = Connection::open(&route, "poller", limit)?;
            transaction::run_without_snapshot(|| connection.prepare())?;
            self.connection = Some((route, connection));
        }
        failpoint::hit(names::POLLER_CONNECTED);
        let Some((_, connection)) = &mut self.connection else {
            return Ok(None);
        };
        let rows = transaction::run_without_snapshot(|| {
            connection.query(
                "SELECT node_name, system_identifier, database FROM spock.node_identity()",
                3,
            )
        })?;
        match rows.first() {
            Some(row) => Ok(Some(Identity {
                node_name: row.value(0)?,
                system_identifier: row.value(1)?,
                database: row.value(2)?,
            })),
            None => Err(RemoteError::Unexpected(
                "it is not a node (spock.node_create was not called there)".to_owned(),
            )),
        }
    }

    fn route(&self) -> Result<Option<Route>, RegistryError> {
        match self.key {
            PeerKey::Node(id) => NativeProvider.route_to_peer(id),
            PeerKey::Subscription(id) => NativeProvider.route_of_subscription(id),
            PeerKey::None => Ok(None),
        }
    }

    /// Compares what the peer says it is with what it is taken for.
    fn judge(&mut self, identity: Identity) {
        let expected = match self.key {
            PeerKey::Node(id) => transaction::run(registry::servers)
                .ok()
                .and_then(|servers| servers.into_iter().find(|server| server.id == id))
                .map(|server| server.name.to_string()),
            _ => None,
        };
        match expected {
            Some(expected) if expected != identity.node_name => {
                let message = format!("it says that it is node \"{}\"", identity.node_name);
                self.note(PeerState::OtherNode, &message, Some(identity));
            }
            _ => self.note(PeerState::Connected, "", Some(identity)),
        }
    }

    fn note_question(&self) {
        let mut shared = shmem::lock();
        let entry = &mut shared.peers(self.index)[self.peer];
        entry.asked_at = Timestamp::now();
        if entry.state == PeerState::Unknown {
            entry.state = PeerState::Connecting;
        }
    }

    /// Writes the outcome down; says it in the log when it is another one than before.
    fn note(&self, state: PeerState, error: &str, identity: Option<Identity>) {
        let (before, manager) = {
            let mut shared = shmem::lock();
            let entry: &mut PeerEntry = &mut shared.peers(self.index)[self.peer];
            let before = entry.state;
            entry.state = state;
            entry.set_error(error);
            let now = Timestamp::now();
            entry.answered_at = now;
            if let Some(identity) = &identity {
                entry.set_node_name(&identity.node_name);
                entry.system_identifier = identity.system_identifier;
                entry.database = identity.database;
                entry.last_contact_at = now;
            }
            (before, shared.databases()[self.index].manager_pid)
        };
        if before == state {
            return;
        }
        latch::wake(manager);
        let name = BackgroundWorker::get_name();
        match state {
            PeerState::Connected => pgrx::log!("{name}: the peer answers"),
            PeerState::Unknown | PeerState::Connecting => (),
            PeerState::NotANode | PeerState::OtherNode | PeerState::Unreachable => {
                pgrx::log!("{name}: {error}")
            }
        }
    }
}

fn state_after(error: &RemoteError) -> PeerState {
    match error {
        RemoteError::Peer { sqlstate, .. } if NO_EXTENSION.contains(&sqlstate.as_str()) => PeerState::NotANode,
        RemoteError::Peer { .. } | RemoteError::Unexpected(_) => PeerState::NotANode,
        RemoteError::Connect(_) | RemoteError::TimedOut(_) | RemoteError::Lost(_) => PeerState::Unreachable,
    }
}
