//! Whoever dies while a restore point is made: no commit waits longer than the lease, and no list says more than is true.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

/// Makes a restore point on n1, in a session of its own.
fn create<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    n1: &'env Node,
    arguments: &'env str,
) -> thread::ScopedJoinHandle<'scope, Result<Vec<String>, SqlError>> {
    let mut session = n1.session();
    scope.spawn(move || {
        let statement = format!("SELECT node_name || '=' || quality FROM spock.create_restore_point({arguments})");
        let rows = session.try_sql(&statement)?;
        Ok(rows.into_iter().map(|row| row[0].clone().unwrap_or_default()).collect())
    })
}

fn insert(node: &Node) {
    node.sql(&format!("INSERT INTO t (node, v) VALUES ('{}', 1)", node.name()));
}

/// What a node's list says of a point; empty: nothing.
fn listed(node: &Node, name: &str) -> String {
    node.value(&format!(
        "SELECT coalesce(string_agg(quality, ','), '') FROM spock.restore_points() WHERE restore_point = '{name}'"
    ))
}

/// Everybody works again, and says the same.
fn works_again(cluster: &Cluster, name: &str) {
    for node in cluster.nodes() {
        insert(node);
        node.wait_until("SELECT count(*) FROM spock.peer_status() WHERE state = 'connected'", "2");
        node.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL", "2");
    }
    let made = cluster.nodes()[0].value(&format!("SELECT count(*) FROM spock.create_restore_point('{name}')"));
    assert_eq!(made, "3");
    for node in cluster.nodes() {
        assert_ne!(listed(node, name), "", "{}", node.name());
    }
}

#[test]
fn the_death_of_who_makes_the_point_leaves_it_loose_and_no_commit_waiting() {
    let cluster = mesh_of("restore_points_coordinator", 3);
    let [n1, n2, n3] = cluster.all();
    cluster.expect_log("terminating");
    let moments = [
        (names::RESTORE_POINT_PREPARED, false),
        (names::RESTORE_POINT_CLOSED, true),
        (names::RESTORE_POINT_MARKED, true),
        (names::RESTORE_POINT_OPENED, false),
    ];
    for (moment, is_closed) in moments {
        n1.arm(moment, Action::Crash);
        let arguments = format!("'{moment}', lease := '2 s'");
        thread::scope(|scope| {
            let creating = create(scope, n1, &arguments);
            n1.wait_hit(moment);
            if is_closed {
                // n2's gate is closed, and nobody will open it.
                n2.wait_until(
                    "SELECT count(*) FROM spock.restore_points()",
                    &n2.value("SELECT count(*) FROM spock.restore_points()"),
                );
            }
            insert(n2);
            insert(n3);
            assert!(creating.join().expect("the session ends").is_err(), "{moment}");
        });
        n1.wait_until("SELECT 1", "1");
        for node in cluster.nodes() {
            assert_eq!(listed(node, moment), "loose", "{}: {moment}", node.name());
        }
        let again = n1.try_sql(&format!("SELECT spock.create_restore_point('{moment}')")).expect_err("it is used");
        assert_eq!(again.sqlstate, "42710");
        works_again(&cluster, &format!("after_{moment}"));
    }
}

#[test]
fn a_node_or_a_worker_that_dies_meanwhile_is_named_and_holds_nobody_up() {
    let cluster = mesh_of("restore_points_peer", 3);
    let [n1, n2, n3] = cluster.all();
    cluster.expect_log("terminating");
    // A poller: its peer's gate opens by itself.
    n1.arm(names::RESTORE_POINT_CLOSED, Action::Wait);
    thread::scope(|scope| {
        let creating = create(scope, n1, "'poller', lease := '4 s'");
        n1.wait_hit(names::RESTORE_POINT_CLOSED);
        n1.sigterm(n1.wait_process("spock_recovery poller n2").pid);
        n1.wait_process("spock_recovery poller n2");
        n1.disarm(names::RESTORE_POINT_CLOSED);
        // Another poller takes over, or the point is given up: nothing is said of it that is not true.
        match creating.join().expect("the session ends") {
            Ok(rows) => assert_eq!(rows.len(), 3),
            Err(error) => assert!(error.message.contains("node \"n2\""), "{error}"),
        }
    });
    works_again(&cluster, "after_poller");
    // The manager: the worker goes on.
    n1.arm(names::RESTORE_POINT_CLOSED, Action::Wait);
    thread::scope(|scope| {
        let creating = create(scope, n1, "'manager', lease := '20 s'");
        n1.wait_hit(names::RESTORE_POINT_CLOSED);
        n1.sigterm(n1.wait_process("spock_recovery manager").pid);
        n1.disarm(names::RESTORE_POINT_CLOSED);
        let rows = creating.join().expect("the session ends").expect("the point is made");
        assert_eq!(rows, ["n1=drained", "n2=drained", "n3=drained"]);
    });
    works_again(&cluster, "after_manager");
    // The node itself.
    n1.arm(names::RESTORE_POINT_CLOSED, Action::Wait);
    thread::scope(|scope| {
        let creating = create(scope, n1, "'node', lease := '2 s'");
        n1.wait_hit(names::RESTORE_POINT_CLOSED);
        n2.kill9();
        n1.disarm(names::RESTORE_POINT_CLOSED);
        let error = creating.join().expect("the session ends").expect_err("n2 is dead");
        assert!(error.message.contains("node \"n2\""), "{error}");
        insert(n1);
        insert(n3);
    });
    for node in [n1, n3] {
        assert_eq!(listed(node, "node"), "", "{}: a point that some node does not have is no point", node.name());
    }
    n2.start();
    works_again(&cluster, "after_node");
    // Who has asked for it.
    n1.arm(names::RESTORE_POINT_CLOSED, Action::Wait);
    thread::scope(|scope| {
        let creating = create(scope, n1, "'caller', lease := '20 s'");
        n1.wait_hit(names::RESTORE_POINT_CLOSED);
        n1.sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%create_restore_point(''caller''%' AND pid <> pg_backend_pid()");
        let error = creating.join().expect("the session ends").expect_err("it was cancelled");
        assert_eq!(error.sqlstate, "57014");
        n1.expect_log("canceling statement due to user request");
        n1.disarm(names::RESTORE_POINT_CLOSED);
    });
    for node in cluster.nodes() {
        node.wait_until("SELECT quality FROM spock.restore_points() WHERE restore_point = 'caller'", "drained");
    }
}

#[test]
fn a_point_whose_lease_has_run_out_is_loose() {
    let cluster = mesh_of("restore_points_late", 2);
    let [n1, n2] = cluster.all();
    for moment in [names::RESTORE_POINT_CLOSED, names::RESTORE_POINT_MARKED] {
        n1.arm(moment, Action::Wait);
        let arguments = format!("'{moment}', lease := '200 ms'");
        thread::scope(|scope| {
            let creating = create(scope, n1, &arguments);
            n1.wait_hit(moment);
            // These end when the lease has run out, and not before.
            insert(n1);
            insert(n2);
            n1.disarm(moment);
            let rows = creating.join().expect("the session ends").expect("the point is made");
            assert_eq!(rows, ["n1=loose", "n2=loose"]);
        });
    }
}
