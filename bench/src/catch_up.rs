//! The same backlog of n1, applied by the rescue on n2 and by a native subscription on n4.
//!
//! Both are measured alike: from the command (CALL recover_run, ALTER SUBSCRIPTION ENABLE) until the replication origin of n1
//! on that node has come to the backlog's last transaction.

use std::cell::Cell;
use std::time::{Duration, Instant};

use spock_recovery_cluster::{Cluster, Server, process};

use crate::bench::Bench;
use crate::call::{Call, N2_FROM_N3, expect_no_conflict};
use crate::cluster::{self, applied, apply_worker, has_applied, settle};
use crate::error::Result;
use crate::measure::{Figure, alternating};
use crate::workload::{each_transaction, pgbench, pgbench_steps};
use crate::{report, stream, wait};

/// n3 receives from the target and from the node like it: what either applies is decoded once more for n3.
const NODES: [&str; 4] = ["n1", "n2", "n3", "n4"];
const SUBSCRIPTIONS: [(&str, &str); 7] =
    [("n2", "n1"), ("n3", "n1"), ("n4", "n1"), ("n2", "n3"), ("n3", "n2"), ("n4", "n3"), ("n3", "n4")];
const AMONG_SURVIVORS: [(&str, &str); 4] = [("n2", "n3"), ("n3", "n2"), ("n4", "n3"), ("n3", "n4")];

/// What each node has to hold the same of, after each pair.
const PGBENCH_CONTENT: &str =
    "SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(hashtextextended(h::text, 0)) FROM pgbench_history h),
    (SELECT count(*) FROM pgbench_accounts), (SELECT sum(hashtextextended(a::text, 0)) FROM pgbench_accounts a)";
const BULK_CONTENT: &str = "SELECT count(*), sum(hashtextextended(b::text, 0)) FROM bulk b";

const BULK: &str =
    "CREATE TABLE bulk (id bigint PRIMARY KEY, a integer NOT NULL, b text NOT NULL); CREATE INDEX ON bulk (a)";

/// Transactions of a bulk scenario, and rows of each.
const BULK_TRANSACTIONS: u64 = 100;
const BULK_ROWS: u64 = 10_000;

pub fn small(bench: &Bench) -> Result<Vec<Figure>> {
    let transactions = bench.size(200_000, 20_000);
    let cluster = start(bench, |node| pgbench_steps(bench, node, "dtp"), |n1| pgbench_steps(bench, n1, "g"))?;
    let (mut small, mut decode_limit) = (Figure::new("small"), Figure::new("decode_limit"));
    for pair in 0..bench.pairs() {
        let slot = stream::Slot::create(cluster.node("n3")?, "pgoutput")?;
        let backlog = Backlog::write(&cluster, |n1| pgbench(bench, n1, transactions))?;
        // Sent to nobody who applies, between the two who do.
        let decoded = stream::pgoutput(bench, cluster.node("n3")?, &slot)?;
        slot.drop(cluster.node("n3")?)?;
        let (ours, native) = backlog.measure(bench, &cluster, pair)?;
        wait::same(&[cluster.node("n2")?, cluster.node("n3")?, cluster.node("n4")?], PGBENCH_CONTENT)?;
        let rate = |taken: Duration| transactions as f64 / taken.as_secs_f64();
        small.ours.push(rate(ours));
        small.baseline.push(rate(native));
        report::pair(bench, "small", rate(ours), rate(native));
        decode_limit.ours.push(rate(ours));
        decode_limit.baseline.push(rate(decoded));
        report::pair(bench, "decode_limit", rate(ours), rate(decoded));
    }
    cluster.stop()?;
    Ok(vec![small, decode_limit])
}

pub fn bulk_insert(bench: &Bench) -> Result<Vec<Figure>> {
    let transactions = bench.size(BULK_TRANSACTIONS, BULK_TRANSACTIONS / 10);
    bulk(bench, "bulk_insert", transactions, 0, |pair| {
        let first = pair as u64 * transactions * BULK_ROWS;
        each_transaction(
            transactions,
            &format!(
                "INSERT INTO bulk SELECT {first} + t * {BULK_ROWS} + g, (g * 7919) % 100003, md5(g::text)
                   FROM generate_series(0, {BULK_ROWS} - 1) g;"
            ),
        )
    })
}

/// Nine updates, of a column without an index, to one delete.
pub fn bulk_mixed(bench: &Bench) -> Result<Vec<Figure>> {
    let transactions = bench.size(BULK_TRANSACTIONS, BULK_TRANSACTIONS / 10);
    // Each pair deletes the keys of another last digit: those left lie in a range that is wider by as many.
    let rows = transactions * BULK_ROWS * 10 / (10 - bench.pairs() as u64 + 1);
    bulk(bench, "bulk_mixed", transactions, rows + BULK_ROWS, |pair| {
        let width = BULK_ROWS * 10 / (10 - pair as u64);
        let range = format!("id >= t * {width} AND id < (t + 1) * {width}");
        each_transaction(
            transactions,
            &format!(
                "UPDATE bulk SET b = md5(b) WHERE {range} AND id % 10 <> {pair};
                 DELETE FROM bulk WHERE {range} AND id % 10 = {pair};"
            ),
        )
    })
}

/// `rows` are there before; `backlog`: what n1 writes for a pair.
fn bulk(
    bench: &Bench,
    name: &'static str,
    transactions: u64,
    rows: u64,
    backlog: impl Fn(usize) -> String,
) -> Result<Vec<Figure>> {
    let fill = format!(
        "INSERT INTO bulk SELECT g, (g * 7919) % 100003, md5(g::text) FROM generate_series(bigint '0', {rows} - 1) g"
    );
    let cluster = start(bench, |node| wait::sql(node, BULK), |n1| wait::sql(n1, &fill))?;
    let mut figure = Figure::new(name);
    for pair in 0..bench.pairs() {
        let backlog = Backlog::write(&cluster, |n1| wait::sql(n1, &backlog(pair)))?;
        let (ours, native) = backlog.measure(bench, &cluster, pair)?;
        wait::same(&[cluster.node("n2")?, cluster.node("n3")?, cluster.node("n4")?], BULK_CONTENT)?;
        let rate = |taken: Duration| (transactions * BULK_ROWS) as f64 / taken.as_secs_f64();
        figure.ours.push(rate(ours));
        figure.baseline.push(rate(native));
        report::pair(bench, name, rate(ours), rate(native));
    }
    cluster.stop()?;
    Ok(vec![figure])
}

/// What is there before comes from n1 everywhere: what it does to rows of another node's would be a conflict each.
fn start(
    bench: &Bench,
    schema: impl Fn(&Server) -> Result<()>,
    fill: impl FnOnce(&Server) -> Result<()>,
) -> Result<Cluster> {
    let cluster = cluster::start(bench, &NODES, true, schema)?;
    cluster.subscribe(&SUBSCRIPTIONS)?;
    fill(cluster.node("n1")?)?;
    for target in ["n2", "n3", "n4"] {
        cluster.wait_arrived(target, "n1")?;
        wait::sql(cluster.node(target)?, "VACUUM ANALYZE")?;
    }
    cluster::wait_vouched(&cluster)?;
    Ok(cluster)
}

/// What n1 has written and n3 has, and neither n2 nor n4.
pub struct Backlog {
    end: String,
}

impl Backlog {
    pub fn write(cluster: &Cluster, write: impl FnOnce(&Server) -> Result<()>) -> Result<Backlog> {
        for target in ["n2", "n3", "n4"] {
            cluster.enable(target, "n1")?;
        }
        for target in ["n2", "n3", "n4"] {
            cluster.wait_arrived(target, "n1")?;
        }
        settle(cluster, &AMONG_SURVIVORS)?;
        for target in ["n2", "n4"] {
            cluster.disable(target, "n1")?;
        }
        write(cluster.node("n1")?)?;
        cluster.wait_arrived("n3", "n1")?;
        let end = applied(cluster, "n3", "n1")?;
        // A node that still streams to the source has not failed.
        cluster.disable("n3", "n1")?;
        for (target, source) in AMONG_SURVIVORS {
            cluster.wait_arrived(target, source)?;
        }
        for node in cluster.nodes() {
            wait::sql(node, "CHECKPOINT")?;
        }
        Ok(Backlog { end })
    }

    /// Ours and native.
    pub fn measure(&self, bench: &Bench, cluster: &Cluster, pair: usize) -> Result<(Duration, Duration)> {
        let mut processor = (0.0, 0.0);
        let (ours, native) =
            alternating(pair, || self.rescue(cluster, &mut processor.0), || self.native(cluster, &mut processor.1))?;
        report::processor(bench, processor.0, processor.1);
        Ok((Duration::from_secs_f64(ours), Duration::from_secs_f64(native)))
    }

    fn native(&self, cluster: &Cluster, processor: &mut f64) -> Result<f64> {
        let node = cluster.node("n4")?;
        let begun = Instant::now();
        cluster.enable("n4", "n1")?;
        let worker = Worker::new(node, &apply_worker("n4", "n1"));
        wait::until_ended(node, &has_applied("n4", "n1", &self.end), || {
            worker.look();
            false
        })?;
        let taken = begun.elapsed();
        *processor = worker.processor_seconds();
        cluster.disable("n4", "n1")?;
        cluster.wait_arrived("n3", "n4")?;
        Ok(taken.as_secs_f64())
    }

    /// Until all is applied; returns when the recovery has ended, with its reconciliation.
    fn rescue(&self, cluster: &Cluster, processor: &mut f64) -> Result<f64> {
        let node = cluster.node("n2")?;
        let begun = Instant::now();
        let call = Call::begin(node, N2_FROM_N3);
        let worker = Worker::new(node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'");
        let has_ended = || {
            worker.look();
            call.has_ended()
        };
        let applied = wait::until_ended(node, &has_applied("n2", "n1", &self.end), has_ended);
        let taken = begun.elapsed();
        *processor = worker.processor_seconds();
        // Why it failed, if it did, says more than that it has not come there.
        call.finish()?;
        applied?;
        expect_no_conflict(node)?;
        cluster.wait_arrived("n3", "n2")?;
        Ok(taken.as_secs_f64())
    }
}

/// The process that applies, once it is there. Its processor time says more than the clock where others keep the machine busy.
struct Worker<'a> {
    node: &'a Server,
    question: String,
    pid: Cell<Option<i32>>,
}

impl Worker<'_> {
    fn new<'a>(node: &'a Server, question: &str) -> Worker<'a> {
        Worker { node, question: question.to_owned(), pid: Cell::default() }
    }

    fn look(&self) {
        if self.pid.get().is_none() {
            self.pid.set(wait::value(self.node, &self.question).ok().and_then(|pid| pid.parse().ok()));
        }
    }

    /// NaN if it was not seen.
    fn processor_seconds(&self) -> f64 {
        let time = self.pid.get().and_then(|pid| process::processor_time(pid, false));
        time.map_or(f64::NAN, |time| time.as_secs_f64())
    }
}
