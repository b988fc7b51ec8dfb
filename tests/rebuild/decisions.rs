//! What is decided about a rebuild, and that whatever was acquired for one is given back: docs/parity.md says which decisions of
//! other systems these are.

use super::kills::{call_again, damage, lose_slot};
use super::run::{DIGEST, TABLES, fill};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{drain, hold_back};
use crate::slot_keeps::{quick, start_mesh};
use std::thread;

fn cluster(name: &str) -> Cluster {
    let cluster = start_mesh(quick(name, 3), TABLES);
    let [n1, n2, n3] = cluster.all();
    fill(n1, n2, n3);
    cluster
}

/// What is held for a rebuild of n2: snapshots on any node, and slots that take a lost one's place.
fn held(cluster: &Cluster) -> Vec<String> {
    let look = "SELECT (SELECT count(*) FROM spock_internal.pins()) || ' ' ||
                       (SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%')";
    cluster.nodes().iter().map(|node| node.value(look)).collect()
}

fn wait_nothing_held(cluster: &Cluster) {
    for node in cluster.nodes() {
        node.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
        node.wait_until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%'", "0");
    }
}

#[test]
fn a_target_that_is_ahead_of_its_source_is_never_taken_back() {
    let cluster = cluster("rebuild_target_ahead");
    cluster.expect_log("could not connect to the publisher");
    let [n1, n2, n3] = cluster.all();
    hold_back(n3);
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'late ' || g FROM generate_series(1, 50) g");
    drain(n1, n2);
    n1.kill9();
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 ENABLE");
    let before = n2.value(DIGEST);
    let call = "CALL spock.rebuild_run('n2', 'n3', failed_node_name := 'n1')";
    let refused = n2.try_sql(call).expect_err("n3 lacks what n2 has");
    assert_eq!(refused.sqlstate, "55000", "{refused}");
    assert!(refused.message.contains("source node \"n3\" has node \"n1\" up to"), "{refused}");
    let hint = refused.hint.clone().unwrap_or_default();
    assert_eq!(n2.value(DIGEST), before);
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
    // What the hint says, in its order.
    assert!(hint.contains("CALL spock.rebuild_abort();"), "{hint}");
    n2.sql("CALL spock.rebuild_abort()");
    wait_nothing_held(&cluster);
    let command = "CALL spock.recover_run('n1', target_node_name := 'n3');";
    assert!(hint.contains(command), "{hint}");
    n2.sql(command);
    call_again(n2, call);
    drain(n2, n3);
    assert_eq!((n2.value(DIGEST), n3.value(DIGEST)), (before.clone(), before));
    wait_nothing_held(&cluster);
}

#[test]
fn a_snapshot_that_cannot_be_pinned_leaves_neither_slot_nor_pin_nor_change() {
    let cluster = cluster("rebuild_pin_fails");
    for text in [
        "replication slot \"sub_n2_n1\" does not exist",
        "could not start WAL streaming",
        "canceling statement due to lock timeout",
    ] {
        cluster.expect_log(text);
    }
    let [n1, n2, n3] = cluster.all();
    damage(n2);
    lose_slot(n1, n2);
    let before = n2.value(DIGEST);
    let mut blocker = n3.session();
    blocker.sql("BEGIN; LOCK TABLE u IN ACCESS EXCLUSIVE MODE");
    let refused = n2.try_sql("CALL spock.rebuild_run('n2', 'n3')").expect_err("a table cannot be locked");
    assert_eq!(refused.sqlstate, "55000", "{refused}");
    // The slot holds the WAL meanwhile, and no snapshot is left behind on the source.
    assert_eq!(n1.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%'"), "1");
    n3.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
    assert_eq!(n2.value(DIGEST), before);
    n2.sql("CALL spock.rebuild_abort()");
    wait_nothing_held(&cluster);
    assert_eq!(held(&cluster), ["0 0", "0 0", "0 0"]);
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
    assert_eq!(n2.value(DIGEST), before);
    blocker.sql("ROLLBACK");
    call_again(n2, "CALL spock.rebuild_run('n2', 'n3')");
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
    wait_nothing_held(&cluster);
}

/// The intents of a node: id and phase.
fn intents(node: &Node) -> String {
    node.value("SELECT intent_id, phase FROM spock.recovery_intents()")
}

#[test]
fn two_targets_of_one_source_are_rebuilt_apart_and_what_goes_on_is_the_original_intent() {
    let cluster = cluster("rebuild_two_targets");
    cluster.expect_log("terminating connection due to administrator command");
    let [n1, n2, n3] = cluster.all();
    damage(n2);
    n1.session().sql(
        "SELECT pg_replication_origin_create('damage'); SELECT pg_replication_origin_session_setup('damage');
         DELETE FROM other WHERE id % 3 = 0",
    );
    n2.arm(names::REBUILD_TABLE_READY, Action::Wait);
    let mut session = n2.session();
    let begun = thread::scope(|scope| {
        let call = scope.spawn(move || session.try_sql("CALL spock.rebuild_run('n2', 'n3')"));
        n2.wait_hit(names::REBUILD_TABLE_READY);
        let begun = intents(n2);
        // Another target with the same source, which knows nothing of the first.
        n1.sql("CALL spock.rebuild_run('n1', 'n3')");
        assert_eq!(n3.value("SELECT string_agg(target_node, ' ') FROM spock_internal.pins()"), "n2");
        assert!(intents(n3).is_empty());
        assert_ne!(intents(n1).split('|').next(), begun.split('|').next());
        n2.kill9();
        call.join().expect("it ends").expect_err("its server has died");
        begun
    });
    n2.disarm(names::REBUILD_TABLE_READY);
    n2.start();
    call_again(n2, "CALL spock.rebuild_run('n2', 'n3')");
    let (id, phase) = begun.split_once('|').expect("one intent");
    assert_eq!(phase, "rebuilding");
    assert_eq!(intents(n2), format!("{id}|completed"));
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    assert_eq!((n1.value(DIGEST), n2.value(DIGEST)), (n3.value(DIGEST), n3.value(DIGEST)));
    wait_nothing_held(&cluster);
}
