//! Rows that a rebuild writes keep what a later conflict is decided by: their authors and commit times.

use super::kills::call_again;
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{disable, drain, hold_back, stamped};
use crate::slot_keeps::{quick, start_mesh};

const TABLES: &str = "CREATE TABLE fresh (id int PRIMARY KEY, code text UNIQUE, v text);
     CREATE TABLE aged (id int PRIMARY KEY, v text)";

/// Every row with its author and commit time. What is written over here of this node's own rows has no origin that is its own.
fn versions(node: &Node, table: &str, own: &str) -> String {
    let lines = node.value(&format!("SELECT string_agg(line, E'\\n' ORDER BY line) FROM ({}) l", stamped(table)));
    lines.replace(" of nobody at ", &format!(" of {own} at "))
}

const TIMES: &str = "SELECT count(DISTINCT (pg_xact_commit_timestamp_origin(xmin)).timestamp),
        min((pg_xact_commit_timestamp_origin(xmin)).timestamp) > '2020-01-02'::timestamptz,
        max((pg_xact_commit_timestamp_origin(xmin)).timestamp) <
            (SELECT min((pg_xact_commit_timestamp_origin(xmin)).timestamp) FROM fresh)
   FROM aged";

/// How far every subscription is.
fn progress(node: &Node) -> String {
    node.value(
        "SELECT string_agg(external_id || ' ' || remote_lsn, ', ' ORDER BY external_id)
           FROM pg_replication_origin_status WHERE external_id ~ '^pg_[0-9]+$'",
    )
}

/// All three write to `fresh`, and n3 has rows of long ago in `aged`. Then n2 loses and changes rows, of which nobody
/// hears.
fn write_and_damage(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO fresh SELECT g, 'c' || g, 'n1' FROM generate_series(1, 40) g");
    drain(n1, n2);
    drain(n1, n3);
    n1.sql("UPDATE fresh SET v = 'n1 again' WHERE id <= 10");
    for id in 11..=15 {
        n3.sql(&format!("UPDATE fresh SET v = 'n3' WHERE id = {id}"));
    }
    n2.sql("UPDATE fresh SET v = 'n2' WHERE id BETWEEN 31 AND 35");
    n3.sql("BEGIN; DELETE FROM fresh WHERE id = 36; INSERT INTO fresh VALUES (100, 'c36', 'takes its code'); COMMIT");
    n3.session().sql(
        "SELECT pg_replication_origin_create('long ago'); SELECT pg_replication_origin_session_setup('long ago');
         BEGIN; SELECT pg_replication_origin_xact_setup('0/1', '2020-01-01 00:00:00+00');
         INSERT INTO aged SELECT g, 'long ago' FROM generate_series(1, 50) g; COMMIT",
    );
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    n2.session().sql(
        "SELECT pg_replication_origin_create('damage'); SELECT pg_replication_origin_session_setup('damage');
         UPDATE fresh SET v = 'damaged' WHERE id % 2 = 0; DELETE FROM fresh WHERE id % 5 = 0;
         DELETE FROM fresh WHERE id = 100; INSERT INTO fresh VALUES (36, 'c36', 'came back');
         INSERT INTO aged SELECT g, 'damaged' FROM generate_series(1, 60, 2) g",
    );
    n2.sql("CHECKPOINT");
}

#[test]
fn young_rows_keep_author_and_time_and_old_ones_are_older_than_all_that_comes() {
    let cluster = start_mesh(quick("rebuild_young", 3), TABLES);
    let [_, n2, n3] = cluster.all();
    write_and_damage(&cluster);
    let before = progress(n2);
    n2.sql("CALL spock.rebuild_run(source_node_name := 'n3')");
    assert_eq!(versions(n2, "fresh", "n2"), versions(n3, "fresh", "n2"));
    assert_eq!(n2.value("SELECT count(*), min(v), max(v) FROM aged"), "50|long ago|long ago");
    assert_eq!(n2.value(TIMES), "1|t|t");
    assert_eq!(progress(n2), before);
    n2.kill9();
    n2.start();
    assert_eq!(progress(n2), before, "what is replayed of WAL moves no origin either");
    assert_eq!(versions(n2, "fresh", "n2"), versions(n3, "fresh", "n2"));
}

#[test]
fn a_target_killed_after_young_rows_compares_again_and_no_origin_has_moved() {
    let cluster = start_mesh(quick("rebuild_young_killed", 3), TABLES);
    let [_, n2, n3] = cluster.all();
    cluster.expect_log("terminating connection due to administrator command");
    write_and_damage(&cluster);
    let before = progress(n2);
    let call = "CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY['fresh'::regclass])";
    n2.arm(names::REBUILD_BEFORE_READY, Action::Wait);
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| n2.session().try_sql(call));
        n2.wait_hit(names::REBUILD_BEFORE_READY);
        assert_eq!(versions(n2, "fresh", "n2"), versions(n3, "fresh", "n2"), "all of them are young");
        assert_eq!(n2.value("SELECT phase FROM spock.rebuild_progress"), "comparing");
        n2.sql("SELECT pg_switch_wal()");
        n2.kill9();
        n2.disarm(names::REBUILD_BEFORE_READY);
        assert!(caller.join().expect("it ends").is_err());
    });
    n2.start();
    assert_eq!(progress(n2), before);
    // What this node itself changes after that stays.
    n2.sql("UPDATE fresh SET v = 'n2 later' WHERE id = 2");
    call_again(n2, call);
    drain(n2, n3);
    assert_eq!(versions(n2, "fresh", "n2"), versions(n3, "fresh", "n2"));
    assert_eq!(n2.value("SELECT v FROM fresh WHERE id = 2"), "n2 later");
    assert_eq!(progress(n2), before);
}

#[test]
fn an_attempt_that_failed_after_young_rows_is_repeated_under_the_same_snapshots() {
    let cluster = start_mesh(quick("rebuild_young_failed", 3), TABLES);
    let [_, n2, n3] = cluster.all();
    write_and_damage(&cluster);
    n2.arm(names::REBUILD_BEFORE_READY, Action::Error);
    call_again(n2, "CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY['fresh'::regclass])");
    n2.wait_hit(names::REBUILD_BEFORE_READY);
    drain(n2, n3);
    assert_eq!(versions(n2, "fresh", "n2"), versions(n3, "fresh", "n2"));
}

#[test]
fn what_was_under_way_during_a_rebuild_wins_if_it_is_newer_and_loses_if_it_is_older() {
    let cluster = start_mesh(quick("rebuild_in_flight", 4), "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3, n4] = cluster.all();
    cluster.expect_log("could not connect to the publisher");
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 3) g");
    for node in [n2, n3, n4] {
        drain(n1, node);
    }
    // n2 and n3 get nothing of n1 from here on; n4 does.
    hold_back(n2);
    disable(n3, "sub_n3_n1");
    n1.sql("UPDATE t SET v = 'n1, the older one' WHERE id = 1");
    drain(n1, n4);
    n3.sql("UPDATE t SET v = 'n3, the newer one' WHERE id = 1");
    n3.sql("UPDATE t SET v = 'n3, the older one' WHERE id = 2");
    drain(n3, n4);
    drain(n3, n2);
    n1.wait_until("SELECT v FROM t WHERE id = 2", "n3, the older one");
    n1.sql("UPDATE t SET v = 'n1, the newer one' WHERE id = 2");
    drain(n1, n4);
    n2.session().sql(
        "SELECT pg_replication_origin_create('damage'); SELECT pg_replication_origin_session_setup('damage');
         UPDATE t SET v = 'damaged'",
    );
    n2.sql("CALL spock.rebuild_run(source_node_name := 'n3')");
    let rows = "SELECT string_agg(v, '; ' ORDER BY id) FROM t";
    assert_eq!(n2.value(rows), "n3, the newer one; n3, the older one; n1");
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.sql("CALL spock.recover_run('n1', 'n4')");
    assert_eq!(n2.value(rows), "n3, the newer one; n1, the newer one; n1");
    assert_eq!(n4.value(rows), n2.value(rows));
}
