//! The launcher: starts a manager for every connectable database that has the extension.
//!
//! Only a process that is connected to a database can see whether the database has the extension. So each database gets
//! a manager once, which exits if the extension is not installed; the launcher remembers that until CREATE EXTENSION
//! says otherwise. Template databases are left alone, because they are copied and not used (core counterpart:
//! autovacuum.c's launcher).

use super::error::NoRoom;
use super::start;
use crate::pg::catalog::{self, Database};
use crate::pg::clock::Monotonic;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction, wal};
use crate::shmem::{self, DatabaseEntry, ManagerPhase, Shared};
use crate::{backoff, guc};
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys::Oid;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// A manager that was registered and has not started within this time never will: its registration is lost.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Time until the next attempt when the server has no free worker slot, or shared memory has no free entry.
const NO_ROOM_RETRY: Duration = Duration::from_secs(10);

/// How many databases are looked at at the same time: on a server with hundreds of databases, enough worker slots must
/// stay free for other purposes.
const MAX_LOOKS: usize = 2;

#[derive(Default)]
struct Launcher {
    /// Databases that a session has asked to be looked at since their last manager was started.
    asked: HashSet<Oid>,
    /// Databases in which a manager has found no extension.
    without: HashSet<Oid>,
    /// Databases that have the extension but found no free entry in shared memory, which was logged.
    without_room: HashSet<Oid>,
    /// The managers that this launcher has registered, by entry. A manager that an earlier launcher has started is
    /// known by its entry alone.
    handles: HashMap<usize, DynamicBackgroundWorker>,
    failures: HashMap<Oid, u32>,
    not_before: HashMap<Oid, Instant>,
    lacks_worker_slots: bool,
}

pub fn run() -> ! {
    process::connect_worker_to_shared_catalogs();
    let start = wal::start_position();
    {
        let mut shared = shmem::lock();
        shared.note_start(start);
        shared.set_launcher(process::my_pid());
    }
    interrupts::at_exit(on_exit);
    pgrx::log!("spock_recovery launcher started");
    let mut launcher = Launcher::default();
    loop {
        if interrupts::shutdown_requested() {
            // With exit code 1 the postmaster starts the launcher again, unless the server is shutting down.
            interrupts::exit(1);
        }
        interrupts::check();
        interrupts::reload_config_if_asked();
        process::report_activity("looking for databases");
        let wait = launcher.round();
        process::report_idle();
        if !interrupts::shutdown_requested() {
            latch::wait(Some(wait), WaitEvent::LauncherMain);
        }
    }
}

fn on_exit() {
    let mut shared = shmem::lock();
    if shared.launcher() == process::my_pid() {
        shared.set_launcher(0);
    }
}

impl Launcher {
    /// Looks at all databases once and returns how long to sleep.
    fn round(&mut self) -> Duration {
        let (asked, all) = shmem::lock().take_asked();
        let databases: Vec<Database> = transaction::run(catalog::databases)
            .into_iter()
            .filter(|database| database.is_connectable && !database.is_template)
            .collect();
        let all = databases.iter().map(|database| database.oid).filter(|_| all);
        for database in asked.into_iter().chain(all) {
            self.asked.insert(database);
            self.without.remove(&database);
            self.not_before.remove(&database);
        }
        let mut next = guc::manager_naptime();
        if self.collect_ended(&databases) {
            next = next.min(START_LIMIT);
        }
        for database in &databases {
            if self.without.contains(&database.oid) {
                continue;
            }
            if let Some(wait) =
                self.not_before.get(&database.oid).map(|at| at.saturating_duration_since(Instant::now()))
                && !wait.is_zero()
            {
                next = next.min(wait);
                continue;
            }
            if let Some(wait) = self.start(database) {
                next = next.min(wait);
            }
        }
        next
    }

    /// Records which managers have ended, and frees the entries of databases that are gone or have no extension.
    /// Returns whether a manager is starting.
    fn collect_ended(&mut self, databases: &[Database]) -> bool {
        let mut warn = Vec::new();
        let mut is_coming_up = false;
        let mut shared = shmem::lock();
        for index in 0..shared.databases().len() {
            let entry = shared.databases()[index];
            let exists = databases.iter().find(|database| database.oid == entry.database);
            let phase = match entry.phase {
                ManagerPhase::Starting if self.never_came_up(index, entry.started_at) => ManagerPhase::Ended,
                phase => phase,
            };
            match phase {
                ManagerPhase::Free | ManagerPhase::Looking => continue,
                ManagerPhase::Starting => {
                    is_coming_up = true;
                    continue;
                }
                ManagerPhase::Running => {
                    self.without_room.remove(&entry.database);
                    continue;
                }
                ManagerPhase::Ended | ManagerPhase::StoodAside | ManagerPhase::NoExtension | ManagerPhase::NoRoom
                    if self.is_leaving(index) =>
                {
                    continue;
                }
                ManagerPhase::Ended
                | ManagerPhase::StoodAside
                | ManagerPhase::NoExtension
                | ManagerPhase::NoRoom
                | ManagerPhase::Waiting => (),
            }
            if self.note_end(phase, &entry) {
                warn.extend(exists.map(|database| database.name.clone()));
            }
            self.handles.remove(&index);
            self.give_up_entry(&mut shared, index, phase, exists.is_some());
        }
        drop(shared);
        for name in warn {
            NoRoom::Database { database: name, max_databases: guc::max_databases() }.warn();
        }
        self.forget_all_but(databases);
        is_coming_up
    }

    /// Notes how the manager of an entry has ended. Returns whether the database must be warned of, because it has the
    /// extension and there is no entry for it.
    fn note_end(&mut self, phase: ManagerPhase, entry: &DatabaseEntry) -> bool {
        match phase {
            ManagerPhase::NoExtension => {
                // The extension may have been created since the look began.
                if !self.asked.contains(&entry.database) {
                    self.without.insert(entry.database);
                }
                self.failures.remove(&entry.database);
            }
            ManagerPhase::NoRoom => {
                self.not_before.insert(entry.database, Instant::now() + NO_ROOM_RETRY);
                return self.without_room.insert(entry.database);
            }
            ManagerPhase::Ended => {
                let run = Monotonic::now().since(entry.started_at);
                let failures = self.failures.entry(entry.database).or_default();
                *failures = backoff::failures_after(run, *failures);
                self.not_before.insert(entry.database, Instant::now() + backoff::delay(*failures));
            }
            ManagerPhase::Free
            | ManagerPhase::Starting
            | ManagerPhase::Looking
            | ManagerPhase::Running
            | ManagerPhase::StoodAside
            | ManagerPhase::Waiting => (),
        }
        false
    }

    /// Keeps the entry of a manager that has ended for the next one, if there will be one, and frees it otherwise.
    fn give_up_entry(&mut self, shared: &mut Shared, index: usize, phase: ManagerPhase, exists: bool) {
        let comes_back =
            matches!(phase, ManagerPhase::Ended | ManagerPhase::StoodAside | ManagerPhase::Waiting) && exists;
        if comes_back && index != shmem::spare_entry() {
            shared.databases()[index].phase = ManagerPhase::Waiting;
            return;
        }
        shared.free_entry(index);
        if index != shmem::spare_entry() {
            // This entry is what the databases without one wait for.
            for database in &self.without_room {
                self.not_before.remove(database);
            }
        }
    }

    /// Forgets what was noted of databases that do not exist any more.
    fn forget_all_but(&mut self, databases: &[Database]) {
        let known: HashSet<Oid> = databases.iter().map(|database| database.oid).collect();
        self.asked.retain(|database| known.contains(database));
        self.failures.retain(|database, _| known.contains(database));
        self.not_before.retain(|database, _| known.contains(database));
        self.without.retain(|database| known.contains(database));
        self.without_room.retain(|database| known.contains(database));
    }

    /// Whether a manager that has written its last phase still occupies its process or its worker slot. The launcher is
    /// woken when that ends.
    fn is_leaving(&self, index: usize) -> bool {
        self.handles.get(&index).is_some_and(|handle| handle.pid().is_ok())
    }

    fn never_came_up(&self, index: usize, registered_at: Monotonic) -> bool {
        match self.handles.get(&index).map(DynamicBackgroundWorker::pid) {
            Some(Err(BackgroundWorkerStatus::Stopped)) => true,
            Some(_) => false,
            None => Monotonic::now().since(registered_at) > START_LIMIT,
        }
    }

    /// Starts the manager of a database that has none. If there is no free worker slot, returns how long to wait before
    /// the next attempt.
    fn start(&mut self, database: &Database) -> Option<Duration> {
        let (index, comes_back) = {
            let mut shared = shmem::lock();
            if shared.must_stand_aside(database.oid) {
                return None;
            }
            let (index, comes_back) = match shared.index_of(database.oid) {
                Some(index) if shared.databases()[index].phase == ManagerPhase::Waiting => (index, true),
                Some(_) => return None,
                // Without a free entry, or with enough looks in progress, the end of one of them wakes the launcher.
                None if shared.looks() >= MAX_LOOKS => return None,
                None => (shared.take_entry(database.oid)?, false),
            };
            let entry = &mut shared.databases()[index];
            entry.phase = ManagerPhase::Starting;
            entry.started_at = Monotonic::now();
            (index, comes_back)
        };
        // The look that begins now covers what was asked before.
        self.asked.remove(&database.oid);
        match start::start_manager(index, database.oid, &database.name) {
            Ok(handle) => {
                self.handles.insert(index, handle);
                self.lacks_worker_slots = false;
                None
            }
            Err(_) => {
                let mut shared = shmem::lock();
                if comes_back {
                    shared.databases()[index].phase = ManagerPhase::Waiting;
                } else {
                    shared.free_entry(index);
                }
                drop(shared);
                if !std::mem::replace(&mut self.lacks_worker_slots, true) {
                    NoRoom::Manager { database: database.name.clone() }.warn();
                }
                Some(NO_ROOM_RETRY)
            }
        }
    }
}
