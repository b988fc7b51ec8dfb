//! Another subscription, another replication origin or another table is another history: what came before it is in no WAL
//! that this node could vouch for.

use super::{FLUSHED, INFINITY, quick, released, start_mesh, wait_follows, wait_released_finite};
use crate::cluster::Node;
use crate::slot_life::wait_rounds;

/// released of an origin as the retention record has it.
fn recorded(node: &Node, origin: &str) -> String {
    node.value(&format!(
        "SELECT o ->> 'released' FROM pg_shseclabel l, json_array_elements(l.label::json -> 'origins') o
          WHERE l.provider = 'spock_recovery' AND l.classoid = 'pg_database'::regclass
            AND l.objoid = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND o ->> 'node' = '{origin}'"
    ))
}

/// What came before `since`, a position of the provider, is not vouched for, and what comes after it is, though nothing has
/// come since: by what is shown, by the record, and also after a restart and when the slot has moved on.
fn assert_vouched_since(node: &Node, origin: &str, since: &str) {
    let horizon = format!("SELECT DISTINCT released_lsn FROM spock.recovery_horizon() WHERE origin_node = '{origin}'");
    wait_released_finite(node, &format!("WHERE origin_node = '{origin}'"), 1);
    wait_follows(node);
    let from = recorded(node, origin);
    assert_eq!(node.value(&format!("SELECT '{from}'::pg_lsn >= '{since}'")), "t", "{from} is before {since}");
    node.wait_until(&horizon, &from);
    node.restart();
    node.wait_until(&horizon, &from);
    wait_follows(node);
    assert_eq!((released(node, origin), recorded(node, origin)), (from.clone(), from));
}

fn subscribe(node: &Node, to: &Node, name: &str, copy_data: bool) {
    node.sql(&format!(
        "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION mesh WITH (origin = none, copy_data = {copy_data})",
        to.dsn("postgres")
    ));
}

#[test]
fn a_subscription_made_anew_vouches_for_what_comes_after_its_beginning_alone() {
    let cluster = start_mesh(quick("slot_keeps_anew", 2), "CREATE TABLE t (id int)");
    let [n1, n2] = cluster.all();
    // The rows of `first` and `t` come twice with a copy.
    n2.sql("ALTER TABLE first DROP CONSTRAINT first_pkey");
    for (row, copy_data) in [(1, false), (2, true)] {
        n2.sql("DROP SUBSCRIPTION sub_n2_n1");
        n1.sql(&format!("INSERT INTO t VALUES ({})", row + 10));
        let since = n1.value(FLUSHED);
        subscribe(n2, n1, "sub_n2_n1", copy_data);
        n2.wait_until("SELECT origin_node, ready FROM spock.node_positions()", "n1|t");
        assert_vouched_since(n2, "n1", &since);
        n1.sql(&format!("INSERT INTO t VALUES ({row})"));
        n2.wait_until(&format!("SELECT count(*) FROM t WHERE id = {row}"), "1");
        wait_follows(n2);
    }
}

#[test]
fn while_its_provider_cannot_be_asked_nothing_of_a_new_subscription_is_vouched_for_and_that_is_said() {
    let cluster = start_mesh(quick("slot_keeps_unasked", 2), "CREATE TABLE t (id int)");
    let [n1, n2] = cluster.all();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET (slot_name = NONE)");
    n2.sql("DROP SUBSCRIPTION sub_n2_n1");
    n1.wait_until("SELECT active FROM pg_replication_slots WHERE slot_name = 'sub_n2_n1'", "f");
    n1.stop_fast();
    n2.sql(&format!(
        "CREATE SUBSCRIPTION sub_n2_n1 CONNECTION '{}' PUBLICATION mesh WITH (origin = none, connect = false)",
        n1.dsn("postgres")
    ));
    n2.sql("SELECT spock.sub_set_origin('sub_n2_n1', 'n1')");
    n2.wait_until("SELECT DISTINCT released_lsn FROM spock.recovery_horizon() WHERE origin_node = 'n1'", INFINITY);
    n2.wait_until(
        "SELECT status, details LIKE '%\"n1\" (since %' FROM spock.quick_health_check() WHERE check_name = 'vouching'",
        "WARNING|t",
    );
    assert_eq!(recorded(n2, "n1"), INFINITY);
    n1.start();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 REFRESH PUBLICATION WITH (copy_data = false)");
    wait_released_finite(n2, "WHERE origin_node = 'n1'", 1);
    n2.wait_until("SELECT status FROM spock.quick_health_check() WHERE check_name = 'vouching'", "HEALTHY");
}

#[test]
fn a_table_added_without_its_rows_makes_the_past_unknown_and_others_do_not() {
    let cluster = start_mesh(quick("slot_keeps_table", 2), "CREATE TABLE t (id int)");
    let [n1, n2] = cluster.all();
    for (table, copy_data) in [("copied", true), ("uncopied", false)] {
        cluster.sql(&format!("CREATE TABLE {table} (id int)"));
        n1.sql(&format!("INSERT INTO {table} VALUES (1)"));
        let since = n1.value(FLUSHED);
        n2.sql("INSERT INTO t VALUES (0)");
        wait_follows(n2);
        let before = released(n2, "n1");
        n2.sql(&format!("ALTER SUBSCRIPTION sub_n2_n1 REFRESH PUBLICATION WITH (copy_data = {copy_data})"));
        n2.wait_until("SELECT origin_node, ready FROM spock.node_positions()", "n1|t");
        assert_eq!(n2.value(&format!("SELECT count(*) FROM {table}")), if copy_data { "1" } else { "0" });
        if copy_data {
            // Its rows came with a copy, of which the proof asks; what is vouched for of the others stays.
            wait_recorded_tables(n2, 3);
            assert_eq!(recorded(n2, "n1"), before);
        } else {
            n2.wait_until(
                &format!(
                    "SELECT released_lsn BETWEEN '{since}' AND '{INFINITY}'::pg_lsn - 1 FROM spock.recovery_horizon()
                      WHERE origin_node = 'n1'"
                ),
                "t",
            );
            assert_vouched_since(n2, "n1", &since);
        }
    }
    // Dropped here: what is vouched for stays, also while nobody looks.
    let before = recorded(n2, "n1");
    n2.sql("DROP TABLE copied");
    wait_recorded_tables(n2, 3);
    assert_eq!(recorded(n2, "n1"), before);
    n2.set(&[("spock.manager_naptime", "1h")]);
    n2.sql("DROP TABLE uncopied");
    n2.set(&[("spock.manager_naptime", "100ms")]);
    n2.restart();
    wait_recorded_tables(n2, 2);
    assert_eq!((recorded(n2, "n1"), released(n2, "n1")), (before.clone(), before));
}

#[test]
fn a_transaction_that_was_prepared_before_a_table_was_added_must_have_ended() {
    let quick = quick("slot_keeps_prepared", 2).setting("max_prepared_transactions", "5");
    let cluster = start_mesh(quick, "CREATE TABLE t (id int)");
    let [n1, n2] = cluster.all();
    n2.sql("DROP SUBSCRIPTION sub_n2_n1");
    n2.sql(&format!(
        "CREATE SUBSCRIPTION sub_n2_n1 CONNECTION '{}' PUBLICATION mesh
           WITH (origin = none, copy_data = false, two_phase = true)",
        n1.dsn("postgres")
    ));
    n2.wait_until("SELECT origin_node, ready FROM spock.node_positions()", "n1|t");
    wait_released_finite(n2, "WHERE origin_node = 'n1'", 1);
    cluster.sql("CREATE TABLE added (id int)");
    // n2 leaves out the row of a table that it does not have yet.
    n1.sql("BEGIN; INSERT INTO t VALUES (1); INSERT INTO added VALUES (1); PREPARE TRANSACTION 'half'");
    n2.wait_until("SELECT count(*) FROM pg_prepared_xacts", "1");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 REFRESH PUBLICATION WITH (copy_data = false)");
    wait_recorded_tables(n2, 3);
    n1.sql("INSERT INTO t VALUES (2)");
    n2.wait_until("SELECT count(*) FROM t WHERE id = 2", "1");
    wait_rounds(n2.db("postgres"), 3);
    let vouching = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'vouching'";
    assert_eq!((released(n2, "n1").as_str(), n2.value(vouching).as_str()), (INFINITY, "WARNING"));
    n1.sql("COMMIT PREPARED 'half'");
    let since = n1.value(FLUSHED);
    n2.wait_until("SELECT count(*) FROM pg_prepared_xacts", "0");
    assert_vouched_since(n2, "n1", &since);
}

/// Returns when the manager has looked at the subscription's tables as they are, which must be so many.
fn wait_recorded_tables(node: &Node, tables: u32) {
    assert_eq!(node.value("SELECT count(*) FROM pg_subscription_rel"), tables.to_string());
    let digest = "SELECT (o ->> 'tables')::bigint FROM pg_shseclabel l, json_array_elements(l.label::json -> 'origins') o
                   WHERE l.provider = 'spock_recovery' AND l.objoid = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let now = "SELECT hashtextextended(string_agg(srrelid || srsubstate::text || coalesce(srsublsn, '0/0'), ',' ORDER BY srrelid), 0)
                 FROM pg_subscription_rel";
    node.wait_until(&format!("SELECT ({digest}) = ({now})"), "t");
    node.wait_until("SELECT count(*) > 0 FROM spock.recovery_horizon()", "t");
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
    let since = [n1.value(FLUSHED), n2.value(FLUSHED)];
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
    assert_vouched_since(n3, "n1", &since[0]);
    assert_vouched_since(n3, "n2", &since[1]);
}

#[test]
fn a_subscription_that_a_peer_has_made_lately_is_kept_for_also_after_a_restart_in_which_it_is_not_heard() {
    let cluster = start_mesh(quick("slot_keeps_lately", 3), "CREATE TABLE t (id int)");
    let [n1, n2, n3] = cluster.all();
    let of_n2 = "SELECT count(*) FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node = 'n2'";
    n2.sql("DROP SUBSCRIPTION sub_n2_n1");
    n3.wait_until(of_n2, "0");
    n3.sql("INSERT INTO t VALUES (0)");
    // What is written down has no such subscription.
    wait_follows(n3);
    subscribe(n2, n1, "sub_n2_n1", false);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n3.wait_until(of_n2, "1");
    n1.sql("INSERT INTO t VALUES (1)");
    n3.wait_until("SELECT count(*) FROM t WHERE id = 1", "1");
    let end = n3.value(FLUSHED);
    n2.stop_fast();
    n3.restart();
    n3.sql("INSERT INTO t VALUES (2)");
    n3.wait_until("SELECT blocked_reason FROM spock.get_recovery_slot_status()", "peer_unreachable");
    let status = format!("SELECT confirmed_flush_lsn < '{end}' FROM spock.get_recovery_slot_status()");
    assert_eq!(n3.value(&status), "t");
}
