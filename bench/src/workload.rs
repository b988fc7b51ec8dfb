//! What the nodes write: pgbench's transactions, and statements once for each number.

use std::ffi::OsStr;

use spock_recovery_cluster::{Server, command};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::wait::DATABASE;

/// Statements that run once for each t, each time in a transaction of its own.
pub fn each_transaction(transactions: u64, statements: &str) -> String {
    format!("DO $$ BEGIN FOR t IN 0 .. {transactions} - 1 LOOP {statements} COMMIT; END LOOP; END $$")
}

/// pgbench's tables, with their rows: the same on each node, for they are counted, not drawn by lot.
pub fn pgbench_tables(bench: &Bench, node: &Server) -> Result<()> {
    pgbench_steps(bench, node, "dtgp")
}

/// Steps of pgbench's initialization (pgbench's option --init-steps).
pub fn pgbench_steps(bench: &Bench, node: &Server, steps: &str) -> Result<()> {
    pgbench_with(bench, node.dsn(DATABASE), ["-i", "-q", "-s", "10", "-I", steps]).map(drop)
}

/// Transactions of one UPDATE and one INSERT.
pub fn pgbench(bench: &Bench, node: &Server, transactions: u64) -> Result<()> {
    // A backlog is to be there soon; how it was written does not matter.
    let dsn = format!("{} options='-c synchronous_commit=off'", node.dsn(DATABASE));
    let of_each = (transactions / 4).to_string();
    pgbench_with(bench, dsn, ["-n", "-N", "-c", "4", "-t", &of_each]).map(drop)
}

/// Transactions per second of such ones.
pub fn pgbench_rate(bench: &Bench, node: &Server, seconds: u64) -> Result<f64> {
    let seconds = seconds.to_string();
    let printed = pgbench_with(bench, node.dsn(DATABASE), ["-n", "-N", "-c", "2", "-T", &seconds])?;
    let line = printed.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    rate.ok_or_else(|| Error::Verification(format!("pgbench tells no rate: {printed}")))
}

fn pgbench_with<const N: usize>(bench: &Bench, dsn: impl AsRef<OsStr>, options: [&str; N]) -> Result<String> {
    let mut pgbench = bench.user.command(&bench.installation.bindir.join("pgbench"));
    Ok(command::run(pgbench.args(options).arg(dsn))?)
}
