//! The node registry on real servers: who knows whom, who may see and say what, and what becomes of it in a copy.

mod bad_input;
mod copies;
mod discovery;
mod identity;
mod names;
mod publication;
mod security;
mod spock_present;
mod upgrade;

use std::path::Path;
use std::process::Output;

use crate::cluster::{Builder, Cluster, Database, Node, SqlError, wait_for};

/// Sessions that connect and leave are not what a test waits for: pollers and managers soon ask again.
const QUICK: [(&str, &str); 2] = [("spock.manager_naptime", "200ms"), ("spock.recovery_poll_interval", "200ms")];

/// Which node each subscription comes from, as psql -At prints it.
const ORIGINS: &str = "SELECT s.sub_name, n.node_name FROM spock.subscription s
                         LEFT JOIN spock.node n ON n.node_id = s.sub_origin ORDER BY 1";

/// Makes a database a node, by a connection string that leads to it.
fn make_node(database: Database<'_>, dsn: &str, name: &str) {
    database.sql("CREATE EXTENSION spock_recovery");
    database.sql(&format!("SELECT spock.node_create({}, {})", literal(name), literal(dsn)));
}

/// Every node of the cluster under its own name, in the database `postgres`.
fn make_nodes(cluster: &Cluster) {
    for node in cluster.nodes() {
        make_node(node.db("postgres"), &node.dsn("postgres"), node.name());
    }
}

fn literal(value: &str) -> String {
    spock_recovery_cluster::client::literal(value)
}

fn identifier(name: &str) -> String {
    spock_recovery_cluster::client::identifier(name)
}

/// Starts the cluster of a test that makes pollers come and go.
fn start(builder: Builder) -> Cluster {
    let cluster = builder.start();
    // The question to a peer before its CREATE EXTENSION.
    cluster.expect_log("schema \"spock\" does not exist");
    cluster
}

/// Returns when the database's manager has done a whole round that began after the call.
fn wait_round(database: Database<'_>) {
    let ended = |since: &str| {
        format!(
            "SELECT state_change FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager'
                AND datname = current_database() AND state = 'idle' AND state_change > {since}"
        )
    };
    let mut since = database.value("SELECT clock_timestamp()");
    // The first round to end may have begun before.
    for _ in 0..2 {
        let mut seen = String::new();
        wait_for("a round of the manager", || {
            seen = database.value(&ended(&literal(&since)));
            !seen.is_empty()
        });
        since = seen;
    }
}

/// The error that a statement must raise, with a hint.
fn refused(database: Database<'_>, statement: &str, sqlstate: &str, hint: &str) -> SqlError {
    let error = match database.try_sql(statement) {
        Ok(rows) => panic!("{statement} was accepted: {rows:?}"),
        Err(error) => error,
    };
    assert_eq!(error.sqlstate, sqlstate, "{statement}: {error}");
    let given = error.hint.as_deref().unwrap_or_default();
    assert!(
        given.contains(hint) && (hint.is_empty() || !given.is_empty()),
        "{statement}: no \"{hint}\" in the hint of {error}"
    );
    error
}

/// A program of the installation, run by the servers' user against a node.
pub fn run_program(cluster: &Cluster, node: &Node, program: &str, arguments: &[&str]) -> Output {
    let path = cluster.installation().bindir.join(program);
    let port = node.value("SHOW port");
    let output = cluster
        .user()
        .command(&path)
        .args(["-h", &cluster.folder().display().to_string(), "-p", &port, "-U", "postgres"])
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} failed: {stderr}");
    assert!(!stderr.contains("ERROR"), "{program} {arguments:?}: {stderr}");
    output
}

pub fn restore(cluster: &Cluster, node: &Node, database: &str, script: &Path) {
    let script = script.display().to_string();
    run_program(cluster, node, "psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", &script]);
}
