//! Rows of a megabyte: they are compared by hashes, few at a time, and fetched one by one where they differ.

use spock_recovery_cluster::process::{self, Status};

use super::{counted, fail, recover, start};
use crate::cluster::Action;
use crate::failpoint_names as names;
use crate::rescue::{begin, drain, hold_back, wait_completed};
use crate::slot_keeps::{make_mesh, quick, start_mesh};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, w int)";

/// What a node holds, and since when.
const ROWS: &str =
    "SELECT id, length(v), md5(v), w, (pg_xact_commit_timestamp_origin(xmin)).timestamp FROM t ORDER BY id";

/// kB of a process, as the kernel counts them, with what it has touched of shared memory.
fn memory(pid: i32, what: impl Fn(&Status) -> Option<u64>) -> u64 {
    process::status(pid).as_ref().and_then(what).expect("the process is there")
}

#[test]
fn rows_of_a_megabyte_are_reconciled_in_little_memory() {
    /// A fraction of what the rows are as text.
    const GROWTH_KB: u64 = 32 * 1024;
    let cluster = start_mesh(quick("reconcile_large", 3).setting("shared_buffers", "2MB"), TABLE);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 32768), 1 FROM generate_series(1, 48) g");
    drain(n1, n3);
    // n2 has none of these rows: it skips all of it.
    n3.sql("UPDATE t SET v = left(v, -1) || 'z' WHERE id IN (1, 20, 48)");
    n3.sql("UPDATE t SET w = 2 WHERE id IN (2, 3)");
    n3.sql("UPDATE t SET v = 'short' WHERE id = 4");
    // One answer takes no more than four of them: these are behind it, or between those that come with it.
    n3.sql("DELETE FROM t WHERE id IN (5, 30, 46, 47)");
    drain(n2, n3);
    let theirs = n3.value(ROWS);
    fail(&cluster);
    n2.arm(names::RESCUE_RECONCILING, Action::Wait);
    n2.arm(names::RESCUE_RECONCILED, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_RECONCILING);
    let before = memory(n2.rescue_worker(), |status| status.vmrss);
    n2.disarm(names::RESCUE_RECONCILING);
    n2.wait_hit(names::RESCUE_RECONCILED);
    let peak = memory(n2.rescue_worker(), |status| status.vmhwm);
    n2.disarm(names::RESCUE_RECONCILED);
    wait_completed(n2);
    eprintln!("{before} kB before rows are compared, {peak} kB at most");
    assert!(peak < before + GROWTH_KB, "{before} kB before rows are compared, {peak} kB at most");
    drain(n2, n3);
    assert_eq!(n2.value(ROWS), theirs);
    assert_eq!(n3.value(ROWS), theirs, "what was brought from n3 does not come back to it");
    assert_eq!((counted(n2, "compared"), counted(n2, "updated")), ("48".to_owned(), "6".to_owned()));
    assert_eq!((counted(n2, "deleted"), counted(n2, "unjudged")), ("4".to_owned(), String::new()));
}

#[test]
fn an_answer_about_rows_may_take_longer_than_another() {
    let cluster = start("reconcile_slow", TABLE);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1', 1), (2, 'n1', 1)");
    drain(n1, n3);
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 1");
    drain(n2, n3);
    // Whoever asks for rows waits, for the constants of index expressions are folded when a query is planned.
    n3.sql(
        "CREATE FUNCTION slow() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(3); RETURN 0; END';
         CREATE INDEX ON t ((id + slow()))",
    );
    n2.set(&[("spock.peer_timeout", "2s")]);
    recover(&cluster);
    assert_eq!(n2.value(ROWS), n3.value(ROWS));
    assert_eq!((counted(n2, "updated"), counted(n2, "unjudged")), ("1".to_owned(), String::new()));
}

#[test]
fn a_large_row_that_was_taken_away_in_vain_is_put_back_as_it_was() {
    let cluster = start("reconcile_large_held", TABLE);
    let [n1, n2, n3] = cluster.all();
    // In the words of 17 and of 18.
    n2.expect_log("duplicate key value violates unique constraint");
    n2.expect_log("conflict=insert_exists");
    n2.expect_log("violates check constraint");
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, repeat(md5(g::text), 32768), 1 FROM generate_series(1, 2) g");
    drain(n1, n3);
    // n2 has no such row, and skips it.
    n3.sql("DELETE FROM t WHERE id = 1");
    drain(n2, n3);
    let late = n3.value("SELECT length(v), md5(v) FROM t WHERE id = 2");
    fail(&cluster);
    n2.arm(names::RESCUE_SUSPENDED, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_SUSPENDED);
    n2.sql("ALTER TABLE t ADD CHECK (w < 9) NOT VALID");
    // It comes to n2 after n1's, and finds no room; nor is there any for the other half of the transaction.
    n3.sql("INSERT INTO t VALUES (1, 'n3 again', 1), (3, 'n3', 9)");
    n2.disarm(names::RESCUE_SUSPENDED);
    wait_completed(n2);
    assert_eq!(counted(n2, "unjudged"), "{\"target_lags\": 1}");
    assert_eq!(n2.value("SELECT length(v), v = repeat(md5('1'), 32768), w FROM t WHERE id = 1"), "1048576|t|1");
    assert_eq!(n2.value("SELECT length(v), md5(v) FROM t WHERE id = 2"), late);
    n2.sql("ALTER TABLE t DROP CONSTRAINT t_w_check");
    drain(n2, n3);
    n2.wait_until("SELECT v FROM t WHERE id = 1", "n3 again");
    assert_eq!(n2.value(ROWS), n3.value(ROWS));
}

#[test]
fn a_long_value_is_the_same_in_another_encoding() {
    let cluster = quick("reconcile_large_encodings", 3).start();
    for (node, encoding) in cluster.nodes().iter().zip(["UTF8", "LATIN1", "UTF8"]) {
        node.db("template1").sql("DROP DATABASE postgres");
        let create = format!("CREATE DATABASE postgres TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        node.db("template1").sql(&create);
    }
    let cluster = make_mesh(cluster, |cluster| {
        cluster.sql(TABLE);
        cluster.mesh();
    });
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, repeat('größe ' || g, 1000), 1 FROM generate_series(1, 4) g");
    drain(n1, n3);
    n3.sql("UPDATE t SET v = v || 'ß' WHERE id = 1");
    n3.sql("UPDATE t SET w = 2 WHERE id = 2");
    drain(n2, n3);
    recover(&cluster);
    let rows = "SELECT id, length(v), right(v, 3), w FROM t ORDER BY id";
    assert_eq!(n2.value(rows), n3.value(rows));
    assert_eq!(n2.value("SELECT getdatabaseencoding()"), "LATIN1");
    assert_eq!((counted(n2, "compared"), counted(n2, "updated")), ("4".to_owned(), "2".to_owned()));
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn bytes_that_are_no_text_are_told_as_such_and_stand_for_themselves_alone() {
    let cluster = quick("reconcile_sql_ascii", 3).start();
    for node in cluster.nodes() {
        node.db("template1").sql("DROP DATABASE postgres");
        node.db("template1").sql("CREATE DATABASE postgres TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    }
    let cluster = make_mesh(cluster, |cluster| {
        cluster.sql(TABLE);
        cluster.mesh();
    });
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    // Of Latin-1, and of UTF-8: the database does not know which.
    n1.sql("INSERT INTO t SELECT g, convert_from('\\xe4', 'SQL_ASCII'), 1 FROM generate_series(1, 2) g");
    n1.sql("INSERT INTO t SELECT g, convert_from('\\xc3a4', 'SQL_ASCII'), 1 FROM generate_series(3, 5) g");
    drain(n1, n3);
    n3.sql("UPDATE t SET w = 3 WHERE id IN (1, 3); UPDATE t SET v = v || v WHERE id = 4");
    drain(n2, n3);
    recover(&cluster);
    let rows = "SELECT id, encode(v::bytea, 'hex'), w FROM t ORDER BY id";
    assert_eq!(n2.value(rows), "1|e4|1\n2|e4|1\n3|c3a4|3\n4|c3a4c3a4|1\n5|c3a4|1");
    assert_eq!(
        (counted(n2, "updated"), counted(n2, "unjudged")),
        ("2".to_owned(), "{\"not_comparable\": 2}".to_owned())
    );
}
