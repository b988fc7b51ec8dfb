//! While both nodes are written to, what is on its way is no difference.

use super::{compare, differences, of_table, past_replication, start};
use crate::cluster::Node;
use crate::rescue::drain;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Writes to the rows of this node's half, to new ones, and removes some, until told to stop. Returns how often.
fn write_until(node: &Node, half: u32, stop: &AtomicBool) -> u32 {
    let (mut session, mut round) = (node.session(), 0);
    while !stop.load(Ordering::SeqCst) {
        round += 1;
        session.sql(&format!(
            "UPDATE t SET v = v + 1 WHERE id % 2 = {half} AND id BETWEEN {0} AND {0} + 40;
             INSERT INTO t SELECT 100000 + 10 * {round} + 2 * g + {half}, 0 FROM generate_series(0, 4) g;
             DELETE FROM t WHERE id % 2 = {half} AND id BETWEEN 100000 + 10 * ({round} - 5) AND 100009 + 10 * ({round} - 5) AND v = 0",
            (round * 97) % 19_900
        ));
    }
    round
}

#[test]
fn what_is_on_its_way_between_two_nodes_that_are_written_to_is_no_difference() {
    let cluster = start("compare_load", "CREATE TABLE t (id int PRIMARY KEY, v int)");
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 0 FROM generate_series(1, 20000) g");
    drain(n1, n2);
    let stop = AtomicBool::new(false);
    // What was reported while both were written to; judged when the writers have ended.
    let (reports, last) = thread::scope(|scope| {
        let writers = [(n1, 0), (n2, 1)].map(|(node, half)| {
            let stop = &stop;
            scope.spawn(move || write_until(node, half, stop))
        });
        n1.wait_until("SELECT count(DISTINCT id % 2) FROM t WHERE id > 100000", "2");
        let reports: Vec<_> = (0..5).map(|_| compare(n1, "")).collect();
        // A real one is to be found among them.
        past_replication(n2, "DELETE FROM t WHERE id = 20000");
        let last = compare(n1, "");
        stop.store(true, Ordering::SeqCst);
        for writer in writers {
            assert!(writer.join().expect("it writes") > 0);
        }
        (reports, last)
    });
    for report in reports {
        assert_eq!((&report["differing"], &report["undecided"]), (&0.into(), &0.into()), "{report}");
        assert!(of_table(&report, "public.t")["rows"].as_u64() >= Some(20_000), "{report}");
    }
    assert_eq!(differences(n1, &last), "t|{\"id\": \"20000\"}|missing_there|here");
}
