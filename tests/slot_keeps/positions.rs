//! node_positions(): what a node says of itself to its peers, and who may ask.

use super::{INFINITY, decoded, missing, quick, start, start_mesh, wait_follows};
use crate::cluster::Node;

#[test]
fn positions_are_for_those_who_may_replicate_or_monitor() {
    let cluster = start_mesh(quick("slot_keeps_rights", 2), "CREATE TABLE t (id int PRIMARY KEY)");
    let [n1, _] = cluster.all();
    n1.sql("CREATE ROLE alice LOGIN; CREATE ROLE repl LOGIN REPLICATION; CREATE ROLE monitor LOGIN IN ROLE pg_monitor");
    let database = n1.db("postgres");
    for role in ["postgres", "repl", "monitor"] {
        assert_eq!(
            database.role(role).value("SELECT origin_node, ready FROM spock.node_positions()"),
            "n2|t",
            "{role}"
        );
    }
    for name in [
        "spock.node_positions",
        "spock.get_recovery_slot_status",
        "spock.recovery_horizon",
        "spock_internal.lag_positions",
    ] {
        let (_, function) = name.split_once('.').expect("a schema");
        let error = match database.role("alice").try_sql(&format!("SELECT * FROM {name}()")) {
            Ok(rows) => panic!("{function} was answered: {rows:?}"),
            Err(error) => error,
        };
        assert_eq!(error.sqlstate, "42501", "{error}");
        assert_eq!(error.message, format!("permission denied for {function}"));
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("GRANT pg_monitor")), "{error}");
    }
}

#[test]
fn a_fresh_node_is_unknown_without_a_transaction_and_is_where_its_copy_was_with_one() {
    let cluster = start(quick("slot_keeps_fresh", 3));
    let [n1, n2, n3] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    n1.sql("CREATE PUBLICATION p FOR ALL TABLES; INSERT INTO t SELECT generate_series(1, 1000)");
    let subscribe = |node: &Node, copy_data: bool| {
        node.sql(&format!(
            "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p
               WITH (slot_name = {}, origin = none, copy_data = {copy_data})",
            n1.dsn("postgres"),
            node.name()
        ));
    };
    for (node, other) in [(n2, n3), (n3, n2)] {
        subscribe(node, true);
        node.sql(&format!("SELECT spock.peer_create('{}', '{}')", other.name(), other.dsn("postgres")));
    }
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM t", "1000");
        node.wait_until("SELECT ready FROM spock.node_positions()", "t");
    }
    // After a copy the replication origin is still empty, and the copy's position counts.
    assert_eq!(
        n2.value(
            "SELECT p.origin_node, p.applied_lsn = max(r.srsublsn), p.passed_lsn >= p.applied_lsn,
                    bool_and(pg_replication_origin_progress('pg_' || p.subscription, true) IS NULL)
               FROM spock.node_positions() p JOIN pg_subscription_rel r ON r.srsubid = p.subscription
              GROUP BY p.origin_node, p.applied_lsn, p.passed_lsn"
        ),
        "n1|t|t|t"
    );
    wait_follows(n3);
    // It vouches for what comes after the copy.
    n3.wait_until(
        &format!(
            "SELECT peer_node, released_lsn < '{INFINITY}', released_lsn >= own_lsn FROM spock.recovery_horizon()"
        ),
        "n2|t|t",
    );

    // It is not taken as having what comes afterwards.
    n2.sql("ALTER SUBSCRIPTION s DISABLE");
    n1.sql("INSERT INTO t VALUES (0)");
    n3.wait_until("SELECT count(*) FROM t", "1001");
    n3.wait_until(
        "SELECT peer_node, peer_lsn < own_lsn, blocked_reason FROM spock.recovery_horizon()",
        "n2|t|peer_lagging",
    );
    assert_eq!(decoded(n3, &missing(0, 0)), "0");

    // Without a copy and without a transaction nothing is applied; the slot's own position at n1 is all there is.
    n2.sql("DROP SUBSCRIPTION s");
    subscribe(n2, false);
    n2.wait_until("SELECT origin_node, applied_lsn, ready FROM spock.node_positions()", "n1||t");
    wait_follows(n3);
    assert_eq!(n2.value("SELECT applied_lsn FROM spock.node_positions()"), "");
    n2.sql("ALTER SUBSCRIPTION s DISABLE");
    n1.sql("INSERT INTO t VALUES (-1)");
    n3.wait_until("SELECT count(*) FROM t", "1002");
    n3.wait_until(
        "SELECT peer_node, peer_lsn < own_lsn, blocked_reason FROM spock.recovery_horizon()",
        "n2|t|peer_lagging",
    );
}
