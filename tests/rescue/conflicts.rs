//! n1's transactions come late: what n2 has of its own meanwhile is compared with them by time of commit, and no clash ever
//! stops the rescue.

use super::{apart, applied, end_gap, rescue, start, summary};

/// Who of the two writes, in the order of the clock.
enum Write {
    N1(&'static str),
    N2(&'static str),
}
use Write::{N1, N2};

/// A clash of one row, and what n2 then has of the rows with these ids.
struct Clash {
    what: &'static str,
    writes: Vec<Write>,
    ids: &'static str,
    expected: &'static str,
}

fn clash(what: &'static str, writes: Vec<Write>, ids: &'static str, expected: &'static str) -> Clash {
    Clash { what, writes, ids, expected }
}

fn clashes() -> Vec<Clash> {
    vec![
        clash(
            "insert, and a later row is there",
            vec![N1("INSERT INTO t VALUES (101, 'n1')"), N2("INSERT INTO t VALUES (101, 'n2 later')")],
            "101",
            "101|n2 later|",
        ),
        clash(
            "insert, and an older row is there",
            vec![N2("INSERT INTO t VALUES (102, 'n2')"), N1("INSERT INTO t VALUES (102, 'n1 later')")],
            "102",
            "102|n1 later|",
        ),
        clash(
            "update of a row that is gone",
            vec![N2("DELETE FROM t WHERE id = 3"), N1("UPDATE t SET v = 'n1' WHERE id = 3")],
            "3",
            "",
        ),
        clash(
            "delete of a row that is gone",
            vec![N2("DELETE FROM t WHERE id = 4"), N1("DELETE FROM t WHERE id = 4")],
            "4",
            "",
        ),
        clash(
            "update of a row that was updated later",
            vec![N1("UPDATE t SET v = 'n1' WHERE id = 5"), N2("UPDATE t SET v = 'n2 later' WHERE id = 5")],
            "5",
            "5|n2 later|",
        ),
        clash(
            "update of a row that was updated before",
            vec![N2("UPDATE t SET v = 'n2' WHERE id = 6"), N1("UPDATE t SET v = 'n1 later' WHERE id = 6")],
            "6",
            "6|n1 later|",
        ),
        clash(
            "delete of a row that was updated later",
            vec![N1("DELETE FROM t WHERE id = 7"), N2("UPDATE t SET v = 'n2 later' WHERE id = 7")],
            "7",
            "7|n2 later|",
        ),
        clash(
            "delete of a row that was updated before",
            vec![N2("UPDATE t SET v = 'n2' WHERE id = 8"), N1("DELETE FROM t WHERE id = 8")],
            "8",
            "",
        ),
        clash(
            "insert, and another key is taken by a later row",
            vec![N1("INSERT INTO t VALUES (109, 'n1', 9)"), N2("INSERT INTO t VALUES (110, 'n2 later', 9)")],
            "109, 110",
            "110|n2 later|9",
        ),
        clash(
            "insert, and another key is taken by an older row",
            vec![N2("INSERT INTO t VALUES (112, 'n2', 11)"), N1("INSERT INTO t VALUES (111, 'n1 later', 11)")],
            "111, 112",
            "111|n1 later|11",
        ),
    ]
}

#[test]
fn the_later_commit_wins_each_row_and_no_clash_stops_the_rescue() {
    let cluster = start("rescue_conflicts", "CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE)");
    let [n1, n2, n3] = cluster.all();
    let clashes = clashes();
    n1.sql("INSERT INTO t SELECT g, 'before' FROM generate_series(1, 20) g");
    for node in [n2, n3] {
        super::drain(n1, node);
    }
    apart(n1, n2, n3);
    for clash in &clashes {
        for write in &clash.writes {
            match write {
                N1(statement) => n1.sql(statement),
                N2(statement) => n2.sql(statement),
            }
        }
    }
    n1.sql("INSERT INTO t VALUES (200, 'the last')");
    end_gap(n1);
    rescue(n2, n3, "");
    for clash in &clashes {
        let rows = n2.value(&format!("SELECT id, v, u FROM t WHERE id IN ({}) ORDER BY id", clash.ids));
        assert_eq!(rows, clash.expected, "{}", clash.what);
    }
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 200"), "the last");
    assert_eq!(summary(n2, "conflicts"), clashes.len().to_string());
    assert_eq!(applied(n2), applied(n3));
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
}
