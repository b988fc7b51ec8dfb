//! What a node of a mesh pays for the extension and its slot while nothing is wrong.

use spockctl::error::{Error, Result};
use spockctl::server::Server;

use crate::catch_up::pgbench_tables;
use crate::cluster::{Cluster, DATABASE};
use crate::measure::{Figure, alternating};
use crate::{Bench, report, wait};

/// Two meshes of two nodes, one without the extension; the one that is not measured has nothing to do.
pub fn overhead(bench: &Bench) -> Result<Vec<Figure>> {
    let seconds = bench.size(20, 8).to_string();
    let start = |with_extension| -> Result<Cluster> {
        let cluster = Cluster::start(bench, &["n1", "n2"], with_extension, |node| pgbench_tables(bench, node))?;
        cluster.subscribe(&[("n1", "n2"), ("n2", "n1")])?;
        Ok(cluster)
    };
    let (ours, without) = (start(true)?, start(false)?);
    wait::until(ours.node("n1")?, "SELECT coalesce(bool_and(active), false) FROM spock.get_recovery_slot_status()")?;
    let mut figure = Figure::new("overhead");
    // A difference of a hundredth needs more looks than one of a half.
    for pair in 0..bench.pairs() * 2 - 1 {
        let measured = |cluster: &Cluster| {
            let rate = rate(bench, cluster.node("n1")?, &seconds)?;
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

/// Transactions per second of pgbench -N.
fn rate(bench: &Bench, node: &Server, seconds: &str) -> Result<f64> {
    let program = bench.installation.bindir.join("pgbench");
    let printed = bench.user.run(
        &program,
        [&"-n" as &dyn AsRef<std::ffi::OsStr>, &"-N", &"-c", &"2", &"-T", &seconds, &node.dsn(DATABASE)],
    )?;
    let line = printed.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    rate.ok_or_else(|| Error::Verification(format!("pgbench tells no rate: {printed}")))
}
