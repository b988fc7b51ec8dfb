//! A peer that hangs is its poller's business alone.

use super::*;

#[test]
fn a_peer_that_accepts_and_never_answers_delays_nothing() {
    // The poller of the silent peer hangs as long as the test lasts.
    let cluster = without_naps("workers_silent").setting("spock.peer_timeout", "1h").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let silent = SilentPeer::new();
    server.db("a").sql(&format!("SELECT spock.peer_create('silent', '{}')", silent.dsn()));
    wait_state(server, "a", "silent", "connecting");
    server.expect_log("terminating background worker \"spock_recovery");
    wait_answer(server, "a", "n2");
    server.db("a").sql(&format!("SELECT spock.peer_create('n3', '{}')", server.dsn("a")));
    wait_state(server, "a", "n3", "other node");
    server.db("a").sql("SELECT spock.node_drop('n3')");
    server.db("a").wait_until("SELECT count(*) FROM spock.peer_status()", "2");
    wait_answer(server, "a", "n2");
    assert_eq!(server.db("a").value("SELECT state FROM spock.peer_status() WHERE node_name = 'silent'"), "connecting");
    // It is told to go in the midst of its attempt.
    server.db("a").sql("SELECT spock.node_drop('silent')");
    server.db("a").wait_until("SELECT string_agg(node_name, ' ') FROM spock.peer_status()", "n2");
}

#[test]
fn a_silent_peer_is_unreachable_after_its_time_limit() {
    let cluster = without_naps("workers_silent_limit").setting("spock.peer_timeout", "300ms").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    let silent = SilentPeer::new();
    server.db("a").sql(&format!("SELECT spock.peer_create('silent', '{}')", silent.dsn()));
    wait_state(server, "a", "silent", "unreachable");
    assert_eq!(
        server.db("a").value("SELECT error, last_contact FROM spock.peer_status() WHERE node_name = 'silent'"),
        "no answer within 300 ms|"
    );
    wait_answer(server, "a", "n2");
    // Said once, however often it is tried: a poller that timed out leaves, and its successor comes later each time.
    let pollers =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery poller' AND datname = 'a'";
    server.wait_until(pollers, "1");
    server.wait_until(pollers, "2");
    assert_eq!(log_count(server, "spock_recovery poller silent: no answer"), 1);
}

#[test]
fn a_paused_peer_is_unreachable_and_connected_again_when_it_is_resumed() {
    let cluster = without_naps("workers_paused").nodes(2).setting("spock.peer_timeout", "300ms").start();
    let [n1, n2] = cluster.all();
    for node in [n1, n2] {
        node.sql(&format!(
            "CREATE EXTENSION spock_recovery; SELECT spock.node_create('{}', '{}')",
            node.name(),
            node.dsn("postgres")
        ));
    }
    n1.sql(&format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    wait_state(n1, "postgres", "n2", "connected");
    n2.pause();
    wait_state(n1, "postgres", "n2", "unreachable");
    n2.resume();
    wait_state(n1, "postgres", "n2", "connected");
    wait_answer(n1, "postgres", "n2");
}

#[test]
fn a_peer_without_the_extension_is_named_so_and_its_log_is_not_filled() {
    let cluster = without_naps("workers_not_a_node").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    server.db("a").sql(&format!("SELECT spock.peer_create('n3', '{}')", server.dsn("postgres")));
    wait_state(server, "a", "n3", "not a node");
    assert_eq!(
        server.db("a").value("SELECT error FROM spock.peer_status() WHERE node_name = 'n3'"),
        "unexpected answer: the extension spock_recovery is not there"
    );
    server.sql("CREATE EXTENSION spock_recovery");
    server.sql(&format!("SELECT spock.node_create('n3', '{}')", server.dsn("postgres")));
    wait_state(server, "a", "n3", "connected");
}
