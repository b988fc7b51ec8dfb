//! Restore points: the commit barrier, and one moment of a mesh under load, judged by pg_waldump.

mod barrier;
mod consistent;
mod deaths;
mod judge;
mod listed;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::cluster::{Cluster, Node, Session, SqlError, wait_for};
use crate::slot_keeps::{quick, start_mesh};

const TABLE: &str = "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, node text, v int, PRIMARY KEY (id, node))";

pub fn mesh_of(name: &str, nodes: usize) -> Cluster {
    // Two-phase transactions and synchronous commits are what the barrier must know of.
    let builder = quick(name, nodes).setting("max_prepared_transactions", "10");
    // The judge reads the WAL of all of the test.
    start_mesh(builder.setting("wal_keep_size", "64GB"), TABLE)
}

/// A step of a restore point on one node, as a peer calls it there.
fn step(node: &Node, step: &str, argument: &str) -> Result<String, SqlError> {
    let rows = node.try_sql(&format!("SELECT spock_internal.restore_point_step('{step}', '{argument}')"))?;
    Ok(spock_recovery_cluster::client::first(rows))
}

/// Closes a node's gate; returns the end of its last commit.
fn close(node: &Node, number: u64, holds_all: bool, lease_ms: u32) -> String {
    let asked = format!(r#"{{"number":{number},"holds_all":{holds_all},"lease_ms":{lease_ms}}}"#);
    let mut answer = String::new();
    // A gate stays open for a moment before it may be closed again.
    wait_for("the gate to be closed", || match step(node, "close", &asked) {
        Ok(closed) => {
            answer = closed;
            true
        }
        Err(error) if error.sqlstate == "55006" => false,
        Err(error) => panic!("{}: {error}", node.name()),
    });
    let end = answer.strip_prefix(r#"{"end":""#).and_then(|rest| rest.strip_suffix(r#""}"#));
    end.unwrap_or_else(|| panic!("{}: {answer}", node.name())).to_owned()
}

/// Opens it; returns whether it held.
fn open(node: &Node, number: u64) -> bool {
    let answer = step(node, "open", &format!(r#"{{"number":{number}}}"#)).expect("opening a gate is never refused");
    assert!(answer.contains("held"), "{answer}");
    answer.contains(r#""held":true"#)
}

/// How many sessions of the node wait at the gate.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SpockRecoveryCommitBarrier'";

/// Runs `f` while sessions on every node, two each, insert rows of their own.
pub fn under_load<T>(cluster: &Cluster, f: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in cluster.nodes() {
            for _ in 0..2 {
                scope.spawn(|| write_until(&mut node.session(), node.name(), &stop));
            }
        }
        let guard = StopAtEnd(&stop);
        let value = f();
        drop(guard);
        value
    })
}

/// Stops the load also when `f` panics.
pub struct StopAtEnd<'a>(pub &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn write_until(session: &mut Session, name: &str, stop: &AtomicBool) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        session.sql(&format!("INSERT INTO t (node, v) VALUES ('{name}', {number})"));
    }
}
