//! Nothing of ours is published: no table of ours exists.

use super::{make_nodes, start};
use crate::cluster::Cluster;

/// Rows written before a node joins arrive by initial copy, later ones by replication.
fn replicates_undisturbed(name: &str, publication_first: bool) {
    let mut cluster = start(Cluster::new(name).nodes(2));
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    if !publication_first {
        make_nodes(&cluster);
    }
    cluster.mesh_with_copies();
    if publication_first {
        make_nodes(&cluster);
    }
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO t VALUES (1)");
    n2.sql("INSERT INTO t VALUES (2)");
    for node in [n1, n2] {
        node.wait_until("SELECT id FROM t ORDER BY 1", "1\n2");
    }
    // With what the extension has written by now.
    n1.wait_until("SELECT count(*) FROM spock.subscription WHERE sub_origin IS NOT NULL", "1");

    let n1_dsn = n1.dsn("postgres");
    let n3 = cluster.add_node();
    n3.expect_log("schema \"spock\" does not exist");
    n3.sql("CREATE TABLE t (id int PRIMARY KEY)");
    n3.sql("CREATE PUBLICATION mesh FOR ALL TABLES");
    n3.sql("CREATE EXTENSION spock_recovery");
    n3.sql(&format!("CREATE SUBSCRIPTION sub_n3_n1 CONNECTION '{n1_dsn}' PUBLICATION mesh WITH (copy_data = true)"));
    n3.wait_until("SELECT id FROM t ORDER BY 1", "1\n2");
    cluster.node("n1").sql("INSERT INTO t VALUES (3)");
    for node in cluster.nodes() {
        node.wait_until("SELECT id FROM t ORDER BY 1", "1\n2\n3");
        node.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
        assert_eq!(node.value("SELECT DISTINCT srrelid::regclass FROM pg_subscription_rel"), "t", "{}", node.name());
        assert_eq!(node.value("SELECT tablename FROM pg_publication_tables"), "t", "{}", node.name());
    }
}

#[test]
fn a_publication_of_all_tables_older_than_the_extension_replicates_undisturbed() {
    replicates_undisturbed("registry_publication_first", true);
}

#[test]
fn a_publication_of_all_tables_younger_than_the_extension_replicates_undisturbed() {
    replicates_undisturbed("registry_extension_first", false);
}
