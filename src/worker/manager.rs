//! The manager of a database: keeps the registry true, has a poller for each peer, and leaves when the extension does.
//!
//! It never waits for a peer (pollers do that) nor for a user's transaction (lock_timeout; the next round tries again).

use super::pollers::{self, Wanted};
use super::rescues::{self, Rescues};
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::IntentError;
use crate::node::label::SetBy;
use crate::node::name::NodeName;
use crate::node::native::{self, NativeProvider};
use crate::node::provider::{Peer, ReplicationProvider, Subscription};
use crate::node::registry::{self, NodeServer, RegistryError, Role};
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::{catalog, interrupts, prepared, process, transaction};
use crate::shmem::{self, PeerEntry, PeerKey, PeerState, Phase};
use crate::slot::clones::{Clones, Home};
use crate::slot::keeper::Keeper;
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::time::Duration;

/// A round that found a catalog locked, or changed under its hands, is tried again after this at the latest.
const RETRY: Duration = Duration::from_secs(1);

thread_local! {
    /// The entry that this process has taken, and what it leaves in it.
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
    static LEAVES: Cell<Phase> = const { Cell::new(Phase::Ended) };
}

/// What a look at the catalogs has found.
enum Found {
    NoExtension,
    /// The extension, but no local node: nothing to do until node_create wakes us.
    NoNode,
    /// A local node that was created on another server or in another database.
    Copy(NodeName),
    Node {
        wanted: Vec<Wanted>,
        peers: Vec<Peer>,
    },
}

pub fn run(index: usize, database: Oid) -> ! {
    if !take_entry(index, database) {
        // Another manager has it, or the launcher has given up on this one.
        interrupts::exit(0);
    }
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    failpoint::hit(names::MANAGER_START);
    let mut manager = Manager {
        index,
        said_copy: false,
        pollers: pollers::Pollers::new(index),
        clones: Clones::new(index),
        keeper: Keeper::new(index),
        rescues: Rescues::new(index),
    };
    loop {
        if interrupts::shutdown_requested() {
            interrupts::exit(0);
        }
        interrupts::check();
        interrupts::reload_config_if_asked();
        let calls = shmem::lock().databases()[index].calls;
        failpoint::hit(names::MANAGER_TICK);
        failpoint::spin_while_armed(names::MANAGER_BUSY);
        process::report_activity("looking at nodes and subscriptions");
        let wait = manager.round();
        process::report_idle();
        let is_called = interrupts::shutdown_requested() || shmem::lock().databases()[index].calls != calls;
        if !is_called {
            latch::wait(Some(wait), WaitEvent::ManagerMain);
        }
    }
}

fn take_entry(index: usize, database: Oid) -> bool {
    let mut shared = shmem::lock();
    let must_leave = shared.must_stand_aside(database);
    let Some(entry) = shared.databases().get_mut(index) else {
        return false;
    };
    if entry.phase != Phase::Starting || entry.database != database || entry.manager_pid != 0 {
        return false;
    }
    if must_leave {
        // Registered before the session asked for the database, and not seen by it.
        entry.phase = Phase::StoodAside;
        return false;
    }
    entry.phase = Phase::Looking;
    entry.manager_pid = process::my_pid();
    entry.started_at = Timestamp::now();
    ENTRY.set(Some(index));
    true
}

fn on_exit() {
    let Some(index) = ENTRY.take() else { return };
    let launcher = {
        let mut shared = shmem::lock();
        let database = shared.databases()[index].database;
        let phase = match LEAVES.get() {
            Phase::Ended if shared.must_stand_aside(database) => Phase::StoodAside,
            phase => phase,
        };
        let entry = &mut shared.databases()[index];
        entry.manager_pid = 0;
        entry.phase = phase;
        shared.launcher()
    };
    latch::wake(launcher);
}

struct Manager {
    index: usize,
    said_copy: bool,
    pollers: pollers::Pollers,
    clones: Clones,
    keeper: Keeper,
    rescues: Rescues,
}

impl Manager {
    /// One round; returns how long to sleep.
    fn round(&mut self) -> Duration {
        let peers: Vec<PeerEntry> = shmem::lock().peers(self.index).to_vec();
        let is_spare = self.index == shmem::spare_entry();
        let (clones, keeper, rescues) = (&mut self.clones, &mut self.keeper, &mut self.rescues);
        let seen = transaction::attempt(|| {
            let found = look(&peers)?;
            let (nodes, home) = match &found {
                Found::Node { peers, .. } => (Some(peers.as_slice()), Home::Node(peers)),
                Found::NoExtension | Found::NoNode => (None, Home::Nobody),
                Found::Copy(_) => (None, Home::Elsewhere),
            };
            let round = if is_spare { None } else { Some((clones.look(home)?, keeper.look(nodes)?)) };
            let recovery = if nodes.is_some() { rescues.look(&peers)? } else { rescues::Wanted::default() };
            Ok::<_, IntentError>((found, round, recovery))
        });
        let (found, round, recovery) = match seen {
            Some(Ok(seen)) => seen,
            Some(Err(error)) => {
                pgrx::warning!("spock_recovery cannot read its catalogs: {error}");
                return guc::manager_naptime();
            }
            // Somebody holds a lock: the next round tries again.
            None => return guc::manager_naptime().min(RETRY),
        };
        if !matches!(found, Found::NoExtension) {
            self.note_extension();
        }
        failpoint::hit(names::MANAGER_RECORD_WRITTEN);
        let nap =
            round.map_or(guc::manager_naptime(), |(clones, slot)| self.clones.act(clones).min(self.keeper.act(slot)));
        let nap = if is_spare { nap } else { nap.min(self.rescues.act(&recovery)) };
        match found {
            Found::NoExtension if self.keeper.has_finished() && (is_spare || self.clones.has_finished()) => {
                self.leave(Phase::NoExtension)
            }
            Found::NoExtension => nap,
            Found::NoNode => nap.min(self.pollers.keep(&[])),
            Found::Copy(name) => {
                if !std::mem::replace(&mut self.said_copy, true) {
                    pgrx::log!(
                        "this database is a copy of node \"{name}\" made elsewhere: spock_recovery does nothing in it until \
                         spock.node_create() is called here"
                    );
                }
                nap.min(self.pollers.keep(&[]))
            }
            Found::Node { wanted, .. } => nap.min(self.pollers.keep(&wanted)),
        }
    }

    /// The extension is there. In the spare entry, that is all there was to find out; else the first look is over, and
    /// the launcher may go on to the next database.
    fn note_extension(&mut self) {
        if self.index == shmem::spare_entry() {
            self.leave(Phase::NoRoom);
        }
        let launcher = {
            let mut shared = shmem::lock();
            let entry = &mut shared.databases()[self.index];
            if entry.phase != Phase::Looking {
                return;
            }
            entry.phase = Phase::Running;
            shared.launcher()
        };
        latch::wake(launcher);
    }

    /// Ends this process for a reason that the launcher must know.
    fn leave(&mut self, phase: Phase) -> ! {
        failpoint::hit(names::MANAGER_LEAVING);
        self.pollers.keep(&[]);
        LEAVES.set(phase);
        interrupts::exit(0)
    }
}

/// Reads the catalogs, and brings them up to date with what the pollers have found out.
fn look(peers: &[PeerEntry]) -> Result<Found, RegistryError> {
    // Also where there is no node or no extension any more: a subscription may have been dropped just before that.
    sweep_labels()?;
    if catalog::extension_oid().is_none() {
        remove_labels(&NativeProvider.subscriptions()?);
        return Ok(Found::NoExtension);
    }
    let servers = registry::servers()?;
    let Some(local) = servers.iter().find(|server| server.role == Role::Local) else {
        let copy = servers.into_iter().find(|server| server.role == Role::LocalElsewhere);
        return Ok(copy.map_or(Found::NoNode, |server| Found::Copy(server.name)));
    };
    let mut subscriptions = NativeProvider.subscriptions()?;
    forget_wrong_origins(&servers, &mut subscriptions, peers)?;
    label_discovered(local, &subscriptions, peers)?;
    // Once more, for what was just made known.
    let peers_known = NativeProvider.peers()?;
    let subscriptions = NativeProvider.subscriptions()?;
    let mut wanted: Vec<Wanted> =
        peers_known.iter().map(|peer| Wanted { key: PeerKey::Node(peer.id), name: peer.name.to_string() }).collect();
    wanted.extend(subscriptions.iter().filter(|subscription| subscription.origin.is_none()).map(|subscription| {
        Wanted { key: PeerKey::Subscription(subscription.id), name: format!("of subscription {}", subscription.name) }
    }));
    Ok(Found::Node { wanted, peers: peers_known })
}

/// A subscription whose origin was found out by asking, and whose provider now gives another name, is asked again.
fn forget_wrong_origins(
    servers: &[NodeServer],
    subscriptions: &mut [Subscription],
    peers: &[PeerEntry],
) -> Result<(), RegistryError> {
    for peer in peers {
        let PeerKey::Node(id) = peer.key else { continue };
        let Some(server) = servers.iter().find(|server| server.id == id) else {
            continue;
        };
        // A connection string of its own is the administrator's word; only what was found out is asked again.
        if peer.state != PeerState::OtherNode || native::dsn_of_server(id)?.is_some() {
            continue;
        }
        for subscription in subscriptions.iter_mut() {
            if subscription
                .origin
                .as_ref()
                .is_some_and(|(origin, by)| *origin == server.name && *by == SetBy::Discovery)
            {
                pgrx::log!(
                    "subscription \"{}\" does not come from node \"{}\" any more",
                    subscription.name,
                    server.name
                );
                seclabel::set_label(LabelTarget::Subscription(subscription.id), None);
                subscription.origin = None;
            }
        }
    }
    Ok(())
}

/// Writes down what pollers of subscriptions have found out, and makes peers known that are new.
fn label_discovered(
    local: &NodeServer,
    subscriptions: &[Subscription],
    peers: &[PeerEntry],
) -> Result<(), RegistryError> {
    for peer in peers {
        let PeerKey::Subscription(id) = peer.key else { continue };
        let waiting = subscriptions.iter().find(|subscription| subscription.id == id && subscription.origin.is_none());
        let (Some(subscription), PeerState::Connected) = (waiting, peer.state) else {
            continue;
        };
        let Ok(origin) = NodeName::parse(peer.node_name.as_str()) else {
            continue;
        };
        if origin == local.name {
            // Two nodes of one name: the health check's business, not something to write down.
            continue;
        }
        match registry::create_discovered_peer(&origin) {
            Ok(_) => pgrx::log!("node \"{origin}\" became known through subscription \"{}\"", subscription.name),
            Err(RegistryError::DuplicateNode { .. }) => (),
            Err(error) => return Err(error),
        }
        registry::write_label(subscription.id, &origin, SetBy::Discovery);
    }
    Ok(())
}

/// Removes the labels that dropped subscriptions of this database have left behind (DROP SUBSCRIPTION does not).
fn sweep_labels() -> Result<(), RegistryError> {
    let here = registry::here();
    let left_behind = Spi::connect(|client| {
        let rows = prepared::select(
            client,
            "SELECT l.objoid, l.label FROM pg_catalog.pg_shseclabel l
              WHERE l.classoid = 'pg_catalog.pg_subscription'::pg_catalog.regclass AND l.provider = 'spock_recovery'
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_subscription s WHERE s.oid = l.objoid)",
            None,
            &[],
        )?;
        let mut found = Vec::new();
        for row in rows {
            if let (Some(subscription), Some(text)) = (row.get::<Oid>(1)?, row.get::<String>(2)?) {
                found.push((subscription, text));
            }
        }
        Ok::<_, pgrx::spi::Error>(found)
    })?;
    for (subscription, text) in left_behind {
        // Another database's manager sweeps its own; what comes from elsewhere is nobody's but ours.
        let belongs_here =
            crate::node::label::SubscriptionLabel::parse(&text).is_ok_and(|label| label.identity == here);
        if belongs_here {
            seclabel::set_label(LabelTarget::Subscription(subscription), None);
        }
    }
    Ok(())
}

/// After DROP EXTENSION: nothing of ours stays on this database's subscriptions.
fn remove_labels(subscriptions: &[Subscription]) {
    for subscription in subscriptions {
        if seclabel::label(LabelTarget::Subscription(subscription.id)).is_some() {
            seclabel::set_label(LabelTarget::Subscription(subscription.id), None);
            pgrx::log!("removed the spock_recovery label of subscription \"{}\"", subscription.name);
        }
    }
}
