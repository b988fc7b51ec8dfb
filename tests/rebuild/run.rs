//! Whole rebuilds by comparing: n1 is gone or its slot is lost, n2 is brought level with n3 while everybody writes.

use crate::cluster::{Cluster, Node, Session};
use crate::rescue::{drain, hold_back};
use crate::slot_keeps::{quick, start_mesh};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

pub(super) const TABLES: &str =
    "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, node text, v text, PRIMARY KEY (node, id));
    CREATE TABLE u (id int PRIMARY KEY, code text UNIQUE, big text);
    CREATE TABLE other (id int PRIMARY KEY, v text)";

/// A digest of all rows, whatever order they stand in.
pub(super) const DIGEST: &str =
    "SELECT (SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM t) || ' ' ||
    (SELECT count(*) || ' ' || coalesce(sum(hashtextextended(u::text, 0)), 0) FROM u) || ' ' ||
    (SELECT count(*) || ' ' || coalesce(sum(hashtextextended(other::text, 0)), 0) FROM other)";

/// Inserts rows of its own until told to stop; returns how many.
fn write_until(session: &mut Session<'_>, name: &str, stop: &AtomicBool) -> u64 {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        session.sql(&format!("INSERT INTO t (node, v) VALUES ('{name}', 'live {number}')"));
        // The load goes on for the whole rebuild, and is not to become the larger part of the table.
        thread::sleep(Duration::from_millis(3));
    }
    number
}

/// Runs `f` while these nodes write.
pub(super) fn while_writing<T>(nodes: &[&Node], f: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    thread::scope(|scope| {
        for node in nodes {
            scope.spawn(|| write_until(&mut node.session(), node.name(), &stop));
        }
        let _guard = Stop(&stop);
        f()
    })
}

/// n2 receives nothing of n1 from here on, n1 changes rows in every way, n3 has all of it, and n1 dies. n3's slot
/// begins anew, so that no WAL has what n2 lacks.
fn lose(cluster: &Cluster) {
    let [n1, n2] = ["n1", "n2"].map(|name| cluster.node(name));
    hold_back(n2);
    n1.sql(
        "INSERT INTO t (node, v) SELECT 'n1', 'late ' || g FROM generate_series(1, 500) g;
         UPDATE t SET v = v || ' changed' WHERE node = 'n1' AND id % 7 = 0;
         DELETE FROM t WHERE node = 'n1' AND id % 11 = 0;
         BEGIN; UPDATE u SET code = 'x' WHERE id = 1; UPDATE u SET code = 'c1' WHERE id = 2; UPDATE u SET code = 'c2' WHERE id = 1; COMMIT;
         UPDATE u SET big = repeat('y', 300000) WHERE id = 3;
         DELETE FROM u WHERE id = 4; INSERT INTO u VALUES (100, 'c4', 'takes its code')",
    );
    for node in &cluster.nodes()[2..] {
        drain(n1, node);
    }
    n1.kill9();
    for node in &cluster.nodes()[2..] {
        node.sql("SELECT spock.drop_recovery_slot()");
        node.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
    }
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT outcome FROM spock.recover_plan('n1', 'n2')", "needs_rebuild");
}

pub(super) fn fill(n1: &Node, n2: &Node, n3: &Node) {
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'early ' || g FROM generate_series(1, 2000) g");
    n1.sql("INSERT INTO u SELECT g, 'c' || g, repeat('z', 200000) FROM generate_series(1, 20) g");
    n3.sql("INSERT INTO other SELECT g, 'of n3' FROM generate_series(1, 300) g");
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
}

#[test]
fn a_node_that_no_wal_can_recover_is_level_again_while_everybody_writes() {
    let cluster = start_mesh(quick("rebuild_run", 3), TABLES);
    let [n1, n2, n3] = cluster.all();
    cluster.expect_log("could not connect to the publisher");
    fill(n1, n2, n3);
    lose(&cluster);
    let ways = n2.value(
        "SELECT string_agg(w ->> 'method', ' ') FILTER (WHERE w ->> 'why_not' IS NULL) FROM spock.recover_plan('n1', 'n2') p, jsonb_array_elements(p.rebuild) w",
    );
    assert_eq!(ways, "compare copy base");
    let refused = n2.try_sql("CALL spock.recover_run('n1')").expect_err("there is no WAL for it");
    assert!(refused.to_string().contains("CALL spock.rebuild_run(target_node_name := 'n2'"), "{refused}");
    let mut session = n2.session();
    while_writing(&[n2, n3], || {
        session.sql("CALL spock.rebuild_run(source_node_name := 'n3', failed_node_name := 'n1', verb := true)")
    });
    let told = session.notices().join("\n");
    assert!(told.contains("the source has pinned its snapshot; bringing 4 tables to it"), "{told}");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
    assert_eq!(
        n2.value("SELECT code FROM u WHERE id IN (1, 2) ORDER BY id").len(),
        n3.value("SELECT code FROM u WHERE id IN (1, 2) ORDER BY id").len()
    );
    n2.wait_until("SELECT outcome FROM spock.recover_plan('n1', 'n2')", "zero_gap");
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
    }
    n2.wait_until(
        "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = srsubid WHERE subname = 'sub_n2_n3'",
        "t",
    );
    assert_eq!(n2.value("SELECT count(*) FROM spock.rebuild_progress"), "0");
    // Changes go on to arrive, once, in both directions.
    n2.sql("UPDATE other SET v = 'of n2' WHERE id <= 100");
    n3.sql("UPDATE other SET v = v || ' again' WHERE id > 200");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
}

#[test]
fn what_cannot_be_rebuilt_is_refused_and_nothing_is_changed() {
    let cluster = start_mesh(quick("rebuild_refused", 3), TABLES);
    let [_, n2, n3] = cluster.all();
    n2.sql("CREATE TABLE local (id int PRIMARY KEY); CREATE ROLE mallory LOGIN");
    for (call, sqlstate, words) in [
        ("CALL spock.rebuild_run('n9')", "42704", "node \"n9\" does not exist"),
        ("CALL spock.rebuild_run(source_node_name := 'n2')", "22023", "source node and"),
        ("CALL spock.rebuild_run(source_node_name := 'n9')", "42704", "node \"n9\" does not exist"),
        (
            "CALL spock.rebuild_run(source_node_name := 'n3', failed_node_name := 'n3')",
            "22023",
            "source node and failed node",
        ),
        ("CALL spock.rebuild_run(source_node_name := 'n3', method := 'dump')", "22023", "unknown method \"dump\""),
        (
            "CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY['local'::regclass])",
            "42P01",
            "does not receive table \"public.local\"",
        ),
        ("CALL spock.rebuild_run(source_node_name := 'n3', tables := '{}')", "42P01", "tables names none"),
        ("BEGIN; CALL spock.rebuild_run(source_node_name := 'n3')", "25001", "cannot run inside a transaction block"),
        ("SET ROLE mallory; CALL spock.rebuild_run()", "42501", "permission denied"),
    ] {
        let error = n2.try_sql(call).expect_err(call);
        assert_eq!((error.sqlstate.as_str(), error.to_string().contains(words)), (sqlstate, true), "{call}: {error}");
    }
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    assert_eq!(n2.value("SELECT count(*) FROM pg_subscription WHERE NOT subenabled"), "0");
    // A part of the tables: the others stay as they are.
    super::kills::damage(n2);
    n2.sql("CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY['t'::regclass])");
    drain(n2, n3);
    let [ours, theirs] = [n2, n3].map(|node| node.value("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM t"));
    assert_eq!(ours, theirs);
}

#[test]
fn every_survivor_is_recovered_or_rebuilt_by_one_call() {
    let cluster = start_mesh(quick("rebuild_everybody", 4), TABLES);
    let [n1, n2, n3, n4] = cluster.all();
    cluster.expect_log("could not connect to the publisher");
    fill(n1, n2, n3);
    drain(n1, n4);
    lose(&cluster);
    let error = n4.try_sql("CALL spock.recover_failed_node('n1')").expect_err("no WAL has it").to_string();
    assert!(error.contains("1 of the survivors"), "{error}");
    n4.sql("CALL spock.recover_failed_node('n1', rebuild := true)");
    for (one, other) in [(n2, n3), (n3, n4), (n2, n4)] {
        drain(one, other);
    }
    assert_eq!((n2.value(DIGEST), n4.value(DIGEST)), (n3.value(DIGEST), n3.value(DIGEST)));
    n3.wait_until("SELECT string_agg(DISTINCT outcome, ' ') FROM spock.recover_plan('n1')", "zero_gap");
}

#[test]
fn a_row_that_the_target_makes_and_deletes_around_the_pin_does_not_come_back() {
    use crate::cluster::Action;
    use crate::failpoint_names as names;
    let cluster = start_mesh(quick("rebuild_short_life", 3), TABLES);
    let [n1, n2, n3] = cluster.all();
    fill(n1, n2, n3);
    n2.arm(names::REBUILD_BEFORE_PIN, Action::Wait);
    n2.arm(names::REBUILD_PINNED, Action::Wait);
    let mut session = n2.session();
    thread::scope(|scope| {
        let call = scope.spawn(move || session.try_sql("CALL spock.rebuild_run(source_node_name := 'n3')"));
        n2.wait_hit(names::REBUILD_BEFORE_PIN);
        n2.sql("INSERT INTO other VALUES (9999, 'short-lived')");
        n3.wait_until("SELECT count(*) FROM other WHERE id = 9999", "1");
        n2.disarm(names::REBUILD_BEFORE_PIN);
        n2.wait_hit(names::REBUILD_PINNED);
        n2.sql("DELETE FROM other WHERE id = 9999");
        n2.disarm(names::REBUILD_PINNED);
        call.join().expect("it ends").expect("it is rebuilt");
    });
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
}

#[test]
fn a_node_is_rebuilt_while_another_one_than_the_failed_one_is_lost_too() {
    let cluster = start_mesh(quick("rebuild_two_lost", 4).setting("spock.peer_timeout", "1s"), TABLES);
    let [n1, n2, n3, n4] = cluster.all();
    cluster.expect_log("could not connect");
    fill(n1, n2, n3);
    drain(n1, n4);
    lose(&cluster);
    n4.kill9();
    n3.sql("CALL spock.recover_failed_node('n1', rebuild := true)");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
    // It may be a source itself, though no apply worker of the other lost node's comes by its tables.
    n3.sql("CALL spock.rebuild_run('n3', 'n2', failed_node_name := 'n4')");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
}

#[test]
fn a_row_that_the_target_changes_after_its_snapshot_gets_the_large_value_that_it_lacked() {
    use crate::cluster::Action;
    use crate::failpoint_names as names;
    let cluster = start_mesh(quick("rebuild_large_value", 3), TABLES);
    let [n1, n2, n3] = cluster.all();
    cluster.sql("ALTER TABLE u ALTER big SET STORAGE EXTERNAL");
    fill(n1, n2, n3);
    hold_back(n2);
    n1.sql("UPDATE u SET big = repeat('y', 9000) WHERE id = 3");
    drain(n1, n3);
    n2.arm(names::REBUILD_PINNED, Action::Wait);
    let mut session = n2.session();
    thread::scope(|scope| {
        let call = scope.spawn(move || session.try_sql("CALL spock.rebuild_run(source_node_name := 'n3')"));
        n2.wait_hit(names::REBUILD_PINNED);
        // The stored value of the large column is not sent with it.
        n2.sql("UPDATE u SET code = 'of n2' WHERE id = 3");
        n2.disarm(names::REBUILD_PINNED);
        call.join().expect("it ends").expect("it is rebuilt");
    });
    drain(n2, n3);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    let row = "SELECT code, md5(big) FROM u WHERE id = 3";
    n2.wait_until(row, &n3.value(row));
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
}

#[test]
fn a_recovery_whose_source_was_rebuilt_meanwhile_is_followed_by_a_rebuild() {
    use crate::cluster::Action;
    use crate::failpoint_names as names;
    let cluster = start_mesh(quick("rebuild_follows", 4), TABLES);
    let [n1, n2, n3, n4] = cluster.all();
    cluster.expect_log("could not connect to the publisher");
    cluster.expect_log("cannot be recovered on node");
    fill(n1, n2, n3);
    hold_back(n2);
    n1.sql("UPDATE t SET v = v || ' changed' WHERE node = 'n1' AND id % 7 = 0");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.arm(names::RESCUE_BEGUN, Action::Wait);
    thread::scope(|scope| {
        let call = scope.spawn(|| n2.try_sql("CALL spock.recover_failed_node('n1')"));
        n2.wait_hit(names::RESCUE_BEGUN);
        for (node, source) in [(n3, "n4"), (n4, "n3")] {
            node.sql(&format!("CALL spock.rebuild_run(source_node_name := '{source}', failed_node_name := 'n1')"));
        }
        n2.disarm(names::RESCUE_BEGUN);
        let told = call.join().expect("it ends").expect_err("there is no WAL for it");
        assert!(told.to_string().contains("1 of the survivors"), "{told}");
    });
    n2.sql("CALL spock.recover_failed_node('n1', rebuild := true)");
    drain(n2, n3);
    assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
}

/// What the source has not heard of its peers yet, it asks them at once.
#[test]
fn no_poll_is_waited_for() {
    let cluster = start_mesh(quick("rebuild_polls", 3), TABLES);
    let [_, n2, n3] = cluster.all();
    n3.sql("INSERT INTO t (node, v) SELECT 'n3', g FROM generate_series(1, 100) g");
    for node in cluster.nodes() {
        node.set(&[("spock.recovery_poll_interval", "1h")]);
    }
    for method in ["compare", "copy"] {
        // Positions that no change brings to the source.
        cluster.sql("SELECT pg_logical_emit_message(true, 'nothing', 'x')");
        n2.sql(&format!(
            "CALL spock.rebuild_run(target_node_name := 'n2', source_node_name := 'n3', method := '{method}')"
        ));
        assert_eq!(n2.value(DIGEST), n3.value(DIGEST));
    }
}
