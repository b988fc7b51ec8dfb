//! A subscription of which nobody knows where it comes from may be anybody's: nothing is let go before that is settled.

use super::{advance, advance_by_fresh_reports, quick, start_mesh, wait_follows};
use crate::cluster::Node;

/// Asserts that n3's slot stands still while `node` has such a subscription, and follows when it is gone.
fn assert_held(n3: &Node, node: &Node, blocked: &str) {
    node.sql(
        "CREATE SUBSCRIPTION stranger CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false)",
    );
    // One that has never been connected is not waited for.
    advance_by_fresh_reports(n3, "'n2'");
    wait_follows(n3);
    node.expect_log("could not connect to the publisher: connection to server on socket \"/nonexistent/");
    node.sql("ALTER SUBSCRIPTION stranger ENABLE");
    advance_by_fresh_reports(n3, "'n2'");
    let held = advance(n3);
    n3.sql("CREATE TABLE grown (id int); DROP TABLE grown");
    assert_eq!(advance_by_fresh_reports(n3, "'n2'"), held);
    assert_eq!(n3.value("SELECT blocked_reason FROM spock.get_recovery_slot_status()"), blocked);
    // A superuser says that it is none of the mesh's.
    let check = "SELECT status, details FROM spock.quick_health_check() WHERE check_name = 'subscription stranger'";
    let verdict = node.value(check);
    let call = "SELECT spock.sub_set_origin('stranger', NULL)";
    assert!(verdict.starts_with("WARNING|") && verdict.contains(call), "{verdict}");
    node.sql(call);
    wait_follows(n3);
    assert_eq!(node.value(check), "");
    node.sql("ALTER SUBSCRIPTION stranger DISABLE");
    node.sql("ALTER SUBSCRIPTION stranger SET (slot_name = NONE)");
    node.sql("DROP SUBSCRIPTION stranger");
    wait_follows(n3);
}

#[test]
fn a_subscription_of_unknown_origin_holds_the_slot_here_and_at_a_peer() {
    let cluster = start_mesh(quick("slot_keeps_stranger", 3), "CREATE TABLE t (id int)");
    let [_, n2, n3] = cluster.all();
    assert_held(n3, n2, "peer_unknown");
    assert_held(n3, n3, "peer_unknown");
}
