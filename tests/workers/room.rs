//! More databases, or more workers, than the server has room for.

use super::*;

const HAS_NO_ROOM: &str = "WARNING:  database \"b\" has the extension spock_recovery, but there is no room for it";
const NO_WORKER: &str = "WARNING:  no background worker left for the spock_recovery";

#[test]
fn a_database_beyond_max_databases_is_complained_about_once_and_takes_the_first_place_that_is_free() {
    let cluster = without_naps("workers_max_databases")
        .setting("spock.max_databases", "1")
        .setting("log_min_messages", "debug1")
        .start();
    let [server] = cluster.all();
    for database in ["a", "b"] {
        server.sql(&format!("CREATE DATABASE {database}"));
        server.db(database).sql("CREATE EXTENSION spock_recovery");
        wait_managers(server, "a");
    }
    server.wait_log(HAS_NO_ROOM);
    server.wait_log("HINT:  Raise spock.max_databases");
    // Looked at again: nothing new to say. The one that has its place works.
    let looks = || log_count(server, "starting background worker process \"spock_recovery manager b\"");
    let looked = looks();
    server.db("b").sql(&format!("SELECT spock.node_create('n2', '{}')", server.dsn("b")));
    crate::cluster::wait_for("another look", || looks() > looked);
    server.db("a").sql(&format!(
        "SELECT spock.node_create('n1', '{}'), spock.peer_create('n2', '{}')",
        server.dsn("a"),
        server.dsn("b")
    ));
    wait_state(server, "a", "n2", "connected");
    server.expect_log("terminating background worker \"spock_recovery");
    server.db("a").sql("DROP EXTENSION spock_recovery CASCADE");
    wait_managers(server, "b");
    assert_eq!(log_count(server, HAS_NO_ROOM), 1);
}

#[test]
fn a_manager_without_a_worker_slot_comes_when_there_is_one_and_the_log_is_not_flooded() {
    // One for core's launcher of logical replication, one for ours, one for a manager.
    let cluster = Cluster::new("workers_no_slot")
        .setting("spock.manager_naptime", "100ms")
        .setting("max_worker_processes", "3")
        .start();
    let [server] = cluster.all();
    for database in ["a", "b"] {
        server.sql(&format!("CREATE DATABASE {database}"));
        server.db(database).sql("CREATE EXTENSION spock_recovery");
        wait_managers(server, "a");
    }
    server.wait_log(NO_WORKER);
    server.wait_log("HINT:  Raise max_worker_processes");
    // Neither has its poller.
    server
        .db("a")
        .sql(&format!("SELECT spock.node_create('n1', '{0}'), spock.peer_create('n2', '{0}')", server.dsn("b")));
    server.wait_log("no background worker left for the spock_recovery poller n2");
    let now = server.value("SELECT now()");
    server.wait_until(
        &format!(
            "SELECT bool_and(state_change > '{now}'::timestamptz + interval '500 ms') FROM pg_stat_activity
              WHERE backend_type IN ('spock_recovery launcher', 'spock_recovery manager')"
        ),
        "t",
    );
    assert_eq!(log_count(server, NO_WORKER), 2);
    server.db("a").sql("DROP EXTENSION spock_recovery CASCADE");
    wait_managers(server, "b");
}
