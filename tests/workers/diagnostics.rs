//! Errors of users' commands reach the client as core raises them, whatever hooks of ours they have passed.

use crate::cluster::Cluster;

/// Each fails, and tells of itself by one or more of: position, context, detail, hint, schema, table, column, constraint, type.
const FAILING: [&str; 34] = [
    "CREATE TABLE t (id int PRIMARY KEY)",
    "CREATE TABLE u (id nosuchtype)",
    "CREATE TABLE u (id int, id int)",
    "CREATE TABLE u (id int REFERENCES nosuchtable)",
    "CREATE TABLE u AS SELECT 1 / 0",
    "CREATE TABLE u AS SELECT nosuchcolumn FROM t",
    "CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM nosuchtable",
    "REFRESH MATERIALIZED VIEW broken",
    "CREATE UNIQUE INDEX ON t (v)",
    "CREATE INDEX ON t (nosuchcolumn)",
    "CREATE INDEX ON t ((fails(id)))",
    "ALTER TABLE t ADD CHECK (id > 1)",
    "ALTER TABLE t ADD CONSTRAINT c CHECK (nosuchcolumn > 1)",
    "ALTER TABLE t ALTER COLUMN v SET NOT NULL",
    "ALTER TABLE t ALTER COLUMN v TYPE int USING v::int",
    "ALTER TABLE t ADD COLUMN w int NOT NULL",
    "ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES t (id)",
    "ALTER DOMAIN d ADD CHECK (VALUE > 5)",
    "DROP TABLE t",
    "DROP FUNCTION nosuchfunction(int)",
    "DROP DATABASE nosuchdatabase",
    "DROP DATABASE app",
    "ALTER DATABASE nosuchdatabase RENAME TO x",
    "CREATE DATABASE x TEMPLATE nosuchtemplate",
    "DROP EXTENSION nosuchextension",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT nosuchcolumn'",
    "DO $$ BEGIN PERFORM fails(1); END $$",
    "CALL raises(7)",
    "EXECUTE nosuchstatement",
    "EXPLAIN ANALYZE INSERT INTO t VALUES (1, 'x')",
    "COPY t FROM STDIN",
    "GRANT SELECT ON t TO nosuchrole",
    "SET work_mem = 'much'",
    "CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nosuchfunction()",
];

const SCENE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t VALUES (1, 'a'), (2, 'a'), (3, NULL);
    CREATE VIEW on_t AS SELECT * FROM t;
    CREATE TABLE child (id int); INSERT INTO child VALUES (9);
    CREATE DOMAIN d AS int; CREATE TABLE of_d (x d); INSERT INTO of_d VALUES (1);
    CREATE FUNCTION fails(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'it fails' USING DETAIL = 'a detail', HINT = 'a hint', TABLE = 'a table', COLUMN = 'a column', CONSTRAINT = 'a constraint', DATATYPE = 'a type', SCHEMA = 'a schema'; END $$;
    CREATE PROCEDURE raises(x int) LANGUAGE plpgsql AS $$ BEGIN PERFORM fails(x); END $$;
    CREATE MATERIALIZED VIEW broken AS SELECT 1 / id AS x FROM t WITH NO DATA; INSERT INTO t VALUES (0, 'z');
    DELETE FROM child WHERE id = 0";

/// What psql shows of them, with everything that the server tells.
fn told(cluster: &Cluster, extension: bool) -> Vec<String> {
    let [node] = cluster.all();
    node.expect_log("client backend");
    node.sql("CREATE DATABASE app");
    node.db("app").sql(SCENE);
    if extension {
        node.db("app").sql("CREATE EXTENSION spock_recovery");
    }
    let psql = cluster.installation().bindir.join("psql");
    FAILING
        .map(|statement| {
            let mut command = cluster.user().command(&psql);
            command.args([
                "-X",
                "-q",
                "-v",
                "VERBOSITY=verbose",
                "-v",
                "SHOW_CONTEXT=always",
                "-U",
                "postgres",
                "-d",
                "app",
            ]);
            command
                .arg("-h")
                .arg(cluster.folder())
                .args(["-p", "5432", "-c", statement])
                .stdin(std::process::Stdio::null());
            let ran = command.output().unwrap_or_else(|error| panic!("{}: {error}", psql.display()));
            let text = String::from_utf8_lossy(&ran.stderr).into_owned();
            format!("{statement}\n{text}")
        })
        .to_vec()
}

#[test]
fn every_failing_statement_tells_the_same_with_and_without_the_library() {
    let plain = told(&Cluster::new("diagnostics_plain").plain().start(), false);
    for extension in [false, true] {
        let loaded = told(&Cluster::new("diagnostics_loaded").start(), extension);
        for (plain, loaded) in plain.iter().zip(&loaded) {
            assert_eq!(plain, loaded);
        }
    }
    let failed = plain.iter().filter(|text| text.contains("ERROR:  ")).count();
    assert!(failed >= 30, "only {failed} have failed:\n{}", plain.join("\n"));
    for field in [
        "LINE 1:",
        "CONTEXT:",
        "DETAIL:",
        "HINT:",
        "SCHEMA NAME:",
        "TABLE NAME:",
        "CONSTRAINT NAME:",
        "COLUMN NAME:",
        "DATATYPE NAME:",
        "LOCATION:",
    ] {
        assert!(plain.iter().any(|text| text.contains(field)), "no statement tells {field}");
    }
}
