//! Beside the extension spock, whose names node_create and its like are: ours stay away.

use std::fs;

use crate::cluster::{Cluster, Database};

/// Ours that spock has too.
const SHARED: &str = "SELECT count(*) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
     LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
     LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    WHERE e.extname = 'spock_recovery' AND d.refclassid = 'pg_extension'::regclass
      AND (p.proname IN ('node_create', 'node_drop')
           OR c.relname IN ('node', 'local_node', 'node_interface', 'subscription', 'lag_tracker'))";

fn installs_beside_spock(database: Database<'_>) {
    assert_eq!(database.value("SELECT count(*) FROM pg_extension WHERE extname = 'spock'"), "1");
    database.sql("CREATE EXTENSION spock_recovery");
    assert_eq!(database.value(SHARED), "0");
    assert_eq!(database.value("SELECT to_regprocedure('spock.peer_create(name, text)') IS NOT NULL"), "t");
    assert_eq!(database.value("SELECT count(*) FROM spock_internal.node_identity()"), "0");
    database.sql("DROP EXTENSION spock_recovery");
    assert_eq!(database.value("SELECT to_regnamespace('spock')"), "spock");
}

/// A row of pg_extension that owns schema spock, which is all that CREATE EXTENSION can see of spock.
#[test]
fn beside_an_extension_named_spock_the_shared_names_are_left_to_it() {
    let cluster = Cluster::new("registry_spock").start();
    let [n1] = cluster.all();
    let db = n1.db("postgres");
    db.sql("CREATE EXTENSION spock_recovery");
    assert_eq!(db.value(SHARED), "7");
    db.sql("DROP EXTENSION spock_recovery");
    db.sql("DROP SCHEMA IF EXISTS spock");
    db.sql("CREATE SCHEMA spock");
    let mut session = db.session();
    session.sql("SET allow_system_table_mods = on");
    session.sql(
        "WITH e AS (INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
                    VALUES (90001, 'spock', 10, 'spock'::regnamespace, false, '5.0') RETURNING oid)
         INSERT INTO pg_depend SELECT 'pg_namespace'::regclass, 'spock'::regnamespace, 0, 'pg_extension'::regclass, e.oid, 0, 'e'
           FROM e",
    );
    installs_beside_spock(db);
}

/// The same with a control file of its own, which only 18 finds outside the installation (extension_control_path).
#[test]
fn beside_an_installed_extension_spock_the_shared_names_are_left_to_it() {
    let cluster = Cluster::new("registry_spock_installed").start();
    let [n1] = cluster.all();
    // scripts/test.sh leaves it out on 17, and says so.
    assert!(cluster.major() >= 18, "PostgreSQL {} has no extension_control_path", cluster.major());
    let folder = cluster.folder().join("extension");
    cluster.user().make_folder(&folder).unwrap_or_else(|error| panic!("{error}"));
    for (name, text) in [
        ("spock.control", "default_version = '5.0'\nschema = spock\nrelocatable = false\n"),
        (
            "spock--5.0.sql",
            "CREATE TABLE local_node (node_id oid PRIMARY KEY, node_local_interface oid);
             CREATE TABLE node (node_id oid PRIMARY KEY, node_name name);
             CREATE FUNCTION node_create(node_name name, dsn text) RETURNS oid LANGUAGE sql AS 'SELECT 1::oid';",
        ),
    ] {
        let path = folder.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        cluster.user().own(&path).unwrap_or_else(|error| panic!("{error}"));
    }
    n1.set(&[("extension_control_path", &format!("{}:$system", cluster.folder().display()))]);
    n1.sql("CREATE EXTENSION spock");
    installs_beside_spock(n1.db("postgres"));
    n1.sql("SELECT spock.node_create('n1', 'dbname=x')");
}
