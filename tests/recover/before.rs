//! What a recovery will need and lacks is told before it is needed, on every node, for every pair.

use super::{mesh_of, write};
use crate::cluster::Node;
use crate::rescue::{drain, hold_back, wait_arrived};
use crate::slot_keeps::{quick, start_mesh};

/// What a row of the health check says; empty: there is none.
fn row(node: &Node, check: &str) -> String {
    node.value(&format!(
        "SELECT coalesce((SELECT status || ' ' || details FROM spock.quick_health_check() WHERE check_name = '{check}'), '')"
    ))
}

fn wait_row(node: &Node, check: &str, part: &str) {
    node.wait_until(
        &format!(
            "SELECT coalesce((SELECT position($part${part}$part$ IN status || ' ' || details) > 0
                                FROM spock.quick_health_check() WHERE check_name = '{check}'), false)"
        ),
        "t",
    );
}

#[test]
fn a_node_that_only_subscribes_is_told_of_on_both_sides_and_named_by_a_recovery() {
    let mut cluster = mesh_of("before_unknown", 3);
    cluster.add_node();
    let [n1, n2, n3, n4] = cluster.all();
    n4.sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE first (node text PRIMARY KEY)");
    n4.sql("CREATE EXTENSION spock_recovery");
    n4.sql(&format!("SELECT spock.node_create('n4', '{}')", n4.dsn("postgres")));
    for from in [n1, n2, n3] {
        n4.sql(&format!(
            "CREATE SUBSCRIPTION sub_n4_{0} CONNECTION '{1}' PUBLICATION mesh WITH (copy_data = false, origin = none)",
            from.name(),
            from.dsn("postgres")
        ));
    }
    for known in [n1, n2, n3] {
        let name = known.name();
        wait_row(n4, &format!("peer {name}"), &format!("on node \"{name}\": SELECT spock.peer_create('n4', 'host=…')"));
        wait_row(known, "asker n4", "SELECT spock.peer_create('n4', 'host=…')");
        assert!(
            row(known, "asker n4").starts_with("WARNING node \"n4\" polls this node as role \"postgres\""),
            "{}",
            row(known, "asker n4")
        );
    }
    // Everybody else is known.
    assert_eq!(row(n2, "peer n3"), "HEALTHY answers");
    hold_back(n2);
    write(n1, 1, 20);
    wait_arrived(n1);
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    let mut session = n2.session();
    let report = session.value("CALL spock.recover_failed_node('n1')");
    let notices = session.notices().join("\n");
    assert!(notices.contains("node \"n4\" is not known here, and is left out"), "{notices}");
    assert!(notices.contains("nothing was done for: n4"), "{notices}");
    assert!(report.contains("\"unknown_nodes\": [\"n4\"]"), "{report}");
    assert_eq!(n2.value("SELECT confidence_level FROM spock.find_rescue_source('n1')"), "MEDIUM");
    // The command does it.
    for known in [n2, n3] {
        known.sql(&format!("SELECT spock.peer_create('n4', '{}')", n4.dsn("postgres")));
        assert_eq!(row(known, "asker n4"), "");
        wait_row(n4, &format!("peer {}", known.name()), "HEALTHY");
        known.wait_until("SELECT count(*) > 0 FROM spock.recovery_horizon() WHERE peer_node = 'n4'", "t");
    }
    let mut session = n2.session();
    session.sql("CALL spock.recover_failed_node('n1')");
    let notices = session.notices().join("\n");
    assert!(notices.contains("is recovered on every survivor that is known here, in"), "{notices}");
}

#[test]
fn what_each_pair_will_lack_is_told_with_the_command_that_mends_it() {
    let cluster = mesh_of("before_lacks", 3);
    let [n1, n2, n3] = cluster.all();
    for node in [n1, n2, n3] {
        for other in ["n1", "n2", "n3"].iter().filter(|other| **other != node.name()) {
            wait_row(node, &format!("source {other}"), "HEALTHY");
        }
    }
    // A role of its own for what n2 does on n3, with less than a recovery needs.
    n3.sql("CREATE ROLE weak LOGIN IN ROLE pg_monitor; REVOKE SELECT ON t FROM PUBLIC");
    let dsn = n3.dsn("postgres").replace("user=postgres", "user=weak");
    n2.sql(&format!("SELECT spock.peer_create('n3', '{dsn}')"));
    wait_row(n2, "source n3", "role \"weak\" on node \"n3\" has not REPLICATION");
    wait_row(n2, "source n3", "has no SELECT on");
    wait_row(n2, "source n3", "ALTER ROLE \"weak\" REPLICATION; GRANT pg_read_all_data TO \"weak\";");
    // What is refused then is what was told before.
    assert_eq!(row(n1, "source n3").split(' ').next(), Some("HEALTHY"));
    n3.sql("ALTER ROLE weak REPLICATION; GRANT pg_read_all_data TO weak");
    wait_row(n2, "source n3", "HEALTHY");
    // No place for a clone.
    n3.sql(
        "SELECT pg_create_physical_replication_slot('full_' || n) FROM generate_series(1,
            current_setting('max_replication_slots')::int - (SELECT count(*)::int FROM pg_replication_slots)) n",
    );
    for node in [n1, n2] {
        wait_row(node, "source n3", "0 of max_replication_slots = ");
        wait_row(node, "source n3", "On node \"n3\": drop a slot that is not needed");
    }
    wait_row(n3, "rescue_capacity", "CRITICAL all of max_replication_slots");
    n3.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'full%'");
    for node in [n1, n2] {
        wait_row(node, "source n3", "HEALTHY");
    }
    if cluster.installation().has_output_plugin_libraries {
        n3.set(&[("output_plugin_libraries", "pgoutput, test_decoding")]);
        for node in [n1, n2] {
            wait_row(node, "source n3", "= pgoutput, test_decoding, spock_recovery");
        }
    }
    n3.sql("ALTER SYSTEM SET track_commit_timestamp = off");
    n3.restart();
    for node in [n1, n2] {
        wait_row(node, "source n3", "track_commit_timestamp is off on node \"n3\"");
    }
}

#[test]
fn where_nobody_can_be_recovered_a_call_for_all_survivors_does_not_speak_of_a_recovery() {
    let cluster = start_mesh(quick("recover_nobody", 2), "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2] = cluster.all();
    write(n1, 1, 5);
    drain(n1, n2);
    n1.kill9();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    let error = n2.try_sql("CALL spock.recover_failed_node('n1')").expect_err("there is nobody else");
    assert_eq!(error.sqlstate, "55000", "{error}");
    assert!(error.message.contains("nothing can be planned for the survivors of node \"n1\""), "{error}");
    assert!(error.detail.as_ref().is_some_and(|detail| detail.contains("Node \"n2\": no_source.")), "{error}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("spock.recover_plan('n1')")), "{error}");
}
