//! What a node of a mesh pays for the extension and its slot while nothing is wrong.

use spock_recovery_cluster::Cluster;

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::measure::{Figure, alternating};
use crate::workload::{pgbench_rate, pgbench_tables};
use crate::{cluster, report, wait};

/// Two meshes of two nodes, one without the extension; the one that is not measured has nothing to do.
pub fn overhead(bench: &Bench) -> Result<Vec<Figure>> {
    let seconds = bench.size(20, 8);
    let start = |with_extension| -> Result<Cluster> {
        let cluster = cluster::start(bench, &["n1", "n2"], with_extension, |node| pgbench_tables(bench, node))?;
        cluster.subscribe(&[("n1", "n2"), ("n2", "n1")])?;
        Ok(cluster)
    };
    let (ours, without) = (start(true)?, start(false)?);
    wait::until(ours.node("n1")?, "SELECT coalesce(bool_and(active), false) FROM spock.get_recovery_slot_status()")?;
    let mut figure = Figure::new("overhead");
    // A difference of a hundredth needs more looks than one of a half.
    for pair in 0..bench.pairs() * 2 - 1 {
        let measured = |cluster: &Cluster| {
            let rate = pgbench_rate(bench, cluster.node("n1")?, seconds)?;
            cluster.wait_arrived("n2", "n1")?;
            wait::same(&cluster.nodes(), "SELECT count(*), sum(hashtextextended(h::text, 0)) FROM pgbench_history h")?;
            Ok::<_, Error>(rate)
        };
        let (with, without) = alternating(pair, || measured(&ours), || measured(&without))?;
        figure.ours.push(with);
        figure.baseline.push(without);
        report::pair(bench, "overhead", with, without);
    }
    ours.stop()?;
    without.stop()?;
    Ok(vec![figure])
}
