//! The slot goes when it is switched off or its node goes, and leaves nothing behind.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

const SLOTS: &str = "SELECT count(*) FROM pg_replication_slots";
const LABELS: &str = "SELECT count(*) FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass";

#[test]
fn switched_off_the_slot_is_dropped_and_switched_on_the_next_generation_begins() {
    let cluster = quick("slot_life_switch").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    make_node(database, "n1", &server.dsn("postgres"));
    wait_slot(database, 1);
    server.set(&[("spock.enable_recovery_slots", "off")]);
    server.wait_until(SLOTS, "0");
    database.wait_until(
        "SELECT active, blocked_reason, retained_bytes FROM spock.get_recovery_slot_status()",
        "f|disabled|",
    );
    assert!(health(database, "recovery_slot").starts_with("DISABLED|"));
    wait_rounds(database, 3);
    assert_eq!(server.value(SLOTS), "0");
    server.set(&[("spock.enable_recovery_slots", "on")]);
    wait_slot(database, 2);
    wait_blocked(database, "");
    assert!(health(database, "recovery_slot").contains("generation 2"));
    assert_eq!(log_count(server, "creating generation 2"), 1);
}

#[test]
fn the_end_of_a_node_leaves_neither_slot_nor_label() {
    let cluster = quick("slot_life_end").start();
    let [server] = cluster.all();
    // A worker that a DROP DATABASE meets in the midst of a move.
    // One that comes up when the database has gone.
    server.expect_log("spock_recovery slot worker  FATAL:  database");
    for database in ["a", "b", "c"] {
        server.sql(&format!("CREATE DATABASE {database} STRATEGY file_copy"));
        make_node(server.db(database), "n1", &server.dsn(database));
    }
    for database in ["a", "b", "c"] {
        wait_slot(server.db(database), 1);
    }
    server.wait_until(LABELS, "3");
    server.db("a").sql("SELECT spock.node_drop('n1')");
    server.wait_until(SLOTS, "2");
    server.wait_until(LABELS, "2");
    assert_eq!(server.db("a").value("SELECT count(*) FROM spock.get_recovery_slot_status()"), "0");
    server.db("b").sql("DROP EXTENSION spock_recovery CASCADE");
    server.wait_until(SLOTS, "1");
    server.wait_until(LABELS, "1");
    server.sql("DROP DATABASE c");
    assert_eq!((server.value(SLOTS).as_str(), server.value(LABELS).as_str()), ("0", "0"));
    // A node again: no memory of the slot before.
    server.db("a").sql(&format!("SELECT spock.node_create('n1', '{}')", server.dsn("a")));
    wait_slot(server.db("a"), 1);
}

#[test]
fn a_drop_by_hand_waits_for_the_worker_that_has_the_slot_in_its_hands() {
    let cluster = quick("slot_life_drop_moving").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    make_node(database, "n1", &server.dsn("postgres"));
    wait_slot(database, 1);
    server.arm(names::SLOT_JOB_BEFORE, Action::Wait);
    fill_wal(database, 1);
    server.wait_hit(names::SLOT_JOB_BEFORE);
    std::thread::scope(|scope| {
        let dropped = scope.spawn(|| server.value("SELECT spock.drop_recovery_slot()"));
        server.wait_until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SpockRecoverySlotRequest'", "1");
        assert_eq!(server.value(SLOTS), "1");
        server.disarm(names::SLOT_JOB_BEFORE);
        assert_eq!(dropped.join().expect("it returns"), "t");
    });
    wait_slot(database, 2);
    assert!(health(database, "recovery_slot").starts_with("HEALTHY|"), "{}", health(database, "recovery_slot"));
}
