//! The whole recover_run, for more and more transactions that are missing, and for the same few in more and more WAL.

use spock_recovery_cluster::Cluster;

use crate::bench::Bench;
use crate::curve::{Curve, Line};
use crate::error::Result;
use crate::measure::median;
use crate::whole_call::{TABLE, recover};
use crate::workload::each_transaction;
use crate::{cluster, report, wait};

/// Others write to a table of their own.
const OTHERS: &str = "CREATE TABLE others (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text NOT NULL)";

/// A recovery of a second is measured as often as this, a longer one once.
const REPEATED: usize = 3;

fn start(bench: &Bench) -> Result<Cluster> {
    let cluster = cluster::start(bench, &["n1", "n2", "n3"], true, |node| {
        wait::sql(node, TABLE)?;
        wait::sql(node, OTHERS)
    })?;
    cluster.subscribe(&[("n2", "n1"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2")])?;
    cluster::wait_vouched(&cluster)?;
    Ok(cluster)
}

/// New rows of n1, one in each transaction.
struct Rows {
    next: u64,
}

impl Rows {
    fn write(&mut self, cluster: &Cluster, transactions: u64) -> Result<()> {
        let first = self.next;
        self.next += transactions;
        // A backlog is to be there soon; how it was written does not matter.
        let statement = format!(
            "PERFORM set_config('synchronous_commit', 'off', true);
             INSERT INTO t VALUES ({first} + t, md5(t::text));"
        );
        wait::sql(cluster.node("n1")?, &each_transaction(transactions, &statement))
    }
}

pub fn gap(bench: &Bench) -> Result<Curve> {
    let cluster = start(bench)?;
    let mut rows = Rows { next: 0 };
    let mut line = Line::new("recover_run");
    let sizes: &[u64] = if bench.quick { &[1_000, 10_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    for size in sizes {
        let mut taken = Vec::new();
        while taken.is_empty() || (taken.len() < REPEATED && *size <= 10_000) {
            taken.push(recover(&cluster, || rows.write(&cluster, *size))?);
        }
        report::point(bench, "transactions", *size as f64, &line.label, median(&taken), "s");
        line.points.push((*size as f64, median(&taken)));
    }
    cluster.stop()?;
    Ok(Curve::new("gap", "transactions", "s", vec![line]))
}

/// A thousand transactions, half of them before and half of them behind what n3 writes itself.
pub fn retained_wal(bench: &Bench) -> Result<Curve> {
    let cluster = start(bench)?;
    let n3 = cluster.node("n3")?;
    let mut rows = Rows { next: 0 };
    let mut line = Line::new("recover_run");
    let sizes: &[u64] = if bench.quick { &[0, 64] } else { &[0, 512, 1024, 2048, 4096] };
    for megabytes in sizes {
        let before = wait::value(n3, "SELECT pg_current_wal_lsn()")?;
        let mut between = 0.0;
        // A row of a kilobyte is rather more than that of WAL.
        let others = format!(
            "INSERT INTO others (v) SELECT repeat(md5(g::text), 28) FROM generate_series(1, {} * 10) g;",
            megabytes
        );
        let taken = recover(&cluster, || {
            rows.write(&cluster, 500)?;
            wait::sql(n3, &each_transaction(100, &others))?;
            rows.write(&cluster, 500)?;
            between = wait::number(n3, &format!("SELECT (pg_current_wal_lsn() - '{before}') / 1048576.0"))?;
            Ok(())
        })?;
        report::point(bench, "MB", between, &line.label, taken, "s");
        line.points.push((between, taken));
        wait::sql(n3, "DELETE FROM others")?;
        wait::sql(n3, "VACUUM others")?;
    }
    cluster.stop()?;
    Ok(Curve::new("retained_wal", "MB of WAL", "s", vec![line]))
}
