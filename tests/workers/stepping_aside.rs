//! Nobody need know that a manager is connected when a database is dropped, renamed, moved or copied.

use std::time::{Duration, Instant};

use super::*;

/// The same as [`two_nodes_in_one_server`], but n2 does not poll n1: its poller would be a session in the way.
fn two_nodes_one_polled(server: &Node) {
    two_nodes_in_one_server(server);
    server.expect_log("terminating background worker \"spock_recovery");
    server.db("b").sql("SELECT spock.node_drop('n1')");
    server.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'a' AND application_name = 'spock_recovery poller'",
        "0",
    );
}

/// Database `a` is a node with two pollers, one of which hangs in its attempt to connect.
fn node_with_a_hanging_poller(server: &Node, silent: &SilentPeer) {
    two_nodes_one_polled(server);
    server.db("a").sql(&format!("SELECT spock.peer_create('silent', '{}')", silent.dsn()));
    wait_state(server, "a", "silent", "connecting");
}

fn wait_all_of(server: &Node, database: &str) {
    wait_worker(server, "manager", database);
    // What the pollers have found out outlives them: they themselves must be there as well.
    server.db(database).wait_until(
        "SELECT string_agg(p.node_name || ' ' || p.state, ', ' ORDER BY p.node_name),
                (SELECT count(*) FROM pg_stat_activity a
                  WHERE a.backend_type = 'spock_recovery poller' AND a.datname = current_database())
           FROM spock.peer_status() p",
        "n2 connected, silent connecting|2",
    );
}

#[test]
fn a_database_is_renamed_moved_copied_and_dropped_beside_its_workers() {
    let cluster = without_naps("workers_aside")
        .setting("spock.peer_timeout", "1h")
        .setting("allow_in_place_tablespaces", "on")
        .start();
    let [server] = cluster.all();
    let silent = SilentPeer::new();
    node_with_a_hanging_poller(server, &silent);
    server.sql("ALTER DATABASE a RENAME TO c");
    wait_all_of(server, "c");
    server.wait_process("spock_recovery manager c ");
    server.sql("CREATE TABLESPACE elsewhere LOCATION ''");
    server.sql("ALTER DATABASE c SET TABLESPACE elsewhere");
    wait_all_of(server, "c");
    server.sql("CREATE DATABASE d TEMPLATE c");
    wait_all_of(server, "c");
    wait_managers(server, "b c d");
    server.sql("DROP DATABASE c");
    server.sql("DROP DATABASE d");
    wait_managers(server, "b");
    assert_eq!(super::names(&workers(server)), ["launcher", "manager b"]);
    // The place in shared memory is free, and the name too.
    server.sql("CREATE DATABASE c");
    server.db("c").sql("CREATE EXTENSION spock_recovery");
    wait_managers(server, "b c");
}

#[test]
fn stepping_aside_is_no_failure_however_often() {
    let cluster = without_naps("workers_aside_often").start();
    let [server] = cluster.all();
    two_nodes_one_polled(server);
    let begun = Instant::now();
    for _ in 0..4 {
        for (from, to) in [("a", "c"), ("c", "a")] {
            server.sql(&format!("ALTER DATABASE {from} RENAME TO {to}"));
            wait_worker(server, "manager", to);
            wait_worker(server, "poller", to);
        }
    }
    // As failures, eight ends in a row would have cost 127 seconds: 1, 2, 4, …, 60.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn workers_stay_away_until_the_transaction_ends() {
    let cluster = without_naps("workers_aside_transaction").start();
    let [server] = cluster.all();
    two_nodes_one_polled(server);
    for end in ["ROLLBACK", "COMMIT"] {
        let mut session = server.session();
        session.sql("BEGIN");
        session.sql("ALTER DATABASE a RENAME TO c");
        // The launcher is awake meanwhile.
        server.sql("CREATE DATABASE other");
        // A worker that was to look at it may come up when it is gone.
        server.expect_log("spock_recovery manager  FATAL:  database");
        server.sql("DROP DATABASE other");
        let ours = |name: &String| name != "manager";
        let names: Vec<String> = super::names(&workers(server)).into_iter().filter(ours).collect();
        assert_eq!(names, ["launcher", "manager b"]);
        session.sql(end);
        let name = if end == "COMMIT" { "c" } else { "a" };
        server.wait_process(&format!("spock_recovery manager {name} "));
        wait_worker(server, "poller", name);
    }
}

#[test]
fn a_role_that_may_not_do_it_gets_cores_error_and_moves_no_worker() {
    let cluster = without_naps("workers_aside_refused").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    server.sql("CREATE ROLE creator LOGIN CREATEDB; CREATE ROLE owner LOGIN; ALTER DATABASE b OWNER TO owner");
    let before = workers(server);
    for (role, statement) in [
        ("creator", "DROP DATABASE a"),
        ("creator", "ALTER DATABASE a RENAME TO c"),
        ("creator", "ALTER DATABASE a SET TABLESPACE pg_default"),
        ("creator", "CREATE DATABASE c TEMPLATE a"),
        ("owner", "ALTER DATABASE b RENAME TO c"),
        ("owner", "CREATE DATABASE c TEMPLATE b"),
    ] {
        let error = server.db("postgres").role(role).try_sql(statement).expect_err(statement);
        assert_eq!(error.sqlstate, "42501", "{statement}: {error}");
    }
    wait_answer(server, "a", "n2");
    wait_answer(server, "b", "n1");
    assert_eq!(workers(server), before);
}

#[test]
fn a_drop_that_fails_or_is_broken_off_brings_the_workers_back() {
    let cluster = without_naps("workers_aside_fails").start();
    let [server] = cluster.all();
    two_nodes_one_polled(server);
    server.expect_log("terminating connection due to administrator command");
    let mut connected = server.db("a").session();
    connected.sql("SELECT 1");
    // Core waits five seconds for the session to leave; the first of these is ended meanwhile.
    std::thread::scope(|scope| {
        let dropping = scope.spawn(|| server.try_sql("DROP DATABASE a").expect_err("a session is in the way"));
        server.wait_until(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'a' AND backend_type LIKE 'spock_recovery %'",
            "0",
        );
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'DROP DATABASE a'");
        let error = dropping.join().expect("it returned");
        assert!(error.is_disconnection(), "{error}");
    });
    wait_worker(server, "manager", "a");
    wait_worker(server, "poller", "a");
    let error = server.try_sql("DROP DATABASE a").expect_err("a session is in the way");
    assert_eq!(error.sqlstate, "55006", "{error}");
    assert_eq!(error.detail.as_deref(), Some("There is 1 other session using the database."));
    wait_worker(server, "manager", "a");
    wait_worker(server, "poller", "a");
}

#[test]
fn a_command_that_does_not_run_keeps_no_worker_away() {
    let cluster = without_naps("workers_aside_savepoint").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = workers(server);
    let mut session = server.session();
    session.sql("BEGIN");
    // Core runs none of these within a transaction block.
    for statement in ["DROP DATABASE a", "CREATE DATABASE c TEMPLATE a", "ALTER DATABASE a SET TABLESPACE pg_default"] {
        session.sql("SAVEPOINT s");
        let error = session.try_sql(statement).expect_err(statement);
        assert_eq!(error.sqlstate, "25001", "{statement}: {error}");
        session.sql("ROLLBACK TO s");
        assert_eq!(workers(server), before, "{statement}");
    }
    session.sql("ROLLBACK");
    let error = session.try_sql("DO $$ BEGIN EXECUTE 'DROP DATABASE a'; END $$").expect_err("within a function");
    assert_eq!(error.sqlstate, "25001", "{error}");
    assert_eq!(workers(server), before);
    // A rename runs there. Where it fails, the workers are back although the transaction stays open.
    server.expect_log("terminating background worker \"spock_recovery");
    session.sql("BEGIN");
    session.sql("SAVEPOINT s");
    let error = session.try_sql("ALTER DATABASE a RENAME TO b").expect_err("the name is taken");
    assert_eq!(error.sqlstate, "42P04", "{error}");
    session.sql("ROLLBACK TO s");
    wait_worker(server, "manager", "a");
    wait_answer(server, "a", "n2");
    session.sql("COMMIT");
    // What succeeded in a subtransaction that was released keeps them away as long as the transaction itself.
    session.sql("BEGIN");
    session.sql("SAVEPOINT s");
    server.db("b").sql("SELECT spock.node_drop('n1')");
    server.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'a' AND application_name = 'spock_recovery poller'",
        "0",
    );
    session.sql("ALTER DATABASE a RENAME TO c");
    session.sql("RELEASE s");
    assert_eq!(super::names(&workers(server)), ["launcher", "manager b"]);
    session.sql("ROLLBACK");
    wait_worker(server, "manager", "a");
}
