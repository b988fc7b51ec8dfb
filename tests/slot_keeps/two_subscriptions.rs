//! Two subscriptions to one node, each of another publication: each has its own history, and the slower one counts.

use super::{
    advance_by_fresh_reports, decoded, insert_each, missing, quick, start, wait_follows, wait_released_finite,
};

#[test]
fn a_node_with_two_subscriptions_to_another_keeps_and_is_kept_for_by_the_slower_one() {
    let cluster = start(quick("slot_keeps_two", 3));
    let [n1, n2, n3] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)");
    n1.sql("CREATE PUBLICATION t FOR TABLE t; CREATE PUBLICATION u FOR TABLE u");
    let manager = n2.wait_process("spock_recovery manager").pid;
    n2.pause_process(manager);
    for (node, other) in [(n2, n3), (n3, n2)] {
        for publication in ["t", "u"] {
            node.sql(&format!(
                "CREATE SUBSCRIPTION {publication} CONNECTION '{}' PUBLICATION {publication}
                   WITH (slot_name = {}_{publication}, origin = none, copy_data = false)",
                n1.dsn("postgres"),
                node.name()
            ));
        }
        node.sql(&format!("SELECT spock.peer_create('{}', '{}')", other.name(), other.dsn("postgres")));
    }
    n1.sql("INSERT INTO t VALUES (1)");
    n1.sql("INSERT INTO u VALUES (1)");
    for node in [n2, n3] {
        node.wait_until("SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u)", "1|1");
    }
    n3.wait_until("SELECT origin_node, ready FROM spock.node_positions()", "n1|t\nn1|t");
    // n2 notices both when all that there is for them has come: each vouches from what is confirmed of its own slot.
    n2.resume();
    wait_released_finite(n3, "WHERE origin_node = 'n1'", 1);
    wait_follows(n3);

    // The other subscription goes on, and says nothing about this one.
    n2.sql("ALTER SUBSCRIPTION t DISABLE");
    insert_each(n1, 2, 50);
    n1.sql("INSERT INTO u VALUES (2)");
    for node in [n2, n3] {
        node.wait_until("SELECT count(*) FROM u", "2");
    }
    n3.wait_until("SELECT count(*) FROM t", "50");
    advance_by_fresh_reports(n3, "'n2'");
    assert_eq!(decoded(n3, &missing(2, 50)), "0");
    n2.sql("ALTER SUBSCRIPTION t ENABLE");
    wait_follows(n3);
}
