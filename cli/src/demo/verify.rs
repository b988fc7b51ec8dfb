//! What must hold after the call. Nothing is taken from the call's own words: each thing is looked at where it is.

use std::collections::BTreeMap;

use spock_recovery_cluster::mesh::subscription_name;
use spock_recovery_cluster::{Cluster, Server};

use crate::cluster::DATABASE;
use crate::error::{Error, Result};
use crate::screen::Screen;

use super::crash::{Scenario, survivors};
use super::{EVERYWHERE, FAILED, Options, TARGET};

/// Every row with its content.
const CONTENT: &str = "SELECT count(*) || ' rows, md5 ' || md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t.id), '')) FROM crash_test t";

/// What the failed node said of its last rows while it lived: each with its commit's time, to the microsecond.
pub struct Truth {
    stamps: String,
}

pub fn of_failed_node(cluster: &Cluster) -> Result<Truth> {
    let node = cluster.node(FAILED)?;
    Ok(Truth { stamps: value(node, &stamps())? })
}

fn stamps() -> String {
    format!(
        "SELECT count(*) || ' rows, md5 ' || md5(coalesce(string_agg(t.id || ' ' || extract(epoch FROM x.timestamp), E'\\n' ORDER BY t.id), ''))
           FROM crash_test t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) x WHERE t.id > {EVERYWHERE}"
    )
}

/// The subscriptions of a node by name: whether each is enabled.
pub fn subscriptions(node: &Server) -> Result<BTreeMap<String, bool>> {
    let rows = node.query(DATABASE, "SELECT subname, subenabled FROM pg_subscription")?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(name), Some(enabled)] => Some((name.clone(), enabled == "t")),
            _ => None,
        })
        .collect())
}

/// Says each thing that was verified; how many transactions were recovered.
pub fn all(
    cluster: &Cluster,
    options: &Options,
    truth: &Truth,
    before: &BTreeMap<String, bool>,
    screen: &Screen,
) -> Result<u64> {
    screen.line("Verified:");
    check_rows(cluster, options, truth, screen)?;
    let transactions = count_transactions(cluster, options)?;
    let applied = same_everywhere(
        cluster,
        "applied positions",
        &format!(
            "SELECT coalesce(max(applied_lsn)::text, 'unknown') FROM spock.node_positions() WHERE origin_node = '{FAILED}'"
        ),
    )?;
    screen.line(format!("  every survivor has applied {FAILED} up to {applied}"));

    let after = check_subscriptions(cluster, options, before)?;
    screen.line(format!("  {after}"));
    require_nothing_left(cluster)?;
    screen.line("  no clone, no rescue and no unfinished recovery is left");
    screen.line("");
    Ok(transactions)
}

/// Every survivor has the same rows, each with the failed node's origin and the commit time that it gave.
fn check_rows(cluster: &Cluster, options: &Options, truth: &Truth, screen: &Screen) -> Result<()> {
    let rows = same_everywhere(cluster, "rows", CONTENT)?;
    let expected = format!("{} rows,", options.total());
    require(rows.starts_with(&expected), || format!("the survivors hold {rows}, not {expected}"))?;
    screen.line(format!("  the same {} rows on every survivor", options.total()));

    require(same_everywhere(cluster, "commit times", &stamps())? == truth.stamps, || {
        format!("commit times differ from those of {FAILED} itself")
    })?;
    for node in survivors(cluster) {
        let foreign = format!(
            "SELECT count(*) FROM crash_test t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) x
               LEFT JOIN pg_replication_origin o ON o.roident = x.roident
               LEFT JOIN pg_subscription s ON 'pg_' || s.oid = o.roname
              WHERE s.subname IS DISTINCT FROM '{}'",
            subscription_name(node.name(), FAILED)
        );
        let found = value(node, &foreign)?;
        require(found == "0", || format!("{found} rows on {} do not have the origin of {FAILED}", node.name()))?;
    }
    screen.line(format!(
        "  each of the {} rows has {FAILED}'s origin, and the commit time that {FAILED} gave it, to the microsecond",
        options.rows
    ));
    Ok(())
}

/// How many transactions were applied, which is also how many the recovery has counted.
fn count_transactions(cluster: &Cluster, options: &Options) -> Result<u64> {
    let transactions = value(
        cluster.node(TARGET)?,
        &format!("SELECT count(DISTINCT xmin::text) FROM crash_test WHERE id > {EVERYWHERE}"),
    )?;
    let counted = value(
        cluster.node(TARGET)?,
        "SELECT summary ->> 'transactions' FROM spock.recovery_intents() ORDER BY begun_at DESC LIMIT 1",
    )?;
    require(transactions == options.rows.to_string() && counted == transactions, || {
        format!("{transactions} transactions were applied and {counted} counted, not {}", options.rows)
    })?;
    transactions.parse().map_err(|_| Error::Verification(format!("{transactions} is no count")))
}

fn require_nothing_left(cluster: &Cluster) -> Result<()> {
    for node in survivors(cluster) {
        let clones = value(node, "SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery'")?;
        let unfinished = value(node, "SELECT count(*) FROM spock.recovery_intents() WHERE phase <> 'completed'")?;
        let rescues = value(node, "SELECT count(*) FROM spock.subscription WHERE sub_rescue_temporary")?;
        require([clones.as_str(), &unfinished, &rescues] == ["0"; 3], || {
            format!("{}: {clones} clones, {unfinished} unfinished recoveries, {rescues} rescues are left", node.name())
        })?;
    }
    Ok(())
}

/// The dead node's subscription alone is suspended, if the user had it enabled; every other one is as it was, and those that
/// are enabled have their worker.
fn check_subscriptions(cluster: &Cluster, options: &Options, before: &BTreeMap<String, bool>) -> Result<String> {
    let target = cluster.node(TARGET)?;
    let to_failed = subscription_name(TARGET, FAILED);
    let mut expected = before.clone();
    expected.insert(to_failed.clone(), false);
    let found = subscriptions(target)?;
    require(found == expected, || format!("subscriptions of {TARGET} are {found:?}, not {expected:?}"))?;
    let suspended = "SELECT coalesce(string_agg(sub_name, ' ' ORDER BY sub_name), '') FROM spock.subscription WHERE sub_rescue_suspended";
    for node in survivors(cluster) {
        let names = value(node, suspended)?;
        let wanted = match options.scenario {
            Scenario::Crash if node.name() == TARGET => to_failed.as_str(),
            _ => "",
        };
        require(names == wanted, || format!("suspended on {}: \"{names}\", not \"{wanted}\"", node.name()))?;
        let working = format!(
            "SELECT count(*) = 0 FROM pg_subscription s LEFT JOIN pg_stat_subscription w ON w.subid = s.oid AND w.relid IS NULL
              WHERE s.subenabled AND s.subname <> '{}' AND w.pid IS NULL",
            subscription_name(node.name(), FAILED)
        );
        node.wait_until(DATABASE, "the workers of its subscriptions", &working, cluster.limit())?;
    }
    Ok(match options.scenario {
        Scenario::Crash => format!("subscriptions run again; {to_failed} alone stays suspended until {FAILED} is back"),
        Scenario::Crash2 => "subscriptions that were disabled before are disabled, the other one runs".to_owned(),
    })
}

fn same_everywhere(cluster: &Cluster, what: &str, question: &str) -> Result<String> {
    let mut first: Option<(String, String)> = None;
    for node in survivors(cluster) {
        let found = value(node, question)?;
        match &first {
            None => first = Some((node.name().to_owned(), found)),
            Some((name, known)) => {
                require(*known == found, || format!("{what} differ: {name} has {known}, {} has {found}", node.name()))?;
            }
        }
    }
    first.map(|(_, found)| found).ok_or_else(|| Error::Verification("there is no survivor".into()))
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Verification(otherwise())) }
}

fn value(node: &Server, question: &str) -> Result<String> {
    let rows = node.query(DATABASE, question)?;
    rows.into_iter()
        .flatten()
        .next()
        .flatten()
        .ok_or_else(|| Error::Verification(format!("{} has no answer to \"{question}\"", node.name())))
}
