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
use crate::shmem::{self, PeerEntry, PeerKey, PeerState, Shared};
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
    let must_leave = shared.must_stand_aside(database);
    let entry = shared.peers(index).get_mut(peer)?;
    if home.database != database || entry.key == PeerKey::None || entry.poller_pid != 0 {
        return None;
    }
    entry.is_coming_up = false;
    if must_leave {
        // Registered before the session asked for the database, and not seen by it.
        entry.started_at = Timestamp::NEVER;
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
                // No failure: its successor starts at once.
                entry.started_at = Timestamp::NEVER;
            }
        }
        shared.databases()[index].manager_pid
    };
    latch::wake(manager);
}

/// This process's entry; None if the launcher or the manager has given it to another one.
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
            // Asked first: else the log of a peer without the extension would fill with errors.
            let known = connection.query("SELECT pg_catalog.to_regproc('spock.node_identity')", 1)?;
            if known
                .first()
                .map(|row| row.optional::<String>(0))
                .transpose()?
                .flatten()
                .is_none()
            {
                return Err(RemoteError::Unexpected(
                    "the extension spock_recovery is not there".to_owned(),
                ));
            }
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
        let Some(entry) = own_entry(&mut shared, self.index, self.peer) else {
            return;
        };
        entry.asked_at = Timestamp::now();
        if entry.state == PeerState::Unknown {
            entry.state = PeerState::Connecting;
        }
    }

    /// Writes the outcome down; says it in the log when it is another one than before.
    fn note(&self, state: PeerState, error: &str, identity: Option<Identity>) {
        let (before, manager) = {
            let mut shared = shmem::lock();
            let Some(entry) = own_entry(&mut shared, self.index, self.peer) else {
                return;
            };
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
