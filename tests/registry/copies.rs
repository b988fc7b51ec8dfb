//! A copy of a node's database made elsewhere is inert until somebody says what it is.

use super::{make_node, refused, restore, run_program, start, wait_round};
use crate::cluster::{Cluster, Database, Node, wait_for};

/// The node `n1` in the database `app`, with a peer and a subscription whose origin was set by hand.
fn node_with_everything(n1: &Node) {
    n1.sql("CREATE DATABASE app");
    let app = n1.db("app");
    app.sql("CREATE TABLE t AS SELECT 1 AS id");
    make_node(app, &n1.dsn("app"), "n1");
    app.sql("SELECT spock.peer_create('n9', 'host=/nonexistent dbname=x')");
    app.sql("CREATE SUBSCRIPTION s CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false)");
    app.sql("SELECT spock.sub_set_origin('s', 'n9')");
    app.sql("CREATE PUBLICATION p FOR ALL TABLES");
}

fn said_copy(node: &Node) -> usize {
    node.log().matches("LOG:  this database is a copy of node \"n1\"").count()
}

/// What was copied is there, and neither the copy nor a peer takes it for a node; nobody polls its peers.
fn is_inert(node: &Node, copy: Database<'_>, before: usize) {
    wait_for("the log to say that this is a copy", || said_copy(node) > before);
    wait_round(copy);
    assert_eq!(said_copy(node), before + 1, "said once, not once per round");
    assert_eq!(copy.value("SELECT node_name, is_local FROM spock.node ORDER BY 1"), "n1|f\nn9|f");
    assert_eq!(copy.value("SELECT count(*) FROM spock.local_node"), "0");
    let verdict = copy.value("SELECT check_name, status, details FROM spock.quick_health_check()");
    assert!(verdict.starts_with("copy|CRITICAL|") && verdict.contains("SELECT spock.node_create('n1', "), "{verdict}");
    assert_eq!(copy.value("SELECT count(*) FROM spock_internal.node_identity()"), "0");
    assert_eq!(copy.value("SELECT count(*) FROM spock.peer_status()"), "0");
    assert_eq!(
        copy.value(
            "SELECT count(*) FROM pg_stat_activity
              WHERE backend_type = 'spock_recovery poller' AND datname = current_database()"
        ),
        "0"
    );
}

#[test]
fn a_dump_restored_elsewhere_acts_on_nothing_until_it_is_created_there() {
    let cluster = start(Cluster::new("registry_dump").nodes(2).setting("spock.manager_naptime", "200ms"));
    let [n1, n2] = cluster.all();
    node_with_everything(n1);
    let plain = cluster.folder().join("plain.sql");
    let create = cluster.folder().join("create.sql");
    run_program(&cluster, n1, "pg_dump", &["-d", "app", "-f", &plain.display().to_string()]);
    run_program(&cluster, n1, "pg_dump", &["-C", "-d", "app", "-f", &create.display().to_string()]);

    restore(&cluster, n2, "postgres", &create);
    let app = n2.db("app");
    is_inert(n2, app, 0);
    assert_eq!(app.value("SELECT sub_name, sub_enabled, sub_origin FROM spock.subscription"), "s|f|");
    assert_eq!(app.value("SELECT spock_internal.subscription_origin(oid) FROM pg_subscription"), "");
    let error = refused(app, "SELECT spock.node_create('n2', 'dbname=app')", "55000", "spock.node_drop('n1')");
    assert_eq!(error.message, "database is a copy of node \"n1\"");
    // Under the same name it takes the node's place, with what the node knew of a peer that cannot be asked.
    app.sql(&format!("SELECT spock.node_create('n1', '{}')", n2.dsn("app")));
    assert_eq!(app.value("SELECT node_name FROM spock_internal.node_identity()"), "n1");
    assert_eq!(
        app.value("SELECT if_dsn FROM spock.node_interface JOIN spock.local_node ON if_id = node_local_interface"),
        n2.dsn("app")
    );
    assert_eq!(app.value("SELECT spock_internal.subscription_origin(oid) FROM pg_subscription"), "n9");
    app.wait_until("SELECT node_name FROM spock.peer_status()", "n9");
    app.sql("ALTER SUBSCRIPTION s SET (slot_name = NONE)");
    app.sql("DROP SUBSCRIPTION s");
    n2.sql("DROP DATABASE app");

    n2.sql("CREATE DATABASE other TEMPLATE template0");
    restore(&cluster, n2, "other", &plain);
    let other = n2.db("other");
    is_inert(n2, other, 1);
    assert_eq!(other.value("SELECT spock.node_drop('n1')"), "t");
    assert_eq!(other.value("SELECT count(*) FROM spock.node"), "0");
    // The journal is that of the original, and no business of the copy.
    assert_eq!(other.value("SELECT objtype FROM pg_seclabels WHERE provider = 'spock_recovery'"), "schema");
    other.sql(&format!("SELECT spock.node_create('n2', '{}')", n2.dsn("other")));
    assert_eq!(other.value("SELECT node_name FROM spock_internal.node_identity()"), "n2");
}

#[test]
fn a_database_made_from_a_node_as_template_acts_on_nothing() {
    let cluster = start(Cluster::new("registry_template").setting("spock.manager_naptime", "200ms"));
    let [n1] = cluster.all();
    node_with_everything(n1);
    n1.db("app").wait_until("SELECT node_name FROM spock.peer_status()", "n9");
    n1.sql("CREATE DATABASE app2 TEMPLATE app");
    is_inert(n1, n1.db("app2"), 0);
    refused(n1.db("app2"), "SELECT spock.node_create('n2', 'dbname=app2')", "55000", "spock.node_drop('n1')");
    n1.db("app2").sql("SELECT spock.node_drop('n1')");
    // The original has not noticed.
    assert_eq!(n1.db("app").value("SELECT node_name FROM spock_internal.node_identity()"), "n1");
    assert_eq!(n1.db("app").value("SELECT spock_internal.subscription_origin(oid) FROM pg_subscription"), "n9");
}
