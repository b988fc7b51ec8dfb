//! A mesh of this second, a quiet one, and tables that go while a node is dead: what has not moved can be recovered as well.

use crate::cluster::{Cluster, Node};
use crate::rescue::{drain, hold_back, wait_arrived};
use crate::slot_keeps::{quick, start, start_mesh};

const INFINITY: &str = "FFFFFFFF/FFFFFFFF";

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// A mesh in which nobody has written anything.
fn empty_mesh(name: &str) -> Cluster {
    let cluster = start(quick(name, 3));
    cluster.sql(TABLES);
    cluster.mesh();
    cluster
}

/// What its subscription from n1 had been told when it had applied nothing, as it is written down.
const BEGINS: &str = "SELECT o ->> 'begins' FROM pg_shseclabel l, json_array_elements(l.label::json -> 'origins') o
    WHERE l.provider = 'spock_recovery' AND l.objoid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND o ->> 'node' = 'n1'";

/// Returns when n2 has recorded that it is past this position of n1.
fn wait_past(n2: &Node, position: &str) {
    let passed = BEGINS.replace("'begins'", "'passed'");
    n2.wait_until(&format!("SELECT greatest(({BEGINS})::pg_lsn, ({passed})::pg_lsn) >= '{position}'"), "t");
}

#[test]
fn the_very_first_transactions_of_a_node_are_recovered_also_when_the_survivor_has_been_restarted() {
    let cluster = empty_mesh("recover_young");
    let [n1, n2, n3] = cluster.all();
    // Nothing has moved, and everything is vouched for.
    for node in [n2, n3] {
        node.wait_until(
            &format!("SELECT count(DISTINCT origin_node), bool_and(released_lsn < '{INFINITY}') FROM spock.recovery_horizon()"),
            "2|t",
        );
        node.wait_until("SELECT status FROM spock.quick_health_check() WHERE check_name = 'vouching'", "HEALTHY");
    }
    let released = n3.value("SELECT max(released_lsn) FROM spock.recovery_horizon() WHERE origin_node = 'n1'");
    wait_past(n2, &released);
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'first' FROM generate_series(1, 20) g; UPDATE t SET v = 'second' WHERE id = 7");
    n1.sql("DELETE FROM t WHERE id = 8");
    wait_arrived(n1);
    n1.kill9();
    // What it has read is nowhere but in its record.
    n2.restart();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')", "catch_up|gap_covered");
    n2.sql("CALL spock.recover_run('n1')");
    let rows = "SELECT count(*), count(*) FILTER (WHERE v = 'second') FROM t";
    assert_eq!((n2.value(rows), n3.value(rows)), ("19|1".to_owned(), "19|1".to_owned()));
    assert_eq!(n2.value("SELECT summary->>'transactions' FROM spock.recovery_intents()"), "2", "each transaction once");
    // It goes on where it is.
    n1.start();
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    n1.sql("INSERT INTO t VALUES (100, 'later')");
    for node in [n2, n3] {
        node.wait_until("SELECT count(*), count(*) FILTER (WHERE id = 100) FROM t", "20|1");
    }
}

#[test]
fn what_a_node_was_past_before_it_had_applied_anything_is_known_also_after_a_part_of_its_recovery() {
    let cluster = empty_mesh("recover_young_part");
    let [n1, n2, n3] = cluster.all();
    for node in [n2, n3] {
        node.wait_until(&format!("SELECT ({BEGINS}) IS NOT NULL"), "t");
    }
    // Its slot stays where it is: that n2's record would be written when it moves is not what is tested.
    n2.set(&[("spock.recovery_slot_advance_interval", "1h")]);
    // What n3 can give begins later than what n2 has recorded: n3 has a table more, and n1's WAL has moved on.
    let begins = n2.value(BEGINS);
    let released = "SELECT max(released_lsn) FROM spock.recovery_horizon() WHERE origin_node = 'n1'";
    n3.wait_until(&format!("SELECT ({released}) < '{INFINITY}'"), "t");
    let before = n3.value(released);
    for node in [n1, n3] {
        node.sql("CREATE TABLE another (id int PRIMARY KEY)");
    }
    n1.sql("SELECT pg_logical_emit_message(false, 'nothing', repeat('x', 10000)), pg_switch_wal()");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 REFRESH PUBLICATION WITH (copy_data = false)");
    n3.wait_until(&format!("SELECT ({released}) BETWEEN '{before}'::pg_lsn + 1 AND '{INFINITY}'::pg_lsn - 1"), "t");
    let later = n3.value(released);
    assert_eq!(n2.value(&format!("SELECT '{begins}'::pg_lsn + 1 < '{later}'::pg_lsn")), "t", "{begins} {later}");
    // Nobody writes anything: n2 has no other occasion to record how far it is past n1.
    wait_past(n2, &later);
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(100001, 100020) g");
    wait_arrived(n1);
    n1.kill9();
    n2.restart();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')", "catch_up|gap_covered");
    n2.sql(&format!("CALL spock.recover_run('n1', stop_lsn => '{begins}'::pg_lsn + 1)"));
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'n1'"), "0");
    assert_eq!(n2.value("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')"), "catch_up|gap_covered");
    n2.sql("CALL spock.recover_run('n1')");
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'n1'"), "20");
}

#[test]
fn of_a_node_that_has_never_written_nothing_is_missing() {
    let cluster = empty_mesh("recover_quiet");
    let [n1, n2, n3] = cluster.all();
    for node in [n2, n3] {
        node.wait_until(&format!("SELECT ({BEGINS}) IS NOT NULL"), "t");
    }
    n1.kill9();
    n2.wait_until("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')", "zero_gap|nothing_missing");
    n3.sql("CALL spock.recover_failed_node('n1')");
}

#[test]
fn a_table_that_the_source_drops_after_the_loss_takes_nothing_from_the_target() {
    let tables = format!(
        "{TABLES}; CREATE TABLE junk (id int PRIMARY KEY, v text); CREATE TABLE old (id int PRIMARY KEY, v text)"
    );
    let cluster = start_mesh(quick("recover_dropped", 3), &tables);
    let [n1, n2, n3] = cluster.all();
    // The comparison of what was touched finds no such table there.
    n3.expect_log("\"public.junk\" does not exist");
    n3.expect_log("\"public.old\" does not exist");
    n1.sql("INSERT INTO junk SELECT g, 'n1' FROM generate_series(1, 5) g; INSERT INTO old VALUES (1, 'n1')");
    drain(n1, n2);
    drain(n1, n3);
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 20) g");
    n1.sql("UPDATE junk SET v = 'late'; DELETE FROM junk WHERE id = 5");
    n1.sql("INSERT INTO old VALUES (2, 'n1'); INSERT INTO t VALUES (21, 'n1')");
    wait_arrived(n1);
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')", "catch_up|gap_covered");
    n3.sql("DROP TABLE junk; DROP TABLE old");
    // What the slot keeps of the catalogs stays.
    for table in ["pg_class", "pg_attribute", "pg_namespace", "pg_index"] {
        n3.sql(&format!("VACUUM {table}"));
    }
    n2.wait_until("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')", "catch_up|gap_covered");
    n2.sql("CALL spock.recover_run('n1')");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "21");
    assert_eq!(n2.value("SELECT count(*), count(*) FILTER (WHERE v = 'late') FROM junk"), "4|4");
    assert_eq!(n2.value("SELECT count(*) FROM old"), "2");
}
