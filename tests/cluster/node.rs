//! One node: a server and the verbs of tests on it. Whatever fails panics, with the node's name.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::Signal;
use spock_recovery_cluster::client::{self, Rows};
use spock_recovery_cluster::process::{self, Process};
use spock_recovery_cluster::{Server, Shutdown, deadline};

use super::session::{Database, Idle, Session, SqlError};
use super::{LIMIT, done, log_check, wait_for};

/// Settings that hold a list of quoted names: given as one string, they would become one name.
const LISTS: [&str; 5] = [
    "output_plugin_libraries",
    "shared_preload_libraries",
    "session_preload_libraries",
    "local_preload_libraries",
    "search_path",
];

pub struct Node {
    server: Arc<Server>,
    idle: Mutex<Option<Idle>>,
    expected: Mutex<Vec<String>>,
    /// Of the whole cluster: peers of a killed node log it too.
    disturbed: Arc<AtomicBool>,
}

/// SQL in the database `postgres` as the superuser; `db` names another.
impl Node {
    pub fn db<'a>(&'a self, name: &'a str) -> Database<'a> {
        Database { node: self, name, role: "postgres" }
    }

    pub fn session(&self) -> Session<'_> {
        self.db("postgres").session()
    }

    pub fn sql(&self, statements: &str) {
        self.db("postgres").sql(statements);
    }

    pub fn try_sql(&self, statements: &str) -> Result<Rows, SqlError> {
        self.db("postgres").try_sql(statements)
    }

    pub fn rows(&self, statement: &str) -> Rows {
        self.db("postgres").rows(statement)
    }

    pub fn value(&self, statement: &str) -> String {
        self.db("postgres").value(statement)
    }

    pub fn wait_until(&self, statement: &str, expected: &str) {
        self.db("postgres").wait_until(statement, expected);
    }

    /// The process id of the rescue worker. A background worker may run before pg_stat_activity says of what kind it is:
    /// the postmaster notes its process id when it gets to it.
    pub fn rescue_worker(&self) -> i32 {
        let workers = "FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'";
        self.wait_until(&format!("SELECT count(*) {workers}"), "1");
        self.value(&format!("SELECT pid {workers}")).parse().expect("a process id")
    }

    /// What a peer connects with.
    pub fn dsn(&self, database: &str) -> String {
        self.server.dsn(database)
    }

    /// ALTER SYSTEM, reload, and wait until new sessions have it. What needs a restart is the caller's to restart for.
    pub fn set(&self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            let value = match LISTS.contains(name) {
                true => value.split(',').map(|name| client::literal(name.trim())).collect::<Vec<_>>().join(", "),
                false => client::literal(value),
            };
            self.sql(&format!("ALTER SYSTEM SET {name} = {value}"));
        }
        let loaded = self.session().value("SELECT pg_conf_load_time()");
        self.sql("SELECT pg_reload_conf()");
        // A session takes this time over from the postmaster, with the settings: each look needs a new one.
        wait_for("the configuration to be reloaded", || self.session().value("SELECT pg_conf_load_time()") != loaded);
        // One that was there may not have read it yet.
        self.end_idle();
    }
}

/// The session that verbs share.
impl Node {
    pub(super) fn take_idle(&self) -> Option<Idle> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        idle.and_then(Idle::reset)
    }

    pub(super) fn leave_idle(&self, session: Idle) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }

    /// Before anything happens to the server that a session would have to wait for, or would not outlive.
    pub(super) fn end_idle(&self) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The server and its processes.
impl Node {
    pub(super) fn new(server: Arc<Server>, disturbed: Arc<AtomicBool>) -> Node {
        Node { server, idle: Mutex::default(), expected: Mutex::default(), disturbed }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub fn name(&self) -> &str {
        self.server.name()
    }

    pub fn data(&self) -> &Path {
        self.server.data()
    }

    pub fn start(&self) {
        done(self.server.start());
    }

    pub fn stop_fast(&self) {
        self.disturb();
        done(self.server.stop(Shutdown::Fast));
    }

    pub fn stop_immediate(&self) {
        self.disturb();
        done(self.server.stop(Shutdown::Immediate));
    }

    pub fn restart(&self) {
        self.stop_fast();
        self.start();
    }

    /// The postmaster and all its processes, at once.
    pub fn kill9(&self) {
        self.disturb();
        done(self.server.kill());
    }

    /// The postmaster alone: its processes are to notice by themselves. The node cannot be started again.
    pub fn kill9_postmaster(&self) {
        self.disturb();
        let pid = self.postmaster_pid().expect("the node runs");
        process::send(pid, Signal::SIGKILL)
            .unwrap_or_else(|error| panic!("{}: SIGKILL to {pid}: {error}", self.name()));
    }

    /// One process of this node. The postmaster then resets the whole server; it may still be about to when this returns.
    pub fn kill9_process(&self, pid: i32) {
        self.signal(pid, Signal::SIGKILL);
    }

    pub fn sigterm(&self, pid: i32) {
        self.signal(pid, Signal::SIGTERM);
    }

    /// Stops one process of this node where it is; `kill9` ends it all the same.
    pub fn pause_process(&self, pid: i32) {
        self.signal(pid, Signal::SIGSTOP);
    }

    /// Makes a standby a server of its own; returns when it takes writes.
    pub fn promote(&self) {
        self.disturb();
        assert_eq!(self.value("SELECT pg_promote()"), "t", "{}: not promoted", self.name());
    }

    fn signal(&self, pid: i32, signal: Signal) {
        self.disturb();
        let own = self.processes().iter().any(|process| process.pid == pid);
        assert!(own, "{}: {pid} is no process of this node", self.name());
        process::send(pid, signal).unwrap_or_else(|error| panic!("{}: {signal} to {pid}: {error}", self.name()));
    }

    /// Stops every process where it is: connections stay open, and nobody answers. SQL on the node hangs until `resume`.
    pub fn pause(&self) {
        self.disturb();
        done(self.server.pause());
    }

    pub fn resume(&self) {
        done(self.server.resume());
    }

    /// None while the node is stopped.
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.server.pid()
    }

    /// All but the postmaster, with what ps shows.
    pub fn processes(&self) -> Vec<Process> {
        self.server.processes()
    }

    /// Waits for exactly one process whose title holds `title`.
    pub fn wait_process(&self, title: &str) -> Process {
        let mut seen = Vec::new();
        let found = deadline::poll(LIMIT, || {
            seen = self.processes();
            let mut found = seen.iter().filter(|process| process.title.contains(title));
            found.next().filter(|_| found.next().is_none()).cloned()
        });
        found.unwrap_or_else(|| panic!("{}: not one process \"{title}\" among {seen:#?}", self.name()))
    }

    pub(super) fn disturb(&self) {
        self.end_idle();
        self.disturbed.store(true, Ordering::SeqCst);
    }
}

/// The log.
impl Node {
    pub fn log(&self) -> String {
        self.server.log()
    }

    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    pub fn wait_log(&self, text: &str) {
        wait_for(&format!("\"{text}\" in the log of {}", self.name()), || self.log_contains(text));
    }

    /// Says that this node's log may hold errors with this text.
    pub fn expect_log(&self, text: &str) {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// An error that the test got itself is in the log as well.
    pub(super) fn received(&self, error: SqlError) -> SqlError {
        let first_line = error.message.lines().next().unwrap_or_default();
        self.expect_log(&format!("{}:  {first_line}", error.severity));
        error
    }

    pub(super) fn unexpected_log_lines(&self, disturbed: bool) -> Vec<String> {
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        log_check::unexpected(&self.log(), &expected, disturbed)
            .into_iter()
            .map(|line| format!("{}: {line}", self.name()))
            .collect()
    }
}
