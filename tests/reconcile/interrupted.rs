//! A reconcile that does not come to its end: another one reads again which rows were touched.

use super::{VERSIONS, counted, end_gap, start};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{begin, clone_slot, create_rescue, drain, hold_back, wait_completed, wait_error, wait_phase};
use crate::slot_life::wait_rounds;

/// n1's rows are late on n2, which has skipped what n3 did to them.
fn start_late(name: &str) -> Cluster {
    let cluster = start(name, "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 10) g");
    n1.sql("INSERT INTO u VALUES (1)");
    n1.sql("INSERT INTO t VALUES (11, 'n1')");
    drain(n1, n3);
    n3.sql("UPDATE t SET v = 'n3' WHERE id IN (1, 11)");
    n3.sql("DELETE FROM t WHERE id = 2");
    drain(n2, n3);
    end_gap(n1);
    cluster
}

fn assert_made_good(cluster: &Cluster, updated: &str) {
    let [_, n2, n3] = cluster.all();
    wait_completed(n2);
    drain(n2, n3);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!((counted(n2, "updated"), counted(n2, "deleted")), (updated.to_owned(), "1".to_owned()));
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn a_worker_that_is_killed_before_it_compares_has_a_successor_that_knows_the_rows() {
    let cluster = start_late("reconcile_killed");
    let [_, n2, n3] = cluster.all();
    n2.arm(names::RESCUE_RECONCILING, Action::Crash);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_RECONCILING);
    assert_made_good(&cluster, "2");
}

#[test]
fn a_table_that_is_changed_before_its_rows_are_known_again_keeps_no_others_from_being_compared() {
    let cluster = start_late("reconcile_killed_and_changed");
    let [_, n2, n3] = cluster.all();
    n2.arm(names::RESCUE_RECONCILING, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_RECONCILING);
    n2.sql("ALTER TABLE u RENAME COLUMN id TO other");
    n2.kill9();
    n2.disarm(names::RESCUE_RECONCILING);
    n2.start();
    wait_completed(n2);
    drain(n2, n3);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!((counted(n2, "updated"), counted(n2, "deleted")), ("2".to_owned(), "1".to_owned()));
    assert_eq!(counted(n2, "unjudged"), "{\"not_comparable\": 1}");
    assert_eq!(counted(n2, "refused"), "{\"public.u\": \"it was changed on node \\\"n2\\\" meanwhile\"}");
}

/// What was touched is compared by itself, and counted with the recovery that was aborted.
fn wait_judged(n2: &Node, updated: &str) {
    n2.wait_until(
        "SELECT i.phase, (SELECT count(*) FROM spock.recovery_unjudged(i.intent_id)), summary->'reconciled'->>'updated',
                summary->'reconciled'->>'deleted', summary->'reconciled'->>'unjudged'
           FROM spock.recovery_intents() i ORDER BY begun_at LIMIT 1",
        &format!("aborted|0|{updated}|1|"),
    );
}

#[test]
fn what_an_aborted_recovery_has_touched_is_compared_although_no_other_goes_on() {
    let cluster = start_late("reconcile_aborted_replay");
    let [_, n2, n3] = cluster.all();
    n2.expect_log("violates check constraint");
    n2.sql("ALTER TABLE u ADD CONSTRAINT is_nothing CHECK (id < 0)");
    begin(n2, n3, "");
    wait_error(n2, "23514");
    n2.sql("CALL spock.recover_abort('n1')");
    // A row that n3 lacks may be what the rest would bring.
    n2.wait_until("SELECT v FROM t WHERE id = 1", "n3");
    n2.wait_until(
        "SELECT u.key, u.reason FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u",
        "(id)=(2)|target_lags",
    );
    n2.sql("ALTER TABLE u DROP CONSTRAINT is_nothing");
    n2.sql("CALL spock.recover_run('n1', 'n3')");
    wait_judged(n2, "1");
    drain(n2, n3);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!((counted(n2, "updated"), counted(n2, "unjudged")), ("1".to_owned(), String::new()));
}

#[test]
fn a_recovery_that_is_aborted_while_it_compares_leaves_nothing_uncompared() {
    let cluster = start_late("reconcile_aborted");
    let [_, n2, n3] = cluster.all();
    // A worker that takes too long to notice is ended.
    n2.expect_log("due to administrator command");
    n2.arm(names::RESCUE_RECONCILING, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_RECONCILING);
    n2.sql("SELECT spock_internal.ask_to_abort('n1')");
    // The manager has told the worker.
    wait_rounds(n2.db("postgres"), 2);
    n2.disarm(names::RESCUE_RECONCILING);
    wait_judged(n2, "2");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn what_an_aborted_recovery_has_touched_is_counted_where_its_source_is_gone_and_the_next_one_compares_it() {
    let cluster = start_late("reconcile_aborted_alone");
    let [_, n2, n3] = cluster.all();
    n2.expect_log("violates check constraint");
    n2.expect_log("that the aborted recovery of node");
    n2.sql("ALTER TABLE u ADD CONSTRAINT is_nothing CHECK (id < 0)");
    begin(n2, n3, "");
    wait_error(n2, "23514");
    let kept = clone_slot(n3);
    n3.stop_fast();
    n2.sql("CALL spock.recover_abort('n1')");
    wait_phase(n2, "aborted");
    assert_eq!(counted(n2, "unjudged"), "{\"lost\": 10}");
    let health = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'kept_rows'";
    assert_eq!(n2.value(health), "WARNING");
    n3.start();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n3'", "connected");
    n2.sql("ALTER TABLE u DROP CONSTRAINT is_nothing");
    n2.sql(&create_rescue(&kept, ""));
    assert_made_good(&cluster, "2");
}
