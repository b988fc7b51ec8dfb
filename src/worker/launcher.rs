//! The launcher: sees to it that every connectable database with the extension has its manager.
//!
//! Whether a database has the extension only a process that is connected to it can see. So each one gets a manager
//! once, which leaves again where there is no extension; that is remembered until CREATE EXTENSION says otherwise.
//! Template databases are left alone: they are copied, not used (core counterpart: autovacuum.c's launcher).

use super::{backoff, entry};
use crate::guc;
use crate::pg::catalog::{self, Database};
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::{interrupts, process, transaction};
use crate::shmem::{self, Phase};
use pgrx::bgworkers::{BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::pg_sys::Oid;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// A manager that was registered and has not come up after this long never will: its registration is lost.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Time until the next try when the server has no room for another worker, or shared memory none for a database.
const NO_ROOM_RETRY: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Launcher {
    /// Databases that were looked at and have no extension.
    without: HashSet<Oid>,
    /// Databases that have it, but for which there is no room in shared memory, and it was said.
    without_room: HashSet<Oid>,
    /// Managers by entry, as registered by this launcher; one that a predecessor started is known by its entry alone.
    handles: HashMap<usize, DynamicBackgroundWorker>,
    failures: HashMap<Oid, u32>,
    not_before: HashMap<Oid, Instant>,
    lacks_worker_slots: bool,
}

pub fn run() -> ! {
    process::connect_worker_to_shared_catalogs();
    shmem::lock().set_launcher(process::my_pid());
    interrupts::at_exit(on_exit);
    pgrx::log!("spock_recovery launcher started");
    let mut launcher = Launcher::default();
    loop {
        if interrupts::shutdown_requested() {
            // Code 1: the postmaster starts a launcher again that was not ended by a shutdown.
            interrupts::exit(1);
        }
        interrupts::check();
        interrupts::reload_config_if_asked();
        process::report_activity("looking for databases");
        let wait = launcher.round();
        process::report_idle();
        latch::wait(Some(wait), WaitEvent::LauncherMain);
    }
}

fn on_exit() {
    let mut shared = shmem::lock();
    if shared.launcher() == process::my_pid() {
        shared.set_launcher(0);
    }
}

impl Launcher {
    /// Looks at everything once; returns how long to sleep.
    fn round(&mut self) -> Duration {
        let (asked, all) = shmem::lock().take_asked();
        if all {
            self.without.clear();
        }
        for database in asked {
            self.without.remove(&database);
            self.not_before.remove(&database);
        }
        let databases: Vec<Database> = transaction::run(catalog::databases)
            .into_iter()
            .filter(|database| database.is_connectable && !database.is_template)
            .collect();
        self.collect_ended(&databases);
        let mut next = guc::manager_naptime();
        for database in &databases {
            if self.without.contains(&database.oid) {
                continue;
            }
            if let Some(wait) = self
                .not_before
                .get(&database.oid)
                .map(|at| at.saturating_duration_since(Instant::now()))
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

    /// Frees the entries of managers that have ended, and of databases that are gone.
    fn collect_ended(&mut self, databases: &[Database]) {
        let mut warn = Vec::new();
        let mut shared = shmem::lock();
        for index in 0..shared.databases().len() {
            let entry = shared.databases()[index];
            let exists = databases.iter().find(|database| database.oid == entry.database);
            let phase = match entry.phase {
                Phase::Starting if self.never_came_up(index, entry.started_at) => Phase::Ended,
                phase => phase,
            };
            match phase {
                Phase::Free | Phase::Starting | Phase::Running => continue,
                Phase::NoExtension => {
                    self.without.insert(entry.database);
                    self.failures.remove(&entry.database);
                }
                Phase::NoRoom => {
                    self.not_before.insert(entry.database, Instant::now() + NO_ROOM_RETRY);
                    if self.without_room.insert(entry.database) {
                        warn.extend(exists.map(|database| database.name.clone()));
                    }
                }
                Phase::Ended => {
                    let run = Timestamp::now().since(entry.started_at);
                    let failures = self.failures.entry(entry.database).or_default();
                    *failures = backoff::failures_after(run, *failures);
                    self.not_before
                        .insert(entry.database, Instant::now() + backoff::delay(*failures));
                }
            }
            shared.free_entry(index);
            self.handles.remove(&index);
        }
        drop(shared);
        for name in warn {
            pgrx::warning!(
                "database \"{name}\" has the extension spock_recovery, but there is no room for it: spock.max_databases = {}",
                guc::max_databases()
            );
        }
        let known: HashSet<Oid> = databases.iter().map(|database| database.oid).collect();
        self.failures.retain(|database, _| known.contains(database));
        self.not_before.retain(|database, _| known.contains(database));
        self.without.retain(|database| known.contains(database));
        self.without_room.retain(|database| known.contains(database));
    }

    fn never_came_up(&self, index: usize, registered_at: Timestamp) -> bool {
        match self.handles.get(&index).map(DynamicBackgroundWorker::pid) {
            Some(Err(BackgroundWorkerStatus::Stopped)) => true,
            Some(_) => false,
            None => Timestamp::now().since(registered_at) > START_LIMIT,
        }
    }

    /// Starts the manager of a database that has none. Some: how soon to try again.
    fn start(&mut self, database: &Database) -> Option<Duration> {
        let index = {
            let mut shared = shmem::lock();
            if shared.index_of(database.oid).is_some() || shared.must_stand_aside(database.oid) {
                return None;
            }
            // Without a free entry: the present look at another database will free one, and wake us.
            let index = shared.take_entry(database.oid)?;
            shared.databases()[index].started_at = Timestamp::now();
            index
        };
        match entry::start_manager(index, database.oid, &database.name) {
            Ok(handle) => {
                self.handles.insert(index, handle);
                self.lacks_worker_slots = false;
                None
            }
            Err(_) => {
                shmem::lock().free_entry(index);
                if !self.lacks_worker_slots {
                    self.lacks_worker_slots = true;
                    pgrx::warning!(
                        "no background worker left for the spock_recovery manager of database \"{}\": raise \
                         max_worker_processes",
                        database.name
                    );
                }
                Some(NO_ROOM_RETRY)
            }
        }
    }
}
