//! Bad input gets the right SQLSTATE and a hint that says what to do, and leaves nothing half-made.

use super::{make_node, refused, start};
use crate::cluster::{Action, Cluster};
use crate::failpoint_names::NODE_CREATE_BEFORE_MAPPING;

#[test]
fn bad_input_gets_its_sqlstate_and_a_hint() {
    let cluster = start(Cluster::new("registry_bad_input"));
    let [n1] = cluster.all();
    let db = n1.db("postgres");
    db.sql("CREATE EXTENSION spock_recovery; CREATE FOREIGN DATA WRAPPER other; CREATE SERVER taken FOREIGN DATA WRAPPER other");
    db.sql("CREATE SUBSCRIPTION \"Sub 1\" CONNECTION 'host=/nonexistent' PUBLICATION p WITH (connect = false)");
    refused(db, "SELECT spock.sub_set_origin('Sub 1', 'n2')", "55000", "spock.node_create(");

    let too_long = "n".repeat(70);
    for (call, sqlstate, hint) in [
        ("node_create('', 'dbname=x')", "42602", "'n1'"),
        ("node_create('   ', 'dbname=x')", "42602", "'n1'"),
        ("node_create(E'a\\nb', 'dbname=x')", "42602", "'n1'"),
        (&format!("node_create('{too_long}', 'dbname=x')"), "42622", "short name"),
        (&format!("node_create('{}', 'dbname=x')", &too_long[..60]), "42622", "short name"),
        (&format!("peer_create('{too_long}', 'dbname=x')"), "42622", "short name"),
        ("node_create('n1', '')", "22023", "keywords of libpq"),
        ("node_create('n1', ' ')", "22023", "keywords of libpq"),
        ("node_create('n1', 'nonsense')", "42601", "keywords of libpq"),
        ("node_create('n1', 'no_such_option=1')", "42601", "keywords of libpq"),
        ("node_create(NULL, 'dbname=x')", "22004", "SELECT spock.node_create("),
        ("node_create('n1', NULL)", "22004", "SELECT spock.node_create("),
        ("node_drop(NULL)", "22004", "SELECT spock.node_drop("),
        ("node_drop('n1', NULL)", "22004", "SELECT spock.node_drop("),
        ("peer_create('n2', NULL)", "22004", "SELECT spock.peer_create("),
        ("sub_set_origin(NULL, 'n2')", "22004", "SELECT spock.sub_set_origin("),
        ("sub_set_origin('nobody', NULL)", "55000", "spock.node_create("),
        ("node_create('taken', 'dbname=x')", "42710", "another name"),
        ("node_drop('taken')", "42704", "FROM spock.node"),
        ("node_drop('nobody')", "42704", "FROM spock.node"),
    ] {
        refused(db, &format!("SELECT spock.{call}"), sqlstate, hint);
    }
    assert_eq!(db.value("SELECT spock.node_drop('nobody', true)"), "f");
    assert_eq!(db.value("SELECT count(*) FROM spock.node"), "0");

    db.sql("SELECT spock.node_create('n1', 'dbname=x'), spock.peer_create('n2', 'dbname=x')");
    for (call, sqlstate, hint) in [
        ("node_create('n1', 'dbname=x')", "42710", "spock.peer_create()"),
        ("node_create('n3', 'dbname=x')", "42710", "spock.node_drop('n1')"),
        ("peer_create('n1', 'dbname=x')", "42710", "spock.node_drop()"),
        ("peer_create('n2', 'dbname=x')", "42710", "spock.node_drop()"),
        ("sub_set_origin('nobody', 'n2')", "42704", "pg_subscription"),
        ("sub_set_origin('nobody', NULL)", "42704", "pg_subscription"),
        ("sub_set_origin('Sub 1', 'nobody')", "42704", "FROM spock.node"),
        ("sub_set_origin('Sub 1', 'n1')", "22023", "connection string leads to"),
        ("sub_set_origin('Sub 1', 'taken')", "42704", "FROM spock.node"),
    ] {
        refused(db, &format!("SELECT spock.{call}"), sqlstate, hint);
    }
    db.sql("SELECT spock.sub_set_origin('Sub 1', 'n2')");
    refused(
        db,
        "SELECT spock.node_drop('n2')",
        "2BP01",
        "ALTER SUBSCRIPTION \"Sub 1\" DISABLE; ALTER SUBSCRIPTION \"Sub 1\" SET (slot_name = NONE); DROP SUBSCRIPTION \"Sub 1\";",
    );
    refused(db, "DROP EXTENSION spock_recovery", "2BP01", "spock.node_drop()");
    for (options, sqlstate, hint) in [
        ("host 'x'", "HV00D", "system_identifier, database"),
        ("database 'x'", "22023", "spock.node_create()"),
        ("system_identifier ''", "22023", "spock.node_create()"),
    ] {
        refused(db, &format!("CREATE SERVER n5 FOREIGN DATA WRAPPER spock_node OPTIONS ({options})"), sqlstate, hint);
    }
    for call in ["peer_create('n5', 'dbname=x')", "node_drop('n2')", "sub_set_origin('Sub 1', NULL)"] {
        let error = db.try_sql(&format!("BEGIN READ ONLY; SELECT spock.{call}")).expect_err(call);
        assert_eq!(error.sqlstate, "25006", "{error}");
    }
    // The hint works, word by word.
    db.sql("ALTER SUBSCRIPTION \"Sub 1\" DISABLE");
    db.sql("ALTER SUBSCRIPTION \"Sub 1\" SET (slot_name = NONE)");
    db.sql("DROP SUBSCRIPTION \"Sub 1\"");
    assert_eq!(db.value("SELECT spock.node_drop('n2')"), "t");
    assert_eq!(db.value("SELECT spock.node_drop('n1')"), "t");
    db.sql("DROP EXTENSION spock_recovery");
    db.wait_until("SELECT count(*) FROM pg_shseclabel WHERE provider = 'spock_recovery'", "0");
}

#[test]
fn a_node_create_that_did_not_end_leaves_nothing_half_made() {
    let cluster = start(Cluster::new("registry_half_made"));
    let [n1] = cluster.all();
    let db = n1.db("postgres");
    db.sql("CREATE EXTENSION spock_recovery");
    let made = "SELECT (SELECT count(*) FROM pg_foreign_server), (SELECT count(*) FROM pg_user_mapping)";
    let mut session = db.session();
    session.sql("BEGIN");
    session.sql("SELECT spock.node_create('n1', 'dbname=x')");
    assert_eq!(session.value(made), "1|1");
    session.sql("ROLLBACK");
    assert_eq!(db.value(made), "0|0");

    n1.arm(NODE_CREATE_BEFORE_MAPPING, Action::Error);
    assert!(session.try_sql("SELECT spock.node_create('n1', 'dbname=x')").is_err());
    assert_eq!(db.value(made), "0|0");

    n1.arm(NODE_CREATE_BEFORE_MAPPING, Action::Crash);
    assert!(session.try_sql("SELECT spock.node_create('n1', 'dbname=x')").is_err_and(|error| error.is_disconnection()));
    // Before that, the server may still be about to go down.
    n1.wait_log("all server processes terminated; reinitializing");
    db.wait_until(made, "0|0");
    db.sql("SELECT spock.node_create('n1', 'dbname=x')");
    assert_eq!(db.value(made), "1|1");
}

#[test]
fn the_extension_is_dropped_with_its_nodes_by_cascade() {
    let cluster = start(Cluster::new("registry_cascade"));
    let [n1] = cluster.all();
    let db = n1.db("postgres");
    make_node(db, &n1.dsn("postgres"), "n1");
    db.sql("DROP EXTENSION spock_recovery CASCADE");
    assert_eq!(db.value("SELECT count(*) FROM pg_foreign_server"), "0");
    make_node(db, &n1.dsn("postgres"), "n2");
    assert_eq!(db.value("SELECT node_name FROM spock_internal.node_identity()"), "n2");
}
