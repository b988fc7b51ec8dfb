//! What a node without work takes of its machine, all its processes together, with the extension and without.

use std::thread;
use std::time::{Duration, Instant};

use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::{Error as ServerError, Server, process};

use crate::bench::Bench;
use crate::curve::{Curve, Line};
use crate::error::Result;
use crate::{cluster, report, wait};

/// After the last change, until nothing is left to be done once.
const SETTLES: Duration = Duration::from_secs(10);

/// Room for 50 databases, and for 15 peers.
const SETTINGS: [(&str, &str); 8] = [
    ("shared_buffers", "64MB"),
    ("max_worker_processes", "320"),
    ("max_replication_slots", "160"),
    ("max_wal_senders", "160"),
    ("max_logical_replication_workers", "120"),
    ("max_sync_workers_per_subscription", "0"),
    ("max_connections", "200"),
    ("spock.max_databases", "64"),
];

const LABELS: [(bool, &str); 2] = [(true, "with the extension"), (false, "without")];

fn settings(with_extension: bool) -> &'static [(&'static str, &'static str)] {
    if with_extension { &SETTINGS } else { &SETTINGS[..SETTINGS.len() - 1] }
}

/// n1 receives from each of its peers, and each of them from it.
pub fn peers(bench: &Bench) -> Result<Curve> {
    let counts: &[usize] = if bench.quick { &[2, 4] } else { &[2, 4, 8, 16] };
    let mut lines = Vec::new();
    for (with_extension, label) in LABELS {
        let mut line = Line::new(label);
        for count in counts {
            let names: Vec<String> = (1..=*count).map(|number| format!("n{number}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let table = "CREATE TABLE t (id bigint PRIMARY KEY)";
            let cluster = cluster::start_with(bench, &names, with_extension, settings(with_extension), |node| {
                wait::sql(node, table)
            })?;
            let pairs: Vec<(&str, &str)> = names[1..].iter().flat_map(|peer| [("n1", *peer), (*peer, "n1")]).collect();
            cluster.subscribe(&pairs)?;
            if with_extension {
                wait_for_slots(cluster.node("n1")?, 1)?;
            }
            let share = share(bench, cluster.node("n1")?)?;
            report::point(bench, "nodes", *count as f64, label, share, "% of a core");
            line.points.push((*count as f64, share));
            cluster.stop()?;
        }
        lines.push(line);
    }
    Ok(Curve::new("peers", "nodes", "% of a core", lines))
}

/// Each database is a node of its own, with one peer on another server.
pub fn databases(bench: &Bench) -> Result<Curve> {
    let counts: &[usize] = if bench.quick { &[1, 5] } else { &[1, 5, 10, 25, 50] };
    let mut lines = Vec::new();
    for (with_extension, label) in LABELS {
        let mut line = Line::new(label);
        let cluster = cluster::start_with(bench, &["n1", "n2"], with_extension, settings(with_extension), |_| Ok(()))?;
        cluster.subscribe(&[("n1", "n2"), ("n2", "n1")])?;
        let mut names = vec![wait::DATABASE.to_owned()];
        for count in counts {
            while names.len() < *count {
                let name = format!("d{}", names.len());
                for node in cluster.nodes() {
                    wait::sql(node, &format!("CREATE DATABASE {name}"))?;
                    node.query(&name, "CREATE TABLE t (id bigint PRIMARY KEY)")?;
                    cluster::publish(node, &name, with_extension)?;
                }
                for (target, source) in [("n1", "n2"), ("n2", "n1")] {
                    subscribe(cluster.node(target)?, cluster.node(source)?, &name)?;
                }
                names.push(name);
            }
            let n1 = cluster.node("n1")?;
            if with_extension {
                wait_for_slots(n1, names.len())?;
            }
            let share = share(bench, n1)?;
            report::point(bench, "databases", *count as f64, label, share, "% of a core");
            line.points.push((*count as f64, share));
        }
        cluster.stop()?;
        lines.push(line);
    }
    Ok(Curve::new("databases", "databases", "% of a core", lines))
}

/// Slots of all databases of a server have different names.
fn subscribe(target: &Server, source: &Server, database: &str) -> Result<()> {
    let statement = format!(
        "CREATE SUBSCRIPTION sub_{} CONNECTION {} PUBLICATION mesh
           WITH (origin = none, copy_data = false, slot_name = 'sub_{}_{database}')",
        source.name(),
        literal(&source.dsn(database)),
        target.name(),
    );
    target.query(database, &statement)?;
    Ok(())
}

fn wait_for_slots(node: &Server, count: usize) -> Result<()> {
    let question = format!(
        "SELECT count(*) = {count} FROM pg_replication_slots WHERE slot_name LIKE 'spk_recovery%' AND NOT temporary"
    );
    wait::until(node, &question)
}

/// Of one core, in per cent, over some time in which nobody asks the server for anything.
fn share(bench: &Bench, node: &Server) -> Result<f64> {
    let window = Duration::from_secs(bench.size(30, 10));
    thread::sleep(SETTLES);
    let (before, begun) = (seconds_of_all(node)?, Instant::now());
    thread::sleep(window);
    let used = seconds_of_all(node)? - before;
    Ok(100.0 * used / begun.elapsed().as_secs_f64())
}

/// Of all processes of a server, those that have ended among them.
fn seconds_of_all(node: &Server) -> Result<f64> {
    let seconds = |pid, with_children| process::processor_time(pid, with_children).map(|time| time.as_secs_f64());
    let postmaster = node.pid().and_then(|pid| seconds(pid, true));
    let postmaster = postmaster.ok_or_else(|| ServerError::NotRunning(node.name().to_owned()))?;
    let living: f64 = node.processes().iter().filter_map(|process| seconds(process.pid, false)).sum();
    Ok(postmaster + living)
}
