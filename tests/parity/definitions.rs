//! Tables that are changed, renamed, dropped or made anew between the gap and the rescue, on the target and on the source:
//! core's result, or an error that says what is wrong; never a silent gap.

use super::{Case, Wiring, assert_alike, begin_gap, builder, end_and_rescue, session_in, start, twin};
use crate::cluster::{Cluster, Database, Node};
use crate::rescue::{
    LAST_INTENT, begin, clone_slot, create_rescue, drain, end_gap, hold_back, origin_position, rescue,
    start as start_mesh, summary, wait_applied_lsn, wait_arrived, wait_completed, wait_error, wait_tidy,
};

const T: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, n int)";
const ROWS: &str = "INSERT INTO t SELECT g, 'v' || g, g FROM generate_series(1, 6) g";
const CHANGES: &[&str] = &[
    "INSERT INTO t VALUES (7, 'new', 7)",
    "UPDATE t SET v = 'changed' WHERE id < 3; UPDATE t SET id = 30 WHERE id = 3",
    "DELETE FROM t WHERE id = 4",
];

const fn case(name: &'static str) -> Case<'static> {
    Case { name, tables: T, on_n1: "", on_source: "", on_target: "", before: ROWS, gap: CHANGES }
}

/// What is changed on the target between the gap and the rescue.
const ON_TARGET: [(&str, &str); 7] = [
    (
        "columns_added",
        "ALTER TABLE t ADD COLUMN more text DEFAULT 'more', ADD COLUMN i int, ALTER COLUMN v SET DEFAULT 1",
    ),
    ("type_changed", "ALTER TABLE t ALTER COLUMN v TYPE varchar"),
    ("column_moved", "ALTER TABLE t DROP COLUMN n; ALTER TABLE t ADD COLUMN x int, ADD COLUMN n int"),
    (
        "identity_changed",
        "ALTER TABLE t DROP CONSTRAINT t_pkey; CREATE UNIQUE INDEX k ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX k",
    ),
    ("rewritten", "CREATE INDEX ON t (v); CLUSTER t USING t_pkey; VACUUM FULL t; VACUUM FREEZE t"),
    (
        "guarded",
        "ALTER TABLE t ALTER COLUMN n SET DEFAULT 1, ADD CHECK (n < 100), ADD FOREIGN KEY (n) REFERENCES t NOT VALID",
    ),
    (
        "in_another_tablespace_of_names",
        "CREATE VIEW shown AS SELECT * FROM t; ALTER TABLE t OWNER TO CURRENT_USER; ANALYZE t",
    ),
];

/// What is changed on the source, whose WAL holds the rows as they were.
const ON_SOURCE: [(&str, &str); 7] = [
    ("source_column_dropped", "ALTER TABLE t DROP COLUMN v"),
    ("source_column_added", "ALTER TABLE t ADD COLUMN more int DEFAULT 5"),
    ("source_column_renamed", "ALTER TABLE t RENAME COLUMN v TO w"),
    ("source_type_changed", "ALTER TABLE t ALTER COLUMN n TYPE text USING n || '!'"),
    ("source_key_dropped", "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t REPLICA IDENTITY NOTHING"),
    ("source_rewritten", "CLUSTER t USING t_pkey; VACUUM FULL t"),
    ("source_emptied", "TRUNCATE t; INSERT INTO t VALUES (5, 'of n3', 5)"),
];

fn on_each_statement(database: Database<'_>, schema: &str, statements: &str) {
    let mut session = session_in(database, schema);
    for statement in statements.split("; ") {
        session.sql(statement);
    }
}

#[test]
fn rows_arrive_as_by_core_in_tables_that_were_altered_in_or_after_the_gap() {
    let later = ON_TARGET.iter().chain(&ON_SOURCE).map(|(name, _)| case(name));
    let cases: Vec<Case<'_>> = later.chain([case("altered")]).collect();
    let cluster = start(builder("parity_altered").start(), Wiring::default(), &cases);
    // What the source cannot show any more is not compared.
    cluster.expect_log("column \"v\" of table source_column_");
    let [n1, n2, n3] = cluster.all();
    let before = begin_gap(&cluster, &cases);
    wait_arrived(n1);
    alter_in_the_gap(&cluster);
    for (name, statements) in ON_TARGET {
        on_each_statement(n2.db("postgres"), name, statements);
        on_each_statement(twin(&cluster), name, statements);
    }
    for (name, statements) in ON_SOURCE {
        on_each_statement(n3.db("postgres"), name, statements);
    }
    end_and_rescue(&cluster);
    assert_alike(&cluster, &cases, &before);
}

/// The table of the case `altered` changes on all nodes between transactions of n1; on the target before they arrive.
fn alter_in_the_gap(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    let everywhere = |statement: &str| {
        for database in [n3.db("postgres"), n2.db("postgres"), twin(cluster), n1.db("postgres")] {
            session_in(database, "altered").sql(statement);
        }
    };
    let gap = |statement: &str| {
        session_in(n1.db("postgres"), "altered").sql(statement);
        wait_arrived(n1);
    };
    everywhere("ALTER TABLE t ADD COLUMN added text DEFAULT 'by default'");
    gap("INSERT INTO t VALUES (40, 'v', 1, 'added'); UPDATE t SET added = 'changed' WHERE id = 1");
    everywhere("ALTER TABLE t ALTER COLUMN v TYPE varchar");
    gap("UPDATE t SET n = n + 25 WHERE id IN (2, 40)");
    // Where it has not arrived yet the column stays: core would not take what was sent before.
    for node in [n3, n1] {
        session_in(node.db("postgres"), "altered").sql("ALTER TABLE t DROP COLUMN added");
    }
    gap("INSERT INTO t VALUES (41, 'v', 1); UPDATE t SET v = NULL WHERE id = 40");
    everywhere("ALTER TABLE t REPLICA IDENTITY FULL");
    gap("UPDATE t SET v = 'full' WHERE id = 41; DELETE FROM t WHERE id = 1");
}

/// n2 lacks one transaction for each table, in the order of these names; where they end.
fn one_for_each(cluster: &Cluster, tables: &[&str], statement: &str) -> Vec<String> {
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    tables
        .iter()
        .map(|table| {
            n1.sql(&statement.replace('$', table));
            wait_applied_lsn(n1, n3)
        })
        .collect()
}

/// Those of attempts that were refused.
fn drop_clones(n3: &Node) {
    n3.sql("SELECT pg_drop_replication_slot(slot_name) FROM spock.recovery_clones() WHERE intent_id IS NULL");
}

fn make(tables: &[&str]) -> String {
    tables.iter().map(|table| format!("CREATE TABLE {table} (id int PRIMARY KEY, v text);")).collect()
}

#[test]
fn a_table_that_is_dropped_on_the_target_is_missed_and_one_that_is_made_anew_is_left_out_aloud() {
    const TABLES: [&str; 3] = ["dropped", "hidden", "kept"];
    let cluster = start_mesh("parity_dropped", &make(&TABLES));
    let [n1, n2, n3] = cluster.all();
    let ends = one_for_each(&cluster, &TABLES, "INSERT INTO $ VALUES (1, 'of n1')");
    end_gap(n1);
    n2.sql("DROP TABLE dropped; CREATE SCHEMA elsewhere; ALTER TABLE hidden SET SCHEMA elsewhere");
    let refused = n2.try_sql(&create_rescue(&clone_slot(n3), "")).expect_err("n3 has no such table");
    let names_it = refused.detail.as_ref().is_some_and(|detail| detail.contains("elsewhere.hidden"));
    assert_eq!((refused.sqlstate.as_str(), names_it), ("42P01", true), "{refused}");
    n2.sql("ALTER TABLE elsewhere.hidden SET SCHEMA public");
    drop_clones(n3);

    begin(n2, n3, "");
    let error = wait_error(n2, &ends[0]);
    assert!(error.contains("public.dropped") && error.contains("55000"), "{error}");
    n2.sql("CREATE TABLE dropped (id int PRIMARY KEY, v text)");
    wait_completed(n2);
    wait_tidy(n2, n3);
    // As core's apply, which has no subscription to it; the dead node cannot be asked for one.
    assert_eq!(n2.value("SELECT count(*) FROM dropped"), "0");
    n2.wait_log(
        "changes of table \"public.dropped\" are left out: the subscription to node \"n1\" does not replicate it here",
    );
    assert!(!n2.log_contains("changes of table \"public.hidden\" are left out"));
    assert_eq!(n2.value("SELECT v FROM hidden UNION ALL SELECT v FROM kept"), "of n1\nof n1");
    assert_eq!(origin_position(n2), ends[2]);
}

#[test]
fn a_table_that_is_renamed_on_the_source_is_missed_and_one_that_is_dropped_there_is_had_from_its_wal() {
    const TABLES: [&str; 2] = ["renamed", "dropped"];
    let cluster = start_mesh("parity_source_dropped", &make(&TABLES));
    let [n1, n2, n3] = cluster.all();
    let ends = one_for_each(&cluster, &TABLES, "INSERT INTO $ VALUES (1, 'of n1')");
    end_gap(n1);
    n3.sql("ALTER TABLE renamed RENAME TO other");
    let refused = n2.try_sql(&create_rescue(&clone_slot(n3), "")).expect_err("n3 lacks a table").to_string();
    assert!(refused.contains("public.renamed"), "{refused}");
    assert!(n2.value("SELECT spock.recover_plan('n1', 'n2')").contains("needs_rebuild"));
    drop_clones(n3);
    n3.sql("ALTER TABLE other RENAME TO renamed");
    rescue(n2, n3, &format!(", stop_lsn => '{}'", ends[0]));
    assert_eq!(n2.value("SELECT v FROM renamed"), "of n1");
    n3.expect_log("\"public.dropped\" does not exist");
    n3.sql("DROP TABLE dropped");
    n2.wait_until("SELECT outcome FROM spock.recover_plan('n1', 'n2')", "catch_up");
    // Its rows are in n3's WAL by another oid, and what the rescue brings would be compared with another table.
    n3.sql("CREATE TABLE dropped (id int PRIMARY KEY, v text)");
    n2.wait_until("SELECT reason FROM spock.recover_plan('n1', 'n2')", "source_lacks_table");
    let refused = n2.try_sql(&create_rescue(&clone_slot(n3), "")).expect_err("n3 lacks a table").to_string();
    assert!(refused.contains("public.dropped"), "{refused}");
    drop_clones(n3);
    n3.sql("DROP TABLE dropped");
    rescue(n2, n3, "");
    assert_eq!(n2.value("SELECT v FROM dropped"), "of n1");
    assert_eq!(origin_position(n2), ends[1]);
}

#[test]
fn a_delete_or_update_whose_key_the_source_did_not_log_holds_the_rescue() {
    const TABLES: [&str; 3] = ["updated", "deleted", "kept"];
    let cluster = start_mesh("parity_no_key", &make(&TABLES));
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO updated VALUES (1, 'a'), (2, 'b'); INSERT INTO deleted VALUES (1, 'a')");
    drain(n1, n2);
    drain(n1, n3);
    // n3 publishes neither: it needs no identity of them.
    n3.sql("BEGIN; DROP PUBLICATION mesh; CREATE PUBLICATION mesh FOR TABLE first; ALTER TABLE updated REPLICA IDENTITY NOTHING;
            ALTER TABLE deleted REPLICA IDENTITY NOTHING; COMMIT");
    hold_back(n2);
    let ends: Vec<String> = [
        "UPDATE updated SET v = 'changed' WHERE id = 1",
        "DELETE FROM deleted WHERE id = 1",
        "INSERT INTO kept VALUES (1, 'of n1')",
    ]
    .into_iter()
    .map(|transaction| {
        n1.sql(transaction);
        wait_applied_lsn(n1, n3)
    })
    .collect();
    end_gap(n1);
    begin(n2, n3, "");
    for (end, table) in [(&ends[0], "public.updated"), (&ends[1], "public.deleted")] {
        let error = wait_error(n2, end);
        assert!(error.contains(table) && error.contains("55000"), "{error}");
        n2.sql(&format!("SELECT spock.recover_skip('n1', '{end}')"));
    }
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!((summary(n2, "transactions"), summary(n2, "skipped_transactions")), ("1".into(), "2".into()));
    assert_eq!(n2.value(&format!("SELECT phase FROM {LAST_INTENT}")), "completed");
}
