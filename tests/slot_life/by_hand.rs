//! The functions that change the slot: for superusers, on nodes, outside of transactions that have written.

use super::*;
use crate::cluster::SqlError;

const FUNCTIONS: [&str; 3] = ["create_recovery_slot", "drop_recovery_slot", "advance_recovery_slot"];

fn refused(database: Database<'_>, statement: &str) -> SqlError {
    database.try_sql(statement).expect_err(statement)
}

#[test]
fn who_may_not_or_cannot_is_told_why_and_what_to_do() {
    let cluster = quick("slot_life_refused").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    server.sql("CREATE EXTENSION spock_recovery; CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE granted LOGIN REPLICATION");
    for function in FUNCTIONS {
        let error = refused(database, &format!("SELECT spock.{function}()"));
        assert_eq!(error.sqlstate, "55000", "{error}");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("spock.node_create(")), "{error}");
    }
    make_node_here(server);
    wait_slot(database, 1);
    for function in FUNCTIONS {
        server.sql(&format!("GRANT EXECUTE ON FUNCTION spock.{function}() TO granted"));
        let statement = format!("SELECT spock.{function}()");
        assert_eq!(refused(database.role("watcher"), &statement).sqlstate, "42501");
        // A right to call it is not enough, and the hint does not send him for the wrong one.
        let error = refused(database.role("granted"), &statement);
        assert_eq!(error.sqlstate, "42501");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("superuser")), "{error}");
        assert!(!error.to_string().contains("pg_monitor"), "{error}");
        let mut session = database.session();
        session.sql("BEGIN; CREATE TABLE written (i int)");
        let error = session.try_sql(&statement).expect_err("it has written");
        assert_eq!(error.sqlstate, "25001", "{error}");
        assert_eq!(error.hint.as_deref(), Some("End the transaction first."));
    }
    server.set(&[("spock.enable_recovery_slots", "off")]);
    for function in ["create_recovery_slot", "advance_recovery_slot"] {
        let error = refused(database, &format!("SELECT spock.{function}()"));
        assert_eq!(error.sqlstate, "55000", "{error}");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("spock.enable_recovery_slots = on")), "{error}");
    }
}

fn make_node_here(server: &Node) {
    server.sql(&format!("SELECT spock.node_create('n1', '{}')", server.dsn("postgres")));
}

#[test]
fn create_waits_until_the_slot_is_there_and_can_be_cancelled() {
    let cluster = quick("slot_life_create").start();
    let [server] = cluster.all();
    server.sql("CREATE DATABASE other STRATEGY file_copy");
    let mut open = server.db("other").session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    let error = refused(server.db("postgres"), "SET statement_timeout = '500ms'; SELECT spock.create_recovery_slot()");
    assert_eq!(error.sqlstate, "57014");
    std::thread::scope(|scope| {
        let created = scope.spawn(|| server.value("SELECT spock.create_recovery_slot()"));
        server.wait_until("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SpockRecoverySlotRequest'", "1");
        open.sql("COMMIT");
        assert_eq!(created.join().expect("it returns"), SLOT);
    });
    // At once, where it is there already.
    assert_eq!(server.value("SELECT spock.create_recovery_slot()"), SLOT);
    assert_eq!(server.value("SELECT slot_name FROM pg_replication_slots WHERE NOT temporary"), SLOT);
}

#[test]
fn drop_says_whether_there_was_one_and_that_another_comes() {
    let cluster = quick("slot_life_drop").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    make_node(database, "n1", &server.dsn("postgres"));
    wait_slot(database, 1);
    let mut session = database.session();
    assert_eq!(session.value("SELECT spock.drop_recovery_slot()"), "t");
    assert_eq!(session.notices(), [format!("recovery slot \"{SLOT}\" will be created anew")]);
    wait_slot(database, 2);
    server.set(&[("spock.enable_recovery_slots", "off")]);
    server.wait_until("SELECT count(*) FROM pg_replication_slots", "0");
    assert_eq!(server.value("SELECT spock.drop_recovery_slot()"), "f");
}

#[test]
fn advance_goes_as_far_as_peers_allow_and_says_what_holds_it() {
    let cluster = mesh_of_three("slot_life_advance");
    let [n1, n2, n3] = cluster.all();
    n3.set(&[("spock.recovery_slot_advance_interval", "1h")]);
    wait_rounds(n3.db("postgres"), 3);
    let end = n3.value("SELECT pg_current_wal_flush_lsn()");
    let mut session = n3.session();
    assert_eq!(session.value(&format!("SELECT spock.advance_recovery_slot() >= '{end}'")), "t");
    assert_eq!(session.notices(), Vec::<String>::new());
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n1.sql("INSERT INTO t VALUES (10, 'held')");
    n3.wait_until("SELECT count(*) FROM t WHERE id = 10", "1");
    n3.wait_until("SELECT blocked_reason FROM spock.recovery_horizon() WHERE origin_node = 'n1'", "peer_lagging");
    let held = session.value("SELECT spock.advance_recovery_slot()");
    assert_eq!(session.notices(), ["the recovery slot does not advance further: peer_lagging"]);
    fill_wal(n3.db("postgres"), 1);
    assert_eq!(session.value("SELECT spock.advance_recovery_slot()"), held);
    assert_eq!(decodable(n3), [10]);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT count(*) FROM t WHERE id = 10", "1");
    wait_blocked(n3.db("postgres"), "");
    let far = format!("SELECT spock.advance_recovery_slot() > '{held}'");
    wait_for("the slot to advance by hand", || n3.value(&far) == "t" && decodable(n3).is_empty());
}
