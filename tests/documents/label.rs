//! The registry's label on a subscription.

use super::*;
use crate::slot_life::{make_node, mesh_of_three, quick, wait_blocked};

/// What the health check proposes to be done with nodes.
const PROPOSED: &str = "SELECT count(*) FROM spock.quick_health_check() WHERE details LIKE '%SELECT spock.node_drop%'";

#[test]
fn a_subscription_with_an_unreadable_label_is_nobodys_and_is_not_labelled_anew() {
    let cluster = mesh_of_three("documents_label");
    let [n1, n2, n3] = cluster.all();
    cluster.expect_log("cannot be read");
    let label = Label::subscription(n3);
    let name = n3.value("SELECT subname FROM pg_subscription WHERE oid = (SELECT min(oid) FROM pg_subscription)");
    let origin =
        format!("SELECT spock_internal.subscription_origin(oid) FROM pg_subscription WHERE subname = '{name}'");
    let known = n3.value(&origin);
    assert_eq!(known, "n1");
    let vouched =
        "SELECT bool_and(released_lsn < 'FFFFFFFF/FFFFFFFF') FROM spock.recovery_horizon() WHERE origin_node = 'n1'";
    n3.wait_until(vouched, "t");
    let unreadable = label.edit(LATER);
    let document = format!("label of SUBSCRIPTION {name}");
    assert_critical(n3.db("postgres"), &document, &["version 2", "Install the version"]);
    assert_eq!(n3.value(&origin), "");
    let refused = assert_refused(n3, &format!("SELECT spock.sub_set_origin('{name}', 'n1')"));
    assert!(refused.message.contains(&format!("the label of SUBSCRIPTION {name}")), "{refused}");
    assert_refused(n3, "CALL spock.recover_run(failed_node_name := 'n2', source_node_name := 'n1')");
    // Which node it comes from is not known: no node is forgotten, nor put in another one's place.
    for node in ["n1", "n2", "n3"] {
        let refused = assert_refused(n3, &format!("SELECT spock.node_drop('{node}')"));
        assert!(refused.message.contains(&format!("the label of SUBSCRIPTION {name}")), "{refused}");
        let detail = refused.detail.clone().unwrap_or_default();
        assert!(detail.contains("version 2") && detail.contains("no node can be dropped"), "{refused}");
    }
    n3.wait_until("SELECT error FROM spock.peer_status() WHERE node_name = 'n1'", "no connection string is known");
    assert_eq!(n3.value(PROPOSED), "0");
    let peer = "SELECT details FROM spock.quick_health_check() WHERE check_name = 'peer n1'";
    let told = n3.value(peer);
    assert!(told.contains(&format!("once document {} can be read", document)), "{told}");
    let bound = "SELECT option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)
                  WHERE srvname = 'n2' AND option_name = 'peer_system_identifier'";
    let system_identifier = n3.value(bound);
    let bind = |to: &str| n3.sql(&format!("ALTER SERVER n2 OPTIONS (SET peer_system_identifier '{to}')"));
    bind("1");
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "other server");
    assert_refused(n3, &format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    assert_eq!(n3.value(bound), "1");
    bind(&system_identifier);
    wait_blocked(n3.db("postgres"), "peer_unknown");
    // The provider is there, and would say who it is; but nobody asks it, and nothing is written.
    rounds(n3);
    n3.restart();
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "connected");
    rounds(n3);
    assert_eq!(label.text(), unreadable);
    // Its changes still come.
    n1.sql("INSERT INTO t VALUES (50, 'of n1')");
    n3.wait_until("SELECT v FROM t WHERE id = 50", "of n1");

    // It is a later version's also where that one has not all that this one has.
    let lacks = (r#""system_identifier":"#, r#""system":"#);
    label.edit(lacks);
    assert_critical(n3.db("postgres"), &document, &["version 2", "Install the version"]);
    label.replace((lacks.1, lacks.0));

    label.replace((LATER.1, LATER.0));
    assert_eq!(n3.value(&origin), known);
    // What was let go before is known still.
    rounds(n3);
    assert_eq!(n3.value(vouched), "t");
    // One that is damaged is removed as the health check says, and written anew.
    label.edit((r#""set_by":"discovery""#, r#""set_by":"wreck""#));
    let removal = format!("SECURITY LABEL FOR spock_recovery ON SUBSCRIPTION {name} IS NULL;");
    assert_critical(n3.db("postgres"), &document, &["does not validate", &removal]);
    let refused = n3.try_sql("SELECT spock.node_drop('n1')").expect_err("its label is damaged");
    assert_eq!(refused.sqlstate, "XX001", "{refused}");
    assert!(refused.hint.as_deref().is_some_and(|hint| hint.contains(&removal)), "{refused}");
    n3.sql(&removal);
    n3.wait_until(&origin, &known);
    assert_eq!(verdict(n3.db("postgres"), &document), "");
    // A newer library's field stays when the label is written again.
    label.edit(NEWER);
    n3.sql(&format!("SELECT spock.sub_set_origin('{name}', 'n1')"));
    assert!(label.text().contains(NEWER_FIELD) && label.text().contains("user"), "{}", label.text());
}

#[test]
fn a_peer_that_has_another_name_now_is_not_forgotten_while_a_label_cannot_be_read() {
    let cluster = quick("documents_renamed").nodes(2).start();
    let [n1, n2] = cluster.all();
    cluster.expect_log("cannot be read");
    cluster.expect_log("schema \"spock\" does not exist");
    for node in [n1, n2] {
        make_node(node.db("postgres"), node.name(), &node.dsn("postgres"));
    }
    for subscription in ["s1", "s2"] {
        n2.sql(&format!(
            "CREATE SUBSCRIPTION {subscription} CONNECTION '{}' PUBLICATION p WITH (connect = false)",
            n1.dsn("postgres")
        ));
    }
    let origins = "SELECT subname, spock_internal.subscription_origin(oid) FROM pg_subscription ORDER BY 1";
    n2.wait_until(origins, "s1|n1\ns2|n1");
    n2.wait_until("SELECT node_name, state FROM spock.peer_status()", "n1|connected");
    let label = Label::subscription(n2);
    let unreadable = label.edit(LATER);
    n1.sql("SELECT spock.node_drop('n1')");
    n1.sql(&format!("SELECT spock.node_create('m1', '{}')", n1.dsn("postgres")));
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "other node");
    rounds(n2);
    assert_eq!(n2.value(origins), "s1|\ns2|n1");
    assert_eq!(n2.value("SELECT node_name FROM spock.node ORDER BY 1"), "n1\nn2");
    assert_eq!(label.text(), unreadable);
    label.replace((LATER.1, LATER.0));
    n2.wait_until(origins, "s1|m1\ns2|m1");
    n2.wait_until("SELECT node_name FROM spock.node ORDER BY 1", "m1\nn2");
}

#[test]
fn after_the_extension_is_dropped_an_unreadable_label_stays_and_the_others_go() {
    let cluster = quick("documents_label_dropped").start();
    let [node] = cluster.all();
    make_labelled(node);
    cluster.expect_log("cannot be read");
    let label = Label::subscription(node);
    let unreadable = label.edit(LATER);
    node.sql("DROP EXTENSION spock_recovery CASCADE");
    node.wait_log("spock_recovery skips the label of subscription \"s1\": the label of SUBSCRIPTION s1 cannot be read");
    node.wait_until("SELECT count(*) FROM pg_shseclabel WHERE classoid = 'pg_subscription'::regclass", "1");
    assert_eq!(label.text(), unreadable);
}

#[test]
fn a_copy_takes_no_nodes_place_while_a_label_that_it_would_adopt_cannot_be_read() {
    let cluster = quick("documents_label_copied").start();
    let [node] = cluster.all();
    make_labelled(node);
    cluster.expect_log("cannot be read");
    // As in a server that was made from a copy of another one.
    node.sql(
        "BEGIN; ALTER SERVER n1 OPTIONS (SET system_identifier '1');
         SET LOCAL allow_system_table_mods = on;
         UPDATE pg_shseclabel SET label = regexp_replace(label, '(system_identifier.:)[0-9]+', '\\11');
         COMMIT",
    );
    let label = Label::subscription(node);
    assert!(label.text().contains("\"system_identifier\":1,"), "{}", label.text());
    let unreadable = label.edit(LATER);
    let database = node.db("postgres");
    assert_critical(database, "label of SUBSCRIPTION s1", &["version 2", "Install the version"]);
    let copy = "SELECT details FROM spock.quick_health_check() WHERE check_name = 'copy'";
    let told = node.value(copy);
    assert!(told.contains("once document label of SUBSCRIPTION s1 can be read"), "{told}");
    assert!(!told.contains("SELECT spock.node_create"), "{told}");
    assert_refused(node, &format!("SELECT spock.node_create('n1', '{}')", node.dsn("postgres")));
    rounds(node);
    assert_eq!(label.text(), unreadable);
    assert_eq!(node.value("SELECT count(*) FROM spock.local_node"), "0");
    label.replace((LATER.1, LATER.0));
    assert!(node.value(copy).contains("SELECT spock.node_create('n1', "));
    node.sql(&format!("SELECT spock.node_create('n1', '{}')", node.dsn("postgres")));
    assert_eq!(
        node.value("SELECT subname, spock_internal.subscription_origin(oid) FROM pg_subscription ORDER BY 1"),
        "s1|n9\ns2|n9"
    );
}

/// A node with two subscriptions of which it was said that they come from node n9.
fn make_labelled(node: &Node) {
    make_node(node.db("postgres"), "n1", &node.dsn("postgres"));
    node.sql("SELECT spock.peer_create('n9', 'host=/nonexistent')");
    for subscription in ["s1", "s2"] {
        node.sql(&format!(
            "CREATE SUBSCRIPTION {subscription} CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false)"
        ));
        node.sql(&format!("SELECT spock.sub_set_origin('{subscription}', 'n9')"));
    }
}
