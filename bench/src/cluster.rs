//! The servers of a scenario: nodes whose tables are the same from the beginning, and who receives from whom.
//!
//! n1 is the node that fails, n2 the target, n3 the source; n4 stands to all others as n2 does, and catches up natively.

use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::mesh::{self, subscription_name};
use spock_recovery_cluster::{Cluster, ClusterOptions, Configuration, Server, deadline, extension};

use crate::bench::Bench;
use crate::error::{Error, Result};
use crate::wait::{self, DATABASE};

/// What a server in earnest has: it survives the crash of its machine, and its cache holds what it works on.
const SETTINGS: [(&str, &str); 3] = [("shared_buffers", "256MB"), ("max_wal_size", "4GB"), ("log_checkpoints", "off")];

/// Starts the named servers, and does in each what is to be there before anything replicates.
pub fn start(
    bench: &Bench,
    names: &[&str],
    with_extension: bool,
    prepare: impl Fn(&Server) -> Result<()>,
) -> Result<Cluster> {
    start_with(bench, names, with_extension, &[], prepare)
}

/// With other settings than the usual ones.
pub fn start_with(
    bench: &Bench,
    names: &[&str],
    with_extension: bool,
    settings: &[(&str, &str)],
    prepare: impl Fn(&Server) -> Result<()>,
) -> Result<Cluster> {
    let settings = SETTINGS.iter().chain(settings);
    let configuration = Configuration {
        preloads_extension: with_extension,
        durable: true,
        settings: settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Configuration::default()
    };
    let options = ClusterOptions {
        configuration,
        limit: wait::LIMIT,
        database: DATABASE.into(),
        ..ClusterOptions::new(names.iter().copied())
    };
    let cluster = Cluster::start(&bench.installation, &bench.user, options)?;
    for node in cluster.nodes() {
        // Who waits for the first transaction of a node to arrive writes it here.
        wait::sql(
            node,
            "CREATE TABLE first (id bigint GENERATED ALWAYS AS IDENTITY, node text, PRIMARY KEY (node, id))",
        )?;
        prepare(node)?;
        publish(node, DATABASE, with_extension)?;
    }
    Ok(cluster)
}

/// Makes a database one that others can subscribe to, and a node where the extension is wanted.
pub fn publish(server: &Server, database: &str, with_extension: bool) -> Result<()> {
    if with_extension {
        extension::create_node(server, database)?;
    }
    Ok(mesh::publish(server, database)?)
}

/// Returns when n3 can prove what it keeps of n1 for each of its peers.
pub fn wait_vouched(cluster: &Cluster) -> Result<()> {
    let (failed, source) = (cluster.node("n1")?, cluster.node("n3")?);
    let vouches = extension::vouches_for(failed.name());
    deadline::wait("the recovery slots", wait::LIMIT, |last| {
        // An origin that moves before its subscription was looked at is not seen to move.
        wait::sql(failed, &format!("INSERT INTO first (node) VALUES ({})", literal(failed.name())))?;
        if wait::value(source, &vouches)? == "t" {
            return Ok(Some(()));
        }
        *last = format!("{:?}", source.query(DATABASE, "SELECT * FROM spock.recovery_horizon()")?);
        Ok::<_, Error>(None)
    })
}

/// How far a node has applied another.
pub fn applied(cluster: &Cluster, target: &str, source: &str) -> Result<String> {
    wait::value(cluster.node(target)?, &applied_question(target, source))
}

/// What asks for the process of a native subscription.
pub fn apply_worker(target: &str, source: &str) -> String {
    let name = subscription_name(target, source);
    format!("SELECT pid FROM pg_stat_subscription WHERE subname = '{name}' AND worker_type = 'apply'")
}

/// What asks whether a node has applied another as far as `end`.
pub fn has_applied(target: &str, source: &str, end: &str) -> String {
    format!("SELECT coalesce(({}) >= '{end}', false)", applied_question(target, source))
}

fn applied_question(target: &str, source: &str) -> String {
    format!(
        "SELECT pg_replication_origin_progress('pg_' || oid, false) FROM pg_subscription WHERE subname = '{}'",
        subscription_name(target, source)
    )
}

/// Nobody has anything left to send, so that it would be sent while something else is measured; and the recovery slot
/// of n3 has moved up, as it has in a cluster that is not measured every few seconds.
pub fn settle(cluster: &Cluster, enabled: &[(&str, &str)]) -> Result<()> {
    for (target, from) in enabled {
        cluster.wait_arrived(target, from)?;
    }
    let source = cluster.node("n3")?;
    let end = wait::value(source, "SELECT pg_current_wal_flush_lsn()")?;
    // Decoding begins where it restarts: what lies before is not to be read again.
    let has_moved = format!(
        "SELECT bool_and(confirmed_flush_lsn >= '{end}' AND restart_lsn >= '{end}') FROM spock.get_recovery_slot_status()"
    );
    deadline::wait("the recovery slot to move", wait::LIMIT, |last| {
        wait::sql(source, "SELECT pg_log_standby_snapshot()")?;
        wait::sql(source, "SELECT spock.advance_recovery_slot()")?;
        if wait::value(source, &has_moved)? == "t" {
            return Ok(Some(()));
        }
        *last = format!("{:?}", source.query(DATABASE, "SELECT * FROM spock.get_recovery_slot_status()")?);
        Ok::<_, Error>(None)
    })
}
