//! The background workers, on real servers: who runs, who comes back, who steps aside, and what the log says about it.
//!
//! Where nothing may wait for a nap, the nap is an hour. Two databases of one server do for two nodes.

mod databases;
mod diagnostics;
mod ending;
mod loading;
mod peers;
mod restart;
mod room;
mod skipping;
mod stepping_aside;

use std::net::TcpListener;

use crate::cluster::{Builder, Cluster, Node};

/// A worker as pg_stat_activity shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Worker {
    kind: String,
    database: String,
    pid: i32,
}

/// A cluster where only a wake-up can be the reason that something happens soon.
fn without_naps(name: &str) -> Builder {
    Cluster::new(name).setting("spock.manager_naptime", "1h").setting("spock.recovery_poll_interval", "100ms")
}

/// Database `a` is node n1, `b` is node n2, and each has the other as its peer; returns when both peers answer.
fn two_nodes_in_one_server(server: &Node) {
    for database in ["a", "b"] {
        server.sql(&format!("CREATE DATABASE {database}"));
    }
    for (database, name) in [("a", "n1"), ("b", "n2")] {
        server.db(database).sql(&format!(
            "CREATE EXTENSION spock_recovery; SELECT spock.node_create('{name}', '{}')",
            server.dsn(database)
        ));
    }
    for (database, peer, peer_database) in [("a", "n2", "b"), ("b", "n1", "a")] {
        server.db(database).sql(&format!("SELECT spock.peer_create('{peer}', '{}')", server.dsn(peer_database)));
    }
    for (database, peer) in [("a", "n2"), ("b", "n1")] {
        wait_state(server, database, peer, "connected");
    }
}

fn wait_state(server: &Node, database: &str, peer: &str, state: &str) {
    server.db(database).wait_until(&format!("SELECT state FROM spock.peer_status() WHERE node_name = '{peer}'"), state);
}

/// Waits until the peer has answered a question that was asked after this call began.
fn wait_answer(server: &Node, database: &str, peer: &str) {
    let now = server.value("SELECT now()");
    server
        .db(database)
        .wait_until(&format!("SELECT last_contact > '{now}' FROM spock.peer_status() WHERE node_name = '{peer}'"), "t");
}

/// Waits until the only worker of a kind in a database has come to its loop; `launcher` has no database.
fn wait_worker(server: &Node, kind: &str, database: &str) -> i32 {
    wait_another(server, kind, database, 0)
}

/// The same, once it is another process than `pid`.
fn wait_another(server: &Node, kind: &str, database: &str, pid: i32) -> i32 {
    let of = format!(
        "FROM pg_stat_activity WHERE backend_type = 'spock_recovery {kind}' AND coalesce(datname, '') = '{database}'"
    );
    server.wait_until(
        &format!("SELECT count(*), count(*) FILTER (WHERE pid <> {pid} AND wait_event LIKE 'SpockRecovery%Main') {of}"),
        "1|1",
    );
    server.value(&format!("SELECT pid {of}")).parse().expect("one pid")
}

/// Waits until the databases with a manager that is in its loop are these, by name.
fn wait_managers(server: &Node, databases: &str) {
    server.wait_until(
        "SELECT string_agg(datname || CASE WHEN wait_event LIKE 'SpockRecovery%Main' THEN '' ELSE '?' END, ' ' ORDER BY datname)
           FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager'",
        databases,
    );
}

fn workers(server: &Node) -> Vec<Worker> {
    let rows = server.rows(
        "SELECT substr(backend_type, length('spock_recovery ') + 1), coalesce(datname, ''), pid
           FROM pg_stat_activity WHERE backend_type LIKE 'spock_recovery %' ORDER BY 1, 2, 3",
    );
    rows.into_iter()
        .map(|row| match row.as_slice() {
            [Some(kind), Some(database), Some(pid)] => {
                Worker { kind: kind.clone(), database: database.clone(), pid: pid.parse().expect("a pid") }
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

fn names(workers: &[Worker]) -> Vec<String> {
    workers.iter().map(|worker| format!("{} {}", worker.kind, worker.database).trim().to_owned()).collect()
}

/// How often the log has a text.
fn log_count(server: &Node, text: &str) -> usize {
    server.log().matches(text).count()
}

/// Lines that our workers have logged at ERROR or above.
fn workers_errors(server: &Node) -> Vec<String> {
    server
        .log()
        .lines()
        .filter(|line| line.contains("] spock_recovery "))
        .filter(|line| ["ERROR:  ", "FATAL:  ", "PANIC:  "].iter().any(|level| line.contains(level)))
        .map(str::to_owned)
        .collect()
}

/// A peer whose kernel accepts connections, and that never says a word: nobody accepts from the backlog.
struct SilentPeer(TcpListener);

impl SilentPeer {
    fn new() -> SilentPeer {
        SilentPeer(TcpListener::bind("127.0.0.1:0").expect("a free port"))
    }

    fn dsn(&self) -> String {
        let port = self.0.local_addr().expect("it is bound").port();
        format!("host=127.0.0.1 port={port} dbname=postgres user=postgres")
    }
}
