//! Which databases have a manager, and how soon.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

#[test]
fn of_twenty_databases_the_five_with_the_extension_have_a_manager() {
    // Room for the two launchers, five managers and two looks at a time: looking takes nobody's place.
    let cluster = Cluster::new("workers_twenty")
        .setting("spock.manager_naptime", "100ms")
        .setting("max_worker_processes", "9")
        .setting("log_min_messages", "debug1")
        .start();
    let [server] = cluster.all();
    // With postgres, twenty.
    for index in 1..20 {
        server.sql(&format!("CREATE DATABASE d{index} STRATEGY file_copy"));
    }
    for index in [3, 7, 11, 15, 19] {
        server.db(&format!("d{index}")).sql("CREATE EXTENSION spock_recovery");
    }
    wait_managers(server, "d11 d15 d19 d3 d7");
    let looked_before = log_count(server, "starting background worker process \"spock_recovery manager");
    server.restart();
    wait_managers(server, "d11 d15 d19 d3 d7");
    let looks = || log_count(server, "starting background worker process \"spock_recovery manager") - looked_before;
    crate::cluster::wait_for("a look at each database", || looks() >= 20);
    // Some more rounds of the launcher.
    let now = server.value("SELECT now()");
    server.wait_until(
        &format!(
            "SELECT state_change > '{now}'::timestamptz + interval '500 ms' FROM pg_stat_activity
              WHERE backend_type = 'spock_recovery launcher'"
        ),
        "t",
    );
    wait_managers(server, "d11 d15 d19 d3 d7");
    assert_eq!(looks(), 20);
    assert_eq!(log_count(server, "no background worker left"), 0);
}

#[test]
fn create_extension_and_node_create_are_answered_without_a_nap() {
    let cluster = without_naps("workers_at_once").start();
    let [server] = cluster.all();
    wait_worker(server, "launcher", "");
    two_nodes_in_one_server(server);
    // In a database that was looked at long ago, and that has its extension in an instant.
    server.sql("CREATE EXTENSION spock_recovery");
    wait_worker(server, "manager", "postgres");
    assert_eq!(workers(server).iter().filter(|worker| worker.kind == "poller").count(), 2);
}

#[test]
fn an_extension_that_comes_while_its_manager_is_leaving_is_not_missed() {
    let cluster = without_naps("workers_race").start();
    let [server] = cluster.all();
    // A first look that finds nothing, and a manager whose extension was dropped.
    for before in ["CREATE DATABASE d", "DROP EXTENSION spock_recovery"] {
        server.arm(names::MANAGER_LEAVING, Action::Wait);
        let database = if before.starts_with("DROP") { "d" } else { "postgres" };
        server.db(database).sql(before);
        server.wait_hit(names::MANAGER_LEAVING);
        server.wait_until(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'd' AND wait_event = 'SpockRecoveryFailpoint'",
            "1",
        );
        server.db("d").sql("CREATE EXTENSION spock_recovery");
        server.disarm(names::MANAGER_LEAVING);
        wait_managers(server, "d");
    }
}

#[test]
fn an_extension_that_comes_with_a_template_has_its_manager_at_once() {
    let cluster = without_naps("workers_template").start();
    let [server] = cluster.all();
    server.sql("CREATE DATABASE original");
    server
        .db("original")
        .sql(&format!("CREATE EXTENSION spock_recovery; SELECT spock.node_create('n1', '{}')", server.dsn("original")));
    wait_managers(server, "original");
    server.sql("CREATE DATABASE copy TEMPLATE original");
    wait_managers(server, "copy original");
    server.wait_log("this database is a copy of node \"n1\"");
    assert_eq!(server.db("copy").value("SELECT count(*) FROM spock.local_node"), "0");
}

#[test]
fn a_subscription_is_labelled_as_soon_as_it_is_created() {
    let cluster = without_naps("workers_label").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    server.expect_log("terminating background worker \"spock_recovery");
    server.db("a").sql("SELECT spock.node_drop('n2')");
    // From here on nothing else wakes the manager.
    server.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery poller' AND datname = 'a'",
        "0",
    );
    wait_worker(server, "manager", "a");
    subscribe(server, "s");
    server
        .db("a")
        .wait_until("SELECT n.node_name FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin", "n2");
    wait_state(server, "a", "n2", "connected");
    // The poller of the subscription has become that of the node.
    server.db("a").wait_until("SELECT count(*) FROM spock.peer_status() WHERE sub_name IS NOT NULL", "0");
}

/// A subscription in `a` that leads to `b`, and never connects by itself.
pub fn subscribe(server: &Node, name: &str) {
    server.db("a").sql(&format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION p WITH (connect = false, slot_name = NONE)",
        server.dsn("b")
    ));
}
