//! ALTER EXTENSION spock_recovery UPDATE: from the SQL of the version that was released before to the present one.
//!
//! The SQL of released versions stands in tests/fixtures; scripts/install.sh test puts it beside the present one. With it the
//! library of this version serves databases whose SQL is still the old one: a stand-in for a node of that version as far as its SQL is
//! seen from outside.

use crate::cluster::{Cluster, Database};
use crate::rescue::{assert_identical, disable, drain, fail};
use crate::slot_keeps::{make_mesh, quick};
use crate::slot_life::wait_rounds;
use std::collections::BTreeSet;

pub const RELEASED: &str = "0.1.0";
const PRESENT: &str = env!("CARGO_PKG_VERSION");

/// Everything that the catalogs say of the extension's objects, a line for each fact; by names, for oids differ.
const FACTS: &str = r"
WITH member AS (
    SELECT d.classid, d.objid, i.type || ' ' || i.identity AS name
      FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid, pg_identify_object(d.classid, d.objid, 0) i
     WHERE e.extname = 'spock_recovery' AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
), whole AS (
    SELECT * FROM member
    UNION SELECT 'pg_namespace'::regclass, extnamespace, 'schema ' || extnamespace::regnamespace FROM pg_extension WHERE extname = 'spock_recovery'
    UNION SELECT 'pg_extension'::regclass, oid, 'extension' FROM pg_extension WHERE extname = 'spock_recovery'
), acl AS (
    SELECT 'pg_proc'::regclass AS classid, oid AS objid, proacl AS acl, proowner AS owner FROM pg_proc
    UNION ALL SELECT 'pg_class'::regclass, oid, relacl, relowner FROM pg_class
    UNION ALL SELECT 'pg_namespace'::regclass, oid, nspacl, nspowner FROM pg_namespace
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, fdwacl, fdwowner FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_type'::regclass, oid, typacl, typowner FROM pg_type
), fact AS (
    SELECT name || ' is a member' AS line FROM member
    UNION ALL SELECT 'extension ' || extversion || ' in ' || extnamespace::regnamespace || coalesce(extconfig::text, '') FROM pg_extension WHERE extname = 'spock_recovery'
    UNION ALL SELECT name || ' is owned by ' || owner::regrole || ', granted: ' ||
                     coalesce((SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(acl) a), 'default')
                FROM whole JOIN acl USING (classid, objid)
    UNION ALL SELECT name || ' was granted at first: ' || (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(initprivs) a)
                FROM whole w JOIN pg_init_privs p ON (p.classoid, p.objoid, p.objsubid) = (w.classid, w.objid, 0)
    UNION ALL SELECT name || coalesce(' column ' || nullif(objsubid, 0), '') || ' has the comment: ' || description
                FROM whole w JOIN pg_description d ON (d.classoid, d.objoid) = (w.classid, w.objid)
    UNION ALL SELECT name || ' is defined: ' || regexp_replace(pg_get_functiondef(objid), '\s+', ' ', 'g')
                FROM member WHERE classid = 'pg_proc'::regclass
    UNION ALL SELECT name || ' is defined: ' || pg_get_viewdef(objid, true) || coalesce(reloptions::text, '')
                FROM member JOIN pg_class c ON c.oid = objid AND c.relkind = 'v' WHERE classid = 'pg_class'::regclass
    UNION ALL SELECT name || ' column ' || attnum || ': ' || attname || ' ' || format_type(atttypid, atttypmod) || coalesce(attacl::text, '')
                FROM member JOIN pg_attribute ON attrelid = objid AND attnum > 0 WHERE classid = 'pg_class'::regclass
    UNION ALL SELECT name || ' has handler ' || fdwhandler::regproc || ', validator ' || fdwvalidator::regproc || coalesce(fdwoptions::text, '')
                FROM member JOIN pg_foreign_data_wrapper f ON f.oid = objid WHERE classid = 'pg_foreign_data_wrapper'::regclass
)
SELECT DISTINCT regexp_replace(line, '\s+', ' ', 'g') FROM fact ORDER BY 1";

fn facts(database: Database<'_>) -> BTreeSet<String> {
    database.rows(FACTS).into_iter().filter_map(|row| row.into_iter().next().flatten()).collect()
}

fn create_released(database: Database<'_>) {
    database.sql(&format!("CREATE EXTENSION spock_recovery VERSION '{RELEASED}'"));
}

const UPDATE: &str = "ALTER EXTENSION spock_recovery UPDATE";
const VERSION: &str = "SELECT extversion FROM pg_extension WHERE extname = 'spock_recovery'";

#[test]
fn an_updated_extension_is_what_a_fresh_one_is_and_nothing_in_it_is_lost() {
    let cluster = Cluster::new("update_catalogs").start();
    let [server] = cluster.all();
    server.sql("CREATE DATABASE fresh");
    server.sql("CREATE DATABASE updated");
    let (fresh, updated) = (server.db("fresh"), server.db("updated"));
    fresh.sql("CREATE EXTENSION spock_recovery");
    create_released(updated);
    let before = facts(updated);
    updated.sql(&format!("SELECT spock.node_create('n1', '{}')", server.dsn("updated")));
    updated.sql("SELECT spock.peer_create('n2', 'host=/nonexistent dbname=x')");
    updated.sql("CREATE SUBSCRIPTION s CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false)");
    updated.sql("SELECT spock.sub_set_origin('s', 'n2')");
    let data = || {
        [
            updated.value("SELECT node_name, is_local FROM spock.node ORDER BY 1"),
            updated.value("SELECT srvname, srvoptions FROM pg_foreign_server ORDER BY 1"),
            updated.value("SELECT srvname, umoptions FROM pg_user_mappings ORDER BY 1"),
            updated.value("SELECT label FROM pg_shseclabel WHERE provider = 'spock_recovery' AND classoid = 'pg_subscription'::regclass"),
            updated.value("SELECT n.node_name FROM spock.subscription s JOIN spock.node n ON n.node_id = s.sub_origin"),
        ]
    };
    let known = data();
    assert!(known.iter().all(|value| !value.is_empty()), "{known:?}");
    let check = "SELECT status, details FROM spock.quick_health_check() WHERE check_name = 'extension'";
    let told = updated.value(check);
    assert!(told.starts_with("WARNING|") && told.contains(&format!("{UPDATE};")), "{told}");
    wait_rounds(updated, 2);

    updated.sql(UPDATE);
    assert_eq!(updated.value(VERSION), PRESENT);
    assert_eq!(data(), known);
    assert_eq!(updated.value(check), "");
    let (fresh, updated) = (facts(fresh), facts(updated));
    assert!(fresh.len() > 200 && before != fresh, "{} facts", fresh.len());
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>, sign: &str| -> String {
        one.difference(other).map(|line| format!("{sign} {line}\n")).collect()
    };
    assert!(
        fresh == updated,
        "lines with + are missing after the update, those with - are too many:\n{}{}",
        only(&fresh, &updated, "+"),
        only(&updated, &fresh, "-")
    );
}

#[test]
fn an_update_is_refused_where_others_may_create_objects_and_keeps_what_was_granted_by_hand() {
    let cluster = Cluster::new("update_rights").start();
    let [server] = cluster.all();
    server.sql("CREATE ROLE mallory LOGIN");
    server.sql("CREATE ROLE poller LOGIN REPLICATION");
    server.sql("CREATE DATABASE app");
    let app = server.db("app");
    create_released(app);
    let refused = |why: &str| {
        let error = app.try_sql(UPDATE).expect_err(why);
        assert_eq!(error.sqlstate, "55000", "{error}");
        assert!(error.detail.as_ref().is_some_and(|detail| detail.contains(why)), "{error}");
        assert_eq!(app.value(VERSION), RELEASED);
    };
    app.sql("ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO mallory");
    refused("others may create objects in it");
    app.sql("ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM mallory; GRANT CREATE ON DATABASE app TO mallory");
    app.role("mallory").sql("CREATE SCHEMA spock_internal");
    refused("it belongs to the role \"mallory\"");
    app.sql("DROP SCHEMA spock_internal; CREATE SCHEMA spock_internal");
    app.sql("CREATE FUNCTION spock_internal.node_identity() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    refused("there are objects in it");
    app.sql("DROP FUNCTION spock_internal.node_identity()");
    // Peers' pollers connect as a role of their own, and nobody else is let in.
    app.sql(
        "REVOKE ALL ON FUNCTION spock.node_identity(), spock.recovery_facts(name) FROM PUBLIC;
         GRANT EXECUTE ON FUNCTION spock.node_identity(), spock.recovery_facts(name) TO poller",
    );
    app.sql(UPDATE);
    for function in ["node_identity()", "recovery_facts(name)"] {
        for schema in ["spock", "spock_internal"] {
            let may = |role: &str| {
                app.value(&format!("SELECT has_function_privilege('{role}', '{schema}.{function}', 'EXECUTE')"))
            };
            assert_eq!((may("poller").as_str(), may("mallory").as_str()), ("t", "f"), "{schema}.{function}");
        }
    }
}

#[test]
fn a_mesh_of_two_neighbouring_versions_is_polled_planned_and_recovered_and_updated_node_by_node() {
    let cluster = quick("update_mesh", 3).start();
    for node in cluster.nodes().iter().skip(1) {
        create_released(node.db("postgres"));
    }
    let cluster = make_mesh(cluster, |cluster| {
        cluster.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
        cluster.mesh();
    });
    let [n1, n2, n3] = cluster.all();
    assert_eq!(n3.value(VERSION), RELEASED);
    let protocol = |schema| format!("SELECT to_jsonb(i)->>'protocol_version' FROM {schema}.node_identity() i");
    assert_eq!((n1.value(&protocol("spock_internal")).as_str(), n3.value(&protocol("spock")).as_str()), ("2", ""));
    // A library of version 0.1.0 finds there what it asks for.
    assert_eq!(n1.value("SELECT node_name FROM spock.node_identity()"), "n1");
    // n2 is updated first: a node asks others of the version before, and is asked by them.
    disable(n2, "sub_n2_n1");
    n2.sql(UPDATE);
    n1.sql("INSERT INTO t SELECT g, 'of n1' FROM generate_series(1, 5) g");
    drain(n1, n3);
    for (node, peer) in [(n2, "n3"), (n3, "n2"), (n1, "n3")] {
        let state = format!("SELECT state FROM spock.peer_status() WHERE node_name = '{peer}'");
        assert_eq!(node.value(&state), "connected", "{} of {peer}", node.name());
        let bad = "SELECT check_name, details FROM spock.quick_health_check() WHERE check_name LIKE 'version of%'";
        assert_eq!(node.value(bad), "", "{}", node.name());
    }
    fail(&cluster);
    for node in [n2, n3] {
        let plan = "SELECT source_node, outcome FROM spock.recover_plan('n1') WHERE target_node = 'n2'";
        assert_eq!(node.value(plan), "n3|catch_up", "asked at {}", node.name());
    }
    n2.sql("CALL spock.recover_run('n1', 'n3')");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "5");
    assert_identical(n2, n3);
    n3.sql(UPDATE);
    wait_rounds(n3.db("postgres"), 2);
    assert_eq!(n2.value("SELECT state FROM spock.peer_status() WHERE node_name = 'n3'"), "connected");
    for node in [n2, n3] {
        assert_eq!(
            node.value("SELECT count(*) FROM spock.recovery_intents()"),
            (u32::from(node.name() == "n2")).to_string()
        );
    }
}
