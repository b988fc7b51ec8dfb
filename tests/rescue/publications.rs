//! What the source publishes is about its own rows: the failed node's arrive whatever it says.

use super::{applied, assert_identical, assert_replicate, drain, fail, hold_back, insert_each, rescue, start, summary};
use crate::cluster::Node;

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
