//! Transactions that the source cannot send: those that core could are sent, and of the others n2 knows which one it is, so
//! that it can be given up, and all behind it arrives.

use super::{
    LAST_INTENT, assert_identical, assert_replicate, begin, drain, fail, hold_back, origin_position, start, summary,
    wait_applied_lsn, wait_completed, wait_error, wait_tidy,
};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::slot_keeps::{make_mesh, quick};

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE last (id int PRIMARY KEY)";

/// A mesh in which n2's database cannot hold what the others' can.
fn with_latin1(name: &str, tables: &str) -> Cluster {
    let cluster = quick(name, 3).start();
    let template1 = cluster.node("n2").db("template1");
    template1.sql("DROP DATABASE postgres");
    template1.sql("CREATE DATABASE postgres TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    make_mesh(cluster, |cluster| {
        cluster.sql(tables);
        cluster.mesh();
    })
}

/// Runs the statements on n1, each as a transaction; the end of each.
fn transactions(n1: &Node, n3: &Node, statements: &[&str]) -> Vec<String> {
    let end = |statement: &&str| {
        n1.sql(statement);
        wait_applied_lsn(n1, n3)
    };
    statements.iter().map(end).collect()
}

#[test]
fn what_the_source_cannot_send_is_named_by_its_position_and_can_be_given_up() {
    let cluster = with_latin1("rescue_unsendable", TABLES);
    let [n1, n2, n3] = cluster.all();
    cluster.expect_log("has no equivalent in encoding \"LATIN1\"");
    hold_back(n2);
    let ends = transactions(
        n1,
        n3,
        &[
            "INSERT INTO t VALUES (1, 'before')",
            // The first thing of it, and in the midst of more than is sent at once.
            "INSERT INTO t VALUES (2, '漢')",
            "INSERT INTO t SELECT g, 'é' || g FROM generate_series(3, 3000) g",
            "INSERT INTO t SELECT g, CASE g WHEN 5000 THEN '漢' ELSE 'ü' || g END FROM generate_series(3001, 6000) g",
            "UPDATE t SET v = 'after' WHERE id = 1",
            "INSERT INTO last VALUES (1)",
        ],
    );
    fail(&cluster);

    let refused = n2.try_sql("CALL spock.recover_run('n1')").expect_err("a character that LATIN1 lacks");
    for part in ["node \"n3\"", &ends[1], "22P05"] {
        assert!(refused.message.contains(part), "{part} is not in: {refused}");
    }
    let hint = refused.hint.clone().unwrap_or_default();
    let command = format!("SELECT spock.recover_skip('n1', '{}');", ends[1]);
    assert!(hint.contains(&command), "{command} is not in: {hint}");
    assert_eq!(origin_position(n2), ends[0]);
    n2.wait_log("has no equivalent in encoding \"LATIN1\"");
    assert_replicate(n2, n3);
    n2.sql(&command);
    wait_error(n2, &ends[3]);
    assert_eq!(origin_position(n2), ends[2]);
    n2.sql(&format!("SELECT spock.recover_skip('n1', '{}')", ends[3]));
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT count(*), max(id) FROM t"), "2999|3000");
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 1"), "after");
    assert_eq!(n2.value("SELECT id FROM last"), "1");
    assert_eq!(origin_position(n2), ends[5]);
    assert_eq!(summary(n2, "skipped_transactions"), "2");
    let skipped = n2.value(&format!("SELECT jsonb_array_elements_text(summary->'skipped_lsns') FROM {LAST_INTENT}"));
    assert_eq!(skipped, format!("{}\n{}", ends[1], ends[3]));
}

#[test]
fn a_source_that_dies_at_a_transaction_is_asked_again_which_one_it_is() {
    let cluster = start("rescue_deadly", TABLES);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    let ends = transactions(n1, n3, &["INSERT INTO t VALUES (1, 'deadly')", "INSERT INTO last VALUES (1)"]);
    fail(&cluster);
    // As where the kernel ends the process that needs too much memory: it says nothing.
    n3.arm(names::PLUGIN_CHANGE, Action::Crash);
    begin(n2, n3, "");
    let error = wait_error(n2, "SQLSTATE 08006");
    assert!(!error.contains(&ends[0]), "nothing of the transaction was sent: {error}");
    n3.arm(names::PLUGIN_CHANGE, Action::Crash);
    wait_error(n2, &ends[0]);
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(origin_position(n2), ends[1]);
    drain(n2, n3);
    assert_identical(n2, n3);
}

#[test]
fn a_row_whose_text_does_not_fit_arrives_as_natively_in_binary_form() {
    // The text of a bit string is eight times as long as the string. What else is in the row is long as well, or has a type of a
    // user's, whose oids differ from node to node.
    let large = "CREATE DOMAIN bytes AS bytea; CREATE TYPE pair AS (a int, b text);
        CREATE TABLE large (id int PRIMARY KEY, v varbit, b bytea, d bytes, e bytea[], n int8[], j jsonb, x text, p pair,
                            q pair[])";
    let cluster = make_mesh(quick("rescue_large_row", 3).start(), |cluster| {
        cluster.node("n3").sql("CREATE TYPE other AS (a int)");
        cluster.sql(TABLES);
        cluster.sql(large);
        cluster.mesh();
        cluster.node("n2").sql("ALTER TABLE large ALTER b TYPE text");
        cluster.node("n3").sql("ALTER SUBSCRIPTION sub_n3_n1 SET (binary = true)");
    });
    let [n1, n2, n3] = cluster.all();
    // The rows are read as text to be compared.
    cluster.expect_log("invalid memory alloc request size");
    cluster.expect_log("and was sent as bytea in binary form");
    hold_back(n2);
    n1.sql(
        "DO $$ DECLARE v varbit := repeat('01', 4194304)::varbit; BEGIN
             FOR n IN 1 .. 7 LOOP v := v || v; END LOOP;
             INSERT INTO large VALUES (1, v, decode(repeat('00ff', 700000), 'hex'), decode(repeat('5c', 1400000), 'hex'),
                 ARRAY[decode(repeat('0d', 1400000), 'hex'), NULL, ''], array_fill(-5::int8, ARRAY[200000]),
                 to_jsonb(repeat('ä', 800000)), repeat('ß\\', 600000), (7, repeat('y', 1400000)),
                 ARRAY[(8, repeat('\"', 1400000))::pair, NULL]);
         END $$",
    );
    let at = wait_applied_lsn(n1, n3);
    n1.sql("INSERT INTO last VALUES (1)");
    fail(&cluster);

    // What is binary is for its own type alone; text would have been read.
    begin(n2, n3, "");
    let error = wait_error(n2, &at);
    assert!(error.contains("42804") && error.contains("public.large"), "{error}");
    n2.sql("ALTER TABLE large ALTER b TYPE bytea USING NULL");
    wait_completed(n2);
    wait_tidy(n2, n3);
    let long =
        "SELECT id, length(v), bit_count(v), sha256(b), sha256(d), md5(e::text), md5(n::text), md5(j::text), md5(x),
                       md5(p::text), md5(q::text) FROM large";
    assert_eq!(n2.value(long), n3.value(long));
    assert_eq!(n2.value("SELECT length(v), length(b) FROM large"), "1073741824|1400000");
    assert_eq!(n2.value("SELECT id FROM last"), "1");
}
