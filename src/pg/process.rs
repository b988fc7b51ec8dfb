//! This process: its identity, its title, its database (miscadmin.h, utils/ps_status.h, pgstat.h).

use crate::lsn::LocalLsn;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::Duration;

thread_local! {
    static IS_OURS: Cell<bool> = const { Cell::new(false) };
}

/// Whether this process is a worker of this library, which writes catalogs alone or applies for another node.
pub fn is_ours() -> bool {
    IS_OURS.get()
}

pub fn my_pid() -> i32 {
    // SAFETY: set before any of our code runs.
    unsafe { pg_sys::MyProcPid }
}

/// The database of this session; invalid in the launcher.
pub fn my_database() -> pg_sys::Oid {
    // SAFETY: set at connection.
    unsafe { pg_sys::MyDatabaseId }
}

/// The system identifier in pg_control, which a server shares with its physical copies and with no other server.
pub fn system_identifier() -> u64 {
    // SAFETY: pg_control is read at start-up.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Connects a worker to a database as the bootstrap superuser, with a search_path into which no user can create objects
/// and a limit for lock waits: a worker that waits for a user's open transaction would do nothing else.
pub fn connect_worker(database: pg_sys::Oid) {
    IS_OURS.set(true);
    outlive_limits();
    // SAFETY: called once at a worker's start, after its signals were unblocked.
    unsafe { pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0) };
    super::untrusted_user::leave_session();
    leave_users_defaults();
    keep_books();
}

/// While a value of this type exists, the process logs nothing. Core logs each start of decoding at LOG, which only a
/// threshold above ERROR suppresses (utils/error/elog.c, is_log_level_output), and a slot is moved every few seconds.
pub struct Silence(Option<CString>);

impl Silence {
    pub fn begin() -> Silence {
        let before = super::setting::value(c"log_min_messages").and_then(|before| CString::new(before).ok());
        set_option(c"log_min_messages", c"fatal");
        Silence(before)
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            set_option(c"log_min_messages", before);
        }
    }
}

/// Removes the limit for lock waits, for a process whose work consists of waiting.
pub fn wait_for_locks_without_limit() {
    set_option(c"lock_timeout", c"0");
}

/// Sets the limit for lock waits, for a process that blocks others while it waits: an ERROR (55P03) after `limit`; zero
/// for no limit.
pub fn wait_for_locks(limit: Duration) {
    let milliseconds = CString::new(limit.as_millis().min(i32::MAX as u128).to_string()).unwrap_or_default();
    set_option(c"lock_timeout", &milliseconds);
}

/// Settings as in core's apply worker: triggers fire as in a replica, names are looked up in no schema, and a commit
/// does not wait. If a crash undoes a commit, it undoes the origin's progress as well, and the transaction is replayed.
pub fn apply_like_a_replica() {
    set_option(c"session_replication_role", c"replica");
    set_option(c"search_path", c"");
    set_option(c"lock_timeout", c"0");
    set_option(c"synchronous_commit", c"off");
}

/// The settings that decide how values are written as text, as this library compares them.
pub(super) const STYLE_OF_TEXT: &[(&CStr, &CStr)] = &[
    (c"datestyle", c"ISO"),
    (c"intervalstyle", c"postgres"),
    (c"extra_float_digits", c"3"),
    (c"timezone", c"UTC"),
    (c"bytea_output", c"hex"),
];

/// Makes values be written as text in one style, whatever the server's defaults are.
pub fn compare_as_text() {
    set_options(STYLE_OF_TEXT);
}

/// Settings for this library's own records. First all settings are reset that users' code, such as a trigger, has SET,
/// because these would override ours.
pub fn keep_books() {
    // SAFETY: outside a transaction, resets the settings of this session to the defaults of this file.
    unsafe { pg_sys::ResetAllOptions() };
    set_option(c"session_replication_role", c"origin");
    set_option(c"search_path", c"pg_catalog, pg_temp");
    set_option(c"lock_timeout", c"1s");
    // Records must be on the local disk; standbys are not waited for.
    set_option(c"synchronous_commit", c"local");
}

/// Disables the limits that end transactions, statements and sessions, because they are meant for users' sessions; a
/// worker has limits of its own. They are disabled before the worker connects, since connecting is a transaction, too,
/// and with a source that overrides what the server, a database or a role sets, now or by a reload. With exit_on_error,
/// each ERROR that is caught would end the process. temp_file_limit could deny the room for what a recovery must
/// remember.
fn outlive_limits() {
    set_options(&[
        (c"exit_on_error", c"off"),
        (c"statement_timeout", c"0"),
        (c"transaction_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"idle_session_timeout", c"0"),
        (c"client_connection_check_interval", c"0"),
        (c"lock_timeout", c"0"),
        (c"temp_file_limit", c"-1"),
    ]);
}

fn set_options(settings: &[(&CStr, &CStr)]) {
    settings.iter().for_each(|(name, value)| set_option(name, value));
}

fn set_option(name: &CStr, value: &CStr) {
    // SAFETY: both are NUL-terminated; the setting exists.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        )
    };
}

/// Overrides the defaults of a role or database (ALTER ROLE, ALTER DATABASE … SET). They are meant for users' sessions,
/// but this process would inherit them, and become another role, fail, or see another state. Called after connecting.
fn leave_users_defaults() {
    set_options(&[
        (c"role", c"none"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"row_security", c"on"),
    ]);
}

/// Connects a worker to the shared catalogs alone.
pub fn connect_worker_to_shared_catalogs() {
    outlive_limits();
    // SAFETY: called once at a worker's start; null means no database and the bootstrap superuser.
    unsafe { pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0) };
}

/// Shows in pg_stat_activity and in the process title what the worker is doing.
pub fn report_activity(activity: &str) {
    let Ok(text) = CString::new(activity) else { return };
    // SAFETY: both copy the string.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr());
        pg_sys::set_ps_display_with_len(text.as_ptr(), activity.len());
    }
}

/// Shows that the worker is waiting for work.
pub fn report_idle() {
    // SAFETY: a null string clears the activity.
    unsafe {
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        pg_sys::set_ps_display_with_len(c"idle".as_ptr(), 4);
        pg_sys::pgstat_report_stat(true);
    }
}

/// Raises an ERROR in a read-only transaction and on a standby, as core's commands do.
pub fn require_writable(function: &str) {
    let name = CString::new(format!("{function}()")).unwrap_or_default();
    // SAFETY: a NUL-terminated name that outlives the calls.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(name.as_ptr());
        pg_sys::PreventCommandIfReadOnly(name.as_ptr());
    }
}

pub fn is_superuser() -> bool {
    // SAFETY: reads the current role.
    unsafe { pg_sys::superuser() }
}

pub fn in_binary_upgrade() -> bool {
    // SAFETY: set from the command line.
    unsafe { pg_sys::IsBinaryUpgrade }
}

pub fn is_preloading() -> bool {
    // SAFETY: a flag of the postmaster.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Up to which position of WAL the process with this number (MyProcNumber) waits for a synchronous standby; None: it
/// does not. Its commit record is on disk then (syncrep.c, SyncRepWaitForLSN).
pub fn waits_for_standby(number: usize) -> Option<LocalLsn> {
    const SYNC_REP_WAITING: i32 = 1;
    // SAFETY: every process that can commit has an entry, which is never freed; the two fields are read without a lock,
    // and only a process that waits has a position.
    unsafe {
        let process = (*pg_sys::ProcGlobal).allProcs.add(number);
        let state = (&raw const (*process).syncRepState).read_volatile();
        let position = (&raw const (*process).waitLSN).read_volatile();
        (state == SYNC_REP_WAITING && position != 0).then_some(LocalLsn(position))
    }
}

/// Whether this pid belongs to a process of this server.
pub fn is_backend(pid: i32) -> bool {
    // SAFETY: searches the process array.
    pid > 0 && unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}

/// Whether the process with this pid belongs to this server and is waiting for a lock at this moment.
pub fn waits_for_lock(pid: i32) -> bool {
    // SAFETY: PGPROC entries are never freed; one word is read, as in pg_stat_activity.
    unsafe {
        let process = if pid > 0 { pg_sys::BackendPidGetProc(pid) } else { std::ptr::null_mut() };
        !process.is_null()
            && (&raw const (*process).wait_event_info).read_volatile() & WAIT_CLASS == pg_sys::PG_WAIT_LOCK
    }
}

/// The bits of a wait event that are its class (utils/wait_event.h).
const WAIT_CLASS: u32 = 0xff00_0000;

/// Whether the present transaction has an id: it has written something, or is about to.
pub fn has_written() -> bool {
    // SAFETY: reads this session's state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}
