//! Clusters that are no quiet mesh.

use super::{assert_tidy, run, with_gap, write};
use crate::rescue::{assert_identical, drain, hold_back, start, wait_arrived};
use crate::slot_keeps::{self, quick};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

#[test]
fn survivors_that_are_written_to_all_the_while_are_recovered_and_converge() {
    let cluster = with_gap("recover_load");
    let [_, n2, n3] = cluster.all();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for (node, base) in [(n2, 100_000), (n3, 200_000)] {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut session = node.session();
                let mut id = base;
                while !is_over.load(Ordering::Relaxed) {
                    id += 1;
                    session.sql(&format!(
                        "INSERT INTO t VALUES ({id}, 'load'); UPDATE t SET v = v || '.' WHERE id = {id} - 1"
                    ));
                }
            });
        }
        let transactions = run(n2, "'n1'", "transactions");
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(transactions, "50");
    });
    drain(n2, n3);
    drain(n3, n2);
    assert_identical(n2, n3);
    assert_tidy(&[n2, n3], &["n1"]);
}

#[test]
fn a_failed_node_that_hangs_instead_of_dying_is_recovered_all_the_same() {
    let cluster = start("recover_hangs", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    for node in [n2, n3] {
        drain(n1, node);
    }
    hold_back(n2);
    write(n1, 1, 30);
    wait_arrived(n1);
    n1.pause();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    cluster.expect_log("terminating");
    for node in [n2, n3] {
        node.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    }
    // n3's worker still holds its connection to a node that says nothing.
    assert_eq!(run(n2, "'n1'", "transactions"), "30");
    assert_identical(n2, n3);
    assert_tidy(&[n2, n3], &["n1"]);
    n1.resume();
}

#[test]
fn spokes_of_a_hub_recover_it_from_each_other() {
    let cluster = slot_keeps::start(quick("recover_hub", 3));
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    cluster.wire(&[("n2", "n1"), ("n3", "n1"), ("n1", "n2"), ("n1", "n3")]);
    let [n1, n2, n3] = cluster.all();
    // The spokes know each other by name alone: no subscription leads from one to the other.
    n2.sql(&format!("SELECT spock.peer_create('n3', '{}')", n3.dsn("postgres")));
    n3.sql(&format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    write(n1, 1, 10);
    for node in [n2, n3] {
        drain(n1, node);
        node.wait_until(
            "SELECT count(*) FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND released_lsn < 'FFFFFFFF/0'",
            "1",
        );
    }
    hold_back(n2);
    write(n1, 11, 40);
    wait_arrived(n1);
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    assert_eq!(run(n2, "'n1'", "transactions"), "30");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "40");
    assert_tidy(&[n2, n3], &["n1"]);
}
