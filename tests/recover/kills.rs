//! Whoever has to do with a recovery is killed at each of its steps; the call is repeated, and it ends recovered, with nothing
//! left behind.
//!
//! n1's gap is cut into slices, one recovery each, so that one cluster serves all steps.

use super::{assert_tidy, mesh_of};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::{applied, assert_identical, drain};
use spock_recovery_cluster::deadline;
use std::thread;
use std::time::Duration;

/// Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(150);

/// Transactions of a slice.
const SLICE: u32 = 20;

/// In their order.
const STEPS: [&str; 9] = [
    names::RESCUE_CLONE_MADE,
    names::RESCUE_CLAIMED,
    names::RESCUE_SUSPENDED,
    names::RESCUE_BEFORE_COMMIT,
    names::RESCUE_AFTER_COMMIT,
    names::RESCUE_REPLAYED,
    names::RESCUE_ORIGIN_SET,
    names::RESCUE_RESUMED,
    names::RESCUE_COMPLETED,
];

/// n2 lacks a slice of n1 for each step; where each ends there.
fn sliced(name: &str) -> (Cluster, Vec<String>) {
    let cluster = mesh_of(name, 4);
    let [n1, n2, n3, n4] = cluster.all();
    for node in [n2, n3, n4] {
        drain(n1, node);
    }
    crate::rescue::hold_back(n2);
    let mut ends = Vec::new();
    for slice in 0..STEPS.len() as u32 {
        super::write(n1, slice * SLICE + 1, (slice + 1) * SLICE);
        ends.push(n1.value("SELECT pg_current_wal_flush_lsn()"));
    }
    for node in [n3, n4] {
        drain(n1, node);
    }
    // What n1's WAL holds beyond its last commit is nobody's to ask for.
    if let Some(last) = ends.last_mut() {
        *last = applied(n3);
    }
    n1.kill9();
    cluster.expect_log("terminating connection due to administrator command");
    (cluster, ends)
}

fn call(end: &str) -> String {
    format!("CALL spock.recover_run('n1', source_node_name => 'n3', target_node_name => 'n2', stop_lsn => '{end}')")
}

/// Called again until it succeeds, as a person would who has lost his session or read that a server is starting.
fn call_again(coordinator: &Node, end: &str) {
    let mut last = String::new();
    let done = deadline::poll(LIMIT, || match coordinator.try_sql(&call(end)) {
        Ok(_) => Some(()),
        // The range is done: what is beyond is the next call's.
        Err(error) if error.message.contains("is before skip_lsn") => Some(()),
        Err(error) => {
            last = error.to_string();
            None
        }
    });
    assert!(done.is_some(), "not recovered up to {end}: {last}");
}

/// Who is killed at each step, by `kill`, while n4's session has called.
fn assert_survives(name: &str, kill: impl Fn(&Node, &Node, &Node, &str)) {
    let (cluster, ends) = sliced(name);
    let [_, n2, n3, n4] = cluster.all();
    for (number, (step, end)) in STEPS.iter().zip(&ends).enumerate() {
        n2.arm(step, Action::Wait);
        thread::scope(|scope| {
            let caller = scope.spawn(|| n4.try_sql(&call(end)));
            n2.wait_hit(step);
            kill(n2, n3, n4, step);
            n2.disarm(step);
            // It may have failed: that is what is survived.
            let _ = caller.join().expect("the thread ends");
        });
        call_again(n4, end);
        let rows = (number as u32 + 1) * SLICE;
        n2.wait_until("SELECT count(*) FROM spock.recovery_intents() WHERE ended_at IS NULL", "0");
        assert_eq!(
            n2.value("SELECT count(*), count(DISTINCT id), max(id) FROM t"),
            format!("{rows}|{rows}|{rows}"),
            "{step}"
        );
        n3.wait_until("SELECT count(*) FROM spock.recovery_clones()", "0");
        assert_tidy(&[n2, n3, n4], &[]);
    }
    assert_identical(n2, n3);
    assert_eq!(applied(n2), applied(n3));
}

#[test]
fn the_callers_session_may_end_at_any_step() {
    assert_survives("recover_kill_session", |_, _, n4, _| {
        n4.sql(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
              WHERE query LIKE 'CALL spock.recover_run%' AND pid <> pg_backend_pid()",
        );
    });
}

#[test]
fn the_coordinators_server_may_die_at_any_step() {
    assert_survives("recover_kill_coordinator", |_, _, n4, _| {
        n4.kill9();
        n4.start();
    });
}

#[test]
fn the_source_may_die_at_any_step() {
    assert_survives("recover_kill_source", |_, n3, _, _| {
        n3.kill9();
        n3.start();
    });
}

#[test]
fn the_target_may_die_at_any_step() {
    assert_survives("recover_kill_target", |n2, _, _, step| {
        n2.kill9();
        n2.disarm(step);
        n2.start();
    });
}
