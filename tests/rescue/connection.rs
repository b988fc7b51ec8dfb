//! The source goes and comes, the target too, and for longer than anybody waits.

use super::{
    HELD, Session, applied, assert_identical, assert_replicate, begin, drain, fail, hold, hold_back, start,
    wait_completed, wait_error, wait_held, wait_tidy,
};
use crate::cluster::{Cluster, Node};
use crate::slot_life::wait_rounds;

const TABLES: &str = "CREATE TABLE serial (n int); CREATE TABLE t (id int PRIMARY KEY);";

/// n2 lacks five small transactions, and one that writes to `held` in its midst, with much before that and after.
fn gap(name: &str) -> Cluster {
    let cluster = start(name, &format!("{TABLES} {HELD}"));
    let [n1, n2, _] = cluster.all();
    hold_back(n2);
    super::insert_each(&mut n1.session(), "serial", 1, 5);
    n1.sql(
        "BEGIN; INSERT INTO serial SELECT generate_series(6, 10000); INSERT INTO held VALUES (1);
         INSERT INTO serial SELECT generate_series(10001, 200000); COMMIT",
    );
    n1.sql("INSERT INTO t VALUES (1)");
    fail(&cluster);
    cluster
}

/// Begins the rescue and returns when it stands in the midst of the transaction; the clone's name.
fn begin_and_stand<'a>(n2: &'a Node, n3: &Node) -> (Session<'a>, String) {
    let held = hold(n2);
    let (_, clone) = begin(n2, n3, "");
    wait_held(n2);
    assert_eq!(n2.value("SELECT count(*) FROM serial"), "5", "nothing of an unfinished transaction is seen");
    (held, clone)
}

fn assert_exact(n2: &Node, n3: &Node) {
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), "200000|200000");
    drain(n2, n3);
    assert_identical(n2, n3);
    assert_eq!(applied(n2), applied(n3));
}

#[test]
fn a_connection_cut_in_the_midst_of_a_transaction_is_made_anew_and_the_transaction_comes_once() {
    let cluster = gap("rescue_cut");
    let [_, n2, n3] = cluster.all();
    let (mut held, clone) = begin_and_stand(n2, n3);
    let cut = n3.value(&format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{clone}'"
    ));
    assert_eq!(cut, "t");
    held.sql("COMMIT");
    assert_exact(n2, n3);
}

#[test]
fn a_source_that_hangs_and_goes_in_the_midst_of_a_transaction_is_waited_for() {
    let cluster = gap("rescue_source_gone");
    let [_, n2, n3] = cluster.all();
    n2.set(&[("wal_receiver_timeout", "1s")]);
    let (mut held, _) = begin_and_stand(n2, n3);
    // It hangs, with its connections open; then it is gone.
    n3.pause();
    held.sql("COMMIT");
    wait_error(n2, "(SQLSTATE 08");
    n3.stop_immediate();
    let error = wait_error(n2, "SQLSTATE 08001");
    assert!(error.contains("\"n3\""), "{error}");
    assert_eq!(n2.value("SELECT count(*) FROM serial"), "5");
    n3.start();
    assert_exact(n2, n3);
}

#[test]
fn a_target_that_is_restarted_in_the_midst_of_a_transaction_resumes() {
    let cluster = gap("rescue_target_restarted");
    let [_, n2, n3] = cluster.all();
    let (held, _) = begin_and_stand(n2, n3);
    n2.restart();
    drop(held);
    assert_exact(n2, n3);
}

#[test]
fn a_target_that_is_down_longer_than_any_limit_finds_its_clone_and_completes() {
    let cluster = gap("rescue_target_down");
    let [_, n2, n3] = cluster.all();
    let (held, clone) = begin_and_stand(n2, n3);
    // Not before: a clone that no recovery has claimed is to go after that time.
    n3.set(&[("spock.rescue_clone_ttl", "1s"), ("wal_sender_timeout", "1s")]);
    n2.stop_immediate();
    drop(held);
    // A session of its own each time, as checkpoints come and go: several times every limit.
    let begun = n3.value("SELECT clock_timestamp()");
    crate::cluster::wait_for("all limits to pass several times", || {
        n3.sql("CHECKPOINT");
        n3.value(&format!("SELECT clock_timestamp() > '{begun}'::timestamptz + interval '6 s'")) == "t"
    });
    assert_eq!(
        n3.value(&format!(
            "SELECT wal_status IN ('reserved', 'extended') FROM pg_replication_slots WHERE slot_name = '{clone}'"
        )),
        "t"
    );
    n2.start();
    assert_exact(n2, n3);
}

#[test]
fn a_clone_of_its_own_that_was_lost_is_made_again_from_what_the_slot_still_keeps() {
    let cluster = gap("rescue_clone_lost");
    let [_, n2, n3] = cluster.all();
    let held = hold(n2);
    n2.sql("SELECT spock_internal.begin_recovery('n1', 'n3', 'n2')");
    wait_held(n2);
    n2.stop_immediate();
    drop(held);
    n3.wait_until(
        "SELECT active, count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery' GROUP BY active",
        "f|1",
    );
    n3.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE plugin = 'spock_recovery'");
    n2.start();
    assert_exact(n2, n3);
}

#[test]
fn a_failed_node_that_takes_connections_and_never_answers_does_not_hold_the_rescue() {
    let cluster = start("rescue_hanging", TABLES);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    super::insert_each(&mut n1.session(), "serial", 1, 10);
    super::wait_arrived(n1);
    n1.pause();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    // It has the origin in its hands, and waits for an answer without a limit.
    n2.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n2_n1' AND pid IS NOT NULL", "1");
    super::rescue(n2, n3, "");
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), "10|10");
    assert_replicate(n2, n3);
    assert_identical(n2, n3);
}

#[test]
fn a_manager_and_a_worker_that_are_ended_in_the_midst_have_successors_and_one_worker_carries_on() {
    let cluster = gap("rescue_ended");
    let [_, n2, n3] = cluster.all();
    let (mut held, _) = begin_and_stand(n2, n3);
    let worker = wait_held(n2);
    let manager = n2.wait_process("spock_recovery manager postgres").pid;
    n2.sigterm(manager);
    crate::cluster::wait_for("another manager", || n2.wait_process("spock_recovery manager postgres").pid != manager);
    wait_rounds(n2.db("postgres"), 5);
    assert_eq!(wait_held(n2), worker, "it is left alone");
    n2.sigterm(worker);
    crate::cluster::wait_for("another worker", || wait_held(n2) != worker);
    held.sql("COMMIT");
    assert_exact(n2, n3);
}
