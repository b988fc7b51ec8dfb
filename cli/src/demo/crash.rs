//! What happens before the call: the same rows everywhere, then a gap, then the loss of the node that could have closed it.

use crate::client::identifier;
use crate::cluster::{Cluster, DATABASE, LIMIT};
use crate::deadline;
use crate::error::{Error, Result};
use crate::mesh::subscription_name;
use crate::screen::Screen;
use crate::server::Server;
use crate::table;

use super::{EVERYWHERE, FAILED, Options, SOURCE, TARGET};

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

/// Waits until each node can vouch for what it will have of the failed one: its slot is there, and what it may have let go is
/// known, which the first transaction that arrives settles.
pub fn write_everywhere(cluster: &Cluster, screen: &Screen) -> Result<()> {
    let step = screen.spinner("waiting for the recovery slots");
    for node in cluster.nodes() {
        wait(
            node,
            "its recovery slot",
            "SELECT coalesce(bool_and(active), false) FROM spock.get_recovery_slot_status()",
        )?;
    }
    write(cluster.node(FAILED)?, 1, EVERYWHERE)?;
    for node in survivors(cluster) {
        wait_rows(node, EVERYWHERE, None)?;
        let vouched = format!(
            "SELECT count(*) > 0 AND bool_and(released_lsn < 'FFFFFFFF/FFFFFFFF' AND peer_lsn IS NOT NULL)
               FROM spock.recovery_horizon() WHERE origin_node = '{FAILED}'"
        );
        wait(node, "its peers' reports", &vouched)?;
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
    disable(cluster.node(TARGET)?, &subscription)?;
    screen.line("");
    screen.line(format!(
        "{FAILED}→{TARGET} is suspended (ALTER SUBSCRIPTION {subscription} DISABLE on {TARGET}); {FAILED} writes {} more rows, one transaction each:",
        options.rows
    ));
    let step = screen.bar(format!("rows on {SOURCE}"), options.total());
    write(cluster.node(FAILED)?, EVERYWHERE + 1, options.total())?;
    for node in survivors(cluster).filter(|node| node.name() != TARGET) {
        wait_rows(node, options.total(), Some(&step))?;
    }
    drop(step);
    show_rows(cluster, screen)
}

/// The failed node dies, and the subscriptions are brought into the state in which the scenario calls for help.
pub fn kill(cluster: &mut Cluster, options: &Options, screen: &Screen) -> Result<()> {
    cluster.kill(FAILED)?;
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
            cluster.node(TARGET)?.query(DATABASE, &format!("ALTER SUBSCRIPTION {} ENABLE", identifier(&to_failed)))?;
            screen.line(format!("  {to_failed} is enabled again, and finds nobody"));
        }
        Scenario::Crash2 => {
            let stays = subscription_name(SOURCE, TARGET);
            for node in survivors(cluster) {
                for subscription in names(node)?.iter().filter(|&name| *name != stays) {
                    disable(node, subscription)?;
                }
            }
            screen.line(format!("  every subscription is suspended but {TARGET}→{SOURCE} ({stays} on {SOURCE})"));
        }
    }
    Ok(())
}

pub fn rows(node: &Server) -> Result<u64> {
    let answer = node.query(DATABASE, "SELECT count(*) FROM crash_test")?;
    let count = answer.into_iter().flatten().flatten().next();
    count
        .and_then(|count| count.parse().ok())
        .ok_or_else(|| Error::Verification(format!("{} counts no rows", node.name())))
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
    node.query(DATABASE, &statement).map(drop)
}

fn names(node: &Server) -> Result<Vec<String>> {
    let answer = node.query(DATABASE, "SELECT subname FROM pg_subscription ORDER BY subname")?;
    Ok(answer.into_iter().flatten().flatten().collect())
}

/// DISABLE returns before the worker has gone, which may still apply something.
fn disable(node: &Server, subscription: &str) -> Result<()> {
    node.query(DATABASE, &format!("ALTER SUBSCRIPTION {} DISABLE", identifier(subscription)))?;
    let gone =
        format!("SELECT count(*) = 0 FROM pg_stat_subscription WHERE subname = '{subscription}' AND pid IS NOT NULL");
    wait(node, "the end of a subscription's worker", &gone)
}

fn wait_rows(node: &Server, expected: u64, step: Option<&crate::screen::Step>) -> Result<()> {
    let mut client = node.connect(DATABASE)?;
    let mut last = String::new();
    // As long as rows arrive there is no limit: --rows may ask for many.
    loop {
        let before = last.clone();
        let arrived = deadline::poll(LIMIT, || {
            let counted = crate::client::query(node.name(), &mut client, "SELECT count(*) FROM crash_test");
            match counted.map(|rows| rows.into_iter().flatten().flatten().collect::<String>()) {
                Ok(count) => {
                    let position = count.parse().unwrap_or(0);
                    if let Some(step) = step {
                        step.set(position);
                    }
                    let is_news = position >= expected || count != before;
                    last = count;
                    is_news.then_some(Ok(position))
                }
                Err(error) => Some(Err(error)),
            }
        });
        match arrived {
            Some(Ok(position)) if position >= expected => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error),
            None => {
                let what = format!("{expected} rows on {}", node.name());
                return Err(Error::Timeout { what, waited: LIMIT, last: format!("{last} rows") });
            }
        }
    }
}

/// Waits until the query answers true.
pub fn wait(node: &Server, what: &str, question: &str) -> Result<()> {
    let mut client = node.connect(DATABASE)?;
    let mut last = String::new();
    deadline::poll(LIMIT, || match crate::client::query(node.name(), &mut client, question) {
        Ok(rows) => {
            last = format!("{rows:?}");
            (rows.into_iter().flatten().flatten().next().as_deref() == Some("t")).then_some(Ok(()))
        }
        Err(error) => Some(Err(error)),
    })
    .unwrap_or_else(|| Err(Error::Timeout { what: format!("{what} on {}", node.name()), waited: LIMIT, last }))
}
