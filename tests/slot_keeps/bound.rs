//! With healthy peers the slot keeps little, whatever load there is.

use std::process::{Child, Stdio};

use super::{quick, start_mesh};
use crate::cluster::{Cluster, Node};

/// pgbench's own, for a mesh needs them everywhere before there is data.
const TABLES: &str = "CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
    CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
    CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
    CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))";

const ROUNDS: usize = 6;

/// WAL that n3 writes between two checkpoints, at least.
const ROUND_BYTES: u64 = 512 << 10;

/// At a rate that leaves the machine room for other tests: what is kept is compared with what is written.
struct Load(Child);

impl Load {
    fn start(cluster: &Cluster, node: &Node) -> Load {
        let child = pgbench(cluster, node, &["-N", "-n", "-c", "2", "-R", "1000", "-T", "120"]).spawn();
        Load(child.expect("pgbench is there"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pgbench(cluster: &Cluster, node: &Node, arguments: &[&str]) -> std::process::Command {
    let mut command = cluster.user().command(&cluster.installation().bindir.join("pgbench"));
    command.args(["-h", &cluster.folder().display().to_string(), "-p", &node.value("SHOW port"), "-U", "postgres"]);
    command.args(arguments).arg("postgres").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The bound: restart_lsn goes to the last record of running transactions that stands before the slot's position of one
/// move ago. With one such record per round (a checkpoint writes one; else the background writer, every 15 s) and a move
/// in every round, that is the record of the round before, and the transactions that were open at it began in the round before
/// that at the latest. So never more is kept than the WAL of the last three rounds. With the defaults that is
/// what is written in 15 s (to the next record) + 10 s (to the next move) + 10 s (to the one that uses it).
#[test]
fn with_healthy_peers_no_more_is_kept_than_the_last_records_of_running_transactions_ask_for() {
    let builder = quick("slot_keeps_bound", 3)
        .setting("spock.recovery_slot_advance_interval", "1s")
        .setting("autovacuum_naptime", "1s");
    let cluster = start_mesh(builder, TABLES);
    let [n1, _, n3] = cluster.all();
    assert!(pgbench(&cluster, n1, &["-i", "-I", "g"]).status().is_ok_and(|status| status.success()));
    n3.wait_until("SELECT count(*) FROM pgbench_accounts", "100000");
    let load = Load::start(&cluster, n1);
    let (mut marks, mut most_kept) = (Vec::new(), 0);
    let begun = n3.value("SELECT pg_current_wal_flush_lsn()");
    let first_xmin = catalog_xmin(n3);
    for round in 0..ROUNDS {
        for node in [n1, n3] {
            node.sql(&format!("CREATE TABLE changes_{round} (id int PRIMARY KEY, v text); DROP TABLE changes_{round}"));
        }
        let from = n3.value("SELECT pg_current_wal_flush_lsn()");
        n3.wait_until(&format!("SELECT pg_current_wal_flush_lsn() - '{from}' >= {ROUND_BYTES}"), "t");
        n3.sql("CHECKPOINT");
        let mark = n3.value("SELECT pg_current_wal_flush_lsn(), pg_current_xact_id()");
        marks.push(mark.split_once('|').map(|(lsn, xid)| (lsn.to_owned(), xid.to_owned())).expect("two columns"));
        n3.wait_until(
            &format!("SELECT confirmed_flush_lsn >= '{}' FROM spock.get_recovery_slot_status()", marks[round].0),
            "t",
        );
        let Some((lsn, xid)) = round.checked_sub(2).map(|before| &marks[before]) else { continue };
        let seen = n3.value(&format!(
            "SELECT restart_lsn >= '{lsn}', catalog_xmin::text::bigint >= {xid}, pg_current_wal_flush_lsn() - restart_lsn
               FROM pg_replication_slots WHERE slot_name = (SELECT slot_name FROM spock.get_recovery_slot_status())"
        ));
        let kept = seen.strip_prefix("t|t|").unwrap_or_else(|| panic!("round {round}: {seen}, mark {lsn} {xid}"));
        most_kept = most_kept.max(kept.parse::<u64>().expect("bytes"));
    }
    drop(load);
    let written: u64 = n3.value(&format!("SELECT pg_current_wal_flush_lsn() - '{begun}'")).parse().expect("bytes");
    assert!(most_kept * 2 < written, "{most_kept} of {written} bytes were kept");
    assert!(catalog_xmin(n3) > first_xmin);
}

fn catalog_xmin(node: &Node) -> u64 {
    node.value(
        "SELECT catalog_xmin FROM pg_replication_slots
          WHERE slot_name = (SELECT slot_name FROM spock.get_recovery_slot_status())",
    )
    .parse()
    .expect("an xid")
}
