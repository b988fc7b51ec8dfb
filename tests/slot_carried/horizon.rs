//! The slot stays behind this node's own outgoing slots.

use super::*;
use crate::slot_life::{fill_wal, health, log_count, quick, wait_blocked};

const CONFIRMED: &str = "SELECT confirmed_flush_lsn FROM spock.get_recovery_slot_status()";

/// A node with a logical slot that nobody reads.
fn start(name: &str) -> Cluster {
    let cluster = quick(name).start();
    let [server] = cluster.all();
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    wait_slot(server.db("postgres"), 1);
    server.sql("SELECT pg_create_logical_replication_slot('other', 'test_decoding')");
    cluster
}

const OTHER: &str = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'other'";

#[test]
fn the_slot_stays_behind_a_slot_that_nobody_reads_and_follows_when_it_has_moved() {
    let cluster = start("slot_carried_horizon");
    let [server] = cluster.all();
    let database = server.db("postgres");
    fill_wal(database, 1);
    server.wait_until(CONFIRMED, &server.value(OTHER));
    wait_blocked(database, "outgoing_slot");
    let mut session = server.session();
    assert_eq!(session.value("SELECT spock.advance_recovery_slot()"), server.value(OTHER), "nor by hand");
    assert_eq!(session.notices(), ["the recovery slot does not advance further: outgoing_slot"]);
    let told = health(database, "retention");
    assert!(told.contains("held by the outgoing slot \"other\" (outgoing_slot)"), "{told}");
    fill_wal(database, 1);
    wait_rounds(database, 5);
    assert_eq!(server.value(CONFIRMED), server.value(OTHER));

    // One that ends with its session does not count, nor does a slot of another database, nor a physical one.
    session.sql("SELECT pg_create_logical_replication_slot('temporary', 'test_decoding', true)");
    server.sql("SELECT pg_create_physical_replication_slot('physical', true)");
    server.sql("CREATE DATABASE elsewhere");
    server.db("elsewhere").sql("SELECT pg_create_logical_replication_slot('elsewhere', 'test_decoding')");
    fill_wal(database, 1);
    let end = server.value("SELECT pg_current_wal_flush_lsn()");
    server.sql(&format!("SELECT pg_replication_slot_advance('other', '{end}')"));
    server.wait_until(&format!("SELECT ({CONFIRMED}) >= '{end}'"), "t");
    // A table synchronization's does: the table goes on with it.
    server.sql("SELECT pg_drop_replication_slot('other')");
    server.sql("SELECT pg_create_logical_replication_slot('pg_16400_sync_16385_7', 'pgoutput')");
    fill_wal(database, 1);
    wait_blocked(database, "outgoing_slot");
    server.sql("SELECT pg_drop_replication_slot('pg_16400_sync_16385_7')");
    wait_blocked(database, "");
}

#[test]
fn the_budget_passes_a_slot_that_nobody_reads_and_says_so() {
    let cluster = start("slot_carried_budget");
    let [server] = cluster.all();
    let database = server.db("postgres");
    wait_blocked(database, "outgoing_slot");
    server.set(&[("spock.recovery_slot_max_wal", "4MB")]);
    fill_wal(database, 3);
    server.sql("SELECT spock.advance_recovery_slot()");
    assert_eq!(server.value(CONFIRMED), server.value(OTHER), "within the budget");
    fill_wal(database, 6);
    server.wait_until(&format!("SELECT ({CONFIRMED}) > ({OTHER})"), "t");
    server.wait_log("has passed the outgoing slot \"other\" to stay within");
    let told = || health(database, "retention");
    wait_for("the health check to name it", || {
        told().starts_with("WARNING|") && told().ends_with("restored from a backup: other")
    });
    assert_eq!(log_count(server, "has passed the outgoing slot"), 1);
    server.sql("SELECT pg_drop_replication_slot('other')");
    wait_for("the health check to be content", || {
        server.sql("SELECT pg_log_standby_snapshot()");
        told().starts_with("HEALTHY|")
    });
}
