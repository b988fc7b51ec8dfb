//! How the workers are registered with the postmaster.

use crate::pg::process;
use pgrx::IntoDatum;
use pgrx::bgworkers::{
    BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError,
};
use pgrx::pg_sys::Oid;
use std::time::Duration;

/// The postmaster starts the launcher again this long after it has ended.
const LAUNCHER_RESTART: Duration = Duration::from_secs(1);

/// `bgw_name` has 96 bytes (BGW_MAXLEN) including its terminator.
const MAX_NAME: usize = 95;

/// Registers the launcher. Must be called in the postmaster.
pub fn register_launcher() {
    builder("launcher", "spock_recovery launcher")
        .set_function("spock_recovery_launcher_main")
        .set_restart_time(Some(LAUNCHER_RESTART))
        .load();
}

/// Asks the postmaster to start the manager of a database, for the shared memory entry at `index`.
///
/// # Errors
/// If no worker slot is free (max_worker_processes). The same holds for the functions below.
pub fn start_manager(
    index: usize,
    database: Oid,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("manager", &format!("spock_recovery manager {name}"))
        .set_function("spock_recovery_manager_main")
        .set_argument((index as i64).into_datum())
        .set_extra(&database.to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a poller, for peer `peer` of the database at `index`.
pub fn start_poller(
    index: usize,
    peer: usize,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("poller", &format!("spock_recovery poller {name}"))
        .set_function("spock_recovery_poller_main")
        .set_argument((((index as i64) << 32) | peer as i64).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a slot worker, for the job in the entry at `index`.
pub fn start_slot_worker(
    index: usize,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("slot worker", &format!("spock_recovery slot worker {name}"))
        .set_function("spock_recovery_slot_worker_main")
        .set_argument((index as i64).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a rescue worker, for the recovery of the database at `index`.
pub fn start_rescue_worker(
    index: usize,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("rescue", &format!("spock_recovery rescue {name}"))
        .set_function("spock_recovery_rescue_main")
        .set_argument((index as i64).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a worker for the restore point that the entry of `database` at `index` asks for.
pub fn start_restore_point_worker(
    index: usize,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("restore point", &format!("spock_recovery restore point {name}"))
        .set_function("spock_recovery_restore_point_main")
        .set_argument((index as i64).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a worker for the pin in `place` of the entry at `index`.
pub fn start_pin_worker(
    index: usize,
    place: usize,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("pin", &format!("spock_recovery pin {name}"))
        .set_function("spock_recovery_pin_main")
        .set_argument((((index as i64) << 32) | place as i64).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a worker for the comparison that the entry of the database at `index` asks for.
pub fn start_comparison_worker(
    index: usize,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("comparison", &format!("spock_recovery comparison {name}"))
        .set_function("spock_recovery_comparison_main")
        .set_argument((index as i64).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

/// Asks the postmaster to start a worker for the copy that the segment of dynamic shared memory describes.
pub fn start_copy_worker(
    segment: u32,
    name: &str,
) -> Result<DynamicBackgroundWorker, DynamicBackgroundWorkerLoadError> {
    builder("copy", &format!("spock_recovery copy {name}"))
        .set_function("spock_recovery_copy_main")
        .set_argument(i64::from(segment).into_datum())
        .set_extra(&process::my_database().to_u32().to_string())
        .set_notify_pid(process::my_pid())
        .load_dynamic()
}

fn builder(role: &str, name: &str) -> BackgroundWorkerBuilder {
    BackgroundWorkerBuilder::new(&name[..name.floor_char_boundary(MAX_NAME)])
        .set_type(&format!("spock_recovery {role}"))
        .set_library("spock_recovery")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
}
