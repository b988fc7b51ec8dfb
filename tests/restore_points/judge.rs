//! Judges restore points by what pg_waldump reads in the WAL of every node.

use std::collections::BTreeMap;
use std::process::Command;

use crate::cluster::{Cluster, Node};

/// What the WAL of one node says of a restore point.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Where the restore point's record ends: where the next record begins, or more exactly where it begins itself.
    pub at: u64,
    /// Before the record: the last commit of each node's transactions, as that node's position.
    pub applied: BTreeMap<String, u64>,
    /// Before the record: the end of the node's own last commit, or a little less.
    pub own: u64,
}

pub fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap_or_else(|| panic!("{text} is no position"));
    u64::from_str_radix(high, 16).expect("hexadecimal") << 32 | u64::from_str_radix(low, 16).expect("hexadecimal")
}

/// The positions of all nodes at each restore point, by the point's name and the node's.
pub fn points(cluster: &Cluster, begin: &BTreeMap<String, String>) -> BTreeMap<String, BTreeMap<String, Seen>> {
    let mut points: BTreeMap<String, BTreeMap<String, Seen>> = BTreeMap::new();
    for node in cluster.nodes() {
        for (name, seen) in of_node(cluster, node, &begin[node.name()]) {
            points.entry(name).or_default().insert(node.name().to_owned(), seen);
        }
    }
    points
}

/// Where each node's WAL ends now.
pub fn ends(cluster: &Cluster) -> BTreeMap<String, String> {
    let end = |node: &Node| (node.name().to_owned(), node.value("SELECT pg_current_wal_insert_lsn()"));
    cluster.nodes().iter().map(end).collect()
}

fn of_node(cluster: &Cluster, node: &Node, begin: &str) -> Vec<(String, Seen)> {
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
    let (mut found, mut seen) = (Vec::new(), Seen::default());
    for line in output(dump).lines() {
        let at = lsn(between(line, "lsn: ", ",").unwrap_or_else(|| panic!("no position: {line}")));
        if let Some(name) = between(line, "RESTORE_POINT ", "\n") {
            found.push((name.to_owned(), Seen { at, ..seen.clone() }));
        } else if line.contains("desc: COMMIT") {
            match between(line, "origin: node ", ",") {
                Some(id) => {
                    let position = lsn(between(line, ", lsn ", ",").expect("a position of the origin"));
                    if let Some(origin) = origins.get(id).filter(|_| position != 0) {
                        seen.applied.insert(origin.clone(), position);
                    }
                }
                None => seen.own = at,
            }
        }
    }
    found
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

/// Which nodes lack transactions of which others at this point.
pub fn undrained(point: &BTreeMap<String, Seen>, published: impl Fn(&str) -> u64) -> Vec<String> {
    let mut found = Vec::new();
    for (node, seen) in point {
        for origin in point.keys().filter(|origin| *origin != node) {
            let applied = seen.applied.get(origin).copied().unwrap_or(0);
            if applied < published(origin) {
                found.push(format!("{node} lacks transactions of {origin}"));
            }
        }
    }
    found
}
