//! Rounds: n1 fails, is recovered on those that lag, and comes back with all it had; so that one cluster serves many cases.

use super::{assert_tidy, write};
use crate::cluster::{Cluster, Node};
use crate::rescue::applied;
use crate::slot_keeps::wait_confirmed;

/// Transactions of a round.
const ROUND: u32 = 20;

#[derive(Clone, Copy)]
pub enum Failure {
    /// kill -9.
    Dies,
    /// SIGSTOP: its connections stay, and it says nothing.
    Hangs,
}

pub struct Rounds<'a> {
    cluster: &'a Cluster,
    done: u32,
}

/// From here on it gets nothing of the origin.
pub fn hold_back_from(node: &Node, origin: &str) {
    crate::rescue::disable(node, &format!("sub_{}_{origin}", node.name()));
}

/// The others have all that the origin has written, on their disks; those that lag wait for it in vain.
pub fn fail(origin: &Node, survivors: &[&Node], lagging: &[&str], failure: Failure) {
    let lags = |node: &Node| lagging.contains(&node.name());
    origin.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    for node in survivors.iter().filter(|node| !lags(node)) {
        wait_confirmed(origin, &format!("sub_{}_{}", node.name(), origin.name()));
    }
    match failure {
        Failure::Dies => origin.kill9(),
        Failure::Hangs => origin.pause(),
    }
    for node in survivors {
        if lags(node) {
            node.sql(&format!("ALTER SUBSCRIPTION sub_{}_{} ENABLE", node.name(), origin.name()));
        }
        let state = format!("SELECT state FROM spock.peer_status() WHERE node_name = '{}'", origin.name());
        node.wait_until(&state, "unreachable");
    }
}

impl<'a> Rounds<'a> {
    pub fn of(cluster: &'a Cluster) -> Rounds<'a> {
        // A session with a node that hangs is ended, and so is what a killed node's peers had begun.
        cluster.expect_log("terminating");
        // What was asked of a node that hung, and was given up by who asked.
        cluster.expect_log("canceling statement due to");
        Rounds { cluster, done: 0 }
    }

    pub fn survivors(&self) -> Vec<&'a Node> {
        self.cluster.nodes().iter().filter(|node| node.name() != "n1").collect()
    }

    /// Begins a round: n1 writes what only those have that do not lag, and fails.
    pub fn fail(&mut self, lagging: &[&str], failure: Failure) {
        let n1 = self.cluster.node("n1");
        for name in lagging {
            hold_back_from(self.cluster.node(name), "n1");
        }
        write(n1, self.done * ROUND + 1, (self.done + 1) * ROUND);
        self.done += 1;
        fail(n1, &self.survivors(), lagging, failure);
    }

    /// All survivors have all of n1, each row once, and nothing is left of the recoveries.
    pub fn assert_recovered(&self) {
        let rows = self.done * ROUND;
        let survivors = self.survivors();
        let positions: Vec<String> = survivors.iter().map(|node| applied(node)).collect();
        for node in &survivors {
            node.wait_until("SELECT count(*) FROM spock.recovery_intents() WHERE ended_at IS NULL", "0");
            assert_eq!(
                node.value("SELECT count(*), count(DISTINCT id), max(id) FROM t"),
                format!("{rows}|{rows}|{rows}"),
                "{}",
                node.name()
            );
            node.wait_until("SELECT count(*) FROM spock.recovery_clones()", "0");
        }
        assert!(positions.iter().all(|position| *position == positions[0]), "{positions:?}");
        assert_tidy(&survivors, &["n1"]);
    }

    /// Ends a round: n1 goes on, and so does what everybody gets from it.
    pub fn come_back(&self, failure: Failure) {
        let n1 = self.cluster.node("n1");
        match failure {
            Failure::Dies => n1.start(),
            Failure::Hangs => n1.resume(),
        }
        for node in self.survivors() {
            node.wait_until(
                "SELECT sub_enabled, sub_rescue_suspended FROM spock.subscription WHERE sub_name LIKE '%\\_n1'",
                "t|f",
            );
        }
    }
}
