//! A plan for each survivor, the same from wherever it is asked, and how sure the best source is.

use super::{fail, make_gap, plan, start, state};
use crate::cluster::{Cluster, Node};

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
    n3.stop_fast();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n3'", "unreachable");
    assert_eq!(n2.value("SELECT source_node_name, confidence_level FROM spock.find_rescue_source('n1')"), "n2|LOW");
    assert_eq!(plan(n2, "n2"), "needs_rebuild|node_unreachable|");
}
