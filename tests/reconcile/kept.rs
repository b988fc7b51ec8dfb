//! Rows that cannot be judged yet do not hold the call; they are kept, and judged when they can be.

use super::{VERSIONS, counted, fail, recover, start};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{LAST_INTENT, begin, disable, drain, hold_back, wait_completed};
use crate::slot_keeps::{quick, start_mesh, wait_confirmed};
use std::thread;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text)";

/// What is kept of all recoveries.
const KEPT: &str =
    "SELECT u.relation, u.key, u.reason FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u
                     ORDER BY i.begun_at, u.key";

/// The large objects but that with the files of the recovery slot.
pub const OBJECTS: &str = "(SELECT oid FROM pg_largeobject_metadata WHERE oid::text NOT IN (
    SELECT label::jsonb->>'slot_files' FROM pg_seclabel WHERE provider = 'spock_recovery'
       AND classoid = 'pg_namespace'::regclass AND label::jsonb ? 'slot_files')) objects";

fn wait_judged(n2: &Node) {
    n2.wait_until(&format!("SELECT count(*) FROM ({KEPT}) kept"), "0");
    assert_eq!(n2.value(&format!("SELECT count(*) FROM {OBJECTS}")), "0", "what was judged is kept no longer");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_kept_objects"), "1", "the files of the slot alone");
}

/// n2 lacks the rows of n1, has skipped what n3 did to them, and gets nothing of n4.
fn start_without_n4(name: &str) -> Cluster {
    let cluster = start_mesh(quick(name, 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 4) g");
    for node in [n3, n4] {
        drain(n1, node);
    }
    disable(n2, "sub_n2_n4");
    n3.sql("DELETE FROM t WHERE id = 1");
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 2");
    n4.sql("UPDATE t SET v = 'n4' WHERE id = 3");
    wait_confirmed(n3, "sub_n2_n3");
    wait_confirmed(n3, "sub_n4_n3");
    wait_confirmed(n4, "sub_n3_n4");
    cluster
}

#[test]
fn what_another_dead_node_bears_on_is_judged_after_its_recovery() {
    let cluster = start_without_n4("reconcile_two_dead");
    let [_, n2, n3, n4] = cluster.all();
    n4.kill9();
    recover(&cluster);
    // n3 has no row 1; what n4 did to it nobody can tell yet. Row 3 is n4's, and n2 lacks it.
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n1\n2|n3\n3|n1\n4|n1");
    assert_eq!(counted(n2, "unjudged"), "{\"target_lags\": 2}");
    assert_eq!(n2.value(KEPT), "public.t|(id)=(1)|target_lags\npublic.t|(id)=(3)|target_lags");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n4 ENABLE");
    n2.sql("CALL spock.recover_run('n4', 'n3')");
    // The call returns after it.
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "2|n3\n3|n4\n4|n1");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    wait_judged(n2);
    let of_n1 = "SELECT summary->'reconciled' FROM spock.recovery_intents() WHERE failed_node = 'n1'";
    assert_eq!(n2.value(of_n1), "{\"deleted\": 1, \"updated\": 1, \"compared\": 4}");
}

/// Removes each large object that nothing refers to, as administrators do at night.
pub fn vacuumlo(cluster: &Cluster, node: &Node) {
    node.sql("SELECT lo_create(123)");
    let program = cluster.installation().bindir.join("vacuumlo");
    let output = cluster.user().command(&program).arg(node.dsn("postgres")).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(output.status.success(), "vacuumlo: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        node.value("SELECT count(*) FROM pg_largeobject_metadata WHERE oid = 123"),
        "0",
        "it removes what it can"
    );
}

#[test]
fn what_is_kept_outlives_vacuumlo_and_a_crash_and_is_judged_when_the_nodes_have_caught_up() {
    let cluster = start_without_n4("reconcile_kept_crash");
    let [_, n2, n3, n4] = cluster.all();
    recover(&cluster);
    assert_eq!(counted(n2, "unjudged"), "{\"target_lags\": 2}");
    vacuumlo(&cluster, n2);
    n2.kill9();
    n2.start();
    vacuumlo(&cluster, n2);
    // What refers to it is no table that a publication takes along, and its query gives the same.
    n2.sql("REFRESH MATERIALIZED VIEW spock.recovery_kept_objects");
    vacuumlo(&cluster, n2);
    let refers = format!("SELECT count(*) FROM spock.recovery_kept_objects JOIN {OBJECTS} ON oid = object");
    assert_eq!(n2.value(&refers), "1");
    n2.sql("CREATE PUBLICATION everything FOR ALL TABLES");
    let published = "SELECT count(*) FROM pg_publication_tables WHERE pubname = 'everything' AND schemaname = 'spock'";
    assert_eq!(n2.value(published), "0");
    assert_eq!(n2.value(KEPT), "public.t|(id)=(1)|target_lags\npublic.t|(id)=(3)|target_lags");
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 1"), "n1");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n4 ENABLE");
    wait_judged(n2);
    drain(n2, n4);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "2|n3\n3|n4\n4|n1");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn a_crash_before_the_end_is_written_down_loses_no_row_that_is_kept() {
    let cluster = start_without_n4("reconcile_kept_closing");
    let [_, n2, _, n4] = cluster.all();
    n4.kill9();
    fail(&cluster);
    n2.arm(names::RESCUE_CLOSING, Action::Wait);
    begin(n2, cluster.node("n3"), "");
    n2.wait_hit(names::RESCUE_CLOSING);
    // The clone is what it can be found out by once more.
    n2.kill9();
    n2.start();
    n2.disarm(names::RESCUE_CLOSING);
    wait_completed(n2);
    assert_eq!(counted(n2, "unjudged"), "{\"target_lags\": 2}");
    assert_eq!(n2.value(KEPT), "public.t|(id)=(1)|target_lags\npublic.t|(id)=(3)|target_lags");
    // It goes when the source has heard of the end.
    let clones = "SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery'";
    cluster.node("n3").wait_until(clones, "0");
}

#[test]
fn rows_that_somebody_has_removed_while_they_were_kept_are_told_as_lost() {
    let cluster = start_without_n4("reconcile_kept_removed");
    let [_, n2, _, n4] = cluster.all();
    n4.kill9();
    // Nothing looks at them meanwhile.
    n2.arm(names::RESCUE_JUDGING_AGAIN, Action::Wait);
    recover(&cluster);
    n2.wait_hit(names::RESCUE_JUDGING_AGAIN);
    let health = "SELECT status, details FROM spock.quick_health_check() WHERE check_name = 'kept_rows'";
    assert_eq!(n2.value(health), "");
    n2.sql(&format!("SELECT lo_unlink(oid) FROM {OBJECTS}"));
    let told = n2.value(health);
    assert!(
        told.starts_with("CRITICAL|2 rows that the recovery of node \"n1\" has touched can never be compared"),
        "{told}"
    );
    assert!(told.ends_with("compare the tables by hand with those of node \"n3\""), "{told}");
    n2.disarm(names::RESCUE_JUDGING_AGAIN);
    n2.wait_until(&format!("SELECT summary->'reconciled'->>'unjudged' FROM {LAST_INTENT}"), "{\"lost\": 2}");
    assert!(n2.value(health).starts_with("WARNING|2 rows that"), "{}", n2.value(health));
    n2.wait_log("2 rows that the recovery of node \"n1\" has touched can never be compared");
}

#[test]
fn rows_of_a_table_that_is_dropped_are_forgotten_and_those_of_one_that_is_changed_are_told() {
    let cluster = start(
        "reconcile_kept_dropped",
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (a int, b text, PRIMARY KEY (b, a));
         CREATE TABLE w (id int PRIMARY KEY, v text)",
    );
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'); INSERT INTO u VALUES (1, 'größe'), (2, 'y'); INSERT INTO w VALUES (1)");
    drain(n1, n3);
    n3.sql("DELETE FROM t; DELETE FROM u WHERE a = 1; DELETE FROM w");
    wait_confirmed(n3, "sub_n2_n3");
    disable(n2, "sub_n2_n3");
    n3.sql("CREATE TABLE beside (id int)");
    recover(&cluster);
    assert_eq!(counted(n2, "unjudged"), "{\"target_lags\": 3}");
    let kept = "public.u|(b, a)=(größe, 1)|target_lags\npublic.t|(id)=(1)|target_lags\npublic.w|(id)=(1)|target_lags";
    assert_eq!(n2.value(KEPT), kept);
    n2.sql("DROP TABLE t");
    n2.sql("ALTER TABLE w RENAME COLUMN v TO other");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n3 ENABLE");
    wait_judged(n2);
    assert_eq!(n2.value("SELECT a FROM u"), "2");
    assert_eq!(counted(n2, "deleted"), "1");
    assert_eq!(counted(n2, "unjudged"), "{\"not_comparable\": 1}");
}

/// n2's recovery from n3 is about to compare its rows when n3 dies; n4 lives.
fn lose_source(cluster: &Cluster) {
    let [_, n2, n3, _] = cluster.all();
    fail(cluster);
    n2.arm(names::RESCUE_RECONCILING, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_RECONCILING);
    n3.kill9();
    n2.disarm(names::RESCUE_RECONCILING);
    // It is tried a few times, later each time.
    wait_completed(n2);
}

#[test]
fn a_source_that_dies_while_rows_are_compared_is_replaced_by_another_node() {
    let cluster = start_mesh(quick("reconcile_source_lost", 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n4.sql("DELETE FROM t WHERE id = 1");
    for slot in ["sub_n2_n4", "sub_n3_n4"] {
        wait_confirmed(n4, slot);
    }
    lose_source(&cluster);
    wait_judged(n2);
    assert_eq!(n2.value("SELECT id, v FROM t"), "2|n1");
    assert_eq!(n2.value(VERSIONS), n4.value(VERSIONS));
    assert_eq!(
        n2.value(&format!("SELECT summary->'reconciled' FROM {LAST_INTENT}")),
        "{\"deleted\": 1, \"updated\": 0, \"compared\": 2}"
    );
}

#[test]
fn rows_are_not_compared_with_a_node_that_lacks_more_of_the_failed_one() {
    let cluster = start_mesh(quick("reconcile_other_lacks", 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    disable(n4, "sub_n4_n1");
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    drain(n1, n3);
    lose_source(&cluster);
    assert_eq!(n2.value(KEPT), "public.t|(id)=(1)|source_lost\npublic.t|(id)=(2)|source_lost");
    // n4 has no such rows. n2 looks, and leaves its own alone.
    n2.arm(names::RESCUE_JUDGING_AGAIN, Action::Wait);
    n2.wait_hit(names::RESCUE_JUDGING_AGAIN);
    n2.disarm(names::RESCUE_JUDGING_AGAIN);
    n2.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'", "0");
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n1\n2|n1");
    n4.sql("CALL spock.recover_run('n1', 'n2')");
    assert_eq!(n2.value(VERSIONS), n4.value(VERSIONS));
    n3.start();
    for node in [n2, n4] {
        wait_judged(node);
        assert_eq!(node.value("SELECT id, v FROM t ORDER BY id"), "1|n1\n2|n1", "{}", node.name());
    }
}

#[test]
fn a_look_that_is_killed_before_it_has_written_down_what_it_did_is_repeated() {
    let cluster = start_without_n4("reconcile_again_killed");
    let [_, n2, n3, _] = cluster.all();
    recover(&cluster);
    n2.arm(names::RESCUE_JUDGED_AGAIN, Action::Crash);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n4 ENABLE");
    n2.wait_hit(names::RESCUE_JUDGED_AGAIN);
    wait_judged(n2);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "2|n3\n3|n4\n4|n1");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn a_recovery_does_not_wait_for_a_look_at_what_is_kept() {
    let cluster = start_without_n4("reconcile_again_in_the_way");
    let [_, n2, n3, n4] = cluster.all();
    n2.expect_log("due to administrator command");
    n4.kill9();
    recover(&cluster);
    n2.arm(names::RESCUE_JUDGING_AGAIN, Action::Wait);
    n2.wait_hit(names::RESCUE_JUDGING_AGAIN);
    let looks = n2.rescue_worker();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n4 ENABLE");
    thread::scope(|scope| {
        let called = scope.spawn(|| n2.sql("CALL spock.recover_run('n4', 'n3')"));
        n2.wait_until(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {looks}"), "0");
        n2.disarm(names::RESCUE_JUDGING_AGAIN);
        called.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    wait_judged(n2);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn a_late_row_that_is_kept_does_not_block_what_comes_in_its_place() {
    let cluster = start_without_n4("reconcile_kept_blocks");
    let [_, n2, n3, n4] = cluster.all();
    // In the words of 17 and of 18.
    n2.expect_log("duplicate key value violates unique constraint");
    n2.expect_log("conflict=insert_exists");
    n4.kill9();
    recover(&cluster);
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 1"), "n1");
    n3.sql("INSERT INTO t VALUES (1, 'n3 again')");
    n2.wait_until("SELECT v FROM t WHERE id = 1", "n3 again");
    drain(n2, n3);
    n2.wait_until(KEPT, "public.t|(id)=(3)|target_lags");
}

#[test]
fn a_row_that_gets_another_key_while_it_is_kept_is_followed() {
    let cluster = start_mesh(quick("reconcile_kept_moves", 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1')");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n3.sql("UPDATE t SET id = 2 WHERE id = 1");
    for slot in ["sub_n2_n3", "sub_n4_n3"] {
        wait_confirmed(n3, slot);
    }
    // n3 lacks what n2 has, and may have skipped.
    disable(n3, "sub_n3_n4");
    n4.sql("INSERT INTO t VALUES (10, 'n4')");
    wait_confirmed(n4, "sub_n2_n4");
    recover(&cluster);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "10|n4");
    assert_eq!(n2.value(KEPT), "public.t|(id)=(2)|source_lags");
    // n2 has no row 2, and skips it.
    n3.sql("UPDATE t SET id = 3, v = 'moved' WHERE id = 2");
    wait_confirmed(n3, "sub_n2_n3");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n4 ENABLE");
    wait_judged(n2);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "3|moved\n10|n4");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn rows_are_not_compared_with_a_node_whose_own_are_not_made_good_yet() {
    let cluster = start_mesh(quick("reconcile_other_late", 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    disable(n4, "sub_n4_n1");
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    drain(n1, n3);
    // Neither n2 nor n4 has the row: both skip it.
    n3.sql("DELETE FROM t WHERE id = 1");
    for slot in ["sub_n2_n3", "sub_n4_n3"] {
        wait_confirmed(n3, slot);
    }
    lose_source(&cluster);
    n4.sql("CALL spock.recover_run('n1', 'n2')");
    // They are alike, and still it is not known what n3 had done to them.
    assert_eq!(counted(n4, "unjudged"), "{\"source_lags\": 2}");
    n2.arm(names::RESCUE_JUDGING_AGAIN, Action::Wait);
    n2.wait_hit(names::RESCUE_JUDGING_AGAIN);
    n2.disarm(names::RESCUE_JUDGING_AGAIN);
    n3.start();
    for node in [n2, n4] {
        wait_judged(node);
        assert_eq!(node.value("SELECT id, v FROM t ORDER BY id"), "2|n1", "{}", node.name());
    }
}

#[test]
fn nothing_is_deleted_for_a_node_that_has_replayed_and_has_yet_to_compare() {
    let cluster = start_mesh(quick("reconcile_other_replayed", 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1')");
    for node in [n3, n4] {
        drain(n1, node);
    }
    disable(n4, "sub_n4_n1");
    n3.sql("DELETE FROM t WHERE id = 1");
    for slot in ["sub_n1_n3", "sub_n2_n3", "sub_n4_n3"] {
        wait_confirmed(n3, slot);
    }
    n1.sql("INSERT INTO t VALUES (1, 'again')");
    drain(n1, n3);
    lose_source(&cluster);
    assert_eq!(n2.value("SELECT id, v FROM t"), "1|again");
    // In n2's WAL the second row is an UPDATE of the first, which n4 does not have any more.
    n4.arm(names::RESCUE_RECONCILING, Action::Wait);
    thread::scope(|scope| {
        let call = scope.spawn(|| n4.sql("CALL spock.recover_run('n1', 'n2')"));
        n4.wait_hit(names::RESCUE_RECONCILING);
        assert_eq!(n4.value("SELECT count(*) FROM t"), "0");
        n2.arm(names::RESCUE_JUDGING_AGAIN, Action::Wait);
        n2.wait_hit(names::RESCUE_JUDGING_AGAIN);
        n2.disarm(names::RESCUE_JUDGING_AGAIN);
        n2.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'", "0");
        assert_eq!(n2.value("SELECT id, v FROM t"), "1|again");
        n4.disarm(names::RESCUE_RECONCILING);
        call.join().expect("the call returns");
    });
    n3.start();
    for node in [n2, n4] {
        wait_judged(node);
        assert_eq!(node.value("SELECT id, v FROM t"), "1|again", "{}", node.name());
    }
}

#[test]
fn late_rows_of_two_recoveries_make_room_together_for_one_transaction() {
    let cluster = start_mesh(quick("reconcile_kept_together", 4), TABLE);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    disable(n2, "sub_n2_n4");
    n1.sql("INSERT INTO t VALUES (1, 'n1')");
    n4.sql("INSERT INTO t VALUES (2, 'n4')");
    for node in [n1, n4] {
        drain(node, n3);
    }
    // n2 has neither row: nothing is left there to be deleted.
    n3.sql("DELETE FROM t");
    wait_confirmed(n3, "sub_n2_n3");
    disable(n2, "sub_n2_n3");
    n3.sql("INSERT INTO t VALUES (1, 'n3'), (2, 'n3')");
    for node in [n1, n4] {
        node.kill9();
    }
    for dead in ["n1", "n4"] {
        n2.wait_until(&format!("SELECT state FROM spock.peer_status() WHERE node_name = '{dead}'"), "unreachable");
        n2.sql(&format!("CALL spock.recover_run('{dead}', 'n3')"));
    }
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n1\n2|n4");
    assert_eq!(n2.value(KEPT), "public.t|(id)=(1)|target_lags\npublic.t|(id)=(2)|target_lags");
    // Either row alone keeps n3's transaction out.
    n2.expect_log("duplicate key value violates unique constraint");
    n2.expect_log("conflict=insert_exists");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n3 ENABLE");
    wait_judged(n2);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!(n2.value("SELECT string_agg(v, ',') FROM t"), "n3,n3");
}
