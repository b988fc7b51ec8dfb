//! A plan for each survivor, the same from wherever it is asked, and how sure the best source is.

use super::{fail, make_gap, plan, start, state};
use crate::cluster::{Cluster, Node};
use crate::reconcile::VERSIONS;
use crate::rescue::{disable, drain, hold_back};
use crate::slot_keeps::{quick, start_mesh, wait_confirmed};

const ROWS: &str =
    "SELECT target_node, source_node, outcome, reason, target_lsn < source_lsn, gap_bytes > 0, released_lsn
                      FROM spock.recover_plan('n1') ORDER BY 1";

const LSNS: &str = "SELECT target_node, target_lsn, source_lsn, gap_bytes FROM spock.recover_plan('n1') ORDER BY 1";

const BEST: &str = "SELECT source_node_name, confidence_level,
                           origin_node_id = (SELECT node_id FROM spock.node WHERE node_name = 'n1'),
                           source_node_id = (SELECT node_id FROM spock.node WHERE node_name = source_node_name),
                           last_commit_timestamp > now() - interval '1 hour'
                      FROM spock.find_rescue_source('n1')";

fn without_released(rows: &str) -> Vec<String> {
    rows.lines().map(|row| row.rsplit_once('|').map_or("", |(row, _)| row).to_owned()).collect()
}

#[test]
fn every_node_makes_the_same_plan_for_each_survivor_and_changes_nothing() {
    let cluster = start("plan_survivors", 4);
    let [n1, n2, n3, n4] = cluster.all();
    make_gap(&cluster);
    // It lives, and n3 receives from it: nothing is to be recovered.
    assert_eq!(plan(n2, "n2"), "needs_rebuild|failed_node_streams_to_source|n3");

    // It hangs: connections stay, and nobody answers. With the pollers not yet aware of it, and then with them.
    n1.pause();
    for coordinator in [n3, n2, n4] {
        assert_eq!(plan(coordinator, "n2"), "catch_up|gap_covered|n3", "{}", coordinator.name());
    }
    fail(&cluster);
    let before: Vec<String> = [n2, n3, n4].map(state).to_vec();
    let positions = n2.value(LSNS);
    for coordinator in [n2, n3, n4] {
        let rows = without_released(&coordinator.value(ROWS));
        assert_eq!(
            rows,
            [
                "n2|n3|catch_up|gap_covered|t|t",
                "n3|n4|zero_gap|nothing_missing|f|f",
                "n4|n3|zero_gap|nothing_missing|f|f"
            ],
            "{}",
            coordinator.name()
        );
        assert_eq!(coordinator.value(LSNS), positions);
        assert_eq!(coordinator.value(BEST), "n3|HIGH|t|t|t");
        assert_complete(coordinator);
    }
    assert_eq!(before, [n2, n3, n4].map(state).to_vec());
    confidence_falls_with_the_number_of_answers(&cluster);
}

/// Every condition is shown with its finding, and all that is to be held.
fn assert_complete(coordinator: &Node) {
    let question = "SELECT jsonb_array_length(plan->'proof') > 30, jsonb_array_length(plan->'pins'),
                           (SELECT bool_and((c->>'holds')::boolean AND c->>'finding' <> '')
                              FROM jsonb_array_elements(plan->'proof') c),
                           plan->>'advice' LIKE 'CALL spock.recover_run(%', plan->'range'->>'stop_lsn' = source_lsn::text
                      FROM spock.recover_plan('n1', 'n2')";
    assert_eq!(coordinator.value(question), "t|4|t|t|t", "{}", coordinator.name());
}

fn confidence_falls_with_the_number_of_answers(cluster: &Cluster) {
    let [_, n2, n3, n4] = cluster.all();
    n4.stop_fast();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n4'", "unreachable");
    assert_eq!(n2.value(BEST), "n3|MEDIUM|t|t|t");
    assert_eq!(
        without_released(&n2.value(ROWS)),
        ["n2|n3|catch_up|gap_covered|t|t", "n3||zero_gap|nothing_missing|f|f", "n4|||node_unreachable||"]
    );
    let note = "SELECT plan->'notes'->>0 LIKE '%\"n4\"%' FROM spock.recover_plan('n1', 'n2')";
    assert_eq!(n2.value(note), "t");
    // Where nothing is missing the call tells what is not sure as well.
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n4'", "unreachable");
    let mut caller = n3.session();
    caller.sql("CALL spock.recover_run('n1', target_node_name := 'n3')");
    let notices = caller.notices();
    assert!(notices.iter().any(|notice| notice.contains("nothing of node \"n1\" is missing")), "{notices:?}");
    assert!(notices.iter().any(|notice| notice.contains("node \"n4\" may have more")), "{notices:?}");
    drop(caller);
    n3.stop_fast();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n3'", "unreachable");
    assert_eq!(n2.value("SELECT source_node_name, confidence_level FROM spock.find_rescue_source('n1')"), "n2|LOW");
    assert_eq!(plan(n2, "n2"), "needs_rebuild|node_unreachable|");
}

#[test]
fn what_a_failed_node_did_to_rows_that_a_source_lacks_is_had_from_another_that_does_not() {
    let builder = quick("plan_lacked", 5).setting("spock.peer_timeout", "5s");
    let cluster = start_mesh(builder, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3, n4, n5] = cluster.all();
    // n3 lacks rows of n5, skips what n1 does to them, and so has nothing of it in its WAL.
    disable(n3, "sub_n3_n5");
    n5.sql("INSERT INTO t SELECT g, 'n5' FROM generate_series(1, 4) g");
    for node in [n1, n2, n4] {
        drain(n5, node);
    }
    hold_back(n2);
    n1.sql("DELETE FROM t WHERE id = 1");
    n1.sql("UPDATE t SET id = 12 WHERE id = 2");
    n1.sql("UPDATE t SET v = 'n1' WHERE id = 3");
    // Both have come as far.
    n1.sql("INSERT INTO t VALUES (5, 'n1')");
    for node in [n3, n4] {
        n1.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
        wait_confirmed(n1, &format!("sub_{}_n1", node.name()));
    }
    for dead in [n1, n5] {
        dead.kill9();
        n2.wait_until(
            &format!("SELECT state FROM spock.peer_status() WHERE node_name = '{}'", dead.name()),
            "unreachable",
        );
    }
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    let sources = "SELECT source_node, plan->'others'->0->>'source', plan->>'notes' LIKE '%lacks%'
                     FROM spock.recover_plan('n1', 'n2')";
    assert_eq!(n2.value(sources), "n4|n3|f");
    // Who names the other one is told.
    let notes = n2.value("SELECT plan->>'notes' FROM spock_internal.choose_recovery('n1', 'n3', NULL, 'n2', NULL)");
    assert!(notes.contains("lacks transactions of node \\\"n5\\\" and receives no more of them"), "{notes}");
    assert_eq!(n2.value("SELECT source_node_name FROM spock.find_rescue_source('n1')"), "n4");
    n2.sql("CALL spock.recover_run('n1')");
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "3|n1\n4|n5\n5|n1\n12|n5");
    // n3 gets n5's rows, and what n1 did to them.
    n3.sql("ALTER SUBSCRIPTION sub_n3_n5 ENABLE");
    n3.sql("CALL spock.recover_run('n5', 'n4')");
    assert_eq!(n3.value(VERSIONS), n4.value(VERSIONS));
    assert_eq!(n2.value(VERSIONS), n4.value(VERSIONS));
}
