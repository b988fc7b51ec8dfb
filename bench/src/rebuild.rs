//! A table that is rebuilt by copying and by comparing, beside core's initial copy of the same table between the same nodes.
//!
//! Time runs from the command until the table is ready: CALL rebuild_run and CREATE SUBSCRIPTION with all their steps. n3 is the
//! source, n2 the target; they receive from each other, as in a mesh.

use std::time::Duration;

use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::{Cluster, Server, process};

use crate::bench::Bench;
use crate::cluster;
use crate::error::{Error, Result};
use crate::measure::{Figure, timed};
use crate::report;
use crate::wait::{self, DATABASE};
use crate::whole_call::{CONTENT, TABLE};

/// Copies with one stream and with two; comparisons with so many rows of a thousand that differ.
const COPIES: [(&str, u64); 2] = [("rebuild_copy/1", 1), ("rebuild_copy/2", 2)];
const COMPARISONS: [(&str, u64); 3] = [("rebuild_compare/0", 0), ("rebuild_compare/0.1", 1), ("rebuild_compare/1", 10)];

pub fn of_a_table(bench: &Bench) -> Result<Vec<Figure>> {
    let nodes = Pair::start(bench, bench.size(10_000_000, 1_000_000), "md5(g::text)")?;
    let mut figures: Vec<Figure> = Vec::new();
    for pair in 0..bench.pairs() {
        let mut measured: Vec<(&'static str, Taken, Taken)> = Vec::new();
        let copies = COPIES.into_iter().filter(|(name, _)| bench.wants(name));
        if copies.clone().next().is_some() {
            // Core's copy is in between in every other pair.
            let core = if pair.is_multiple_of(2) { Some(nodes.copied_by_core()?) } else { None };
            let ours: Vec<(&str, Taken)> =
                copies.map(|(name, streams)| Ok((name, nodes.copied(streams)?))).collect::<Result<_>>()?;
            let core = core.map_or_else(|| nodes.copied_by_core(), Ok)?;
            measured.extend(ours.into_iter().map(|(name, rate)| (name, rate, core)));
        }
        let comparisons = COMPARISONS.into_iter().filter(|(name, _)| bench.wants(name));
        if comparisons.clone().next().is_some() {
            // A comparison has one process on each node, and so has a copy with one stream.
            let copied = nodes.copied(1)?;
            for (name, differing) in comparisons {
                measured.push((name, nodes.compared(differing)?, copied));
            }
        }
        for (name, ours, baseline) in measured {
            report::pair(bench, name, ours.rate, baseline.rate);
            report::processor(bench, ours.processor, baseline.processor);
            if !figures.iter().any(|figure| figure.name == name) {
                figures.push(Figure::new(name));
            }
            for figure in figures.iter_mut().filter(|figure| figure.name == name) {
                figure.ours.push(ours.rate);
                figure.baseline.push(baseline.rate);
            }
        }
    }
    nodes.cluster.stop()?;
    Ok(figures)
}

/// What one measurement has taken.
#[derive(Clone, Copy)]
struct Taken {
    /// Rows per second.
    rate: f64,
    /// Seconds of a processor, of those processes of both servers that have ended since: those that copy, and those that are asked.
    processor: f64,
}

/// Two nodes that hold the same table.
pub struct Pair {
    pub cluster: Cluster,
    pub rows: u64,
}

impl Pair {
    /// `value`: of a row, made of g.
    pub fn start(bench: &Bench, rows: u64, value: &str) -> Result<Pair> {
        let cluster = cluster::start(bench, &["n2", "n3"], true, |node| wait::sql(node, TABLE))?;
        cluster.subscribe(&[("n2", "n3"), ("n3", "n2")])?;
        let pair = Pair { cluster, rows };
        wait::sql(pair.source()?, &format!("INSERT INTO t SELECT g, {value} FROM generate_series(0, {rows} - 1) g"))?;
        pair.settle()?;
        for node in pair.cluster.nodes() {
            wait::sql(node, "VACUUM ANALYZE t")?;
        }
        Ok(pair)
    }

    pub fn source(&self) -> Result<&Server> {
        Ok(self.cluster.node("n3")?)
    }

    pub fn target(&self) -> Result<&Server> {
        Ok(self.cluster.node("n2")?)
    }

    /// Changes n2's table as nobody's transaction, so that n3 does not receive that; and lets both come to rest.
    pub fn damage(&self, statement: &str) -> Result<()> {
        let target = self.target()?;
        wait::sql(
            target,
            "SELECT pg_replication_origin_create('damage')
              WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'damage')",
        )?;
        wait::sql(target, &format!("SELECT pg_replication_origin_session_setup('damage'); {statement}"))?;
        self.settle()
    }

    fn settle(&self) -> Result<()> {
        self.cluster.wait_arrived("n2", "n3")?;
        self.cluster.wait_arrived("n3", "n2")?;
        self.cluster.nodes().into_iter().try_for_each(|node| wait::sql(node, "CHECKPOINT"))
    }

    /// The whole call, which must find so many rows different; None: it copies.
    fn rebuild(&self, differing: Option<u64>) -> Result<Taken> {
        let call = rebuild_of_t(if differing.is_some() { "compare" } else { "copy" });
        let mut report = String::new();
        let taken = self.taken(|| {
            report = wait::value(self.target()?, &call)?;
            Ok(())
        })?;
        wait::same(&self.cluster.nodes(), CONTENT)?;
        let counted = |name: &str| {
            let question = format!("SELECT ({}::jsonb) #>> '{{rebuild,{name}}}'", literal(&report));
            wait::number(self.target()?, &question)
        };
        let told = (counted("rows")?, counted("differing")?);
        if told != (self.rows as f64, differing.unwrap_or(0) as f64) {
            return Err(Error::Verification(format!("{told:?} rows were rebuilt and differed: {report}")));
        }
        Ok(taken)
    }

    fn taken(&self, act: impl FnOnce() -> Result<()>) -> Result<Taken> {
        let processor = || {
            let postmasters = self.cluster.nodes().into_iter().filter_map(Server::pid);
            postmasters.filter_map(|pid| process::processor_time(pid, true)).sum::<Duration>()
        };
        let before = processor();
        let seconds = timed(act)?.as_secs_f64();
        self.wait_ended()?;
        let processor = processor().saturating_sub(before).as_secs_f64();
        Ok(Taken { rate: self.rows as f64 / seconds, processor })
    }

    /// Whoever has done it has ended, so that what it has taken is known.
    fn wait_ended(&self) -> Result<()> {
        let question = "SELECT count(*) = 0 FROM pg_stat_activity
                         WHERE backend_type IN ('spock_recovery copy', 'spock_recovery rescue')
                            OR backend_type = 'logical replication tablesync worker'
                            OR application_name LIKE 'spock_recovery copy%' OR application_name LIKE 'pg_%_sync_%'";
        self.cluster.nodes().into_iter().try_for_each(|node| wait::until(node, question))
    }

    fn copied(&self, streams: u64) -> Result<Taken> {
        let target = self.target()?;
        wait::sql(target, &format!("ALTER SYSTEM SET spock.rebuild_streams = {streams}"))?;
        wait::sql(target, "SELECT pg_reload_conf()")?;
        self.damage("TRUNCATE t")?;
        self.rebuild(None)
    }

    /// Core's initial copy into the same empty table.
    fn copied_by_core(&self) -> Result<Taken> {
        self.damage("TRUNCATE t")?;
        let target = self.target()?;
        let statement = format!(
            "CREATE SUBSCRIPTION copied CONNECTION {} PUBLICATION t WITH (copy_data = true, origin = any)",
            literal(&self.source()?.dsn(DATABASE))
        );
        wait::sql(self.source()?, "DROP PUBLICATION IF EXISTS t; CREATE PUBLICATION t FOR TABLE t")?;
        let of_t = "FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = srsubid
                    WHERE subname = 'copied' AND srrelid = 't'::regclass";
        let taken = self.taken(|| {
            wait::sql(target, &statement)?;
            wait::until(target, &format!("SELECT bool_and(srsubstate IN ('s', 'r')) {of_t}"))
        })?;
        wait::until(target, &format!("SELECT bool_and(srsubstate = 'r') {of_t}"))?;
        wait::sql(target, "DROP SUBSCRIPTION copied")?;
        wait::same(&self.cluster.nodes(), CONTENT)?;
        Ok(taken)
    }

    /// A comparison in which so many of a thousand rows differ.
    fn compared(&self, of_a_thousand: u64) -> Result<Taken> {
        let spread = format!("UPDATE t SET v = 'damaged' WHERE id % 1000 < {of_a_thousand}");
        self.damage(&spread)?;
        wait::sql(self.target()?, "VACUUM t")?;
        self.rebuild(Some(self.rows / 1000 * of_a_thousand))
    }
}

/// What rebuilds the table on n2.
pub fn rebuild_of_t(method: &str) -> String {
    format!("CALL spock.rebuild_run('n2', 'n3', tables := ARRAY['t'::regclass], method := '{method}')")
}
