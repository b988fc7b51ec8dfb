//! Another subscription, another replication origin or another table is another history: what came before it is in no WAL
//! that this node could vouch for.

use super::{INFINITY, quick, released, start_mesh, wait_follows, wait_released_finite};
use crate::cluster::Node;

/// released of an origin as the retention record has it.
fn recorded(node: &Node, origin: &str) -> String {
    node.value(&format!(
        "SELECT o ->> 'released' FROM pg_shseclabel l, json_array_elements(l.label::json -> 'origins') o
          WHERE l.provider = 'spock_recovery' AND l.classoid = 'pg_database'::regclass
            AND l.objoid = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND o ->> 'node' = '{origin}'"
    ))
}

/// Nothing can be vouched for: by what is shown, by the record, and also after a restart and when the slot has moved on.
fn assert_nothing_is_vouched_for(node: &Node, origin: &str) {
    let horizon = format!("SELECT DISTINCT released_lsn FROM spock.recovery_horizon() WHERE origin_node = '{origin}'");
    node.wait_until(&horizon, INFINITY);
    wait_follows(node);
    assert_eq!(recorded(node, origin), INFINITY);
    node.restart();
    // Once there is a row for the origin, the manager has read its record and looked.
    node.wait_until(&horizon, INFINITY);
    wait_follows(node);
    assert_eq!((released(node, origin), recorded(node, origin)), (INFINITY.into(), INFINITY.into()));
}

/// After the first transaction of the new history: released is where that one ends, and not before.
fn assert_vouched_from(node: &Node, origin: &str) {
    wait_released_finite(node, &format!("WHERE origin_node = '{origin}'"), 1);
    let own =
        node.value(&format!("SELECT DISTINCT own_lsn FROM spock.recovery_horizon() WHERE origin_node = '{origin}'"));
    assert_eq!((released(node, origin), recorded(node, origin)), (own.clone(), own));
    wait_follows(node);
}

fn subscribe(node: &Node, to: &Node, name: &str, copy_data: bool) {
    node.sql(&format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION mesh WITH (origin = none, copy_data = {copy_data})",
        to.dsn("postgres")
    ));
}

#[test]
fn a_subscription_made_anew_vouches_for_nothing_before_its_first_transaction() {
    let cluster = start_mesh(quick("slot_keeps_anew", 2), "CREATE TABLE t (id int)");
    let [n1, n2] = cluster.all();
    // The rows of `first` and `t` come twice with a copy.
    n2.sql("ALTER TABLE first DROP CONSTRAINT first_pkey");
    for (row, copy_data) in [(1, false), (2, true)] {
        n2.sql("DROP SUBSCRIPTION sub_n2_n1");
        subscribe(n2, n1, "sub_n2_n1", copy_data);
        n2.wait_until("SELECT origin_node, ready FROM spock.node_positions()", "n1|t");
        assert_nothing_is_vouched_for(n2, "n1");
        n1.sql(&format!("INSERT INTO t VALUES ({row})"));
        assert_vouched_from(n2, "n1");
    }
}

#[test]
fn a_table_added_later_makes_the_past_unknown_until_the_next_transaction() {
    let cluster = start_mesh(quick("slot_keeps_table", 2), "CREATE TABLE t (id int)");
    let [n1, n2] = cluster.all();
    for (table, copy_data) in [("copied", true), ("uncopied", false)] {
        cluster.sql(&format!("CREATE TABLE {table} (id int)"));
        n1.sql(&format!("INSERT INTO {table} VALUES (1)"));
        n2.sql(&format!("ALTER SUBSCRIPTION sub_n2_n1 REFRESH PUBLICATION WITH (copy_data = {copy_data})"));
        n2.wait_until("SELECT origin_node, ready FROM spock.node_positions()", "n1|t");
        assert_nothing_is_vouched_for(n2, "n1");
        assert_eq!(n2.value(&format!("SELECT count(*) FROM {table}")), if copy_data { "1" } else { "0" });
        n1.sql("INSERT INTO t VALUES (1)");
        assert_vouched_from(n2, "n1");
    }
}

#[test]
fn an_origin_id_that_another_subscription_takes_over_brings_no_past_with_it() {
    let cluster = start_mesh(quick("slot_keeps_reused", 3), "CREATE TABLE t (id int)");
    let [n1, n2, n3] = cluster.all();
    let ids = "SELECT p.origin_id FROM spock.node_positions() p ORDER BY p.origin_node";
    let before = n3.value(ids);
    for name in ["sub_n3_n1", "sub_n3_n2"] {
        n3.sql(&format!("DROP SUBSCRIPTION {name}"));
    }
    // The least free id is taken: each gets the other's.
    let first_was_less = before.lines().is_sorted_by_key(|id| id.parse::<u16>().expect("an id"));
    let mut order = [(n1, "sub_n3_n1"), (n2, "sub_n3_n2")];
    if first_was_less {
        order.reverse();
    }
    for (node, name) in order {
        subscribe(n3, node, name, false);
    }
    n3.wait_until("SELECT origin_node, ready FROM spock.node_positions() ORDER BY 1", "n1|t\nn2|t");
    let swapped: Vec<&str> = before.lines().rev().collect();
    assert_eq!(n3.value(ids), swapped.join("\n"));
    assert_nothing_is_vouched_for(n3, "n1");
    assert_nothing_is_vouched_for(n3, "n2");
    n2.sql("INSERT INTO t VALUES (2)");
    assert_vouched_from(n3, "n2");
    assert_eq!((released(n3, "n1"), recorded(n3, "n1")), (INFINITY.into(), INFINITY.into()));
    n1.sql("INSERT INTO t VALUES (1)");
    assert_vouched_from(n3, "n1");
}
