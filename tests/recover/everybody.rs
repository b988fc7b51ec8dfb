//! recover_failed_node: every survivor that lags, each from its best source; and several failed nodes.

use super::rounds::hold_back_from;
use super::{assert_tidy, mesh_of, write};
use crate::rescue::{applied_of, assert_identical, drain};

#[test]
fn every_survivor_of_five_nodes_is_recovered_and_a_silent_one_holds_up_nobody() {
    let cluster = mesh_of("recover_five", 5);
    let [n1, n2, n3, n4, n5] = cluster.all();
    for node in [n2, n3, n4, n5] {
        drain(n1, node);
    }
    hold_back_from(n2, "n1");
    write(n1, 1, 20);
    for node in [n3, n4, n5] {
        drain(n1, node);
    }
    hold_back_from(n3, "n1");
    write(n1, 21, 50);
    for node in [n4, n5] {
        drain(n1, node);
    }
    n1.kill9();
    n5.kill9();
    n4.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n5'", "unreachable");
    let mut session = n4.session();
    session.sql("CALL spock.recover_failed_node('n1')");
    let notices = session.notices().join("\n");
    assert!(notices.contains("node \"n5\" is left out"), "{notices}");
    for node in [n2, n3] {
        assert_identical(node, n4);
        assert_eq!(applied_of(node, "n1"), applied_of(n4, "n1"));
    }
    assert_tidy(&[n2, n3, n4], &["n1"]);
}

#[test]
fn two_failed_nodes_whose_best_sources_differ_are_two_calls() {
    let cluster = mesh_of("recover_two", 4);
    let [n1, n2, n3, n4] = cluster.all();
    for (one, other) in [(n1, n2), (n1, n3), (n4, n2), (n4, n3)] {
        drain(one, other);
    }
    hold_back_from(n2, "n1");
    hold_back_from(n3, "n4");
    write(n1, 1, 20);
    write(n4, 101, 130);
    drain(n1, n3);
    drain(n4, n2);
    n1.kill9();
    n4.kill9();
    n2.sql("CALL spock.recover_failed_node('n1')");
    n2.sql("CALL spock.recover_failed_node('n4')");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "50");
    assert_identical(n2, n3);
    for failed in ["n1", "n4"] {
        assert_eq!(applied_of(n2, failed), applied_of(n3, failed), "{failed}");
    }
    assert_tidy(&[n2, n3], &["n1", "n4"]);
}
