//! What the recovery slot keeps, on real servers: everything that some peer may still need, and nothing beyond that.
//!
//! n1 is the node that fails, n3 the survivor whose slot is looked at, n2 the peer for which it keeps.

mod bound;
mod durability;
mod gap;
mod positions;
mod rebuilt;
mod two_subscriptions;
mod unknown_origin;
mod unpublished;

use crate::cluster::{Builder, Cluster, Node};

/// What a test waits for is decided in rounds, asked by pollers and moved at an interval: none of them is the point here.
const QUICK: [(&str, &str); 3] = [
    ("spock.manager_naptime", "100ms"),
    ("spock.recovery_poll_interval", "100ms"),
    ("spock.recovery_slot_advance_interval", "100ms"),
];

/// Nothing can be vouched for.
const INFINITY: &str = "FFFFFFFF/FFFFFFFF";

const FLUSHED: &str = "SELECT pg_current_wal_flush_lsn()";

pub fn quick(name: &str, nodes: usize) -> Builder {
    QUICK.iter().fold(Cluster::new(name).nodes(nodes), |builder, (name, value)| builder.setting(name, value))
}

/// Starts the cluster and makes its databases `postgres` nodes; nobody replicates yet.
pub fn start(builder: Builder) -> Cluster {
    make_nodes(builder.start())
}

fn make_nodes(cluster: Cluster) -> Cluster {
    // The question to a peer before its CREATE EXTENSION.
    cluster.expect_log("schema \"spock\" does not exist");
    for node in cluster.nodes() {
        node.sql("CREATE EXTENSION IF NOT EXISTS spock_recovery");
        node.sql(&format!("SELECT spock.node_create('{}', '{}')", node.name(), node.dsn("postgres")));
    }
    cluster
}

/// The same with a mesh over the tables, returned when every slot is there and every pair has moved once: the first
/// transaction of an origin is what `released` becomes finite with.
pub fn start_mesh(builder: Builder, tables: &str) -> Cluster {
    make_mesh(builder.start(), |cluster| {
        cluster.sql(tables);
        cluster.mesh();
    })
}

/// The same with tables and subscriptions that the caller makes.
pub fn make_mesh(cluster: Cluster, wire: impl FnOnce(&Cluster)) -> Cluster {
    let cluster = make_nodes(cluster);
    cluster.sql("CREATE TABLE first (node text PRIMARY KEY)");
    wire(&cluster);
    let nodes = cluster.nodes();
    for node in nodes {
        node.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
        // An origin that moves before its subscription was looked at is not seen to move.
        node.wait_until(
            "SELECT count(DISTINCT origin_node) FROM spock.recovery_horizon()",
            &(nodes.len() - 1).to_string(),
        );
    }
    for node in nodes {
        node.sql(&format!("INSERT INTO first VALUES ('{}')", node.name()));
    }
    for node in nodes {
        node.wait_until("SELECT count(*) FROM first", &nodes.len().to_string());
        wait_released_finite(node, "", nodes.len() - 1);
    }
    // Each takes its rounds: all at once.
    let ends: Vec<String> = nodes.iter().map(|node| node.value(FLUSHED)).collect();
    for (node, end) in nodes.iter().zip(ends) {
        wait_follows_to(node, &end);
    }
    cluster
}

/// Returns when the released position of so many origins, of those that the condition picks, is known.
fn wait_released_finite(node: &Node, condition: &str, origins: usize) {
    node.wait_until(
        &format!(
            "SELECT count(DISTINCT origin_node), bool_and(released_lsn < '{INFINITY}')
               FROM spock.recovery_horizon() {condition}"
        ),
        &format!("{origins}|t"),
    );
}

/// Returns when the slot has come to where WAL ends now.
fn wait_follows(node: &Node) {
    wait_follows_to(node, &node.value(FLUSHED));
}

fn wait_follows_to(node: &Node, end: &str) {
    node.wait_until(
        &format!("SELECT confirmed_flush_lsn >= '{end}', blocked_reason FROM spock.get_recovery_slot_status()"),
        "t|",
    );
}

/// Where the slot is now, after it was asked to go as far as it may.
fn advance(node: &Node) -> String {
    node.value("SELECT spock.advance_recovery_slot()")
}

/// Asks for an advance until two rounds of polls and of the manager have begun and ended since: whatever the peers had to
/// say when this was called, the slot has gone by it. Returns its position.
fn advance_by_fresh_reports(node: &Node, peers: &str) -> String {
    for _ in 0..2 {
        let now = node.value("SELECT clock_timestamp()");
        node.wait_until(
            &format!(
                "SELECT bool_and(reported_at > '{now}') FROM spock.recovery_horizon() WHERE peer_node IN ({peers})"
            ),
            "t",
        );
    }
    advance(node)
}

fn released(node: &Node, origin: &str) -> String {
    node.value(&format!("SELECT DISTINCT released_lsn FROM spock.recovery_horizon() WHERE origin_node = '{origin}'"))
}

/// The subscription's worker has confirmed to its provider up to where that one's WAL ends now.
pub fn wait_confirmed(provider: &Node, slot: &str) {
    let end = provider.value(FLUSHED);
    provider.wait_until(
        &format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{slot}'"),
        "t",
    );
}

/// What a query over the lines that test_decoding makes of everything in the node's recovery slot (`change`) gives; on a
/// copy of the slot.
fn decoded(node: &Node, query: &str) -> String {
    let mut session = node.session();
    // Decoding ends where WAL is on disk, and apply workers commit without waiting for that.
    session.sql("SELECT pg_logical_emit_message(false, 'flush', '', true)");
    session.sql(
        "SELECT pg_copy_logical_replication_slot(slot_name, 'probe', true, 'test_decoding')
           FROM spock.get_recovery_slot_status()",
    );
    session.value(&format!(
        "WITH change AS MATERIALIZED (
             SELECT data FROM pg_logical_slot_peek_changes('probe', NULL, NULL, 'skip-empty-xacts', '1')) {query}"
    ))
}

/// The query for the number of transactions among `from..=to` that were inserted into table t and are not in the slot.
fn missing(from: u32, to: u32) -> String {
    format!(
        "SELECT count(*) FROM generate_series({from}, {to}) AS id
          WHERE id NOT IN (SELECT substring(data FROM 'id\\[integer\\]:(\\d+)')::int FROM change
                            WHERE data LIKE 'table public.t: INSERT%')"
    )
}

/// One transaction for each number.
fn insert_each(node: &Node, from: u32, to: u32) {
    node.sql(&format!("DO $$ BEGIN FOR id IN {from} .. {to} LOOP INSERT INTO t VALUES (id); COMMIT; END LOOP; END $$"));
}
