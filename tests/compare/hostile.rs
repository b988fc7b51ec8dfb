//! Code of users that a comparison runs, runs as the table's owner.

use super::{compare, of_table, past_replication, start};
use crate::rescue::drain;

#[test]
fn code_of_a_tables_owner_runs_as_the_owner_and_one_bad_table_stops_no_other() {
    // An index expression and a check of a domain that want to be run by a superuser; a table whose owner may not read it; one
    // whose values cannot be written as text; and one with row security.
    let cluster = start(
        "compare_hostile",
        "CREATE ROLE mallory LOGIN; CREATE SCHEMA evil AUTHORIZATION mallory; CREATE TABLE good (id int PRIMARY KEY, v text);
         SET ROLE mallory;
         CREATE FUNCTION evil.rise() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END $$;
         CREATE FUNCTION evil.grab(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
             IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN PERFORM evil.rise(); END IF;
             RETURN $1; END $$;
         CREATE FUNCTION evil.ok(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT evil.grab($1) IS NOT NULL $$;
         CREATE DOMAIN evil.word AS text CHECK (evil.ok(VALUE));
         CREATE TABLE evil.t (id evil.word PRIMARY KEY, v evil.word); CREATE INDEX ON evil.t (evil.grab(v)) WHERE evil.grab('x') = 'x';
         CREATE TABLE evil.broken (id int PRIMARY KEY, v text);
         CREATE TABLE evil.hidden (id int PRIMARY KEY, v text); ALTER TABLE evil.hidden ENABLE ROW LEVEL SECURITY;
         CREATE TABLE evil.open (id int PRIMARY KEY, v text); ALTER TABLE evil.open ENABLE ROW LEVEL SECURITY; RESET ROLE",
    );
    let [n1, n2] = cluster.all();
    for table in ["good", "evil.t", "evil.broken", "evil.hidden", "evil.open"] {
        let role = if table == "good" { "postgres" } else { "mallory" };
        n1.sql(&format!(
            "SET ROLE {role}; INSERT INTO {table} SELECT g::text{0}, g FROM generate_series(1, 1000) g",
            if table == "evil.t" { "" } else { "::int" }
        ));
    }
    drain(n1, n2);
    past_replication(
        n2,
        "UPDATE good SET v = 'x' WHERE id = 6; SET ROLE mallory; UPDATE evil.t SET v = 'x' WHERE id = '5'; UPDATE evil.open SET v = 'x' WHERE id = 7; RESET ROLE",
    );
    assert_eq!(n1.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), "f", "before the comparison");
    n2.sql("REVOKE ALL ON evil.broken FROM mallory");
    n2.expect_log("permission denied for table broken");
    n1.sql("ALTER TABLE evil.hidden FORCE ROW LEVEL SECURITY");
    let report = compare(n1, "");
    for (table, outcome) in [
        ("public.good", "different"),
        ("evil.t", "different"),
        ("evil.open", "different"),
        ("evil.broken", "not_comparable"),
        ("evil.hidden", "not_comparable"),
    ] {
        assert_eq!(of_table(&report, table)["outcome"], outcome, "{table}: {report}");
    }
    let reason = of_table(&report, "evil.broken")["reason"].as_str().expect("a reason");
    assert!(reason.contains("node \"n2\"") && reason.contains("42501"), "{reason}");
    let report = compare(n1, ", repair := true");
    assert_eq!(report["repaired"], 3, "{report}");
    for node in [n1, n2] {
        assert_eq!(node.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'"), "f", "{}", node.name());
    }
    // A question that is none, and one of a role that may not ask.
    n1.sql("CREATE ROLE reader LOGIN REPLICATION; GRANT USAGE ON SCHEMA spock_internal TO reader, mallory");
    let ask = |question: &str| format!("SELECT spock_internal.range_hashes('{question}')");
    let question = "{\"schema\":\"public\",\"name\":\"good\",\"columns\":[\"id\",\"v\"],\"key\":[0],\"publications\":[],\"seed\":1,\
         \"asked\":{\"cut\":{\"after\":null,\"bytes\":1000}}}";
    let db = n1.db("postgres");
    assert!(db.value(&ask(question)).contains("hash"));
    for (role, question, sqlstate) in [
        ("mallory", question, "42501"),
        ("reader", question, "42501"),
        ("reader", "{}", "22023"),
        ("reader", "[1]", "22023"),
    ] {
        assert_eq!(db.role(role).try_sql(&ask(question)).expect_err(role).sqlstate, sqlstate, "{role}: {question}");
    }
    let no_column = question.replace("\"v\"", "\"row_to_json\"");
    assert_eq!(db.try_sql(&ask(&no_column)).expect_err("no column").sqlstate, "42703");
}
