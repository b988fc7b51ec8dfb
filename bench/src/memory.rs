//! The memory of the rescue worker that is its own, while it applies one transaction of a million rows.

use std::time::Duration;

use spock_recovery_cluster::{Server, client, deadline, process};

use crate::bench::Bench;
use crate::call::{Call, N2_FROM_N3};
use crate::error::{Error, Result};
use crate::measure::Figure;
use crate::{cluster, report, wait};

/// What it may take over what it has when it begins.
pub const ALLOWED_MEGABYTES: f64 = 64.0;

/// A rebuild of which every row differs takes some minutes.
const LONGEST: Duration = Duration::from_secs(3_600);

pub fn memory(bench: &Bench) -> Result<Vec<Figure>> {
    let rows = bench.size(1_000_000, 100_000);
    let table = "CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL)";
    let cluster = cluster::start(bench, &["n1", "n2", "n3"], true, |node| wait::sql(node, table))?;
    cluster.subscribe(&[("n2", "n1"), ("n3", "n1"), ("n2", "n3"), ("n3", "n2")])?;
    cluster::wait_vouched(&cluster)?;
    cluster.wait_arrived("n2", "n1")?;
    cluster.disable("n2", "n1")?;
    wait::sql(cluster.node("n1")?, &format!("INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, {rows}) g"))?;
    cluster.wait_arrived("n3", "n1")?;
    cluster.disable("n3", "n1")?;
    let n2 = cluster.node("n2")?;
    let call = Call::begin(n2, N2_FROM_N3);
    let mut pid: Option<i32> = None;
    let mut sizes = Vec::new();
    deadline::poll(wait::LIMIT, || {
        if pid.is_none() {
            let question = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'";
            pid = wait::value(n2, question).ok().and_then(|pid| pid.parse().ok());
        }
        sizes.extend(own_megabytes(pid));
        call.has_ended().then_some(())
    });
    call.finish()?;
    if wait::number(n2, "SELECT count(*) FROM t")? != rows as f64 {
        return Err(Error::Verification("n2 has not all rows".into()));
    }
    let [first, .., _] = sizes[..] else {
        return Err(Error::Verification("the rescue worker was not seen at its work".into()));
    };
    let ours = sizes.iter().copied().fold(0.0, f64::max) - first;
    report::pair(bench, "memory", ours, ALLOWED_MEGABYTES);
    cluster.stop()?;
    Ok(vec![Figure { name: "memory", ours: vec![ours], baseline: vec![ALLOWED_MEGABYTES] }])
}

/// The most that any process of ours has had for itself on a node, until `has_ended`; in MB.
pub fn highest(node: &Server, has_ended: impl Fn() -> bool) -> Result<f64> {
    let mut session = node.connect(wait::DATABASE)?;
    let question = "SELECT pid FROM pg_stat_activity
                     WHERE backend_type LIKE 'spock_recovery %' OR application_name LIKE 'spock_recovery %'";
    let mut highest: f64 = 0.0;
    deadline::wait("the end of what is measured", LONGEST, |_| {
        for row in client::query(node.name(), &mut session, question)? {
            let pid = row.first().and_then(|pid| pid.as_deref()?.parse().ok());
            highest = own_megabytes(pid).map_or(highest, |size| size.max(highest));
        }
        Ok::<_, Error>(has_ended().then_some(highest))
    })
}

/// Without what it shares with others (proc_pid_status(5), RssAnon); none for a process that has ended.
fn own_megabytes(pid: Option<i32>) -> Option<f64> {
    Some(process::status(pid?)?.rssanon? as f64 / 1024.0)
}
