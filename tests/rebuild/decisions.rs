//! What is decided about a rebuild, and that whatever was acquired for one is given back: docs/parity.md says which decisions of
//! other systems these are.

use super::kills::{call_again, damage, lose_slot};
use super::run::{DIGEST, TABLES, fill};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{disable, drain};
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

fn wait_nothing_held(nodes: &[&Node]) {
    for node in nodes {
        node.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
        node.wait_until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%'", "0");
    }
}

#[test]
fn a_target_that_is_ahead_of_its_source_is_never_taken_back() {
    let cluster = cluster("rebuild_target_ahead");
    cluster.expect_log("could not connect to the publisher");
    let [n1, n2, n3] = cluster.all();
    disable(n3, "sub_n3_n1");
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'late ' || g FROM generate_series(1, 50) g");
    drain(n1, n2);
    n1.kill9();
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 ENABLE");
    let before = n2.value(DIGEST);
    let call = "CALL spock.rebuild_run('n2', 'n3', failed_node_name := 'n1')";
    let refused = n2.try_sql(call).expect_err("n3 lacks what n2 has");
    assert_eq!(refused.sqlstate, "55000", "{refused}");
    assert!(refused.message.contains("source node \"n3\" has node \"n1\" up to"), "{refused}");
    assert_eq!(n2.value(DIGEST), before);
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled AND subname <> 'sub_n2_n1'", "0");
    // The source is recovered first, from this node.
    n2.sql("CALL spock.rebuild_abort()");
    wait_nothing_held(&[n2, n3]);
    n2.sql("CALL spock.recover_run('n1', target_node_name := 'n3')");
    call_again(n2, call);
    drain(n2, n3);
    assert_eq!((n2.value(DIGEST), n3.value(DIGEST)), (before.clone(), before));
    wait_nothing_held(&[n2, n3]);
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
    wait_nothing_held(&[n1, n2, n3]);
    assert_eq!(held(&cluster), ["0 0", "0 0", "0 0"]);
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
    assert_eq!(n2.value(DIGEST), before);
    blocker.sql("ROLLBACK");
    call_again(n2, "CALL spock.rebuild_run('n2', 'n3')");
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
    wait_nothing_held(&[n1, n2, n3]);
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
        n3.wait_until("SELECT string_agg(target_node, ' ') FROM spock_internal.pins()", "n2");
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
    wait_nothing_held(&[n1, n2, n3]);
}

#[test]
fn some_tables_are_rebuilt_and_what_was_lost_stays_lost_aloud_until_all_are() {
    let cluster = cluster("rebuild_partial");
    for text in ["replication slot \"sub_n2_n1\" does not exist", "could not start WAL streaming"] {
        cluster.expect_log(text);
    }
    let [n1, n2, n3] = cluster.all();
    damage(n2);
    lose_slot(n1, n2);
    drain(n1, n3);
    let progress =
        "SELECT pg_replication_origin_progress('pg_' || oid, false) FROM pg_subscription WHERE subname = 'sub_n2_n1'";
    let state = "SELECT srsubstate, srsublsn > pg_replication_origin_progress('pg_' || s.oid, false)
                   FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = srsubid WHERE subname = 'sub_n2_n1' AND srrelid = 't'::regclass";
    let (before, others) = (n2.value(progress), n2.value("SELECT count(*) FROM other"));
    let mut session = n2.session();
    session.sql("CALL spock.rebuild_run('n2', 'n3', tables := ARRAY['t'::regclass])");
    let told = session.notices().join("\n");
    assert!(told.contains("slots that were lost") && told.contains("CALL spock.rebuild_run('n2');"), "{told}");
    drain(n3, n2);
    let t = "SELECT count(*), sum(hashtextextended(x::text, 0)) FROM t x";
    assert_eq!(n2.value(t), n3.value(t));
    // Nothing of the others is changed, and the subscription goes on failing: no slot that begins later has its name.
    assert_eq!(n2.value("SELECT count(*) FROM other"), others);
    assert_eq!(
        n1.value(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%' OR slot_name = 'sub_n2_n1'"
        ),
        "0"
    );
    assert_eq!((n2.value(progress), n2.value(state)), (before, "s|t".to_owned()));
    n2.wait_log("replication slot \"sub_n2_n1\" does not exist");
    // The table is up to date, and so n2 is a source of it no more than of anything else of n1.
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 'after')");
    drain(n1, n3);
    let refused = n2.try_sql(&super::pin_call(&super::intent(1), "'public.t'", "").replace("'n2'", "'n3'"));
    assert_eq!(refused.expect_err("its position is unsettled").sqlstate, "55000");
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'after'"), "0");
    call_again(n2, "CALL spock.rebuild_run('n2')");
    super::kills::assert_level(&cluster);
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'after'"), "1");
}

#[test]
fn another_table_that_takes_a_tables_name_gets_none_of_its_rows() {
    let cluster = cluster("rebuild_renamed");
    let [_, n2, n3] = cluster.all();
    for (method, words) in
        [("compare", "table \"public.other\" cannot be rebuilt"), ("copy", "another table has taken the name")]
    {
        n2.arm(names::REBUILD_PINNED, Action::Wait);
        let call =
            format!("CALL spock.rebuild_run('n2', 'n3', tables := ARRAY['other'::regclass], method := '{method}')");
        let mut session = n2.session();
        thread::scope(|scope| {
            let call = scope.spawn(move || session.try_sql(&call));
            n2.wait_hit(names::REBUILD_PINNED);
            n2.sql("ALTER TABLE other RENAME TO hidden; CREATE TABLE other (id int PRIMARY KEY, v text)");
            n2.disarm(names::REBUILD_PINNED);
            let refused = call.join().expect("it ends").expect_err("it is another table");
            assert!(refused.message.contains(words), "{refused}");
        });
        assert_eq!(n2.value("SELECT count(*) FROM other"), "0", "{method}");
        assert_eq!(n2.value("SELECT count(*) FROM hidden"), "300", "{method}");
        n2.sql("CALL spock.rebuild_abort()");
        n2.sql("DROP TABLE other; ALTER TABLE hidden RENAME TO other");
    }
    call_again(n2, "CALL spock.rebuild_run('n2', 'n3')");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
    n2.sql("INSERT INTO other VALUES (-1, 'accepted')");
}
