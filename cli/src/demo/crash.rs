//! What happens before the call: the same rows everywhere, then a gap, then the loss of the node that could have closed it.

use spock_recovery_cluster::mesh::subscription_name;
use spock_recovery_cluster::{Cluster, Server, client, deadline, extension};

use crate::cluster::DATABASE;
use crate::error::{Error, Result};
use crate::screen::{Screen, Step};
use crate::table;

use super::{EVERYWHERE, FAILED, Options, SOURCE, TARGET, subscriptions};

pub const TABLE: &str = "CREATE TABLE crash_test (id bigint PRIMARY KEY, data text NOT NULL)";

/// Which subscriptions run when the recovery is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// As a user meets it: all are enabled, the one to the dead node too, whose worker finds nobody. Recovery suspends that
    /// one and enables the others again.
    Crash,
    /// The user has disabled every one but n2→n3, on n3. Recovery needs none of them, and leaves them as they are.
    Crash2,
}

/// Waits until each node can prove what it will have of the failed one: its slot is there, and what it may have released is
/// known, which the first transaction that arrives settles.
pub fn write_everywhere(cluster: &Cluster, screen: &Screen) -> Result<()> {
    let step = screen.spinner("waiting for the recovery slots");
    let has_slot = "SELECT coalesce(bool_and(active), false) FROM spock.get_recovery_slot_status()";
    for node in cluster.servers() {
        node.wait_until(DATABASE, "its recovery slot", has_slot, cluster.limit())?;
    }
    write(cluster.node(FAILED)?, 1, EVERYWHERE)?;
    for node in survivors(cluster) {
        wait_rows(cluster, node, EVERYWHERE, None)?;
        node.wait_until(DATABASE, "its peers' reports", &extension::vouches_for(FAILED), cluster.limit())?;
    }
    drop(step);
    screen.line("");
    screen.line(format!("{FAILED} writes {EVERYWHERE} rows, which arrive everywhere:"));
    show_rows(cluster, screen)?;
    for name in [TARGET, SOURCE] {
        let node = cluster.node(name)?;
        let findings = node.query(
            DATABASE,
            "SELECT check_name, status, details FROM spock.quick_health_check() WHERE status <> 'HEALTHY'",
        )?;
        match findings.is_empty() {
            true => screen.line(format!("  {name}: spock.quick_health_check() finds everything HEALTHY")),
            false => findings.into_iter().for_each(|finding| {
                let finding: Vec<String> = finding.into_iter().flatten().collect();
                screen.line(format!("  {name}: {}", finding.join(": ")));
            }),
        }
    }
    Ok(())
}

/// Everybody but the target receives what the failed node writes now.
pub fn open_gap(cluster: &Cluster, options: &Options, screen: &Screen) -> Result<()> {
    let subscription = subscription_name(TARGET, FAILED);
    cluster.disable(TARGET, FAILED)?;
    screen.line("");
    screen.line(format!(
        "{FAILED}→{TARGET} is suspended (ALTER SUBSCRIPTION {subscription} DISABLE on {TARGET}); {FAILED} writes {} more rows, one transaction each:",
        options.rows
    ));
    let step = screen.bar(format!("rows on {SOURCE}"), options.total());
    write(cluster.node(FAILED)?, EVERYWHERE + 1, options.total())?;
    for node in survivors(cluster).filter(|node| node.name() != TARGET) {
        wait_rows(cluster, node, options.total(), Some(&step))?;
    }
    drop(step);
    show_rows(cluster, screen)
}

/// The failed node dies, and the subscriptions are brought into the state in which the scenario calls for help.
pub fn kill(cluster: &Cluster, options: &Options, screen: &Screen) -> Result<()> {
    cluster.node(FAILED)?.kill()?;
    screen.line("");
    screen.line(format!("{FAILED} is killed (kill -9), for good:"));
    show_rows(cluster, screen)?;
    for node in survivors(cluster) {
        let expected = if node.name() == TARGET { EVERYWHERE } else { options.total() };
        let found = rows(node)?;
        if found != expected {
            return Err(Error::Verification(format!(
                "{} has {found} rows before the recovery, not {expected}",
                node.name()
            )));
        }
    }
    let to_failed = subscription_name(TARGET, FAILED);
    match options.scenario {
        Scenario::Crash => {
            // The subscription of a node that lags is enabled when its provider dies: that is what a user meets.
            cluster.enable(TARGET, FAILED)?;
            screen.line(format!("  {to_failed} is enabled again, and finds nobody"));
        }
        Scenario::Crash2 => {
            let stays = subscription_name(SOURCE, TARGET);
            for (target, source) in subscriptions(cluster).into_iter().filter(|pair| *pair != (SOURCE, TARGET)) {
                cluster.disable(target, source)?;
            }
            screen.line(format!("  every subscription is suspended but {TARGET}→{SOURCE} ({stays} on {SOURCE})"));
        }
    }
    Ok(())
}

pub fn rows(node: &Server) -> Result<u64> {
    let count = node.value(DATABASE, "SELECT count(*) FROM crash_test")?;
    count.parse().map_err(|_| Error::Verification(format!("{} counts no rows", node.name())))
}

pub fn show_rows(cluster: &Cluster, screen: &Screen) -> Result<()> {
    let nodes = cluster.nodes();
    let heading = [String::new()].into_iter().chain(nodes.iter().map(|node| node.name().to_owned())).collect();
    let mut counts = vec!["rows in crash_test".to_owned()];
    for node in &nodes {
        counts.push(if node.pid().is_some() { rows(node)?.to_string() } else { "gone".into() });
    }
    table::lines(&[heading, counts]).into_iter().for_each(|line| screen.line(line));
    Ok(())
}

pub fn survivors(cluster: &Cluster) -> impl Iterator<Item = &Server> {
    cluster.nodes().into_iter().filter(|node| node.name() != FAILED)
}

/// One transaction for each number.
fn write(node: &Server, from: u64, to: u64) -> Result<()> {
    let statement = format!(
        "DO $$ BEGIN FOR n IN {from} .. {to} LOOP
             INSERT INTO crash_test VALUES (n, 'row ' || n || ' of {}'); COMMIT;
         END LOOP; END $$",
        node.name()
    );
    node.query(DATABASE, &statement)?;
    Ok(())
}

fn wait_rows(cluster: &Cluster, node: &Server, expected: u64, step: Option<&Step>) -> Result<()> {
    let mut session = node.connect(DATABASE)?;
    let what = format!("{expected} rows on {}", node.name());
    let mut arrived = 0;
    // As long as rows arrive there is no limit: --rows may ask for many.
    while arrived < expected {
        let before = arrived;
        arrived = deadline::wait(&what, cluster.limit(), |last| {
            let count = client::first(client::query(node.name(), &mut session, "SELECT count(*) FROM crash_test")?);
            let count = count.parse().unwrap_or(0);
            if let Some(step) = step {
                step.set(count);
            }
            *last = format!("{count} rows");
            Ok::<_, Error>((count >= expected || count != before).then_some(count))
        })?;
    }
    Ok(())
}
