//! Who may take a pin, who gets which, and when it ends. n1 and n2 are known by name and cannot be reached.

use super::{PINS, Pin, intent, no_polls, pin_call, release};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::slot_keeps::quick;

const T: &str = "'public.t'";

fn make_source(node: &Node, database: &str) {
    let database = node.db(database);
    database.sql("CREATE EXTENSION spock_recovery; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
    database.sql("SELECT spock.node_create('n3', 'host=/nonexistent')");
    database.sql("SELECT spock.peer_create('n2', 'host=/nonexistent')");
    database.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
}

fn source(name: &str) -> Cluster {
    let cluster = quick(name, 1).setting("max_prepared_transactions", "10").start();
    make_source(cluster.node("n1"), "postgres");
    no_polls(cluster.node("n1"));
    cluster
}

/// One server serves these cases.
#[test]
fn a_pin_is_found_again_and_ends_when_it_is_not_needed() {
    let cluster = source("rebuild_pin_life");
    let [n3] = cluster.all();
    the_same_intent_gets_the_same_pin_until_it_is_released(n3);
    the_tables_and_their_partitions_stay_as_they_are(n3);
    it_ends_when_its_time_is_over(n3);
    it_ends_when_the_target_is_silent(n3);
    what_cannot_be_pinned_is_refused(n3);
    whoever_has_no_right_is_refused(n3);
    a_prepared_transaction_of_a_two_phase_subscription_is_refused(n3);
    an_error_while_commits_are_held_back_is_told_and_opens_the_gate(n3);
}

fn the_same_intent_gets_the_same_pin_until_it_is_released(n3: &Node) {
    let one = Pin::take(n3, &intent(1), T);
    assert_eq!(Pin::take(n3, &intent(1), T), one);
    let other = Pin::take(n3, &intent(2), T);
    assert_ne!(other.get(n3, "snapshot"), one.get(n3, "snapshot"));
    let shown = "SELECT target_node, tables, target_says, snapshot_age >= 0 FROM spock_internal.pins() ORDER BY since";
    assert_eq!(n3.value(shown), "n2|{public.t}|nothing yet|t\nn2|{public.t}|nothing yet|t");
    let health = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'rebuild_pin'";
    assert_eq!(n3.value(health), "HEALTHY\nHEALTHY");
    assert_eq!(
        n3.value(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SpockRecoveryPin' AND query LIKE 'holding%'"
        ),
        "2"
    );
    let error = n3.try_sql(&pin_call(&intent(1), "'public.t', 'public.t'", "")).expect_err("it holds other tables");
    assert_eq!(error.sqlstate, "55006");
    n3.sql("INSERT INTO t VALUES (2)");
    assert_eq!(one.session(n3).value("SELECT count(*) FROM t"), "1");
    assert!(release(n3, &intent(1)) && release(n3, &intent(2)));
    n3.wait_until(PINS, "0");
    assert!(!release(n3, &intent(1)), "there is none");
    let error = one.import(n3, &mut n3.session()).expect_err("it is not held any more");
    assert!(["22023", "42704"].contains(&error.sqlstate.as_str()), "{error}");
    let again = Pin::take(n3, &intent(1), T);
    assert_ne!(again.get(n3, "pin"), one.get(n3, "pin"));
    assert_eq!(again.session(n3).value("SELECT count(*) FROM t"), "2");
    assert!(release(n3, &intent(1)));
    n3.wait_until(PINS, "0");
}

fn the_tables_and_their_partitions_stay_as_they_are(n3: &Node) {
    n3.sql(
        "CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    );
    Pin::take(n3, &intent(1), "'public.t', 'public.p'");
    for command in ["VACUUM FULL t", "TRUNCATE p1", "DROP TABLE p1", "ALTER TABLE t ADD COLUMN more int"] {
        let error = n3.session().try_sql(&format!("SET lock_timeout = '50ms'; {command}"));
        let error = match command {
            // VACUUM is not for a transaction, nor for several statements at once.
            "VACUUM FULL t" => {
                let mut session = n3.session();
                session.sql("SET lock_timeout = '50ms'");
                session.try_sql(command)
            }
            _ => error,
        };
        assert_eq!(error.expect_err(command).sqlstate, "55P03", "{command}");
    }
    assert!(release(n3, &intent(1)));
    n3.wait_until(PINS, "0");
    n3.sql("VACUUM FULL t");
    n3.sql("DROP TABLE p");
}

fn it_ends_when_its_time_is_over(n3: &Node) {
    n3.sql(&pin_call(&intent(1), T, ", lifetime := '100 ms'"));
    n3.wait_until(PINS, "0");
    n3.wait_log("of node \"n2\": its time is over");
}

fn it_ends_when_the_target_is_silent(n3: &Node) {
    n3.set(&[("spock.rebuild_pin_silence", "1s")]);
    Pin::take(n3, &intent(1), T);
    n3.wait_until(PINS, "0");
    n3.wait_log("of node \"n2\": the node has been silent for spock.rebuild_pin_silence");
    n3.set(&[("spock.rebuild_pin_silence", "1d")]);
}

fn what_cannot_be_pinned_is_refused(n3: &Node) {
    n3.sql(
        "CREATE VIEW v AS SELECT 1; CREATE ROLE owner; CREATE TABLE hidden (id int); ALTER TABLE hidden OWNER TO owner",
    );
    n3.sql("ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY");
    n3.sql("CREATE TABLE unreadable (id int); ALTER TABLE unreadable OWNER TO owner; REVOKE SELECT ON unreadable FROM owner");
    n3.sql("CREATE FOREIGN DATA WRAPPER f; CREATE SERVER s FOREIGN DATA WRAPPER f; CREATE TABLE q (id int) PARTITION BY RANGE (id)");
    n3.sql("CREATE FOREIGN TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (10) SERVER s");
    let one = |table: &str| pin_call(&intent(1), table, "");
    for (call, sqlstate) in [
        (one("'public.nothing'"), "42P01"),
        (one("'t'"), "42P01"),
        (one("'public.'"), "42602"),
        (one("'public.v'"), "42809"),
        (one("'pg_catalog.pg_class'"), "42809"),
        (one("'public.q'"), "42809"),
        (one("'public.hidden'"), "42501"),
        (one("'public.unreadable'"), "42501"),
        (one("NULL"), "22004"),
        (format!("SELECT spock_internal.pin_tables('{}', 'n2', '{{}}')", intent(1)), "22023"),
        (format!("SELECT spock_internal.pin_tables('{}', 'n7', ARRAY[{T}])", intent(1)), "42704"),
        (format!("SELECT spock_internal.pin_tables('{}', 'n3', ARRAY[{T}])", intent(1)), "42704"),
        (pin_call(&intent(1), T, ", lease := '1 ms'"), "22023"),
        (pin_call(&intent(1), T, ", lifetime := '-1 s'"), "22023"),
        ("SELECT spock_internal.pin_tables(NULL, 'n2', ARRAY['public.t'])".to_owned(), "22004"),
    ] {
        let error = n3.try_sql(&call).expect_err(&call);
        assert_eq!(error.sqlstate, sqlstate, "{call}: {error}");
    }
    // A place that failed is free again.
    assert_eq!(n3.value(PINS), "0");
    n3.sql("DROP VIEW v; DROP TABLE hidden, unreadable, q; DROP ROLE owner; DROP FOREIGN DATA WRAPPER f CASCADE");
}

fn whoever_has_no_right_is_refused(n3: &Node) {
    n3.sql("CREATE ROLE nobody LOGIN; CREATE ROLE sender LOGIN REPLICATION");
    let call = pin_call(&intent(1), T, "");
    let error = n3.db("postgres").role("nobody").try_sql(&call).expect_err("it may not");
    assert_eq!(error.sqlstate, "42501");
    let error = n3.db("postgres").role("nobody").try_sql(PINS).expect_err("it may not");
    assert_eq!(error.sqlstate, "42501");
    let release = format!("SELECT spock_internal.release_pin('{}')", intent(1));
    n3.db("postgres").role("sender").sql(&call);
    let error = n3.db("postgres").role("nobody").try_sql(&release).expect_err("it may not");
    assert_eq!(error.sqlstate, "42501");
    assert_eq!(n3.db("postgres").role("sender").value(&release), "t");
    n3.wait_until(PINS, "0");
}

fn a_prepared_transaction_of_a_two_phase_subscription_is_refused(n3: &Node) {
    n3.sql("BEGIN; INSERT INTO t VALUES (10); PREPARE TRANSACTION 'pg_gid_16384_800'");
    let error = n3.try_sql(&pin_call(&intent(1), T, "")).expect_err("it is not in the snapshot");
    assert_eq!(error.sqlstate, "55000");
    assert!(error.hint.is_some_and(|hint| hint.contains("pg_gid_16384_800")));
    n3.sql("ROLLBACK PREPARED 'pg_gid_16384_800'");
    // Somebody else's stays out of the snapshot, and is sent when it is committed.
    n3.sql("BEGIN; INSERT INTO t VALUES (11); PREPARE TRANSACTION 'mine'");
    Pin::take(n3, &intent(1), T);
    n3.sql("ROLLBACK PREPARED 'mine'");
    assert!(release(n3, &intent(1)));
    n3.wait_until(PINS, "0");
}

fn an_error_while_commits_are_held_back_is_told_and_opens_the_gate(n3: &Node) {
    n3.arm(names::PIN_CLOSED, Action::Error);
    let error = n3.try_sql(&pin_call(&intent(1), T, ", lease := '60 s'")).expect_err("the failpoint");
    assert!(error.message.contains(names::PIN_CLOSED), "{error}");
    // It would wait for a minute if the gate were closed.
    n3.session().sql("SET statement_timeout = '20s'; INSERT INTO t VALUES (20)");
    Pin::take(n3, &intent(1), T);
    assert!(release(n3, &intent(1)));
    n3.wait_until(PINS, "0");
}

/// The target says that it knows no such intent.
#[test]
fn a_pin_ends_when_its_target_says_that_the_intent_is_over() {
    let cluster = crate::restore_points::mesh_of("rebuild_pin_over", 3);
    let n3 = cluster.node("n3");
    Pin::take(n3, &intent(1), T);
    n3.wait_until(PINS, "0");
    n3.wait_log("of node \"n2\": the node reports that its rebuild has ended or does not exist");
}

#[test]
fn a_pin_is_in_nobodys_way_and_dies_with_its_server() {
    let cluster = source("rebuild_pin_dies");
    let [n3] = cluster.all();
    n3.sql("CREATE DATABASE app");
    make_source(n3, "app");
    n3.db("app").sql(&pin_call(&intent(1), T, ""));
    assert_eq!(n3.db("app").value(PINS), "1");
    n3.sql("DROP DATABASE app");
    let before = Pin::take(n3, &intent(1), T);
    n3.kill9();
    n3.start();
    assert_eq!(n3.value(PINS), "0");
    let after = Pin::take(n3, &intent(1), T);
    assert_ne!(after.get(n3, "pin"), before.get(n3, "pin"));
    // It would fail if the worker did not end.
    n3.restart();
    assert_eq!(n3.value(PINS), "0");
}
