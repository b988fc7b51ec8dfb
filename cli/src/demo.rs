//! The loss of a node and the recovery from it, from crash to verified, on real servers.
//!
//! n1, n2, n3 on neighbouring ports; n1→n2, n1→n3, n2↔n3 (the other way round of n1's there is nothing, so that nothing holds
//! the picture but what is lost). n2 misses what n1 writes last, n1 is killed, and n2 gets it out of n3's WAL.

mod crash;
mod load;
pub mod rebuild;
mod recovery;
pub mod restore;
pub mod scene;
mod verify;

use std::path::PathBuf;

use spock_recovery_cluster::Cluster;

use crate::cluster::{self, DATABASE};
use crate::error::{Error, Result};
use crate::screen::Screen;

pub use crash::{Scenario, TABLE};

/// The node that dies, the one that lacks what it wrote last, and the one that supplies it.
const FAILED: &str = "n1";
const TARGET: &str = "n2";
const SOURCE: &str = "n3";

/// Rows that every node has before the gap.
const EVERYWHERE: u64 = 20;

#[derive(Debug, Clone)]
pub struct Options {
    pub pg_config: Option<PathBuf>,
    pub first_port: u16,
    /// Three or more; those beyond n3 are further survivors.
    pub nodes: usize,
    /// Transactions of one row each that the target lacks when n1 dies.
    pub rows: u64,
    pub scenario: Scenario,
    pub keep: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { pg_config: None, first_port: 5451, nodes: 3, rows: 70, scenario: Scenario::Crash, keep: false }
    }
}

impl Options {
    fn total(&self) -> u64 {
        EVERYWHERE + self.rows
    }
}

/// Ok only if everything was verified. The last line then is `demo: n2=90 n3=90 transactions=70 seconds=S`.
pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    if options.nodes < 3 {
        let reason = "one dies, one lacks something, one has it";
        return Err(Error::TooFewNodes { nodes: options.nodes, reason });
    }
    let cluster = cluster::start(
        &cluster::Options {
            pg_config: options.pg_config.clone(),
            first_port: options.first_port,
            nodes: options.nodes,
            stays: options.keep,
        },
        screen,
    )?;
    let played = play(&cluster, options, screen);
    match &played {
        Err(error) if options.keep => screen.line(format!("failed, the servers are kept to be looked at: {error}")),
        Err(_) => screen.line("failed; with --keep the servers stay to be looked at"),
        Ok(_) => {}
    }
    if options.keep {
        cluster::keep(cluster, screen)?;
    } else {
        cluster.stop()?;
    }
    screen.line(played?);
    Ok(())
}

/// The last line.
fn play(cluster: &Cluster, options: &Options, screen: &Screen) -> Result<String> {
    wire(cluster, screen)?;
    crash::write_everywhere(cluster, screen)?;
    crash::open_gap(cluster, options, screen)?;
    let truth = verify::of_failed_node(cluster)?;
    crash::kill(cluster, options, screen)?;
    let before = verify::subscriptions(cluster.node(TARGET)?)?;
    let seconds = recovery::call(cluster.node(TARGET)?, screen)?;
    crash::show_rows(cluster, screen)?;
    let transactions = verify::all(cluster, options, &truth, &before, screen)?;
    let rows = |name| crash::rows(cluster.node(name)?);
    let (target, source, seconds) = (rows(TARGET)?, rows(SOURCE)?, seconds.as_secs_f64());
    Ok(format!("demo: {TARGET}={target} {SOURCE}={source} transactions={transactions} seconds={seconds:.3}"))
}

/// Target and source of each subscription: from n1 to every other node, and between those.
fn subscriptions(cluster: &Cluster) -> Vec<(&str, &str)> {
    cluster.pairs().into_iter().filter(|(target, _)| *target != FAILED).collect()
}

fn wire(cluster: &Cluster, screen: &Screen) -> Result<()> {
    for node in cluster.servers() {
        node.query(DATABASE, crash::TABLE)?;
    }
    cluster.publish()?;
    cluster.subscribe(&subscriptions(cluster))?;
    let survivors: Vec<&str> = crash::survivors(cluster).map(|node| node.name()).collect();
    let from_failed: Vec<String> = survivors.iter().map(|name| format!("{FAILED}→{name}")).collect();
    let among = survivors.join("↔");
    screen.line(format!("  subscriptions {}, {among}, with origin = none; autovacuum is on", from_failed.join(", ")));
    Ok(())
}
