//! The manager of a database: keeps the registry up to date, runs one poller for each peer, and exits when the
//! extension is dropped.
//!
//! It never waits for a peer (the pollers do that) nor long for a user's transaction (lock_timeout ends that wait, and
//! the next round tries again). It skips an object that it cannot process, and reports that (skips.rs).

use super::clone_upkeep::{Clones, Home, UpkeepRound};
use super::comparisons::Comparisons;
use super::discovery::{self, Discovery};
use super::keeper::{Keeper, KeeperRound};
use super::polling::{self, WantedPoller};
use super::recoveries::{Recoveries, WantedRecovery};
use super::schedule::Schedule;
use super::skips::{self, Skips};
use crate::failpoint::{self, names};
use crate::guc;
use crate::node::error::RegistryError;
use crate::node::native::NativeProvider;
use crate::node::provider::{Peer, ReplicationProvider};
use crate::node::servers::{self, Role};
use crate::node_name::NodeName;
use crate::pg::clock::Monotonic;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{catalog, interrupts, process, transaction};
use crate::shmem::{self, ManagerPhase, PeerEntry, PeerKey};
use pgrx::pg_sys::Oid;
use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The longest pause before the next round, if a round found a catalog row locked or concurrently changed.
const RETRY: Duration = Duration::from_secs(1);

/// How long, in seconds, a group of subscriptions with untrusted owners is asked before the next group's turn.
const UNTRUSTED_TURN_S: u64 = 60;

/// How many subscriptions whose owners are not superusers are asked for their provider's name at the same time: a role
/// that may create subscriptions must not use up the workers.
const MAX_UNTRUSTED: usize = 4;

thread_local! {
    /// The entry that this process has taken.
    static ENTRY: Cell<Option<usize>> = const { Cell::new(None) };
    /// The phase that this process leaves in its entry when it exits.
    static LEAVES: Cell<ManagerPhase> = const { Cell::new(ManagerPhase::Ended) };
}

/// What a round has found in the catalogs.
enum Situation {
    NoExtension,
    /// The extension is installed, but there is no local node: nothing is done until node_create() wakes the manager.
    NoNode,
    /// The local node was created on another server or in another database: this database is a copy of it.
    Copy(NodeName),
    Node {
        local: NodeName,
        wanted: Vec<WantedPoller>,
        peers: Vec<Peer>,
    },
}

/// What a round has decided in its transaction, to be done after the commit. None: it could not be looked at.
struct Decided {
    situation: Situation,
    cloned: Option<UpkeepRound>,
    kept: Option<KeeperRound>,
    recovery: Option<WantedRecovery>,
}

/// Runs the manager of `database`, for the shared memory entry at `index`.
pub fn run(index: usize, database: Oid) -> ! {
    if !take_entry(index, database) {
        // Another manager has the entry, or the launcher has given up on this one.
        interrupts::exit(0);
    }
    interrupts::at_exit(on_exit);
    process::connect_worker(database);
    failpoint::hit(names::MANAGER_START);
    let mut manager = Manager {
        index,
        said_copy: false,
        said: Vec::new(),
        busy_since: HashMap::new(),
        discovery: Discovery::default(),
        pollers: polling::Pollers::new(index),
        clones: Clones::new(index),
        keeper: Keeper::new(index),
        recoveries: Recoveries::new(index),
        schedule: Schedule::new(index),
        comparisons: Comparisons::new(index),
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
    if entry.phase != ManagerPhase::Starting || entry.database != database || entry.manager_pid != 0 {
        return false;
    }
    if must_leave {
        // A session has asked the workers to leave this database after this manager was registered, and has not seen
        // it.
        entry.phase = ManagerPhase::StoodAside;
        return false;
    }
    entry.phase = ManagerPhase::Looking;
    entry.manager_pid = process::my_pid();
    entry.started_at = Monotonic::now();
    ENTRY.set(Some(index));
    true
}

fn on_exit() {
    let Some(index) = ENTRY.take() else { return };
    let launcher = {
        let mut shared = shmem::lock();
        let database = shared.databases()[index].database;
        let phase = match LEAVES.get() {
            ManagerPhase::Ended if shared.must_stand_aside(database) => ManagerPhase::StoodAside,
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
    /// What the last round has skipped, so that each skip is logged once.
    said: Vec<String>,
    /// What every recent round has skipped because of other sessions' locks or changes, and since when.
    busy_since: HashMap<String, Instant>,
    discovery: Discovery,
    pollers: polling::Pollers,
    clones: Clones,
    keeper: Keeper,
    recoveries: Recoveries,
    schedule: Schedule,
    comparisons: Comparisons,
}

impl Manager {
    /// Runs one round and returns how long to sleep.
    fn round(&mut self) -> Duration {
        let peers: Vec<PeerEntry> = shmem::lock().peers(self.index).to_vec();
        let mut skips = Skips::default();
        let decided = match transaction::caught(|| self.decide(&peers, &mut skips)) {
            Ok(Ok(decided)) => decided,
            // Another session holds a lock, or has changed the same row: the next round tries again.
            Err(report) if transaction::is_contention(&report) => return guc::manager_naptime().min(RETRY),
            Ok(Err(error)) => return self.note_failed_round(error.to_string()),
            Err(report) => return self.note_failed_round(skips::in_one_line(&report)),
        };
        if !matches!(decided.situation, Situation::NoExtension) {
            self.note_extension();
        }
        failpoint::hit(names::MANAGER_RECORD_WRITTEN);
        let mut nap = guc::manager_naptime();
        if skips.must_retry() {
            nap = nap.min(RETRY);
        }
        if let Some(round) = decided.cloned {
            nap = nap.min(self.clones.act(round));
        }
        if let Some(round) = decided.kept {
            nap = nap.min(self.keeper.act(round));
        }
        if let Some(wanted) = decided.recovery.filter(|_| !self.is_spare()) {
            nap = nap.min(self.recoveries.act(&wanted));
        }
        self.note_round(skips);
        nap.min(self.keep_pollers(decided.situation))
    }

    /// Whether this manager has the spare entry, and was only started to look for the extension.
    fn is_spare(&self) -> bool {
        self.index == shmem::spare_entry()
    }

    /// Looks at the catalogs and decides, in the round's transaction. Whatever cannot be processed is skipped.
    fn decide(&mut self, peers: &[PeerEntry], skips: &mut Skips) -> Result<Decided, RegistryError> {
        let is_spare = self.is_spare();
        let (clones, keeper, recoveries) = (&mut self.clones, &mut self.keeper, &mut self.recoveries);
        let situation = look(peers, &mut self.discovery, skips)?;
        let (nodes, home) = match &situation {
            Situation::Node { peers, .. } => (Some(peers.as_slice()), Home::Node(peers)),
            Situation::NoExtension | Situation::NoNode => (None, Home::Nobody),
            Situation::Copy(_) => (None, Home::Elsewhere),
        };
        let (mut cloned, mut kept) = (None, None);
        if !is_spare {
            cloned = skips.each(|| "clones of the recovery slot".to_owned(), || clones.look(home));
            kept = skips.each(|| "the recovery slot".to_owned(), || keeper.look(nodes));
            skips.each(|| "the files of the recovery slot".to_owned(), || keeper.save(kept.as_ref()));
        }
        let recovery = match nodes {
            Some(_) => recoveries.look(peers, skips),
            None => Some(WantedRecovery::default()),
        };
        Ok(Decided { situation, cloned, kept, recovery })
    }

    /// Starts and stops pollers, as the round's findings require, or exits if there is nothing left to do. Returns how
    /// long to sleep at most.
    fn keep_pollers(&mut self, situation: Situation) -> Duration {
        match situation {
            Situation::NoExtension if self.keeper.has_finished() && (self.is_spare() || self.clones.has_finished()) => {
                self.leave(ManagerPhase::NoExtension)
            }
            Situation::NoExtension => guc::manager_naptime(),
            Situation::NoNode => self.pollers.keep(&[]),
            Situation::Copy(name) => {
                if !std::mem::replace(&mut self.said_copy, true) {
                    pgrx::log!(
                        "this database is a copy of node \"{name}\" made elsewhere: spock_recovery does nothing in it until \
                         spock.node_create() is called here"
                    );
                }
                self.pollers.keep(&[])
            }
            Situation::Node { local, wanted, peers } => {
                let nap = self.schedule.keep(&local, &peers).min(self.comparisons.keep(&peers));
                self.pollers.keep(&wanted).min(nap)
            }
        }
    }

    /// Publishes and logs what a round that ran to its end has skipped.
    fn note_round(&mut self, skips: Skips) {
        let found = skips.into_found(&mut self.busy_since);
        for skipped in found.iter().filter(|skipped| !self.said.contains(skipped)) {
            pgrx::warning!("spock_recovery skips {skipped}");
        }
        {
            let mut shared = shmem::lock();
            let entry = &mut shared.databases()[self.index].manager;
            entry.good_round_at = Monotonic::now();
            entry.skips = found.len() as u32;
            entry.skipped.set(found.first().map_or("", String::as_str));
        }
        self.said = found;
    }

    /// Publishes and logs why a round could not run at all. Returns how long to sleep.
    fn note_failed_round(&mut self, why: String) -> Duration {
        if !self.said.contains(&why) {
            pgrx::warning!("spock_recovery could not read the catalogs: {why}");
        }
        {
            let mut shared = shmem::lock();
            let entry = &mut shared.databases()[self.index].manager;
            entry.skips = entry.skips.max(1);
            entry.skipped.set(&why);
        }
        self.said = vec![why];
        guc::manager_naptime()
    }

    /// Notes that the extension is installed. A manager in the spare entry was started only to find that out, and
    /// exits. Otherwise the first look is over, and the launcher may go on to the next database.
    fn note_extension(&mut self) {
        if self.index == shmem::spare_entry() {
            self.leave(ManagerPhase::NoRoom);
        }
        let launcher = {
            let mut shared = shmem::lock();
            let entry = &mut shared.databases()[self.index];
            if entry.phase != ManagerPhase::Looking {
                return;
            }
            entry.phase = ManagerPhase::Running;
            shared.launcher()
        };
        latch::wake(launcher);
    }

    /// Ends this process for a reason that the launcher must know.
    fn leave(&mut self, phase: ManagerPhase) -> ! {
        failpoint::hit(names::MANAGER_LEAVING);
        self.pollers.keep(&[]);
        LEAVES.set(phase);
        interrupts::exit(0)
    }
}

/// Reads the catalogs, and updates them with what the pollers have found out.
fn look(peers: &[PeerEntry], discovery: &mut Discovery, skips: &mut Skips) -> Result<Situation, RegistryError> {
    // Labels are swept even where there is no node or no extension any more: a subscription may have been dropped just
    // before that.
    discovery::sweep_labels(skips)?;
    if catalog::extension_oid().is_none() {
        discovery::remove_labels(&NativeProvider.subscriptions()?, skips);
        return Ok(Situation::NoExtension);
    }
    let servers = servers::servers()?;
    let Some(local) = servers.iter().find(|server| server.role == Role::Local) else {
        let copy = servers.into_iter().find(|server| server.role == Role::LocalElsewhere);
        return Ok(copy.map_or(Situation::NoNode, |server| Situation::Copy(server.name)));
    };
    discovery.look(local, &servers, peers, skips)?;
    // The peers are read again, because discovery may have added some.
    let peers_known = NativeProvider.peers()?;
    let mut wanted: Vec<WantedPoller> = peers_known
        .iter()
        .map(|peer| WantedPoller { key: PeerKey::Node(peer.id), name: peer.name.to_string() })
        .collect();
    let (trusted, untrusted): (Vec<_>, Vec<_>) = NativeProvider
        .subscriptions()?
        .into_iter()
        .filter(|subscription| subscription.origin.is_unknown())
        .partition(|subscription| subscription.is_trusted);
    let room = guc::max_peers().saturating_sub(wanted.len() + trusted.len()).min(MAX_UNTRUSTED);
    // Subscriptions with untrusted owners take turns, so that none keeps the others from being asked.
    let turn = (Monotonic::now().since(Monotonic::NEVER).as_secs() / UNTRUSTED_TURN_S) as usize;
    let first = (turn * MAX_UNTRUSTED) % untrusted.len().max(1);
    let count = untrusted.len().min(room);
    let untrusted = untrusted.into_iter().cycle().skip(first).take(count);
    wanted.extend(trusted.into_iter().chain(untrusted).map(|subscription| WantedPoller {
        key: PeerKey::Subscription(subscription.id),
        name: format!("of subscription {}", subscription.name),
    }));
    Ok(Situation::Node { local: local.name.clone(), wanted, peers: peers_known })
}
