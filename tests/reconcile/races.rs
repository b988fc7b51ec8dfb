//! What happens while rows are compared: a row that changes between the look at it and the write, and what others send
//! meanwhile.

use super::{VERSIONS, counted, end_gap, start};
use crate::cluster::{Action, Node, Session};
use crate::failpoint_names as names;
use crate::rescue::{begin, drain, hold_back, wait_completed};

/// Keeps n2's reconcile from writing a row that this condition holds for, until the session that is returned has let go.
fn gate<'a>(n2: &'a Node, operation: &str, condition: &str) -> Session<'a> {
    n2.sql(&format!(
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
         CREATE TRIGGER gate BEFORE {operation} ON t FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION wait_here();
         ALTER TABLE t ENABLE REPLICA TRIGGER gate"
    ));
    let mut session = n2.session();
    session.sql("SELECT pg_advisory_lock(1)");
    session
}

fn wait_at_gate(n2: &Node) {
    n2.wait_until("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", "1");
}

fn open(mut gate: Session<'_>) {
    gate.sql("SELECT pg_advisory_unlock(1)");
}

#[test]
fn a_row_that_is_brought_while_the_source_changes_it_becomes_what_the_source_has() {
    let cluster = start("reconcile_source_changes", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    drain(n1, n3);
    n3.sql("UPDATE t SET id = id + 100, v = 'moved'");
    drain(n2, n3);
    end_gap(n1);
    let gate = gate(n2, "INSERT", "NEW.id = 101 AND NEW.v = 'moved'");
    begin(n2, n3, "");
    wait_at_gate(n2);
    // n2 has no such row yet, and skips it.
    n3.sql("UPDATE t SET v = 'n3 later' WHERE id = 101");
    drain(n2, n3);
    let theirs = n3.value(VERSIONS);
    open(gate);
    wait_completed(n2);
    drain(n2, n3);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "101|n3 later\n102|moved");
    assert_eq!(n2.value(VERSIONS), theirs);
    assert_eq!(n3.value(VERSIONS), theirs, "what was brought from n3 does not come back to it");
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn a_row_that_the_target_changes_after_it_was_looked_at_is_judged_again() {
    let cluster = start("reconcile_target_changes", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1'), (3, 'n1')");
    drain(n1, n3);
    n3.sql("UPDATE t SET v = 'n3'");
    drain(n2, n3);
    end_gap(n1);
    let gate = gate(n2, "UPDATE", "NEW.id = 1 AND NEW.v = 'n3'");
    begin(n2, n3, "");
    wait_at_gate(n2);
    n2.sql("UPDATE t SET v = 'n2 later' WHERE id = 2");
    n2.sql("DELETE FROM t WHERE id = 3");
    open(gate);
    wait_completed(n2);
    drain(n2, n3);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n3\n2|n2 later");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn a_row_that_comes_again_while_the_late_one_stands_in_its_way_gets_through() {
    let cluster = start("reconcile_stuck", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    // In the words of 17 and of 18.
    n2.expect_log("duplicate key value violates unique constraint");
    n2.expect_log("conflict=insert_exists");
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    drain(n1, n3);
    // n2 has no such row, and skips it.
    n3.sql("DELETE FROM t WHERE id = 1");
    drain(n2, n3);
    end_gap(n1);
    n2.arm(names::RESCUE_SUSPENDED, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_SUSPENDED);
    // It comes to n2 after n1's.
    n3.sql("INSERT INTO t VALUES (1, 'n3 again')");
    n2.disarm(names::RESCUE_SUSPENDED);
    wait_completed(n2);
    drain(n2, n3);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n3 again\n2|n1");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}
