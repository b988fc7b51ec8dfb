//! The gap of the demonstration, of every kind of change: afterwards nobody could tell that n2 had it from n3.

use super::{
    HELD, Session, applied, assert_identical, assert_replicate, begin, drain, enabled, fail, hold, hold_back, rescue,
    rows_of_n1, start, summary, tables, wait_completed, wait_held, wait_tidy,
};
use crate::cluster::Node;

const TABLES: &str = "
    CREATE TABLE account (id int PRIMARY KEY, owner text NOT NULL, balance numeric(12, 2), note text,
        cents bigint GENERATED ALWAYS AS ((balance * 100)::bigint) STORED);
    ALTER TABLE account ALTER COLUMN note SET STORAGE EXTERNAL;
    CREATE TABLE entry (account int, number int, at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (account, number));
    CREATE TABLE journal (n int, text text); ALTER TABLE journal REPLICA IDENTITY FULL;
    CREATE TABLE event (n int, what text);
    CREATE TABLE list (id int PRIMARY KEY); CREATE TABLE other_list (id int PRIMARY KEY);
    CREATE TABLE measured (id int, at date, value float8, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE measured_early PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE measured_late PARTITION OF measured FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');";

/// What n1 does in its transaction of this number: all of them change something.
fn statements(number: u32) -> String {
    let n = number;
    match n % 10 {
        0 => format!("INSERT INTO entry (account, number) SELECT {n}, g FROM generate_series(1, 50) g"),
        1 => format!("UPDATE account SET balance = balance + {n}, owner = 'changed by {n}' WHERE id % 7 = {n} % 7"),
        2 => format!("DELETE FROM account WHERE id = {n} / 2; INSERT INTO event VALUES ({n}, 'deleted')"),
        3 => format!("INSERT INTO account VALUES (1000 + {n}, 'owner of {n}', {n}, repeat('{n} ', 5000))"),
        4 => format!("INSERT INTO journal VALUES ({n}, 'first'), ({n}, 'first'), ({n}, NULL)"),
        5 => format!("UPDATE journal SET text = 'updated by {n}' WHERE n = {n} - 1; DELETE FROM journal WHERE n = 4"),
        6 => format!(
            "INSERT INTO measured SELECT {n} * 100 + g, date '2026-01-01' + g, {n} / 7.0 FROM generate_series(1, 58) g"
        ),
        // From one partition to the other.
        7 => "UPDATE measured SET at = at + 31, value = value + 1 WHERE at < '2026-01-20'".to_owned(),
        8 => {
            format!("TRUNCATE list, other_list; INSERT INTO list VALUES ({n}); INSERT INTO event VALUES ({n}, 'list')")
        }
        _ => format!("UPDATE account SET id = id + 5000 WHERE id = {n}; INSERT INTO list VALUES ({n})"),
    }
}

fn write(session: &mut Session<'_>, numbers: std::ops::RangeInclusive<u32>) {
    for number in numbers {
        session.sql(&format!("BEGIN; {}; COMMIT", statements(number)));
    }
}

fn prepare(n1: &Node, survivors: [&Node; 2]) {
    n1.sql("INSERT INTO account SELECT g, 'owner ' || g, g, repeat('x', 3000) FROM generate_series(1, 100) g");
    let mut session = n1.session();
    write(&mut session, 1..=20);
    for node in survivors {
        drain(n1, node);
    }
}

#[test]
fn the_70_transactions_that_n2_lacks_arrive_with_their_origin_and_their_time() {
    let cluster = start("rescue_basic", TABLES);
    let [n1, n2, n3] = cluster.all();
    prepare(n1, [n2, n3]);
    n2.sql("INSERT INTO account VALUES (9002, 'of n2', 2, 'x')");
    n3.sql("INSERT INTO account VALUES (9003, 'of n3', 3, 'x')");
    drain(n2, n3);
    hold_back(n2);
    let before = applied(n2);
    write(&mut n1.session(), 21..=55);
    // A table changes in the midst of it.
    for node in [n2, n3, n1] {
        node.sql("ALTER TABLE account ADD COLUMN added text DEFAULT 'by default'");
    }
    write(&mut n1.session(), 56..=89);
    n1.sql("UPDATE account SET added = 'on n1' WHERE id % 5 = 0");
    fail(&cluster);
    assert_ne!(applied(n3), before);

    rescue(n2, n3, "");
    assert_identical(n2, n3);
    for table in tables(n2) {
        assert!(rows_of_n1(n2, &table) > 0 || table == "other_list", "no row of n1 in {table}");
    }
    assert_eq!(applied(n2), applied(n3));
    assert_eq!(summary(n2, "transactions"), "70");
    assert_eq!(summary(n2, "skipped_transactions"), "0");
    // n1 has changed the rows of n2 and of n3, once each: not a clash of writers, but of origins, as PostgreSQL counts them.
    assert_eq!(summary(n2, "conflicts"), "2");
    assert_eq!([summary(n2, "skip_lsn"), summary(n2, "stop_lsn")], [before, applied(n3)]);
    assert_eq!(summary(n2, "final_lsn"), applied(n3));
    for key in ["rows", "bytes"] {
        let figure: u64 = summary(n2, key).parse().expect("a number");
        assert!(figure > 700, "{key}: {figure}");
    }
    // The subscription to the dead node waits for it.
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_eq!(n2.value("SELECT sub_name FROM spock.subscription WHERE sub_rescue_suspended"), "sub_n2_n1");
    assert_replicate(n2, n3);
    assert_identical(n2, n3);
}

#[test]
fn a_rescue_is_visible_while_it_runs_and_what_was_disabled_stays_disabled() {
    let cluster = start("rescue_visible", HELD);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO held VALUES (1)");
    n1.sql("INSERT INTO held VALUES (2)");
    super::end_gap(n1);
    let mut held = hold(n2);
    let before = applied(n2);
    let (oid, clone) = begin(n2, n3, "");
    wait_held(n2);
    assert_eq!(
        n2.value(
            "SELECT sub_id, sub_enabled, sub_slot_name, sub_rescue_suspended, sub_rescue_temporary, sub_rescue_failed,
                    sub_rescue_cleanup_pending, o.node_name, t.node_name
               FROM spock.subscription LEFT JOIN spock.node o ON o.node_id = sub_origin
               LEFT JOIN spock.node t ON t.node_id = sub_target WHERE sub_rescue_temporary"
        ),
        format!("{oid}|t|{clone}|f|t|f|f|n3|n2")
    );
    assert_eq!(n2.value("SELECT sub_rescue_stop_lsn FROM spock.subscription WHERE sub_rescue_temporary"), applied(n3));
    // It was disabled before: the rescue has not suspended it.
    assert_eq!(
        n2.value("SELECT sub_name, sub_enabled, sub_rescue_suspended FROM spock.subscription WHERE NOT sub_rescue_temporary ORDER BY 1"),
        "sub_n2_n1|f|f\nsub_n2_n3|f|t"
    );
    assert_eq!(
        n2.value("SELECT failed_node, source_node, target_node, phase, stop_lsn, started_at < clock_timestamp() FROM spock.recovery_progress"),
        format!("n1|n3|n2|replaying|{}|t", applied(n3))
    );
    assert_eq!(n3.value("SELECT in_recovery FROM spock.get_recovery_slot_status()"), "t");
    assert_eq!(applied(n2), before, "while it runs, n2 reports no more than before");
    held.sql("COMMIT");
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_eq!(n2.value("SELECT count(*) FROM spock.subscription WHERE sub_rescue_suspended"), "0");
    assert_eq!(summary(n2, "transactions"), "2");
    assert_identical(n2, n3);
}
