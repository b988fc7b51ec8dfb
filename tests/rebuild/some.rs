//! Some tables are rebuilt, and everything else goes on meanwhile: other tables' changes arrive, and nothing of what comes
//! for the tables that are rebuilt is lost or comes twice.

use super::kills::{assert_level, call_again};
use super::run::{DIGEST, TABLES, fill, while_writing};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{drain, hold_back};
use crate::slot_keeps::{quick, start_mesh};
use std::thread;

fn call(method: &str) -> String {
    format!(
        "CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY['t', 'u']::regclass[], method := '{method}')"
    )
}

fn cluster(name: &str) -> Cluster {
    let cluster = start_mesh(quick(name, 3), TABLES);
    let [n1, n2, n3] = cluster.all();
    fill(n1, n2, n3);
    cluster
}

/// n2 loses and changes rows of two tables, of which nobody hears.
fn damage(n2: &Node) {
    n2.session().sql(
        "SELECT pg_replication_origin_create('damage') WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'damage');
         SELECT pg_replication_origin_session_setup('damage');
         DELETE FROM t WHERE id % 13 = 0; UPDATE t SET v = 'damaged' WHERE id % 17 = 0;
         UPDATE u SET code = 'd' || id WHERE id BETWEEN 5 AND 9; DELETE FROM u WHERE id = 11",
    );
}

fn assert_tidy(cluster: &Cluster) {
    assert_level(cluster);
    let [n1, n2, n3] = cluster.all();
    for node in [n1, n3] {
        node.wait_until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pg\\_%\\_sync\\_%'", "0");
    }
    n2.wait_until("SELECT count(*) FROM pg_replication_origin WHERE roname ~ '^pg_[0-9]+_[0-9]+$'", "0");
}

/// Runs `f` while the rebuild waits at `step`.
fn while_it_waits(n2: &Node, step: &str, method: &str, f: impl FnOnce()) {
    n2.arm(step, Action::Wait);
    let mut session = n2.session();
    thread::scope(|scope| {
        let called = scope.spawn(move || session.try_sql(&call(method)));
        n2.wait_hit(step);
        f();
        n2.disarm(step);
        called.join().expect("it ends").expect("it is rebuilt");
    });
}

#[test]
fn the_other_tables_go_on_and_what_comes_for_these_arrives_once() {
    let cluster = cluster("rebuild_some");
    let [n1, n2, n3] = cluster.all();
    for (round, method) in ["compare", "copy", "auto"].into_iter().enumerate() {
        damage(n2);
        let id = 1000 + round;
        while_it_waits(n2, names::REBUILD_PINNED, method, || {
            n1.sql(&format!("INSERT INTO other VALUES ({id}, 'of n1'); UPDATE other SET v = 'by n1' WHERE id = 7"));
            n2.wait_until(&format!("SELECT count(*) FROM other WHERE id = {id}"), "1");
            // After the snapshot: these must not be lost, nor come twice.
            n1.sql(&format!("INSERT INTO t (node, v) VALUES ('n1', 'after {method}'); UPDATE u SET big = 'n1 {method}' WHERE id = 12"));
            n3.sql(&format!(
                "INSERT INTO t (node, v) VALUES ('n3', 'after {method}'); DELETE FROM u WHERE id = {}",
                14 + round
            ));
            n3.sql(&format!("INSERT INTO other VALUES ({}, 'of n3')", id + 100));
            // What has come for the others by then has passed what came for these.
            n2.wait_until(&format!("SELECT count(*) FROM other WHERE id = {}", id + 100), "1");
            n2.sql(&format!("INSERT INTO other VALUES ({}, 'of n2')", id + 200));
            n1.wait_until(&format!("SELECT count(*) FROM other WHERE id = {}", id + 200), "1");
            assert_eq!(n2.value("SELECT count(*) FROM pg_subscription WHERE NOT subenabled"), "0");
        });
        assert_eq!(n2.value(&format!("SELECT count(*) FROM t WHERE v = 'after {method}'")), "2");
        assert_tidy(&cluster);
    }
    // The next loss is recovered as if there had been no rebuild.
    hold_back(n2);
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'lost ' || g FROM generate_series(1, 100) g; UPDATE u SET big = 'last' WHERE id = 1");
    drain(n1, n3);
    n1.kill9();
    cluster.expect_log("could not connect to the publisher");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.sql("CALL spock.recover_run('n1', source_node_name => 'n3')");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
}

#[test]
fn the_target_is_killed_at_each_step_of_it() {
    let cluster = cluster("rebuild_some_kills");
    for text in [
        "could not start WAL streaming",
        "could not receive data from WAL stream",
        "terminating connection due to administrator command",
    ] {
        cluster.expect_log(text);
    }
    let [n1, n2, n3] = cluster.all();
    let steps = [
        names::RESCUE_SUSPENDED,
        names::REBUILD_APART_HELD,
        names::REBUILD_SET_APART,
        names::REBUILD_PINNED,
        names::REBUILD_BEFORE_READY,
        names::REBUILD_TABLE_READY,
        names::REBUILD_FILLED,
        names::RESCUE_RESUMED,
    ];
    for step in steps {
        damage(n2);
        n2.arm(step, Action::Crash);
        while_writing(&[n1, n3], || call_again(n2, &call("auto")));
        n2.wait_hit(step);
        assert_tidy(&cluster);
    }
}

/// The subscriptions that are suspended.
const SUSPENDED: &str = "SELECT string_agg(subname, ' ' ORDER BY subname) FROM pg_subscription WHERE NOT subenabled";

#[test]
fn what_cannot_go_on_is_suspended_alone_and_nothing_of_it_is_lost() {
    let cluster = start_mesh(quick("rebuild_some_silent", 3).setting("max_prepared_transactions", "5"), TABLES);
    let [n1, n2, n3] = cluster.all();
    fill(n1, n2, n3);
    cluster.expect_log("could not connect to the publisher");
    cluster.expect_log("could not receive data from WAL stream");
    cluster.expect_log("terminating logical replication worker due to administrator command");
    // Without workers for it core could not catch up.
    damage(n2);
    n2.set(&[("max_sync_workers_per_subscription", "0")]);
    while_it_waits(n2, names::REBUILD_PINNED, "compare", || {
        assert_eq!(n2.value(SUSPENDED), "sub_n2_n1 sub_n2_n3");
        n1.sql("INSERT INTO t (node, v) VALUES ('n1', 'without workers')");
    });
    n2.set(&[("max_sync_workers_per_subscription", "2")]);
    assert_tidy(&cluster);
    // Core does not prepare for tables that are behind.
    n2.sql("DROP SUBSCRIPTION sub_n2_n3");
    n2.sql(&format!(
        "CREATE SUBSCRIPTION sub_n2_n3 CONNECTION '{}' PUBLICATION mesh WITH (origin = none, copy_data = false, two_phase)",
        n3.dsn("postgres")
    ));
    n2.wait_until("SELECT subtwophasestate FROM pg_subscription WHERE subname = 'sub_n2_n3'", "e");
    n2.wait_until("SELECT sub_origin IS NOT NULL FROM spock.subscription WHERE sub_name = 'sub_n2_n3'", "t");
    damage(n2);
    while_it_waits(n2, names::REBUILD_PINNED, "compare", || {
        assert_eq!(n2.value(SUSPENDED), "sub_n2_n3");
        n3.sql("BEGIN; INSERT INTO t (node, v) VALUES ('n3', 'prepared'); PREPARE TRANSACTION 'later'");
    });
    n3.sql("COMMIT PREPARED 'later'");
    n2.wait_until("SELECT count(*) FROM t WHERE v = 'prepared'", "1");
    assert_tidy(&cluster);
    // Who does not answer.
    damage(n2);
    n1.kill9();
    while_it_waits(n2, names::REBUILD_PINNED, "compare", || {
        assert_eq!(n2.value(SUSPENDED), "sub_n2_n1 sub_n2_n3");
    });
    n1.start();
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 'back'); UPDATE u SET big = 'back' WHERE id = 2");
    assert_tidy(&cluster);
}

#[test]
fn an_aborted_one_lets_the_tables_catch_up_with_what_they_have_missed() {
    let cluster = cluster("rebuild_some_abort");
    let [n1, n2, n3] = cluster.all();
    n2.arm(names::REBUILD_SET_APART, Action::Wait);
    let mut session = n2.session();
    let called = thread::scope(|scope| {
        let called = scope.spawn(move || session.try_sql(&call("compare")));
        n2.wait_hit(names::REBUILD_SET_APART);
        n1.sql("INSERT INTO t (node, v) VALUES ('n1', 'meanwhile'); UPDATE u SET big = 'meanwhile' WHERE id = 3");
        n3.sql("DELETE FROM u WHERE id = 4");
        for (one, other) in [(n1, n2), (n3, n2)] {
            drain(one, other);
        }
        assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'meanwhile'"), "0", "the table is set apart");
        let mut other = n3.session();
        let abort = scope.spawn(move || other.try_sql("CALL spock.rebuild_abort('n2')"));
        n2.wait_until("SELECT must_abort FROM (SELECT (i ->> 'must_abort')::bool AS must_abort FROM pg_seclabel l, jsonb_array_elements(l.label::jsonb -> 'intents') i WHERE provider = 'spock_recovery' AND objoid = 'spock'::regnamespace AND i -> 'end' IS NULL) x", "t");
        n2.disarm(names::REBUILD_SET_APART);
        abort.join().expect("it ends").expect("it is aborted");
        called.join().expect("it ends")
    });
    called.expect_err("it was aborted");
    n2.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'meanwhile'"), "1");
    assert_tidy(&cluster);
}
