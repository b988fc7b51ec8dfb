//! The same backlog of n1, applied by the rescue on n2 and by a native subscription on n4.
//!
//! Both are measured alike: from the command (CALL recover_run, ALTER SUBSCRIPTION ENABLE) until the replication origin of n1
//! on that node has come to the backlog's last transaction.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::thread;
use std::time::{Duration, Instant};

use spockctl::client;
use spockctl::error::{Error, Result};
use spockctl::server::Server;

use crate::cluster::{Cluster, DATABASE};
use crate::measure::{Figure, alternating, processor_seconds};
use crate::{Bench, report, stream, wait};

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
    let cluster = start(bench, |node| pgbench_step(bench, node, "dtp"), |n1| pgbench_step(bench, n1, "g"))?;
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

/// Statements that run once for each t, each time in a transaction of its own.
pub fn each_transaction(transactions: u64, statements: &str) -> String {
    format!("DO $$ BEGIN FOR t IN 0 .. {transactions} - 1 LOOP {statements} COMMIT; END LOOP; END $$")
}

/// What is there before comes from n1 everywhere: what it does to rows of another node's would be a conflict each.
fn start(
    bench: &Bench,
    schema: impl Fn(&Server) -> Result<()>,
    fill: impl FnOnce(&Server) -> Result<()>,
) -> Result<Cluster> {
    let cluster = Cluster::start(bench, &NODES, true, schema)?;
    cluster.subscribe(&SUBSCRIPTIONS)?;
    fill(cluster.node("n1")?)?;
    for target in ["n2", "n3", "n4"] {
        cluster.wait_arrived(target, "n1")?;
        wait::sql(cluster.node(target)?, "VACUUM ANALYZE")?;
    }
    cluster.wait_vouched("n1", "n3")?;
    Ok(cluster)
}

/// pgbench's tables, with their rows: the same on each node, for they are counted, not drawn by lot.
pub fn pgbench_tables(bench: &Bench, node: &Server) -> Result<()> {
    pgbench_step(bench, node, "dtgp")
}

/// Steps of pgbench's initialization (pgbench's option --init-steps).
fn pgbench_step(bench: &Bench, node: &Server, steps: &str) -> Result<()> {
    let program = bench.installation.bindir.join("pgbench");
    let dsn = node.dsn(DATABASE);
    bench.user.run(&program, [&"-i" as &dyn AsRef<OsStr>, &"-q", &"-s", &"10", &"-I", &steps, &dsn]).map(drop)
}

/// Transactions of one UPDATE and one INSERT.
pub fn pgbench(bench: &Bench, node: &Server, transactions: u64) -> Result<()> {
    let program = bench.installation.bindir.join("pgbench");
    let mut command = bench.user.command(&program);
    command.args(["-n", "-N", "-c", "4", "-t"]).arg((transactions / 4).to_string());
    // A backlog is to be there soon; how it was written does not matter.
    command.arg(format!("{} options='-c synchronous_commit=off'", node.dsn(DATABASE)));
    let output = command.output().map_err(Error::io("run", &program))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Verification(format!("pgbench: {}", String::from_utf8_lossy(&output.stderr)))),
    }
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
        cluster.settle("n3", &AMONG_SURVIVORS)?;
        for target in ["n2", "n4"] {
            cluster.disable(target, "n1")?;
        }
        write(cluster.node("n1")?)?;
        cluster.wait_arrived("n3", "n1")?;
        let end = cluster.applied("n3", "n1")?;
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
        let worker = Worker::new(node, &Cluster::apply_worker("n4", "n1"));
        wait::until_ended(node, &Cluster::has_applied("n4", "n1", &self.end), || worker.has_ended())?;
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
        let call = Call::begin(node, "failed_node_name := 'n1', source_node_name := 'n3', target_node_name := 'n2'");
        let worker = Worker::new(node, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'");
        let has_ended = || {
            worker.has_ended();
            call.has_ended()
        };
        let applied = wait::until_ended(node, &Cluster::has_applied("n2", "n1", &self.end), has_ended);
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
    pid: RefCell<String>,
}

impl Worker<'_> {
    fn new<'a>(node: &'a Server, question: &str) -> Worker<'a> {
        Worker { node, question: question.to_owned(), pid: RefCell::default() }
    }

    /// Never, as far as this knows; looks for the process.
    fn has_ended(&self) -> bool {
        if self.pid.borrow().is_empty() {
            self.pid.replace(wait::value(self.node, &self.question).unwrap_or_default());
        }
        false
    }

    /// NaN if it was not seen.
    fn processor_seconds(&self) -> f64 {
        let pid = self.pid.borrow().parse().ok();
        pid.and_then(|pid| processor_seconds(pid, false)).unwrap_or(f64::NAN)
    }
}

/// Nobody has written to n1's rows but n1. Each conflict would be a look at a commit time and a line in the log, which the
/// native subscription spares itself.
pub fn expect_no_conflict(target: &Server) -> Result<()> {
    let question = "SELECT summary ->> 'conflicts' FROM spock.recovery_intents() ORDER BY begun_at DESC LIMIT 1";
    match wait::number(target, question)? {
        0.0 => Ok(()),
        conflicts => Err(Error::Verification(format!("the recovery has met {conflicts} conflicts"))),
    }
}

/// recover_run in a session of its own.
pub struct Call {
    thread: thread::JoinHandle<Result<()>>,
}

impl Call {
    pub fn begin(node: &Server, arguments: &str) -> Call {
        let (name, config) = (node.name().to_owned(), node.config(DATABASE));
        let statement = format!("CALL spock.recover_run({arguments})");
        let thread =
            thread::spawn(move || client::query(&name, &mut client::connect(&name, &config)?, &statement).map(drop));
        Call { thread }
    }

    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn finish(self) -> Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(Error::Verification("a thread has panicked".into())))
    }
}
