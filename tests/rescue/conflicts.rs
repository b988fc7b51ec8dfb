//! n1's transactions come late: what n2 has of its own meanwhile is compared with them by time of commit, and no clash stops
//! the rescue, unless the administrator wants that.

use super::{LAST_INTENT, apart, applied, begin, end_gap, rescue, start, summary, wait_completed, wait_error};
use crate::cluster::Node;

/// Who of the two writes, in the order of the clock.
enum Write {
    N1(&'static str),
    N2(&'static str),
}
use Write::{N1, N2};

/// A clash, what n2 then has of the rows with these ids, and the conflict as it is counted and logged.
struct Clash {
    what: &'static str,
    writes: Vec<Write>,
    ids: &'static str,
    expected: &'static str,
    conflict: &'static str,
}

fn clash(
    what: &'static str,
    writes: Vec<Write>,
    ids: &'static str,
    expected: &'static str,
    conflict: &'static str,
) -> Clash {
    Clash { what, writes, ids, expected, conflict }
}

fn clashes() -> Vec<Clash> {
    vec![
        clash(
            "insert, and a later row is there",
            vec![N1("INSERT INTO t VALUES (101, 'n1')"), N2("INSERT INTO t VALUES (101, 'n2 later')")],
            "101",
            "101|n2 later|",
            "insert_exists keep_local",
        ),
        clash(
            "insert, and an older row is there",
            vec![N2("INSERT INTO t VALUES (102, 'n2')"), N1("INSERT INTO t VALUES (102, 'n1 later')")],
            "102",
            "102|n1 later|",
            "insert_exists apply_remote",
        ),
        clash(
            "a run of inserts, and an older row is there",
            vec![
                N2("INSERT INTO t VALUES (305, 'n2')"),
                N1("INSERT INTO t SELECT g, 'n1 later' FROM generate_series(301, 320) g"),
            ],
            "301, 305, 320",
            "301|n1 later|\n305|n1 later|\n320|n1 later|",
            "insert_exists apply_remote",
        ),
        clash(
            "a run of inserts, and of the last the other key is taken by a later row",
            vec![
                N1("INSERT INTO t SELECT g, 'n1', g FROM generate_series(331, 350) g"),
                N2("INSERT INTO t VALUES (351, 'n2 later', 350)"),
            ],
            "331, 349, 350, 351",
            "331|n1|331\n349|n1|349\n351|n2 later|350",
            "insert_exists keep_local",
        ),
        clash(
            "update of a row that is gone",
            vec![N2("DELETE FROM t WHERE id = 3"), N1("UPDATE t SET v = 'n1' WHERE id = 3")],
            "3",
            "",
            "update_missing skip",
        ),
        clash(
            "delete of a row that is gone",
            vec![N2("DELETE FROM t WHERE id = 4"), N1("DELETE FROM t WHERE id = 4")],
            "4",
            "",
            "delete_missing skip",
        ),
        clash(
            "update of a row that was updated later",
            vec![N1("UPDATE t SET v = 'n1' WHERE id = 5"), N2("UPDATE t SET v = 'n2 later' WHERE id = 5")],
            "5",
            "5|n2 later|",
            "update_origin_differs keep_local",
        ),
        clash(
            "update of a row that was updated before",
            vec![N2("UPDATE t SET v = 'n2' WHERE id = 6"), N1("UPDATE t SET v = 'n1 later' WHERE id = 6")],
            "6",
            "6|n1 later|",
            "update_origin_differs apply_remote",
        ),
        clash(
            "delete of a row that was updated later",
            vec![N1("DELETE FROM t WHERE id = 7"), N2("UPDATE t SET v = 'n2 later' WHERE id = 7")],
            "7",
            "7|n2 later|",
            "delete_origin_differs keep_local",
        ),
        clash(
            "delete of a row that was updated before",
            vec![N2("UPDATE t SET v = 'n2' WHERE id = 8"), N1("DELETE FROM t WHERE id = 8")],
            "8",
            "",
            "delete_origin_differs apply_remote",
        ),
        clash(
            "insert, and another key is taken by a later row",
            vec![N1("INSERT INTO t VALUES (109, 'n1', 9)"), N2("INSERT INTO t VALUES (110, 'n2 later', 9)")],
            "109, 110",
            "110|n2 later|9",
            "insert_exists keep_local",
        ),
        clash(
            "insert, and another key is taken by an older row",
            vec![N2("INSERT INTO t VALUES (112, 'n2', 11)"), N1("INSERT INTO t VALUES (111, 'n1 later', 11)")],
            "111, 112",
            "111|n1 later|11",
            "insert_exists apply_remote",
        ),
        clash(
            "insert, and both keys are taken by older rows",
            vec![
                N2("INSERT INTO t VALUES (121, 'n2', 21), (122, 'n2', 22)"),
                N1("INSERT INTO t VALUES (121, 'n1 later', 22)"),
            ],
            "121, 122",
            "121|n1 later|22",
            "multiple_unique_conflicts apply_remote",
        ),
        clash(
            "insert, and of two keys one is taken by a later row",
            vec![
                N2("INSERT INTO t VALUES (123, 'n2', 23)"),
                N1("INSERT INTO t VALUES (123, 'n1', 24)"),
                N2("INSERT INTO t VALUES (124, 'n2 later', 24)"),
            ],
            "123, 124",
            "123|n2|23\n124|n2 later|24",
            "multiple_unique_conflicts keep_local",
        ),
        clash(
            "update to a key that a later row has",
            vec![N1("UPDATE t SET v = 'n1', id = 131 WHERE id = 11"), N2("INSERT INTO t VALUES (131, 'n2 later')")],
            "11, 131",
            "131|n2 later|",
            "update_exists keep_local",
        ),
        clash(
            "update to a key that an older row has",
            vec![N2("INSERT INTO t VALUES (132, 'n2')"), N1("UPDATE t SET v = 'n1 later', id = 132 WHERE id = 12")],
            "12, 132",
            "132|n1 later|",
            "update_exists apply_remote",
        ),
        clash(
            "update to another key that a later row has",
            vec![N1("UPDATE t SET v = 'n1', u = 34 WHERE id = 14"), N2("INSERT INTO t VALUES (134, 'n2 later', 34)")],
            "14, 134",
            "14|before|\n134|n2 later|34",
            "update_exists keep_local",
        ),
        clash(
            "update to another key that an older row has",
            vec![N2("INSERT INTO t VALUES (133, 'n2', 33)"), N1("UPDATE t SET v = 'n1 later', u = 33 WHERE id = 13")],
            "13, 133",
            "13|n1 later|33",
            "update_exists apply_remote",
        ),
    ]
}

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE)";

/// What n2 has counted of each conflict, against what the clashes were to be.
fn assert_counted(n2: &Node, clashes: &[Clash]) {
    let mut expected: Vec<&str> = clashes.iter().map(|clash| clash.conflict).collect();
    expected.sort_unstable();
    let counted = n2.value(&format!(
        "SELECT kind || ' ' || resolution AS conflict
           FROM {LAST_INTENT}, spock.recovery_conflicts(intent.intent_id), generate_series(1, count)
          WHERE relation = 't'::regclass"
    ));
    let mut counted: Vec<&str> = counted.lines().collect();
    counted.sort_unstable();
    assert_eq!(counted, expected);
    assert_eq!(summary(n2, "conflicts"), clashes.len().to_string());
}

/// Lets the clashes happen, and n1 die.
fn clash_all(clashes: &[Clash], [n1, n2, n3]: [&Node; 3]) {
    n1.sql("INSERT INTO t SELECT g, 'before' FROM generate_series(1, 20) g");
    for node in [n2, n3] {
        super::drain(n1, node);
    }
    apart(n1, n2, n3);
    for clash in clashes {
        for write in &clash.writes {
            match write {
                N1(statement) => n1.sql(statement),
                N2(statement) => n2.sql(statement),
            }
        }
    }
    n1.sql("INSERT INTO t VALUES (200, 'the last')");
    end_gap(n1);
}

fn assert_rows(n2: &Node, clashes: &[Clash]) {
    for clash in clashes {
        let rows = n2.value(&format!("SELECT id, v, u FROM t WHERE id IN ({}) ORDER BY id", clash.ids));
        assert_eq!(rows, clash.expected, "{}", clash.what);
    }
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 200"), "the last");
}

#[test]
fn the_later_commit_wins_each_row_and_no_clash_stops_the_rescue() {
    let cluster = start("rescue_conflicts", TABLE);
    let [n1, n2, n3] = cluster.all();
    let clashes = clashes();
    clash_all(&clashes, [n1, n2, n3]);
    rescue(n2, n3, "");
    assert_rows(n2, &clashes);
    assert_counted(n2, &clashes);
    assert_eq!(applied(n2), applied(n3));
    assert_logged_in_cores_words(n2);
}

fn assert_logged_in_cores_words(n2: &Node) {
    let log = n2.log();
    for (message, details) in [
        ("insert_exists", "Key already exists in unique index \"t_pkey\", modified locally in transaction "),
        ("insert_exists", "Key (id)=(101); existing local row (101, n2 later, null); remote row (101, n1, null)."),
        ("update_missing", "Could not find the row to be updated."),
        ("update_missing", "Remote row (3, n1, null); replica identity (id)=(3)."),
        ("update_origin_differs", "Updating the row that was modified locally in transaction "),
        (
            "update_origin_differs",
            "Existing local row (5, n2 later, null); remote row (5, n1, null); replica identity (id)=(5).",
        ),
        ("delete_origin_differs", "Existing local row (7, n2 later, null); replica identity (id)=(7)."),
        (
            "update_exists",
            "Key (u)=(33); existing local row (133, n2, 33); remote row (13, n1 later, 33); replica identity (id)=(13).",
        ),
        (
            "multiple_unique_conflicts",
            "Key (u)=(22); existing local row (122, n2, 22); remote row (121, n1 later, 22).",
        ),
        ("delete_missing", "; resolution: skip."),
    ] {
        let message = format!("conflict detected on relation \"public.t\": conflict={message}");
        let reports = log.split("LOG:  ").filter(|report| report.starts_with(&message));
        assert!(reports.into_iter().any(|report| report.contains(details)), "{message}: {details}");
    }
}

/// The same clashes, where the setting leaves the clock out of it.
fn with_policy(name: &str, policy: &str, clashes: &[Clash]) {
    let cluster = start(name, TABLE);
    let [n1, n2, n3] = cluster.all();
    clash_all(clashes, [n1, n2, n3]);
    n2.sql(&format!("ALTER SYSTEM SET spock.rescue_conflict_resolution = {policy}"));
    n2.sql("SELECT pg_reload_conf()");
    n2.wait_until("SHOW spock.rescue_conflict_resolution", policy);
    rescue(n2, n3, "");
    assert_rows(n2, clashes);
    assert_counted(n2, clashes);
}

#[test]
fn with_apply_remote_the_failed_nodes_changes_win() {
    with_policy(
        "rescue_apply_remote",
        "apply_remote",
        &[
            clash(
                "insert, and a later row is there",
                vec![N1("INSERT INTO t VALUES (101, 'n1')"), N2("INSERT INTO t VALUES (101, 'n2 later')")],
                "101",
                "101|n1|",
                "insert_exists apply_remote",
            ),
            clash(
                "update of a row that was updated later",
                vec![N1("UPDATE t SET v = 'n1' WHERE id = 5"), N2("UPDATE t SET v = 'n2 later' WHERE id = 5")],
                "5",
                "5|n1|",
                "update_origin_differs apply_remote",
            ),
            clash(
                "delete of a row that was updated later",
                vec![N1("DELETE FROM t WHERE id = 7"), N2("UPDATE t SET v = 'n2 later' WHERE id = 7")],
                "7",
                "",
                "delete_origin_differs apply_remote",
            ),
        ],
    );
}

#[test]
fn with_keep_local_what_others_have_written_stays() {
    with_policy(
        "rescue_keep_local",
        "keep_local",
        &[
            clash(
                "insert, and an older row is there",
                vec![N2("INSERT INTO t VALUES (102, 'n2')"), N1("INSERT INTO t VALUES (102, 'n1 later')")],
                "102",
                "102|n2|",
                "insert_exists keep_local",
            ),
            clash(
                "update of a row that was updated before",
                vec![N2("UPDATE t SET v = 'n2' WHERE id = 6"), N1("UPDATE t SET v = 'n1 later' WHERE id = 6")],
                "6",
                "6|n2|",
                "update_origin_differs keep_local",
            ),
            clash(
                "update to a key that an older row has",
                vec![N2("INSERT INTO t VALUES (132, 'n2')"), N1("UPDATE t SET v = 'n1 later', id = 132 WHERE id = 12")],
                "12, 132",
                "132|n2|",
                "update_exists keep_local",
            ),
        ],
    );
}

#[test]
fn with_error_the_rescue_waits_at_a_conflict_until_it_is_gone() {
    let cluster = start("rescue_conflict_error", TABLE);
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("conflict detected on relation");
    n2.sql("ALTER SYSTEM SET spock.rescue_conflict_resolution = error");
    n2.sql("SELECT pg_reload_conf()");
    clash_all(
        &[
            clash("", vec![N2("INSERT INTO t VALUES (101, 'n2')"), N1("INSERT INTO t VALUES (101, 'n1')")], "", "", ""),
            clash("", vec![N2("DELETE FROM t WHERE id = 3"), N1("UPDATE t SET v = 'n1' WHERE id = 3")], "", "", ""),
        ],
        [n1, n2, n3],
    );
    begin(n2, n3, "");
    let error = wait_error(n2, "SQLSTATE 23505");
    assert!(error.contains("relation public.t"), "{error}");
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 101"), "n2");
    n2.sql("DELETE FROM t WHERE id = 101");
    wait_error(n2, "SQLSTATE 40001");
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 101"), "n1");
    n2.sql("ALTER SYSTEM RESET spock.rescue_conflict_resolution");
    n2.sql("SELECT pg_reload_conf()");
    wait_completed(n2);
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE id = 3"), "0");
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 200"), "the last");
}

#[test]
fn a_late_truncate_removes_what_was_committed_before_it_and_nothing_else() {
    let cluster = start("rescue_truncate", "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE kept (id int, v text)");
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT generate_series(1, 10); INSERT INTO kept VALUES (1, 'before')");
    for node in [n2, n3] {
        super::drain(n1, node);
    }
    apart(n1, n2, n3);
    n2.sql("INSERT INTO t VALUES (11); INSERT INTO kept VALUES (2, 'n2 before')");
    n1.sql("INSERT INTO t VALUES (12)");
    n1.sql("TRUNCATE t, kept");
    n2.sql("INSERT INTO t VALUES (13); INSERT INTO kept VALUES (3, 'n2 later')");
    n1.sql("INSERT INTO t VALUES (14)");
    end_gap(n1);
    rescue(n2, n3, "");
    assert_eq!(n2.value("SELECT id FROM t ORDER BY id"), "13\n14");
    assert_eq!(n2.value("SELECT id, v FROM kept"), "3|n2 later");
    assert_eq!(summary(n2, "transactions"), "3");
    let kept = n2.value(&format!(
        "SELECT relation, kind, resolution, count FROM {LAST_INTENT}, spock.recovery_conflicts(intent.intent_id) ORDER BY relation"
    ));
    let [of_t, of_kept] = ["t", "kept"].map(|table| format!("{table}|truncate_origin_differs|keep_local|1"));
    assert_eq!(kept, format!("{of_t}\n{of_kept}"));
}
