//! The failed node comes back: with what it had, or with less.

use super::{run, with_gap, write};
use crate::cluster::{Cluster, Node};
use crate::rescue::{drain, enabled, hold_back, start, wait_arrived};
use crate::slot_keeps::{quick, start_mesh};
use std::process::Command;

/// Copies a folder as it is, with its owners.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp can be run");
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// Puts an older copy of the data in place of what the node has.
fn restore(cluster: &Cluster, node: &Node, copied: &std::path::Path) {
    let _ = cluster;
    std::fs::remove_dir_all(node.data()).expect("the old data can be removed");
    copy(copied, node.data());
}

#[test]
fn a_node_that_kept_its_wal_goes_on_by_itself() {
    let cluster = with_gap("returned_whole");
    let [n1, n2, n3] = cluster.all();
    assert_eq!(run(n2, "'n1'", "transactions"), "50");
    n1.start();
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    write(n1, 71, 80);
    for node in [n2, n3] {
        drain(n1, node);
        assert_eq!(node.value("SELECT count(*) FROM t"), "80", "{}", node.name());
    }
    assert_eq!(n2.value("SELECT count(*) FROM spock.subscription WHERE sub_rescue_suspended"), "0");
}

#[test]
fn a_node_restored_from_an_older_copy_is_kept_out_by_every_survivor() {
    let cluster = start("returned_older", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    write(n1, 1, 10);
    for node in [n2, n3] {
        drain(n1, node);
    }
    n1.stop_fast();
    let copied = cluster.folder().join("older");
    copy(n1.data(), &copied);
    n1.start();
    hold_back(n2);
    write(n1, 11, 60);
    wait_arrived(n1);
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    assert_eq!(run(n2, "'n1'", "transactions"), "50");
    for node in [n2, n3] {
        node.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    }
    restore(&cluster, n1, &copied);
    n1.start();
    // Busy from its first second, far beyond what it had.
    n1.sql("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1001, 5000) g");
    for node in [n2, n3] {
        node.wait_until(
            "SELECT subenabled || '|' || (SELECT sub_rescue_suspended FROM spock.subscription WHERE sub_name = subname)
               FROM pg_subscription WHERE subname LIKE 'sub_%_n1'",
            "false|true",
        );
        node.wait_log("is back from an older copy");
        // The line comes before the transaction that notes the verdict has ended.
        node.wait_until(
            "SELECT details LIKE '%older copy%' FROM spock.quick_health_check() WHERE check_name LIKE 'returned%'",
            "t",
        );
    }
    // Another start of the same copy looks sound, and is not.
    n1.restart();
    for node in [n2, n3] {
        node.wait_until(
            "SELECT last_contact > now() - interval '1 s' FROM spock.peer_status() WHERE node_name = 'n1'",
            "t",
        );
    }
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    // A person's word counts.
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT count(*) FROM spock.subscription WHERE sub_rescue_suspended", "0");
}

/// The other has answered a question of this node that began after now.
fn wait_asked(node: &Node, other: &str) {
    for _ in 0..2 {
        let now = node.value("SELECT clock_timestamp()");
        node.sql("SELECT pg_reload_conf()");
        let answered = format!("SELECT last_contact > '{now}' FROM spock.peer_status() WHERE node_name = '{other}'");
        node.wait_until(&answered, "t");
    }
}

#[test]
fn a_copy_older_by_less_than_a_poll_is_kept_out_by_who_had_received_the_last_moments() {
    let cluster = start("returned_little_older", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    cluster.expect_log("terminating logical replication worker");
    let [n1, n2, n3] = cluster.all();
    write(n1, 1, 20);
    for node in [n2, n3] {
        drain(n1, node);
        // Each knows this run and its worker, and asks no more by itself.
        node.set(&[("spock.recovery_poll_interval", "1h")]);
        wait_asked(node, "n1");
    }
    // All that anybody was told of is in the copy.
    n1.sql("SELECT pg_logical_emit_message(true, 'flush', ''); CHECKPOINT");
    n1.pause();
    let copied = cluster.folder().join("older");
    copy(n1.data(), &copied);
    n1.resume();
    // On n2 another worker receives what comes, of which the poller does not know either.
    let poller = n2.wait_process("spock_recovery poller n1").pid;
    n2.pause_process(poller);
    let worker = "SELECT pid FROM pg_stat_subscription WHERE subname = 'sub_n2_n1'";
    let before = n2.value(worker);
    n2.sql(&format!("SELECT pg_terminate_backend({before})"));
    n2.wait_until(&format!("SELECT count(*) FROM ({worker}) x WHERE pid <> {before}"), "1");
    write(n1, 21, 60);
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM t", "60");
    }
    // As when the power goes: nobody says that the connections are gone, and n3's poller leaves with the question.
    n1.pause();
    n3.sql("SELECT pg_reload_conf()");
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    n1.kill9();
    restore(&cluster, n1, &copied);
    n1.start();
    n1.sql("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1001, 5000) g");
    n2.resume();
    for node in [n2, n3] {
        node.wait_log("is back from an older copy");
        node.wait_until("SELECT subenabled FROM pg_subscription WHERE subname LIKE 'sub_%_n1'", "f");
    }
}

/// So many replication origins are applied in a database that is no node, one after the other, as by its subscriptions.
fn apply_elsewhere(node: &Node, count: u32) {
    node.sql("CREATE DATABASE other");
    let mut session = node.db("other").session();
    session.sql("CREATE TABLE t (id int)");
    session.sql(&format!("SELECT pg_replication_origin_create('other_' || g) FROM generate_series(1, {count}) g"));
    for number in 1..=count {
        session.sql(&format!("SELECT pg_replication_origin_session_setup('other_{number}')"));
        session.sql(&format!(
            "BEGIN; SELECT pg_replication_origin_xact_setup('0/{number}000', now()); INSERT INTO t VALUES ({number}); COMMIT"
        ));
        session.sql("SELECT pg_replication_origin_session_reset()");
        // Its id is not given to another one, for all of them are there already.
        session.sql(&format!("SELECT pg_replication_origin_drop('other_{number}')"));
    }
}

#[test]
fn a_copy_older_by_less_than_a_poll_is_kept_out_however_much_other_databases_apply() {
    let small = quick("returned_crowded", 2).setting("spock.max_databases", "1").setting("spock.max_peers", "2");
    let cluster = start_mesh(small, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2] = cluster.all();
    write(n1, 1, 20);
    drain(n1, n2);
    n2.set(&[("spock.recovery_poll_interval", "1h")]);
    wait_asked(n2, "n1");
    // All that anybody was told of is in the copy.
    n1.sql("SELECT pg_logical_emit_message(true, 'flush', ''); CHECKPOINT");
    n1.pause();
    let copied = cluster.folder().join("older");
    copy(n1.data(), &copied);
    n1.resume();
    write(n1, 21, 60);
    n2.wait_until("SELECT count(*) FROM t", "60");
    apply_elsewhere(n2, 40);
    n1.pause();
    n2.sql("SELECT pg_reload_conf()");
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    n1.kill9();
    restore(&cluster, n1, &copied);
    n1.start();
    n1.sql("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1001, 5000) g");
    n2.wait_log("is back from an older copy");
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname LIKE 'sub_%_n1'", "f");
}

#[test]
fn a_node_that_is_only_restarted_goes_on_however_busy_it_is() {
    let cluster = start("returned_busy", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    write(n1, 1, 10);
    for round in 1..=3 {
        for node in [n2, n3] {
            drain(n1, node);
        }
        // n2 has it all from the first moment on, and hears of the run later.
        n2.set(&[("spock.recovery_poll_interval", "1h")]);
        let from = round * 1000;
        n1.sql(&format!("INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series({from}, {from} + 400) g"));
        n1.kill9();
        n1.start();
        write(n1, from + 500, from + 600);
        for node in [n2, n3] {
            drain(n1, node);
            wait_asked(node, "n1");
            assert!(!node.log_contains("is back from an older copy"), "{}: {}", node.name(), node.log());
        }
        assert_eq!(n2.value("SELECT count(*) FROM t"), (10 + 502 * round).to_string());
    }
}

#[test]
fn a_promoted_standby_resumes_if_it_has_everything_and_stays_out_if_not() {
    for has_all in [true, false] {
        let name = if has_all { "returned_standby" } else { "returned_fork" };
        let mut cluster = start(name, "CREATE TABLE t (id int PRIMARY KEY, v text)");
        cluster.add_standby("n1b", "n1");
        let [n1, n2, n3, standby] = cluster.all();
        write(n1, 1, 10);
        for node in [n2, n3] {
            drain(n1, node);
        }
        if !has_all {
            let end = n1.value("SELECT pg_current_wal_flush_lsn()");
            standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
            standby.stop_fast();
        }
        hold_back(n2);
        write(n1, 11, 40);
        wait_arrived(n1);
        if has_all {
            let end = n1.value("SELECT pg_current_wal_flush_lsn()");
            standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
        }
        n1.kill9();
        n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
        assert_eq!(run(n2, "'n1'", "transactions"), "30");
        if !has_all {
            standby.start();
        }
        standby.promote();
        // The survivors learn where n1 is now.
        cluster.expect_log("does not exist");
        n2.sql(&format!("ALTER SUBSCRIPTION sub_n2_n1 CONNECTION '{}'", standby.dsn("postgres")));
        if has_all {
            n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
        } else {
            n2.wait_log("which forked at");
            assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
        }
    }
}

#[test]
fn a_node_that_was_rebuilt_under_its_name_is_taken_on_by_one_word_and_its_fresh_subscriptions_run() {
    let mut cluster = start("returned_rebuilt", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    cluster.add_node();
    let [n1, n2, n3, rebuilt] = cluster.all();
    write(n1, 1, 10);
    for node in [n2, n3] {
        drain(n1, node);
    }
    n1.kill9();
    rebuilt.sql("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE PUBLICATION mesh FOR ALL TABLES");
    rebuilt.sql("CREATE EXTENSION spock_recovery");
    rebuilt.sql(&format!("SELECT spock.node_create('n1', '{}')", rebuilt.dsn("postgres")));
    for node in [n2, n3] {
        let name = format!("sub_{}_n1", node.name());
        node.sql(&format!("ALTER SUBSCRIPTION {name} DISABLE"));
        node.sql(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"));
        node.sql(&format!("DROP SUBSCRIPTION {name}"));
        node.sql(&format!(
            "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION mesh WITH (copy_data = false, origin = none)",
            rebuilt.dsn("postgres")
        ));
        // It is another server: nobody takes it for n1 before somebody says so.
        let verdict =
            format!("SELECT status, details FROM spock.quick_health_check() WHERE check_name = 'subscription {name}'");
        node.wait_until(&format!("SELECT status FROM ({verdict}) x"), "CRITICAL");
        assert!(node.value(&verdict).contains("SELECT spock.peer_create('n1', "), "{}", node.value(&verdict));
        node.sql(&format!("SELECT spock.peer_create('n1', '{}')", rebuilt.dsn("postgres")));
        node.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "connected");
        node.wait_until(
            &format!("SELECT spock_internal.subscription_origin(oid) FROM pg_subscription WHERE subname = '{name}'"),
            "n1",
        );
    }
    write(rebuilt, 11, 20);
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM t", "20");
        assert_eq!(node.value("SELECT count(*) FROM pg_subscription WHERE NOT subenabled"), "0", "{}", node.name());
        assert!(!node.log_contains("is back as another server"), "{}", node.log());
    }
}
