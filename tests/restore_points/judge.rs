//! Judges restore points by what pg_waldump reads in the WAL of every node.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::cluster::{Cluster, Node};

/// What the WAL of all nodes says.
#[derive(Default)]
pub struct Judged {
    /// By the point's name and the node's.
    pub points: BTreeMap<String, BTreeMap<String, Seen>>,
    /// By the node's name: the ends of its transactions that some other node has applied.
    published: BTreeMap<String, BTreeSet<u64>>,
}

/// What the WAL of one node says of a restore point.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Where the restore point's record begins.
    pub at: u64,
    /// The last transaction of each other node that was applied before it, as that node's position.
    pub applied: BTreeMap<String, u64>,
}

pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap_or_else(|| panic!("{text} is no position"));
    u64::from_str_radix(high, 16).expect("hexadecimal") << 32 | u64::from_str_radix(low, 16).expect("hexadecimal")
}

/// Reads the WAL of all nodes, each from its position in `begin` to its end.
pub fn judge(cluster: &Cluster, begin: &BTreeMap<String, String>) -> Judged {
    let mut judged = Judged::default();
    for node in cluster.nodes() {
        read(cluster, node, &begin[node.name()], &mut judged);
    }
    judged
}

/// Where each node's WAL ends now.
pub fn ends(cluster: &Cluster) -> BTreeMap<String, String> {
    let end = |node: &Node| (node.name().to_owned(), node.value("SELECT pg_current_wal_insert_lsn()"));
    cluster.nodes().iter().map(end).collect()
}

fn read(cluster: &Cluster, node: &Node, begin: &str, judged: &mut Judged) {
    let origins: BTreeMap<String, String> = node
        .rows("SELECT o.roident, s.subname FROM pg_replication_origin o JOIN pg_subscription s ON o.roname = 'pg_' || s.oid")
        .into_iter()
        .map(|row| {
            let name = row[1].as_deref().unwrap_or_default();
            (row[0].clone().unwrap_or_default(), name.rsplit('_').next().unwrap_or_default().to_owned())
        })
        .collect();
    node.sql("SELECT pg_logical_emit_message(false, 'end', ''); CHECKPOINT");
    let mut dump = cluster.user().command(&cluster.installation().bindir.join("pg_waldump"));
    dump.arg("--path").arg(node.data().join("pg_wal")).args(["--start", begin]);
    dump.args(["--rmgr", "Transaction", "--rmgr", "XLOG"]);
    let mut seen = Seen::default();
    let dumped = output(dump);
    assert!(dumped.contains("desc: COMMIT"), "{}: its WAL from {begin} on is not there", node.name());
    for line in dumped.lines() {
        let at = lsn(between(line, "lsn: ", ",").unwrap_or_else(|| panic!("no position: {line}")));
        if let Some(name) = between(line, "RESTORE_POINT ", "\n") {
            let point = judged.points.entry(name.to_owned()).or_default();
            point.insert(node.name().to_owned(), Seen { at, ..seen.clone() });
        } else if line.contains("desc: COMMIT")
            && let Some(origin) = between(line, "origin: node ", ",").and_then(|id| origins.get(id))
        {
            let position = lsn(between(line, ", lsn ", ",").expect("a position of the origin"));
            if position != 0 {
                seen.applied.insert(origin.clone(), position);
                judged.published.entry(origin.clone()).or_default().insert(position);
            }
        }
    }
}

fn output(mut command: Command) -> String {
    let done = command.output().expect("pg_waldump starts");
    // It ends with an error where WAL ends.
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn between<'a>(line: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(begin)?;
    Some(rest.split_once(end).map_or(rest, |(found, _)| found).trim())
}

/// Which nodes hold transactions of which others beyond these ones' positions.
pub fn inconsistent(point: &BTreeMap<String, Seen>) -> Vec<String> {
    let mut found = Vec::new();
    for (node, seen) in point {
        for (origin, applied) in &seen.applied {
            // Every transaction of the origin that ends beyond its record is one that it would not have.
            if point.get(origin).is_some_and(|at_origin| *applied > at_origin.at) {
                found.push(format!("{node} has {applied:X} of {origin}"));
            }
        }
    }
    found
}

impl Judged {
    /// Which nodes lack transactions of which others at this point.
    pub fn undrained(&self, point: &BTreeMap<String, Seen>) -> Vec<String> {
        let mut found = Vec::new();
        for (node, seen) in point {
            for (origin, at_origin) in point.iter().filter(|(origin, _)| *origin != node) {
                let last = self.published.get(origin).and_then(|ends| ends.range(..=at_origin.at).next_back());
                if seen.applied.get(origin) < last {
                    found.push(format!("{node} lacks {last:X?} of {origin}"));
                }
            }
        }
        found
    }
}
