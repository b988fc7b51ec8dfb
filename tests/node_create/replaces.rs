//! A lost node's successor, under load.

use super::{Load, Made, assert_equal, assert_healthy, assert_replicates, create_node, done, mesh, move_away, options};
use crate::rescue::{disable, hold_back, wait_arrived};
use spockctl::node::Error;

#[test]
fn a_lost_node_gets_a_successor_of_its_name_once_its_loss_is_recovered() {
    let cluster = Made::of(mesh("node_replaces", 3));
    let [n1, n2, n3] = cluster.all();
    let all = ["n1", "n2", "n3"];
    // The lost node was far ahead of the others' WAL.
    for _ in 0..5 {
        n1.sql("SELECT pg_logical_emit_message(false, '', ''), pg_switch_wal()");
    }
    hold_back(n2);
    let ((), lost) = Load::during(&cluster, &["n1"], "lost", |_| {
        n3.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n1 lost'", "t");
    });
    wait_arrived(n1);
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    move_away(n1);
    let mut given = options(&cluster, n3, n1);
    given.replaces = Some("n1".into());
    let former = n3.value("SELECT max(applied_lsn) FROM spock.node_positions() WHERE origin_node = 'n1'");

    // Not before it is recovered, and nothing is touched.
    let (text, result) = create_node(&given);
    assert!(matches!(result, Err(Error::Findings(1))), "{result:?}");
    assert!(text.contains("CALL spock.recover_failed_node('n1', verb := true)"), "{text}");
    assert!(!n1.data().exists());
    assert_eq!(n2.value("SELECT count(*) FROM pg_subscription WHERE subname = 'sub_n2_n1'"), "1");
    n2.sql("CALL spock.recover_run('n1')");

    let ((), written) = Load::during(&cluster, &["n2", "n3"], "first", |begin| {
        done(create_node(&given));
        begin("n1");
        for node in [n2, n3] {
            node.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n1 first'", "t");
        }
    });
    assert_equal(&cluster, &all, &[&lost, &written]);
    assert_healthy(&cluster, &all);
    assert_eq!(n3.value(&format!("SELECT pg_current_wal_lsn() < '{former}'")), "t");
    assert_eq!(
        n1.value(&format!("SELECT pg_current_wal_lsn() > '{former}'")),
        "t",
        "no position of the old node is used again"
    );

    // The next loss: the successor has what a survivor lacks.
    disable(n3, "sub_n3_n2");
    let ((), second) = Load::during(&cluster, &["n2"], "second", |_| {
        n1.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n2 second'", "t");
    });
    n1.wait_until("SELECT max(seq) FROM plain WHERE writer = 'n2 second'", &second[0].1.to_string());
    n2.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    crate::slot_keeps::wait_confirmed(n2, "sub_n1_n2");
    n2.kill9();
    n3.sql("ALTER SUBSCRIPTION sub_n3_n2 ENABLE");
    n3.sql("CALL spock.recover_run('n2')");
    assert_equal(&cluster, &["n1", "n3"], &[&second]);
    assert_replicates(&cluster, &["n1", "n3"], "after");
}

#[test]
fn the_last_survivor_gets_a_partner_of_another_name() {
    let mut cluster = mesh("node_partner", 2);
    cluster.add_place();
    let cluster = Made::of(cluster);
    let [n1, n2, n3] = cluster.all();
    n1.kill9();
    let mut given = options(&cluster, n2, n3);
    given.replaces = Some("n1".into());
    let ((), written) = Load::during(&cluster, &["n2"], "first", |begin| {
        done(create_node(&given));
        begin("n3");
        n2.wait_until("SELECT count(*) > 20 FROM keyed WHERE writer = 'n3 first'", "t");
    });
    assert_equal(&cluster, &["n2", "n3"], &[&written]);
    assert_healthy(&cluster, &["n2", "n3"]);
    for node in [n2, n3] {
        assert_eq!(node.value("SELECT count(*) FROM spock.node WHERE node_name = 'n1'"), "0");
    }
    assert_eq!(
        n2.value(
            "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE slot_type = 'logical'"
        ),
        "spk_recovery_postgres,sub_n3_n2"
    );
}
