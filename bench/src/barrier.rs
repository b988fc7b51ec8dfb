//! What the commit barrier costs while its gate is open: one mark set, one look, one mark cleared, for each commit.

use spock_recovery_cluster::Cluster;

use crate::bench::Bench;
use crate::error::Result;
use crate::measure::{Figure, alternating};
use crate::workload::{pgbench_rate, pgbench_tables};
use crate::{cluster, report};

/// Two single servers, one without the library; the one that is not measured has nothing to do.
pub fn barrier(bench: &Bench) -> Result<Vec<Figure>> {
    // Many short looks, side by side: the rate of one server drifts by some hundredths within minutes.
    let seconds = bench.size(6, 3);
    let start = |with_library| -> Result<Cluster> {
        cluster::start(bench, &["n1"], with_library, |node| pgbench_tables(bench, node))
    };
    let (ours, without) = (start(true)?, start(false)?);
    let mut figure = Figure::new("barrier");
    for pair in 0..bench.pairs() * 8 {
        let measured = |cluster: &Cluster| pgbench_rate(bench, cluster.node("n1")?, seconds);
        let (with, without) = alternating(pair, || measured(&ours), || measured(&without))?;
        figure.ours.push(with);
        figure.baseline.push(without);
        report::pair(bench, "barrier", with, without);
    }
    ours.stop()?;
    without.stop()?;
    Ok(vec![figure])
}
