//! The manager finds out which node each subscription comes from.

use super::{ORIGINS, QUICK, make_nodes, start, wait_round};
use crate::cluster::{Cluster, Node};

fn quick(name: &str, nodes: usize) -> Cluster {
    let builder = Cluster::new(name).nodes(nodes);
    start(QUICK.iter().fold(builder, |builder, (name, value)| builder.setting(name, value)))
}

/// What the catalog holds, also of subscriptions that are gone.
fn labels(node: &Node) -> String {
    node.value(
        "SELECT s.subname, l.label::json ->> 'origin', l.label::json ->> 'set_by'
           FROM pg_shseclabel l LEFT JOIN pg_subscription s ON s.oid = l.objoid
          WHERE l.provider = 'spock_recovery' AND l.classoid = 'pg_subscription'::regclass ORDER BY 1",
    )
}

#[test]
fn a_mesh_finds_out_by_itself_where_each_subscription_comes_from() {
    let cluster = quick("registry_discovery", 3);
    let [n1, n2, n3] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    cluster.mesh();
    make_nodes(&cluster);
    n1.wait_until(ORIGINS, "sub_n1_n2|n2\nsub_n1_n3|n3");
    n2.wait_until(ORIGINS, "sub_n2_n1|n1\nsub_n2_n3|n3");
    n3.wait_until(ORIGINS, "sub_n3_n1|n1\nsub_n3_n2|n2");
    assert_eq!(n1.value("SELECT node_name, is_local FROM spock.node ORDER BY 1"), "n1|t\nn2|f\nn3|f");
    n1.wait_until(
        "SELECT node_name, sub_name, state, error FROM spock.peer_status() ORDER BY 1",
        "n2||connected|\nn3||connected|",
    );

    // The label follows the subscription to another node.
    n1.sql("ALTER SUBSCRIPTION sub_n1_n3 DISABLE");
    n1.sql("ALTER SUBSCRIPTION sub_n1_n3 SET (slot_name = NONE)");
    n1.sql("ALTER SUBSCRIPTION sub_n1_n2 DISABLE");
    n1.sql("DROP SUBSCRIPTION sub_n1_n3");
    n1.sql(&format!("ALTER SUBSCRIPTION sub_n1_n2 CONNECTION '{}'", n3.dsn("postgres")));
    n1.wait_until(ORIGINS, "sub_n1_n2|n3");
    // DROP SUBSCRIPTION leaves its label behind: only the manager removes it.
    n1.wait_until(
        "SELECT count(*) FROM pg_shseclabel l WHERE l.classoid = 'pg_subscription'::regclass
            AND NOT EXISTS (SELECT FROM pg_subscription s WHERE s.oid = l.objoid)",
        "0",
    );
    assert_eq!(labels(n1), "sub_n1_n2|n3|discovery");
}

#[test]
fn an_origin_set_by_hand_is_kept_although_the_provider_says_another_name() {
    let cluster = quick("registry_by_hand", 2);
    let [n1, n2] = cluster.all();
    make_nodes(&cluster);
    n1.sql(&format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (connect = false)", n2.dsn("postgres")));
    n1.wait_until(ORIGINS, "s|n2");
    n1.sql("SELECT spock.peer_create('n9', 'host=/nonexistent dbname=x')");
    n1.sql("SELECT spock.sub_set_origin('s', 'n9')");
    // n2's poller has no way to it any more, hence no longer contradicts; n9 gets the subscription's.
    n1.sql("DROP USER MAPPING FOR PUBLIC SERVER n9");
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n9'", "other node");
    wait_round(n1.db("postgres"));
    assert_eq!(labels(n1), "s|n9|user");
    n1.sql("SELECT spock.sub_set_origin('s', 'n2')");
    assert_eq!(labels(n1), "s|n2|user");
}

#[test]
fn a_peer_is_asked_with_the_rights_of_a_replication_role() {
    let cluster = quick("registry_replication_role", 2);
    let [n1, n2] = cluster.all();
    make_nodes(&cluster);
    n2.sql("CREATE ROLE repl LOGIN REPLICATION");
    n1.sql(&format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (connect = false)",
        n2.dsn("postgres").replace("user=postgres", "user=repl")
    ));
    n1.wait_until(ORIGINS, "s|n2");
}

#[test]
fn a_monitoring_role_sees_the_peers() {
    let cluster = quick("registry_monitor", 1);
    let [n1] = cluster.all();
    make_nodes(&cluster);
    n1.sql("CREATE ROLE monitor LOGIN IN ROLE pg_monitor");
    n1.sql("SELECT spock.peer_create('n2', 'host=/nonexistent dbname=x')");
    n1.db("postgres")
        .role("monitor")
        .wait_until("SELECT node_name, state, error <> '' FROM spock.peer_status()", "n2|unreachable|t");
}
