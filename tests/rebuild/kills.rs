//! Whoever has to do with a rebuild is killed at each of its steps; the call is repeated, and it ends with the node level
//! and nothing left behind. n1 lives, but has lost n2's slot.

use super::run::{DIGEST, TABLES, fill, while_writing};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::drain;
use crate::slot_keeps::{quick, start_mesh};
use spock_recovery_cluster::deadline;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(150);

/// In their order.
const STEPS: [&str; 11] = [
    names::RESCUE_SUSPENDED,
    names::REBUILD_BEFORE_HOLDER,
    names::REBUILD_HOLDER_MADE,
    names::REBUILD_BEFORE_PIN,
    names::REBUILD_PINNED,
    names::REBUILD_BEFORE_READY,
    names::REBUILD_TABLE_READY,
    names::REBUILD_FILLED,
    names::REBUILD_ORIGINS_SET,
    names::REBUILD_SLOTS_MADE,
    names::RESCUE_RESUMED,
];

const CALL: &str = "CALL spock.rebuild_run(source_node_name := 'n3')";

/// n2 loses and changes rows, of which nobody hears.
pub(super) fn damage(n2: &Node) {
    n2.session().sql(
        "SELECT pg_replication_origin_create('damage') WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'damage');
         SELECT pg_replication_origin_session_setup('damage');
         DELETE FROM t WHERE id % 13 = 0; UPDATE t SET v = 'damaged' WHERE id % 17 = 0;
         INSERT INTO t (node, v) SELECT 'nobody', 'damage ' || g FROM generate_series(1, 30) g;
         DELETE FROM other WHERE id % 5 = 0;
         UPDATE u SET code = 'd' || id WHERE id BETWEEN 5 AND 9",
    );
}

/// n1 has dropped the slot by which n2 receives from it, and n2 has missed something.
pub(super) fn lose_slot(n1: &Node, n2: &Node) {
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n1.wait_until("SELECT active FROM pg_replication_slots WHERE slot_name = 'sub_n2_n1'", "f");
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'missed ' || g FROM generate_series(1, 50) g; UPDATE u SET big = md5(random()::text) WHERE id = 12");
    n1.sql("SELECT pg_drop_replication_slot('sub_n2_n1')");
    n1.sql("DELETE FROM t WHERE node = 'n1' AND id % 19 = 0");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
}

/// Called again until it succeeds.
pub(super) fn call_again(n2: &Node, call: &str) {
    let mut last = String::new();
    let done = deadline::poll(LIMIT, || match n2.try_sql(call) {
        Ok(_) => Some(()),
        Err(error) => {
            last = error.to_string();
            None
        }
    });
    done.unwrap_or_else(|| panic!("{call}: {last}\n{}", n2.log()));
}

pub(super) fn assert_level(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    assert_eq!((n2.value(DIGEST), n1.value(DIGEST)), (n3.value(DIGEST), n3.value(DIGEST)));
    for node in [n1, n2, n3] {
        node.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
        node.wait_until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%'", "0");
    }
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
    n2.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    assert_eq!(n2.value("SELECT count(*) FROM spock.rebuild_progress"), "0");
}

fn cluster(name: &str) -> Cluster {
    let cluster = start_mesh(quick(name, 3), TABLES);
    for text in [
        "replication slot \"sub_n2_n1\" does not exist",
        "could not start WAL streaming",
        "could not receive data from WAL stream",
        "terminating connection due to administrator command",
    ] {
        cluster.expect_log(text);
    }
    let [n1, n2, n3] = cluster.all();
    fill(n1, n2, n3);
    cluster
}

#[test]
fn the_target_is_killed_at_each_step() {
    let cluster = cluster("rebuild_kills");
    let [n1, n2, n3] = cluster.all();
    for step in STEPS {
        damage(n2);
        lose_slot(n1, n2);
        n2.arm(step, Action::Crash);
        while_writing(&[n1, n3], || call_again(n2, CALL));
        n2.wait_hit(step);
        assert_level(&cluster);
    }
}

#[test]
fn the_source_and_the_caller_are_killed_and_a_step_fails() {
    let cluster = cluster("rebuild_kills_others");
    let [n1, n2, n3] = cluster.all();
    // Its snapshot has died with it.
    cluster.expect_log("\" does not exist");
    for step in [names::REBUILD_PINNED, names::REBUILD_TABLE_READY, names::REBUILD_FILLED] {
        damage(n2);
        lose_slot(n1, n2);
        n2.arm(step, Action::Wait);
        let mut session = n2.session();
        let caller = session.backend_pid();
        std::thread::scope(|scope| {
            scope.spawn(|| session.try_sql(CALL));
            n2.wait_hit(step);
            n2.sql(&format!("SELECT pg_terminate_backend({caller})"));
            n3.kill9();
            n3.start();
            n2.disarm(step);
        });
        while_writing(&[n1, n2], || call_again(n2, CALL));
        assert_level(&cluster);
    }
    // A failed attempt lets the subscriptions run, and the next one takes another pin.
    damage(n2);
    n2.arm(names::REBUILD_TABLE_READY, Action::Error);
    while_writing(&[n1, n2, n3], || call_again(n2, CALL));
    assert_level(&cluster);
}

#[test]
fn an_aborted_rebuild_leaves_what_is_ready_and_lets_the_node_go_on() {
    let cluster = cluster("rebuild_abort");
    let [n1, n2, n3] = cluster.all();
    damage(n2);
    n2.arm(names::REBUILD_TABLE_READY, Action::Wait);
    let mut session = n2.session();
    let called = std::thread::scope(|scope| {
        let call = scope.spawn(|| session.try_sql("CALL spock.rebuild_run(source_node_name := 'n3', verb := true)"));
        n2.wait_hit(names::REBUILD_TABLE_READY);
        let tables = n2.value("SELECT count(*) FILTER (WHERE phase = 'ready'), count(*) FROM spock.rebuild_progress");
        assert_eq!(tables, "1|4");
        let busy = n3.try_sql("CALL spock.recover_run('n1', target_node_name => 'n2')");
        assert!(busy.is_err());
        let mut other = n3.session();
        let abort = scope.spawn(move || other.try_sql("CALL spock.rebuild_abort('n2')"));
        n2.wait_until("SELECT must_abort FROM (SELECT (i ->> 'must_abort')::bool AS must_abort FROM pg_seclabel l, jsonb_array_elements(l.label::jsonb -> 'intents') i WHERE provider = 'spock_recovery' AND objoid = 'spock'::regnamespace AND i -> 'end' IS NULL) x", "t");
        n2.disarm(names::REBUILD_TABLE_READY);
        abort.join().expect("it ends").expect("it is aborted");
        call.join().expect("it ends")
    });
    let told = called.expect_err("it was aborted").to_string();
    assert!(told.contains("rebuild of node \"n2\" from node \"n3\" was aborted"), "{told}");
    let again = n2.try_sql("CALL spock.rebuild_abort()").expect_err("none is running").to_string();
    assert!(again.contains("no rebuild is running on this node"), "{again}");
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
    // From another node, with its default source.
    n1.sql("CALL spock.rebuild_run('n2')");
    assert_level(&cluster);
}
