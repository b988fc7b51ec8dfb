//! What a DBA waits for: recover_run from CALL to return, with all its steps, and the plan before it.

use std::thread;
use std::time::Instant;

use spock_recovery_cluster::{Cluster, Server, client, deadline};

use crate::bench::Bench;
use crate::call::{Call, N2_FROM_N3, expect_no_conflict};
use crate::cluster::{self, settle};
use crate::error::{Error, Result, joined};
use crate::measure::{Figure, median, timed};
use crate::report;
use crate::wait::{self, DATABASE};
use crate::workload::each_transaction;

pub const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL)";
pub const CONTENT: &str = "SELECT count(*), sum(hashtextextended(t::text, 0)) FROM t";

/// The procedure without anything to do but its steps: 70 transactions of one row.
pub fn fixed_cost(bench: &Bench) -> Result<Vec<Figure>> {
    let cluster = cluster::start(bench, &["n1", "n2", "n3"], true, |node| wait::sql(node, TABLE))?;
    cluster.subscribe(&[("n2", "n1"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2")])?;
    cluster::wait_vouched(&cluster)?;
    let mut figure = Figure::new("fixed_cost");
    for pair in 0..bench.pairs().max(3) as u64 {
        cluster.wait_arrived("n2", "n1")?;
        cluster.disable("n2", "n1")?;
        let first = pair * 70;
        wait::sql(cluster.node("n1")?, &each_transaction(70, &format!("INSERT INTO t VALUES ({first} + t, 'n1');")))?;
        cluster.wait_arrived("n3", "n1")?;
        cluster.node("n1")?.kill()?;
        // As it is where a node fails: enabled, and its worker finds nobody.
        cluster.enable("n2", "n1")?;
        let n2 = cluster.node("n2")?;
        wait::until(n2, "SELECT state = 'unreachable' FROM spock.peer_status() WHERE node_name = 'n1'")?;
        let ours = timed(|| Call::begin(n2, "failed_node_name := 'n1'").finish())?.as_secs_f64();
        wait::same(&[n2, cluster.node("n3")?], CONTENT)?;
        if wait::number(n2, "SELECT count(*) FROM t")? != (first + 70) as f64 {
            return Err(Error::Verification("n2 has not all rows".into()));
        }
        figure.ours.push(ours);
        figure.baseline.push(1.0);
        report::pair(bench, "fixed_cost", ours, 1.0);
        cluster.node("n1")?.start()?;
        wait::until(
            cluster.node("n2")?,
            "SELECT sub_enabled AND NOT sub_rescue_suspended FROM spock.subscription WHERE sub_name = 'sub_n2_n1'",
        )?;
    }
    cluster.stop()?;
    Ok(vec![figure])
}

/// Five nodes, of which one is dead and one lags. Each plan is the first of its session.
pub fn plan(bench: &Bench) -> Result<Vec<Figure>> {
    let names = ["n1", "n2", "n3", "n4", "n5"];
    let cluster = cluster::start(bench, &names, true, |node| wait::sql(node, TABLE))?;
    cluster.subscribe(&cluster.pairs())?;
    cluster::wait_vouched(&cluster)?;
    cluster.wait_arrived("n2", "n1")?;
    cluster.disable("n2", "n1")?;
    wait::sql(cluster.node("n1")?, &each_transaction(70, "INSERT INTO t VALUES (t, 'n1');"))?;
    for survivor in ["n3", "n4", "n5"] {
        cluster.wait_arrived(survivor, "n1")?;
    }
    cluster.node("n1")?.kill()?;
    let n2 = cluster.node("n2")?;
    wait::until(n2, "SELECT state = 'unreachable' FROM spock.peer_status() WHERE node_name = 'n1'")?;
    let mut figure = Figure::new("plan");
    let is_right = "SELECT count(*) = 4 AND count(*) FILTER (WHERE outcome = 'catch_up' AND target_node = 'n2') = 1
        AND count(*) FILTER (WHERE outcome = 'zero_gap') = 3 FROM spock.recover_plan('n1')";
    wait::until(n2, is_right)?;
    for _ in 0..bench.pairs().max(3) * 3 {
        let mut session = n2.connect(DATABASE)?;
        let taken = timed(|| client::query(n2.name(), &mut session, "SELECT * FROM spock.recover_plan('n1')"))?;
        figure.ours.push(taken.as_secs_f64() * 1000.0);
        figure.baseline.push(100.0);
    }
    report::pair(bench, "plan", median(&figure.ours), 100.0);
    cluster.stop()?;
    Ok(vec![figure])
}

/// A table, of which n2 lacks what n1 has done to few of its rows, and what one would do without a recovery.
pub fn of_a_large_table(bench: &Bench) -> Result<Vec<Figure>> {
    let (large, small) = (bench.size(4_000_000, 400_000), bench.size(100_000, 10_000));
    let gap = large / 100;
    let of_large = Table::start(bench, large)?;
    let of_small = if bench.wants("size") { Some(Table::start(bench, small)?) } else { None };
    let mut figures = ["rebuild", "row_compare", "size", "rebuild_spread"].map(Figure::new);
    for pair in 0..bench.pairs() {
        let ours = of_large.recover(gap, small, pair)?;
        if bench.wants("rebuild") || bench.wants("rebuild_spread") {
            let copied = of_large.copy()?;
            figures[0].ours.push(ours);
            figures[0].baseline.push(copied);
            report::pair(bench, "rebuild", ours, copied);
            if bench.wants("rebuild_spread") {
                let spread = of_large.recover(gap, large, pair)?;
                figures[3].ours.push(spread);
                figures[3].baseline.push(copied);
                report::pair(bench, "rebuild_spread", spread, copied);
            }
        }
        if bench.wants("row_compare") {
            let hashed = of_large.hash()?;
            figures[1].ours.push(ours);
            figures[1].baseline.push(hashed);
            report::pair(bench, "row_compare", ours, hashed);
        }
        if let Some(of_small) = &of_small {
            let with_few_rows = of_small.recover(gap, small, pair)?;
            figures[2].ours.push(ours);
            figures[2].baseline.push(with_few_rows);
            report::pair(bench, "size", ours, with_few_rows);
        }
    }
    of_large.cluster.stop()?;
    of_small.map_or(Ok(()), |table| table.cluster.stop())?;
    Ok(figures.into_iter().filter(|figure| !figure.ours.is_empty()).collect())
}

struct Table {
    cluster: Cluster,
    rows: u64,
}

/// Rows of one transaction of the gap.
const GAP_ROWS: u64 = 100;

impl Table {
    /// n4 is empty, for the copy. The others have all rows from n1: what it does to those of another node would be a
    /// conflict each.
    fn start(bench: &Bench, rows: u64) -> Result<Table> {
        let cluster = cluster::start(bench, &["n1", "n2", "n3", "n4"], true, |node| wait::sql(node, TABLE))?;
        cluster.subscribe(&[("n2", "n1"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2")])?;
        let fill = format!("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(0, {rows} - 1) g");
        wait::sql(cluster.node("n1")?, &fill)?;
        for target in ["n2", "n3"] {
            cluster.wait_arrived(target, "n1")?;
        }
        for node in cluster.nodes() {
            wait::sql(node, "VACUUM ANALYZE t")?;
        }
        cluster::wait_vouched(&cluster)?;
        Ok(Table { cluster, rows })
    }

    /// Seconds of the whole call, for `gap` updated rows that are spread over the last `among` of the table.
    fn recover(&self, gap: u64, among: u64, pair: usize) -> Result<f64> {
        // A prime step: no row comes twice before all have come, where there are enough.
        let before = self.rows - among;
        let statement = format!(
            "DO $$ BEGIN FOR r IN 0 .. {} - 1 LOOP
                 UPDATE t SET v = md5(t.v) FROM generate_series(bigint '0', {GAP_ROWS} - 1) g
                  WHERE t.id = {before} + ({} + r * {GAP_ROWS} + g) * 99991 % {among};
                 COMMIT;
             END LOOP; END $$",
            gap / GAP_ROWS,
            pair as u64 * gap,
        );
        recover(&self.cluster, || wait::sql(self.cluster.node("n1")?, &statement))
    }

    /// Seconds of the initial copy from n3 to an empty node.
    fn copy(&self) -> Result<f64> {
        let (n3, n4) = (self.cluster.node("n3")?, self.cluster.node("n4")?);
        wait::sql(n4, "TRUNCATE t")?;
        wait::sql(n4, "CHECKPOINT")?;
        let taken = timed(|| {
            let dsn = client::literal(&n3.dsn(DATABASE));
            wait::sql(
                n4,
                &format!(
                    "CREATE SUBSCRIPTION copied CONNECTION {dsn} PUBLICATION mesh WITH (copy_data = true, origin = any)"
                ),
            )?;
            wait::until(
                n4,
                "SELECT bool_and(srsubstate IN ('s', 'r')) FROM pg_subscription_rel WHERE srrelid = 't'::regclass",
            )
        })?;
        wait::until(n4, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel")?;
        wait::same(&[n3, n4], CONTENT)?;
        wait::sql(n4, "DROP SUBSCRIPTION copied")?;
        wait::sql(n4, "TRUNCATE first")?;
        Ok(taken.as_secs_f64())
    }

    /// Seconds until both nodes have read and hashed their table, each at the same time as the other.
    fn hash(&self) -> Result<f64> {
        let nodes: [&Server; 2] = [self.cluster.node("n2")?, self.cluster.node("n3")?];
        let taken = timed(|| {
            thread::scope(|scope| {
                let both = nodes.map(|node| scope.spawn(|| wait::value(node, CONTENT)));
                both.into_iter().try_for_each(|one| joined(one.join()).map(drop))
            })
        })?;
        Ok(taken.as_secs_f64())
    }
}

/// Seconds of the whole call on n2, from n3, for what is written while n2 receives nothing from n1.
pub fn recover(cluster: &Cluster, write: impl FnOnce() -> Result<()>) -> Result<f64> {
    for target in ["n2", "n3"] {
        cluster.enable(target, "n1")?;
        cluster.wait_arrived(target, "n1")?;
    }
    settle(cluster, &[("n2", "n3"), ("n3", "n2")])?;
    cluster.disable("n2", "n1")?;
    write()?;
    cluster.wait_arrived("n3", "n1")?;
    cluster.disable("n3", "n1")?;
    cluster.wait_arrived("n2", "n3")?;
    for node in cluster.nodes() {
        wait::sql(node, "CHECKPOINT")?;
    }
    let n2 = cluster.node("n2")?;
    let taken = timed(|| Call::begin(n2, N2_FROM_N3).finish())?;
    expect_no_conflict(n2)?;
    cluster.wait_arrived("n3", "n2")?;
    wait::same(&[n2, cluster.node("n3")?], CONTENT)?;
    Ok(taken.as_secs_f64())
}

/// Rows that a replay has touched, compared with the source's; and both tables hashed.
pub fn reconcile(bench: &Bench) -> Result<Vec<Figure>> {
    let (rows, touched) = (bench.size(1_000_000, 100_000), bench.size(100_000, 10_000));
    let table = Table::start(bench, rows)?;
    let mut figure = Figure::new("reconcile");
    for pair in 0..bench.pairs() {
        let n2 = table.cluster.node("n2")?;
        let ours = thread::scope(|scope| {
            let recovery = scope.spawn(|| table.recover(touched, rows, pair));
            let seen = watch_reconciling(n2, || recovery.is_finished());
            joined(recovery.join())?;
            seen
        })?;
        let compared = "SELECT summary -> 'reconciled' ->> 'compared' FROM spock.recovery_intents() ORDER BY begun_at DESC LIMIT 1";
        if wait::number(n2, compared)? != touched as f64 {
            return Err(Error::Verification(format!("not {touched} rows were compared")));
        }
        let hashed = table.hash()?;
        figure.ours.push(ours);
        figure.baseline.push(hashed);
        report::pair(bench, "reconcile", ours, hashed);
    }
    table.cluster.stop()?;
    Ok(vec![figure])
}

/// Seconds that a recovery, begun while this watches, is in its phase `reconciling`.
fn watch_reconciling(node: &Server, has_ended: impl Fn() -> bool) -> Result<f64> {
    let mut session = node.connect(DATABASE)?;
    let question = "SELECT count(*) > 0 FROM spock.recovery_intents() WHERE ended_at IS NULL AND phase = 'reconciling'";
    let mut begun: Option<Instant> = None;
    let taken = deadline::wait("the end of reconciling", wait::LIMIT, |_| {
        let is_at_it = client::first(client::query(node.name(), &mut session, question)?) == "t";
        match (begun, is_at_it) {
            (None, true) => begun = Some(Instant::now()),
            (Some(begun), false) => return Ok(Some(begun.elapsed())),
            (None, false) if has_ended() => {
                return Err(Error::Verification("no recovery was seen to reconcile".into()));
            }
            _ => {}
        }
        Ok(None)
    })?;
    Ok(taken.as_secs_f64())
}
