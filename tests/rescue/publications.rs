//! What the source publishes is about its own rows: the failed node's arrive whatever it says. What the target replicates
//! from the failed node is what arrives, and where it keeps it.

use super::{
    apart, applied, assert_identical, assert_replicate, assert_same, drain, end_gap, fail, hold_back, insert_each,
    rescue, start, summary,
};
use crate::cluster::Node;
use crate::slot_life::wait_rounds;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);";

fn republish(node: &Node, what: &str) {
    node.sql(&format!("BEGIN; DROP PUBLICATION IF EXISTS mesh; CREATE PUBLICATION mesh {what}; COMMIT"));
}

#[test]
fn a_row_filter_of_the_sources_publication_keeps_nothing_of_the_failed_node_back() {
    let cluster = start("rescue_row_filter", TABLES);
    let [n1, n2, n3] = cluster.all();
    // Nothing of n1 passes: neither by its rows, nor by its tables, nor by its columns.
    republish(n3, "FOR TABLE first, TABLE t (id) WHERE (id > 1000000) WITH (publish = 'insert')");
    drain(n2, n3);
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'of n1' FROM generate_series(1, 30) g; INSERT INTO u VALUES (1)");
    n1.sql("UPDATE t SET v = 'changed' WHERE id < 10");
    n1.sql("DELETE FROM t WHERE id = 30");
    n1.sql("TRUNCATE u");
    n1.sql("INSERT INTO u VALUES (2)");
    fail(&cluster);
    rescue(n2, n3, "");
    assert_eq!(summary(n2, "transactions"), "5");
    assert_eq!(applied(n2), applied(n3));
    assert_identical(n2, n3);
    assert_replicate(n2, n3);
}

#[test]
fn a_publication_of_the_source_that_is_younger_than_the_gap_keeps_nothing_back() {
    let cluster = start("rescue_young_publication", TABLES);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n3.sql("DROP PUBLICATION mesh");
    insert_each(&mut n1.session(), "u", 1, 30);
    n1.sql("INSERT INTO t VALUES (1, 'of n1')");
    fail(&cluster);
    republish(n3, "FOR ALL TABLES");
    rescue(n2, n3, "");
    assert_eq!(summary(n2, "transactions"), "31");
    assert_identical(n2, n3);
    assert_replicate(n2, n3);
}

#[test]
fn rows_of_the_initial_copy_come_no_second_time_and_tables_that_are_not_replicated_stay_as_they_are() {
    let cluster = start("rescue_initial_copy", &format!("{TABLES} CREATE TABLE serial (n int)"));
    let [n1, n2, n3] = cluster.all();
    n2.sql("DROP SUBSCRIPTION sub_n2_n1");
    n1.sql("CREATE PUBLICATION part FOR TABLE serial");
    insert_each(&mut n1.session(), "serial", 1, 10);
    drain(n1, n3);
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 SET PUBLICATION part WITH (copy_data = false)");
    n2.sql(&format!(
        "CREATE SUBSCRIPTION sub_n2_n1 CONNECTION '{}' PUBLICATION part WITH (origin = none, copy_data = true)",
        n1.dsn("postgres")
    ));
    n2.wait_until(
        "SELECT srsubstate, srsublsn IS NOT NULL FROM pg_subscription_rel WHERE srrelid = 'serial'::regclass
            AND srsubid = (SELECT oid FROM pg_subscription WHERE subname = 'sub_n2_n1')",
        "r|t",
    );
    n2.wait_until("SELECT ready, applied_lsn IS NOT NULL FROM spock.node_positions() WHERE origin_node = 'n1'", "t|t");
    // A table that is added later is one of n3's alone, until n2 refreshes too.
    n1.sql("ALTER PUBLICATION part ADD TABLE u");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 REFRESH PUBLICATION WITH (copy_data = false)");
    // n3 vouches for n1's transactions from the first on that it sees after the change.
    wait_rounds(n3.db("postgres"), 2);
    n1.sql("INSERT INTO u VALUES (100)");
    n3.wait_until("SELECT count(*) FROM u", "1");
    drain(n1, n2);
    let released = "SELECT NOT (plan->'proof') @? '$[*] ? (@.name starts with \"released\" && @.holds == false)'
                      FROM spock.recover_plan('n1', 'n2')";
    n2.wait_until(released, "t");
    assert_eq!(super::origin_position(n2), "", "all that n2 has of n1 is by the copy");
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 11, 20);
    insert_each(&mut n1.session(), "u", 1, 5);
    n1.sql("BEGIN; INSERT INTO u VALUES (6); INSERT INTO serial VALUES (21); COMMIT");
    end_gap(n1);
    rescue(n2, n3, "");
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n), max(n) FROM serial"), "21|21|21");
    assert_eq!(n2.value("SELECT count(*) FROM u"), "0");
    assert_eq!(summary(n2, "transactions"), "11");
    assert_eq!(applied(n2), applied(n3));
}

#[test]
fn rows_find_their_place_in_partitions_and_columns_that_are_not_the_sources() {
    let cluster = start("rescue_partitions", "");
    let [n1, n2, n3] = cluster.all();
    cluster.sql("ALTER PUBLICATION mesh SET (publish_via_partition_root = true)");
    for node in [n1, n3] {
        node.sql(
            "CREATE TABLE measured (id int, at date, v text DEFAULT 'none', PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE january PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
             CREATE TABLE february PARTITION OF measured FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')",
        );
    }
    n2.sql(
        "CREATE TABLE measured (here text DEFAULT 'of n2', at date, v text, id int, PRIMARY KEY (id, at)) PARTITION BY LIST (id);
         CREATE TABLE few PARTITION OF measured FOR VALUES IN (1, 2, 3);
         CREATE TABLE most (gone int, v text, id int NOT NULL, here text, at date NOT NULL, PRIMARY KEY (id, at));
         ALTER TABLE most DROP COLUMN gone; ALTER TABLE measured ATTACH PARTITION most DEFAULT",
    );
    cluster.refresh_mesh();
    n1.sql("INSERT INTO measured SELECT g, date '2026-01-15' + g, 'before' FROM generate_series(1, 30) g");
    drain(n1, n2);
    drain(n1, n3);
    apart(n1, n2, n3);
    n1.sql("INSERT INTO measured SELECT g, date '2026-01-20', 'new' FROM generate_series(31, 40) g");
    n1.sql("UPDATE measured SET v = 'changed' WHERE id % 3 = 0");
    // From one partition to the other: on n1 in the one case, on n2 in the other.
    n1.sql("UPDATE measured SET at = at + 14 WHERE id BETWEEN 10 AND 15");
    n1.sql("UPDATE measured SET id = id + 100 WHERE id IN (2, 3)");
    n1.sql("DELETE FROM measured WHERE id IN (1, 30)");
    n1.sql("INSERT INTO measured (id, at) VALUES (1, '2026-02-20')");
    n2.sql("UPDATE measured SET v = 'of n2, later' WHERE id = 20");
    n1.sql("DELETE FROM measured WHERE id = 20");
    end_gap(n1);
    rescue(n2, n3, "");
    assert_eq!(summary(n2, "transactions"), "7");
    assert_eq!(n2.value("SELECT count(*), count(*) FILTER (WHERE here = 'of n2') FROM measured"), "38|38");
    let of = |node: &crate::cluster::Node| {
        node.value("SELECT id, at, v, (pg_xact_commit_timestamp_origin(xmin)).timestamp FROM measured ORDER BY id, at")
    };
    assert_eq!(of(n2), of(n3));
    assert_same(n2, n3, "first");
}
