//! With the node its clones go, and a standby that takes its place has none.

use super::*;
use crate::cluster::wait_for;

#[test]
fn the_end_of_a_node_leaves_neither_clone_nor_journal() {
    let cluster = quick("rescue_clone_end").start();
    let [server] = cluster.all();
    for name in ["a", "b", "c"] {
        server.sql(&format!("CREATE DATABASE {name} STRATEGY file_copy"));
        let database = server.db(name);
        make_node(database, "n3", &server.dsn(name));
        for peer in ["n1", "n2"] {
            database.sql(&format!("SELECT spock.peer_create('{peer}', 'host=/nonexistent')"));
        }
    }
    for name in ["a", "b", "c"] {
        let database = server.db(name);
        wait_slot(database, 1);
        made(database, "");
        let clone = made(database, "'n1', 'n2'");
        database.sql(&claim(&clone, INTENT));
        // And one that nobody has registered.
        let mut session = database.session();
        session.sql("BEGIN");
        session.sql(&call(""));
        session.sql("ROLLBACK");
        assert_eq!(database.value(SCHEMA_LABELS), "1");
    }
    assert_eq!(server.value(CLONES), "9");
    let clones_of = |name: &str| {
        format!("SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery' AND database = '{name}'")
    };
    server.db("a").sql("SELECT spock.node_drop('n3')");
    server.wait_until(&clones_of("a"), "0");
    server.db("a").wait_until(SCHEMA_LABELS, "0");
    server.db("b").sql("DROP EXTENSION spock_recovery CASCADE");
    server.wait_until(&clones_of("b"), "0");
    server.db("b").wait_until(SCHEMA_LABELS, "0");
    // Those of another database are nobody's business but its own.
    assert_eq!(server.value(&clones_of("c")), "3");
    server.db("c").wait_until(REGISTERED, "3");
    let told = "this database is not a node any more";
    wait_for("the log to tell of six clones", || log_count(server, told) >= 6);
    assert_eq!(log_count(server, told), 6);
    server.sql("DROP DATABASE c");
    assert_eq!(server.value(CLONES), "0");
    // The manager has nothing left to do where there is no extension.
    wait_for("the manager of b to leave", || {
        server.value("SELECT count(*) FROM pg_stat_activity WHERE datname = 'b'") == "0"
    });
    server.db("a").sql(&format!("SELECT spock.node_create('n3', '{}')", server.dsn("a")));
    wait_slot(server.db("a"), 1);
    made(server.db("a"), "");
}

#[test]
fn without_the_extension_and_its_schema_clones_go_all_the_same() {
    let cluster = source("rescue_clone_schema");
    let [n3] = cluster.all();
    made(n3.db("postgres"), "");
    n3.sql("DROP SCHEMA spock CASCADE");
    n3.wait_until("SELECT count(*) FROM pg_replication_slots", "0");
    assert_eq!(n3.value(SCHEMA_LABELS), "0");
}

#[test]
fn a_promoted_standby_has_the_registration_without_the_slot_and_forgets_it() {
    let mut cluster = source("rescue_clone_promoted");
    let clone = made(cluster.node("n1").db("postgres"), "'n1', 'n2'");
    cluster.node("n1").sql(&claim(&clone, INTENT));
    cluster.add_standby("n3b", "n1");
    let [n3, standby] = cluster.all();
    let end = n3.value("SELECT pg_current_wal_flush_lsn()");
    standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
    assert_eq!(standby.value("SELECT slot_name, usable FROM spock.recovery_clones()"), format!("{clone}|f"));
    let answer = clone_slot(standby.db("postgres"), "'n1', 'n2'");
    assert!(!answer.success && answer.message.contains("standby"), "{answer:?}");
    n3.kill9();
    standby.promote();
    standby.wait_until(REGISTERED, "0");
    assert_logged_once(standby, &format!("clone \"{clone}\" of the recovery slot does not exist any more"));
    // Its recovery slot was not synchronised either: it makes its own.
    wait_slot(standby.db("postgres"), 2);
    made(standby.db("postgres"), "");
}
