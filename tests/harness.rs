//! The harness tests itself, on PostgreSQL without the extension.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};

use spock_recovery_cluster::mesh::subscription_name;
use spock_recovery_cluster::process;

use crate::cluster::{Action, Cluster, wait_for};

#[test]
fn a_mesh_of_three_replicates_a_row_from_each_to_all() {
    let cluster = Cluster::new("harness_mesh").nodes(3).plain().start();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    cluster.mesh();
    for (id, node) in cluster.nodes().iter().enumerate() {
        node.sql(&format!("INSERT INTO t VALUES ({id}, 'from {}')", node.name()));
    }
    for node in cluster.nodes() {
        node.wait_until("SELECT string_agg(v, ',' ORDER BY id) FROM t", "from n1,from n2,from n3");
    }
}

#[test]
fn nodes_have_different_system_identifiers() {
    let cluster = Cluster::new("harness_identifiers").nodes(3).plain().start();
    let identifiers: BTreeSet<String> =
        cluster.nodes().iter().map(|node| node.value("SELECT system_identifier FROM pg_control_system()")).collect();
    assert_eq!(identifiers.len(), 3, "{identifiers:?}");
    // WAL written before and after a restart carries the same identifier, else recovery would refuse it.
    let node = cluster.node("n1");
    node.sql("CREATE TABLE t AS SELECT 1 AS id");
    node.stop_immediate();
    node.start();
    assert_eq!(node.value("SELECT id FROM t"), "1");
}

#[test]
fn a_node_killed_with_9_restarts_with_its_rows_and_receives_what_it_missed() {
    let cluster = Cluster::new("harness_kill9").nodes(2).plain().start();
    let [n1, n2] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    cluster.mesh();
    n2.sql("INSERT INTO t VALUES (1)");
    n2.kill9();
    assert_eq!(n2.postmaster_pid(), None);
    assert!(n2.try_sql("SELECT 1").is_err_and(|error| error.is_disconnection()));
    n1.sql("INSERT INTO t VALUES (2)");
    n2.start();
    for node in [n1, n2] {
        node.wait_until("SELECT id FROM t ORDER BY id", "1\n2");
    }
}

#[test]
fn a_killed_or_terminated_process_is_this_nodes_and_the_server_comes_back() {
    let cluster = Cluster::new("harness_processes").plain().start();
    let [node] = cluster.all();
    let launcher = node.wait_process("logical replication launcher");
    node.sigterm(launcher.pid);
    wait_for("another launcher", || node.wait_process("logical replication launcher").pid != launcher.pid);
    let postmaster = node.postmaster_pid();
    let mut session = node.session();
    let backend = session.backend_pid();
    node.kill9_process(backend);
    assert!(session.try_sql("SELECT 1").is_err());
    node.wait_until("SELECT 1", "1");
    assert_eq!(node.postmaster_pid(), postmaster);
    let stranger = panic::catch_unwind(AssertUnwindSafe(|| node.sigterm(1)));
    assert!(stranger.is_err(), "a process of another was signalled");
}

#[test]
fn a_paused_node_receives_nothing_until_it_is_resumed() {
    let cluster = Cluster::new("harness_pause").nodes(2).plain().start();
    let [n1, n2] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    cluster.mesh();
    n2.pause();
    n1.sql("INSERT INTO t VALUES (1)");
    let slot = subscription_name("n2", "n1");
    let unconfirmed = format!(
        "SELECT confirmed_flush_lsn < pg_current_wal_flush_lsn() FROM pg_replication_slots WHERE slot_name = '{slot}'"
    );
    n1.wait_until(&unconfirmed, "t");
    n2.resume();
    n2.wait_until("SELECT id FROM t", "1");
}

#[test]
fn a_paused_node_is_ended_with_its_test() {
    let pid = {
        let cluster = Cluster::new("harness_paused_end").plain().start();
        let [node] = cluster.all();
        node.pause();
        node.postmaster_pid().expect("the node runs")
    };
    assert!(!process::is_alive(pid));
}

#[test]
fn an_error_in_a_log_fails_the_test_unless_it_was_expected_or_received() {
    // Logged by the server, unseen by the test: a worker's error.
    let plant =
        "DO $$ BEGIN RAISE WARNING 'harmless'; END $$; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    let worker_error = "CREATE SUBSCRIPTION s CONNECTION 'host=/nonexistent dbname=postgres' PUBLICATION p WITH (connect = false, slot_name = 's');
         ALTER SUBSCRIPTION s ENABLE";
    let name = "harness_planted_error";
    let mut kept = None;
    let failed = panic::catch_unwind(AssertUnwindSafe(|| {
        let cluster = Cluster::new(name).plain().start();
        kept = Some(cluster.kept_logs());
        let [node] = cluster.all();
        node.sql(plant);
        node.sql(worker_error);
        node.wait_log("could not connect to the publisher");
    }));
    let message = failed.expect_err("the planted error passed").downcast::<String>().expect("a panic with a message");
    assert!(message.contains("n1: ") && message.contains("could not connect to the publisher"), "{message}");
    let kept = kept.expect("the cluster was started");
    assert!(
        fs::read_to_string(kept.join("n1.log")).is_ok_and(|log| log.contains("could not connect to the publisher"))
    );
    fs::remove_dir_all(kept).expect("the kept logs can be removed");

    let cluster = Cluster::new(name).plain().start();
    let [node] = cluster.all();
    node.expect_log("could not connect to the publisher");
    node.sql(worker_error);
    node.wait_log("could not connect to the publisher");
    let error = node.try_sql("SELECT * FROM missing").expect_err("there is no such table");
    assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("42P01", "relation \"missing\" does not exist"));
}

#[test]
fn servers_and_folders_are_gone_after_a_panic() {
    let mut seen = None;
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let cluster = Cluster::new("harness_panic").nodes(2).plain().start();
        let pids: Vec<i32> = cluster.nodes().iter().filter_map(|node| node.postmaster_pid()).collect();
        seen = Some((pids, cluster.folder().to_owned(), cluster.kept_logs()));
        panic!("planted");
    }));
    assert!(result.is_err());
    let (pids, folder, logs) = seen.expect("the cluster was started");
    assert_eq!(pids.len(), 2);
    assert!(!pids.iter().any(|&pid| process::is_alive(pid)));
    assert!(!folder.exists());
    assert!(logs.join("n2.log").is_file());
    fs::remove_dir_all(logs).expect("the kept logs can be removed");
}

#[test]
fn a_setting_is_in_force_when_set_returns_and_lists_stay_lists() {
    let cluster = Cluster::new("harness_set").plain().start();
    let [node] = cluster.all();
    node.set(&[("work_mem", "7MB"), ("search_path", "pg_catalog, public")]);
    assert_eq!(node.value("SHOW work_mem"), "7MB");
    assert_eq!(node.value("SELECT current_schemas(false)"), "{pg_catalog,public}");
    node.sql("CREATE DATABASE other");
    assert_eq!(node.db("other").value("SELECT current_database(), NULL, 1"), "other||1");
    let mut session = node.session();
    session.sql("DO $$ BEGIN RAISE NOTICE 'said'; END $$");
    assert_eq!(session.notices(), ["said"]);
}

#[test]
fn a_failpoint_is_a_file_that_the_server_may_remove() {
    let cluster = Cluster::new("harness_failpoint").plain().start();
    let [node] = cluster.all();
    node.arm("somewhere", Action::Wait);
    // The server user's own doing, as the extension will do it.
    node.sql(
        "COPY (SELECT 1) TO PROGRAM 'touch spock_failpoints/somewhere.hit; grep -qx wait spock_failpoints/somewhere'",
    );
    node.wait_hit("somewhere");
    node.sql("COPY (SELECT 1) TO PROGRAM 'cat spock_failpoints/somewhere && rm spock_failpoints/somewhere'");
    node.disarm("somewhere");
    node.arm("somewhere", Action::Wait);
    assert!(!node.data().join("spock_failpoints/somewhere.hit").exists());
    node.disarm("somewhere");
    assert!(!node.data().join("spock_failpoints/somewhere").exists());
}
