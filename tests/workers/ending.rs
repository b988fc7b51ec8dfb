//! How everything ends: with the server, with the postmaster, with the extension.

use spock_recovery_cluster::process;

use super::databases::subscribe;
use super::*;
use crate::cluster::{Action, wait_for};
use crate::failpoint_names as names;

fn wait_gone(workers: &[Worker]) {
    wait_for("the end of all workers", || !workers.iter().any(|worker| process::is_alive(worker.pid)));
}

#[test]
fn no_worker_outlives_the_postmaster() {
    let cluster = without_naps("workers_orphans").setting("spock.peer_timeout", "1h").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let silent = SilentPeer::new();
    server.db("a").sql(&format!("SELECT spock.peer_create('silent', '{}')", silent.dsn()));
    wait_state(server, "a", "silent", "connecting");
    let all = workers(server);
    assert_eq!(all.len(), 6, "{all:?}");
    server.kill9_postmaster();
    wait_gone(&all);
}

#[test]
fn a_manager_in_a_busy_loop_does_not_outlive_the_postmaster() {
    let cluster = Cluster::new("workers_busy_orphan").setting("spock.manager_naptime", "100ms").start();
    let [server] = cluster.all();
    server.sql("CREATE EXTENSION spock_recovery");
    wait_worker(server, "manager", "postgres");
    server.arm(names::MANAGER_BUSY, Action::Wait);
    // It has not slept for longer than its nap.
    server.wait_until(
        "SELECT wait_event IS NULL AND clock_timestamp() - state_change > '1 s' FROM pg_stat_activity
          WHERE backend_type = 'spock_recovery manager'",
        "t",
    );
    let all = workers(server);
    server.kill9_postmaster();
    let gone = spock_recovery_cluster::deadline::poll(std::time::Duration::from_secs(20), || {
        (!all.iter().any(|worker| process::is_alive(worker.pid))).then_some(())
    });
    // Else one that failed the test would spin for ever.
    server.disarm(names::MANAGER_BUSY);
    assert!(gone.is_some(), "still there: {all:?}");
}

#[test]
fn a_fast_shutdown_is_clean_and_a_restart_brings_everything_back() {
    let cluster = without_naps("workers_fast").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    // Nobody within a question: an interrupted one ends its poller with core's FATAL.
    server.set(&[("spock.recovery_poll_interval", "1h")]);
    for database in ["a", "b"] {
        wait_worker(server, "poller", database);
    }
    for peer in ["n1", "n2"] {
        server.wait_process(&format!("spock_recovery poller {peer} idle"));
    }
    let before = workers(server);
    server.stop_fast();
    wait_gone(&before);
    assert_eq!(workers_errors(server), [""; 0]);
    server.start();
    for database in ["a", "b"] {
        wait_worker(server, "manager", database);
        wait_worker(server, "poller", database);
    }
    assert_eq!(super::names(&workers(server)), super::names(&before));
}

#[test]
fn an_immediate_stop_is_clean_and_a_restart_brings_everything_back() {
    let cluster = without_naps("workers_immediate").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = workers(server);
    server.stop_immediate();
    wait_gone(&before);
    server.start();
    for (database, peer) in [("a", "n2"), ("b", "n1")] {
        wait_worker(server, "manager", database);
        wait_state(server, database, peer, "connected");
    }
    assert_eq!(super::names(&workers(server)), super::names(&before));
}

#[test]
fn a_reload_applies_settings_without_a_restart_of_any_worker() {
    let cluster = Cluster::new("workers_reload")
        .setting("spock.manager_naptime", "1h")
        .setting("spock.recovery_poll_interval", "1h")
        .start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = workers(server);
    let naps = "SELECT count(*) FROM pg_stat_activity
                 WHERE backend_type IN ('spock_recovery launcher', 'spock_recovery manager') AND state_change > ";
    server.set(&[("spock.recovery_poll_interval", "100ms"), ("spock.manager_naptime", "100ms")]);
    // The second answer cannot be the one to the reload itself.
    for _ in 0..2 {
        wait_answer(server, "a", "n2");
        let now = server.value("SELECT now()");
        server.wait_until(&format!("{naps} '{now}'"), "3");
    }
    assert_eq!(workers(server), before);
}

#[test]
fn drop_extension_is_refused_while_nodes_exist() {
    let cluster = without_naps("workers_drop_refused").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let before = workers(server);
    let error = server.db("a").try_sql("DROP EXTENSION spock_recovery").expect_err("nodes exist");
    assert_eq!(error.sqlstate, "2BP01", "{error}");
    let hint = error.hint.expect("a hint");
    assert!(hint.contains("spock.node_drop()") && hint.contains("CASCADE"), "{hint}");
    wait_answer(server, "a", "n2");
    assert_eq!(workers(server), before);
}

/// With a label on a living subscription, and one that a dropped subscription leaves behind.
fn labels_are_gone_after(name: &str, drop_extension: &str) {
    let cluster = without_naps(name).start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    for subscription in ["s", "dropped"] {
        subscribe(server, subscription);
    }
    // The other node's record is its own.
    let labels = "SELECT count(*) FROM pg_shseclabel WHERE provider = 'spock_recovery'
         AND NOT (classoid = 'pg_database'::regclass AND objoid = (SELECT oid FROM pg_database WHERE datname = 'b'))";
    server.wait_until(labels, "3");
    server.expect_log("terminating background worker \"spock_recovery");
    // A poller's questions that the DROP overtakes, whichever of them and however far it has come.
    server.expect_log("cache lookup failed for function");
    server.expect_log("function spock.");
    server.expect_log("function spock_internal.");
    server.db("a").sql(&format!("BEGIN; DROP SUBSCRIPTION dropped; {drop_extension}; COMMIT"));
    wait_managers(server, "b");
    assert_eq!(server.value(labels), "0");
    server.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'a' AND backend_type LIKE 'spock_recovery %'",
        "0",
    );
}

#[test]
fn after_node_drop_and_drop_extension_no_label_and_no_worker_is_left() {
    labels_are_gone_after("workers_drop_extension", "SELECT spock.node_drop('n1'); DROP EXTENSION spock_recovery");
}

#[test]
fn after_drop_extension_cascade_no_label_and_no_worker_is_left() {
    labels_are_gone_after("workers_drop_cascade", "DROP EXTENSION spock_recovery CASCADE");
}
