//! recover_run and its sisters on real servers: what a DBA types, from any node, and what he can rely on.

mod before;
mod coordinators;
mod everybody;
mod kills;
mod kills_of_all;
mod refusals;
mod returned;
mod rounds;
mod run;
mod settings;
mod standby;
mod stuck;
mod surroundings;
mod young;

use crate::cluster::{Cluster, Node};
use crate::rescue::{drain, hold_back, insert_each, start, wait_arrived};
use crate::slot_keeps::{quick, start_mesh};

/// n1 has written 50 rows that only n3 has, and is dead; n2 waits for it with 20.
fn with_gap(name: &str) -> Cluster {
    let cluster = start(name, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 'first' FROM generate_series(1, 20) g");
    drain(n1, n2);
    drain(n1, n3);
    hold_back(n2);
    write(n1, 21, 70);
    wait_arrived(n1);
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    cluster
}

/// One transaction per row.
fn write(node: &Node, from: u32, to: u32) {
    insert_each(&mut node.session(), "t (id)", from, to);
}

/// The report of a CALL, as one value of it.
fn run(coordinator: &Node, arguments: &str, key: &str) -> String {
    coordinator.value(&format!("CALL spock.recover_run({arguments})"));
    report_of_last(coordinator, key)
}

/// The same figure from the target's own journal.
fn report_of_last(target: &Node, key: &str) -> String {
    target.value(&format!(
        "SELECT coalesce((SELECT summary->>'{key}' FROM spock.recovery_intents() ORDER BY begun_at DESC LIMIT 1), 'none')"
    ))
}

/// Nothing of a recovery is left: no clone, no unfinished intent, nothing suspended but what waits for `dead`.
fn assert_tidy(survivors: &[&Node], dead: &[&str]) {
    for node in survivors {
        // A clone that is still in use when it is released is dropped by its own node a moment later.
        node.wait_until(
            "SELECT (SELECT count(*) FROM spock.recovery_intents() WHERE ended_at IS NULL)
                    || '|' || (SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery')
                    || '|' || (SELECT count(*) FROM spock.recovery_clones())",
            "0|0|0",
        );
        let suspended = node.value(
            "SELECT coalesce(string_agg(n.node_name, ',' ORDER BY n.node_name), '') FROM spock.subscription s
               JOIN spock.node n ON n.node_id = s.sub_origin WHERE s.sub_rescue_suspended",
        );
        assert!(
            suspended.split(',').all(|name| name.is_empty() || dead.contains(&name)),
            "{}: {suspended} suspended",
            node.name()
        );
    }
}

fn mesh_of(name: &str, nodes: usize) -> Cluster {
    start_mesh(quick(name, nodes), "CREATE TABLE t (id int PRIMARY KEY, v text)")
}
