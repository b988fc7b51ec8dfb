//! The slot comes as soon as there is a node, and waits for running transactions without anybody waiting for it.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_node_has_its_slot_at_once_with_a_decoding_snapshot_and_autovacuum_on() {
    // Nothing but node_create itself can be the reason that the slot is there soon.
    let cluster = Cluster::new("slot_life_at_once").setting("spock.manager_naptime", "1h").start();
    let [server] = cluster.all();
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    wait_slot(server.db("postgres"), 1);
    let slot = format!(
        "SELECT plugin, slot_type, temporary, active, wal_status, catalog_xmin IS NOT NULL, database, current_setting('autovacuum')
           FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    );
    server.wait_until(&slot, "pgoutput|logical|f|f|reserved|t|postgres|on");
    // A copy of it decodes the very next transaction: the slot is consistent, and need not find a point to start from.
    server.sql("CREATE TABLE t (id int PRIMARY KEY)");
    server.sql(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', 'probe', false, 'test_decoding')"));
    server.sql("INSERT INTO t VALUES (1)");
    assert_eq!(
        server.value("SELECT data FROM pg_logical_slot_get_changes('probe', NULL, NULL) WHERE data LIKE 'table%t:%'"),
        "table public.t: INSERT: id[integer]:1"
    );
}

#[test]
fn creation_waits_for_an_open_transaction_and_nothing_else_waits_for_creation() {
    let cluster = quick("slot_life_pending").start();
    let [server] = cluster.all();
    for database in ["a", "b", "other"] {
        server.sql(&format!("CREATE DATABASE {database} STRATEGY file_copy"));
    }
    make_node(server.db("b"), "n2", &server.dsn("b"));
    wait_slot(server.db("b"), 1);
    let mut open = server.db("other").session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    let a = server.db("a");
    make_node(a, "n1", &server.dsn("a"));
    a.wait_until(
        "SELECT active, blocked_reason, recovery_generation, slot_name FROM spock.get_recovery_slot_status()",
        "f|slot_creation_pending|1|spk_recovery_a",
    );
    server.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery slot worker' AND datname = 'a'",
        "1",
    );
    // It stays pending, whatever core shows of the slot that is being made.
    wait_rounds(a, 5);
    wait_blocked(a, "slot_creation_pending");
    assert!(health(a, "recovery_slot").starts_with("MISSING|"), "{}", health(a, "recovery_slot"));
    let begun = Instant::now();
    a.sql(&format!("SELECT spock.peer_create('n2', '{}')", server.dsn("b")));
    a.wait_until("SELECT state FROM spock.peer_status()", "connected");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    wait_slot(server.db("b"), 1);
    open.sql("COMMIT");
    wait_slot(a, 1);
    wait_blocked(a, "");
    assert_eq!(log_count(server, "WARNING"), 0, "{}", server.log());
}

#[test]
fn a_slot_that_is_not_wanted_any_more_while_it_is_being_created_does_not_stay() {
    let cluster = quick("slot_life_pending_drop").start();
    let [server] = cluster.all();
    for database in ["a", "b", "c", "other"] {
        server.sql(&format!("CREATE DATABASE {database} STRATEGY file_copy"));
    }
    let mut open = server.db("other").session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    for database in ["a", "b", "c"] {
        make_node(server.db(database), "n1", &server.dsn(database));
        wait_blocked(server.db(database), "slot_creation_pending");
        server.wait_until(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'transactionid'
                              AND backend_type = 'spock_recovery slot worker'",
            if database == "a" {
                "1"
            } else if database == "b" {
                "2"
            } else {
                "3"
            },
        );
    }
    server.db("a").sql("SELECT spock.node_drop('n1')");
    server.db("b").sql("DROP EXTENSION spock_recovery CASCADE");
    // The slot's worker is in the way, and leaves.
    server.sql("DROP DATABASE c");
    open.sql("COMMIT");
    server.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery slot worker'", "0");
    server.wait_until("SELECT count(*) FROM pg_replication_slots", "0");
    server.wait_until("SELECT count(*) FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass", "0");
    // The database without the extension is left alone.
    server.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager'", "1");
}

#[test]
fn the_slot_and_its_record_survive_restart_and_kill_9() {
    let cluster = quick("slot_life_restart").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    make_node(database, "n1", &server.dsn("postgres"));
    wait_slot(database, 1);
    for end in [Node::restart, |server: &Node| {
        server.kill9();
        server.start()
    }] {
        wait_follows(database);
        end(server);
        wait_slot(database, 1);
        assert_eq!(server.value("SELECT slot_name FROM pg_replication_slots"), SLOT);
        wait_follows(database);
        assert_eq!(
            server.value("SELECT label::jsonb->>'generation', label::jsonb->>'slot' FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass"),
            format!("1|{SLOT}")
        );
    }
    assert_eq!(log_count(server, "WARNING"), 0, "{}", server.log());
}

#[test]
fn a_creation_that_fails_is_reported_and_tried_again_without_haste() {
    let cluster =
        quick("slot_life_no_room").setting("max_replication_slots", "1").setting("log_min_messages", "debug1").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    server.sql("SELECT pg_create_physical_replication_slot('in_the_way')");
    make_node(database, "n1", &server.dsn("postgres"));
    let error = database.try_sql("SELECT spock.create_recovery_slot()").expect_err("there is no room");
    assert!(error.message.contains("all replication slots are in use"), "{error}");
    assert_eq!(error.hint.as_deref(), Some("SELECT * FROM spock.quick_health_check();"));
    assert!(health(database, "recovery_slot").contains("its creation failed: all replication slots are in use"));
    // Each try waits longer than the one before: backoff.rs.
    let tries = || log_count(server, "starting background worker process \"spock_recovery slot worker");
    wait_rounds(database, 15);
    assert!((2..6).contains(&tries()), "{} tries", tries());
    assert_eq!(log_count(server, "could not create recovery slot"), 1);
    server.sql("SELECT pg_drop_replication_slot('in_the_way')");
    assert_eq!(server.value("SELECT spock.create_recovery_slot()"), SLOT);
    wait_slot(database, 1);
}
