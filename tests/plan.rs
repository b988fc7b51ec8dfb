//! Plans on real servers: n1 has failed, n2 lacks transactions of it that n3 has. What is planned, by whom, and why not.

mod asking;
mod survivors;
mod violations;

use crate::cluster::{Cluster, Node};
use crate::slot_keeps::{quick, start_mesh, wait_confirmed};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE held (id int PRIMARY KEY);";

/// Nodes in a mesh, whose slots follow; a peer that is dead is noticed soon.
fn start(name: &str, nodes: usize) -> Cluster {
    let builder = quick(name, nodes).setting("spock.peer_timeout", "5s").setting("max_prepared_transactions", "5");
    start_mesh(builder, TABLES)
}

/// Three nodes that have further tables.
fn start_with(name: &str, tables: &str) -> Cluster {
    start_mesh(quick(name, 3).setting("spock.peer_timeout", "5s"), &format!("{TABLES}{tables}"))
}

/// From here on n2 gets nothing of n1, which writes 70 transactions; all others have them.
fn make_gap(cluster: &Cluster) {
    let [n1, n2] = ["n1", "n2"].map(|name| cluster.node(name));
    crate::rescue::hold_back(n2);
    n1.sql("DO $$ BEGIN FOR n IN 1 .. 70 LOOP INSERT INTO t VALUES (n); COMMIT; END LOOP; END $$");
    n1.sql("INSERT INTO held VALUES (1)");
    n1.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    for node in cluster.nodes().iter().skip(2) {
        wait_confirmed(n1, &format!("sub_{}_n1", node.name()));
    }
}

/// n1 dies, and n2's subscription to it finds nobody.
fn fail(cluster: &Cluster) {
    cluster.node("n1").kill9();
    cluster.node("n2").sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
}

/// Outcome, reason and source of the plan for a target.
fn plan(coordinator: &Node, target: &str) -> String {
    coordinator.value(&plan_query(target))
}

fn plan_query(target: &str) -> String {
    format!("SELECT outcome, reason, source_node FROM spock.recover_plan('n1', '{target}')")
}

/// Everything that planning could change on a node.
fn state(node: &Node) -> String {
    node.value(
        "SELECT (SELECT string_agg(subname || ' ' || subenabled || ' ' || subpublications::text, ',' ORDER BY subname)
                   FROM pg_subscription),
                (SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots WHERE NOT temporary),
                (SELECT string_agg(roname, ',' ORDER BY roname) FROM pg_replication_origin),
                (SELECT count(*) FROM spock.recovery_intents()), (SELECT count(*) FROM spock.recovery_clones()),
                (SELECT string_agg(srvname || coalesce(umoptions::text, ''), ',' ORDER BY srvname, umuser)
                   FROM pg_foreign_server s LEFT JOIN pg_user_mapping m ON m.umserver = s.oid),
                (SELECT label FROM pg_seclabel WHERE provider = 'spock_recovery')",
    )
}
