//! Comparing tables of two nodes: what differs is found and judged, what is only on its way is not, and a repair brings
//! this node to the later versions.

mod background;
mod hostile;
mod kinds;
mod load;
mod replicated;
mod resumed;

use crate::cluster::{Cluster, Node};
use crate::slot_keeps::{quick, start_mesh};

/// Two nodes in a mesh.
pub fn start(name: &str, tables: &str) -> Cluster {
    start_mesh(quick(name, 2), tables)
}

/// Writes what no other node gets: it has an origin, and subscriptions want what has none.
pub fn past_replication(node: &Node, statements: &str) {
    let mut session = node.session();
    session.sql(
        "SELECT pg_replication_origin_create('elsewhere')
          WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'elsewhere')",
    );
    session.sql("SELECT pg_replication_origin_session_setup('elsewhere')");
    session.sql(statements);
    session.sql("SELECT pg_replication_origin_session_reset()");
}

/// A field of the report of a comparison of n1 with n2.
pub fn compare(n1: &Node, arguments: &str) -> serde_json::Value {
    let report = n1.value(&format!("CALL spock.compare('n2'{arguments})"));
    serde_json::from_str(&report).unwrap_or_else(|error| panic!("{error}: {report}"))
}

/// What the report says of a table.
pub fn of_table<'r>(report: &'r serde_json::Value, table: &str) -> &'r serde_json::Value {
    let tables = report["tables"].as_array().expect("tables");
    let found = tables.iter().find(|one| one["relation"] == table);
    found.unwrap_or_else(|| panic!("no table {table} in {report}"))
}

/// The keys that differ, their kinds and verdicts.
pub fn differences(n1: &Node, report: &serde_json::Value) -> String {
    n1.value(&format!(
        "SELECT relation, key, kind, verdict FROM spock.compare_differences('{}') ORDER BY relation::text, key::text",
        report["run_id"].as_str().expect("a run_id")
    ))
}
