//! What a peer reports is on its disk: a crash of it takes nothing back that this node has let go.

use nix::sys::signal::Signal;

use super::{advance, advance_by_fresh_reports, decoded, insert_each, missing, quick, released, start_mesh};
use crate::cluster::{Cluster, Node};

#[test]
fn nothing_is_let_go_that_a_peer_can_still_lose_in_a_crash() {
    // Everything that flushes n2's WAL by itself is out of the way: what is on disk there is there because somebody asked.
    let builder = quick("slot_keeps_durable", 3)
        .setting("spock.peer_timeout", "1min")
        .setting("wal_writer_delay", "10s")
        .setting("wal_writer_flush_after", "1GB")
        .setting("bgwriter_lru_maxpages", "0")
        .setting("autovacuum", "off")
        .setting("checkpoint_timeout", "1h")
        .setting("wal_retrieve_retry_interval", "100ms");
    let cluster = start_mesh(builder, "CREATE TABLE t (id int PRIMARY KEY)");
    let [n1, n2, n3] = cluster.all();
    n2.set(&[("spock.recovery_slot_advance_interval", "1h")]);
    let writer = n2.wait_process("walwriter").pid;
    spock_recovery_cluster::process::send(writer, Signal::SIGSTOP).expect("the WAL writer is ours");

    // Applied on n2 and not flushed, its worker restarted, so that core has confirmed it to n1; then reported.
    let (_, last, askers) = unflushed_batch(&cluster, 1);
    for asker in askers {
        asker.go_on();
    }
    advance_by_fresh_reports(n3, "'n2'");
    let reported = released(n3, "n1");

    // The same, and this is lost before it is reported.
    let (first, last, [_, asker]) = unflushed_batch(&cluster, last + 1);
    advance(n3);
    n1.kill9();
    n2.kill9();
    n2.start();
    let left: u32 = n2.value("SELECT count(*) FROM t").parse().expect("a count");
    assert!(left < last, "all {left} transactions have survived: this test proves nothing");
    asker.go_on();
    advance_by_fresh_reports(n3, "'n2'");
    assert_eq!(decoded(n3, &missing(left + 1, last)), "0", "transactions that n2 has lost and n3's slot has let go");
    assert!(left >= first - 1, "what n2 has reported is on its disk");
    let released = released(n3, "n1");
    assert_eq!(
        n2.value(&format!(
            "SELECT passed_lsn >= '{released}', '{released}'::pg_lsn >= '{reported}' FROM spock.node_positions()
              WHERE origin_node = 'n1'"
        )),
        "t|t"
    );
}

/// The process on `node` that asks n2, stopped where it is.
struct Asker(i32);

impl Asker {
    fn stop(node: &Node) -> Asker {
        let asker = Asker(node.wait_process("spock_recovery poller n2").pid);
        // Between two questions: within one it may hold what all others of the node wait for.
        node.wait_until(&format!("SELECT state FROM pg_stat_activity WHERE pid = {}", asker.0), "idle");
        asker.send(Signal::SIGSTOP);
        asker
    }

    fn go_on(self) {
        self.send(Signal::SIGCONT);
    }

    fn send(&self, signal: Signal) {
        spock_recovery_cluster::process::send(self.0, signal).expect("it is ours");
    }
}

/// Transactions from `first` on, 100 of them, that n2 has applied, confirmed to n1, and not written to its disk. Whoever asks
/// n2 is stopped. Something on n2 may flush by chance: then the next hundred is tried. First, last, and who was stopped.
fn unflushed_batch(cluster: &Cluster, mut first: u32) -> (u32, u32, [Asker; 2]) {
    let [n1, n2, n3] = cluster.all();
    for _ in 0..10 {
        let askers = [n1, n3].map(Asker::stop);
        let last = first + 99;
        if apply_unflushed(n1, n2, n3, first, last) {
            return (first, last, askers);
        }
        for asker in askers {
            asker.go_on();
        }
        first = last + 1;
    }
    panic!("n2 has flushed each time: this test proves nothing");
}

/// Applied on n2, its worker restarted, so that core confirms it to n1, and seen so by n2's own poller. Whether some of it is
/// not on n2's disk.
fn apply_unflushed(n1: &Node, n2: &Node, n3: &Node, from: u32, to: u32) -> bool {
    insert_each(n1, from, to);
    for node in [n2, n3] {
        node.wait_until(
            &format!("SELECT count(*) FROM t WHERE id BETWEEN {from} AND {to}"),
            &(to - from + 1).to_string(),
        );
    }
    let worker = "SELECT pid FROM pg_stat_subscription WHERE subname = 'sub_n2_n1'";
    let pid = n2.value(worker);
    n2.sigterm(pid.parse().expect("a pid"));
    super::wait_confirmed(n1, "sub_n2_n1");
    let now = n2.value("SELECT clock_timestamp()");
    n2.wait_until(&format!("SELECT last_contact > '{now}' FROM spock.peer_status() WHERE node_name = 'n1'"), "t");
    n2.value("SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()") == "t"
}
