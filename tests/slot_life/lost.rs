//! A slot that is lost is made anew, and the loss is told: by the log, by released_lsn, by the health check.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

/// n1 and n3, of which n3 has a subscriber of n1 as its peer that nobody can reach: n3's slot keeps all that comes.
fn held_pair(name: &str) -> Cluster {
    let cluster = quick(name).nodes(2).start();
    cluster.expect_log("schema \"spock\" does not exist");
    let [n1, n3] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    n1.sql("CREATE PUBLICATION p FOR ALL TABLES");
    make_node(n1.db("postgres"), "n1", &n1.dsn("postgres"));
    make_node(n3.db("postgres"), "n3", &n3.dsn("postgres"));
    n3.sql("SELECT spock.peer_create('n2', 'host=/nonexistent')");
    n3.sql(&format!(
        "CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (copy_data = false)",
        n1.dsn("postgres")
    ));
    n3.wait_until("SELECT count(*) FROM spock.node", "3");
    wait_blocked(n3.db("postgres"), "peer_unreachable");
    cluster
}

/// Loads n1 while `act` goes on.
fn under_load(n1: &Node, act: impl FnOnce()) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = n1.session();
            let mut id = 1_000;
            while !ended.load(Ordering::SeqCst) {
                id += 1;
                session.sql(&format!("INSERT INTO t VALUES ({id}, 'load')"));
            }
        });
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        ended.store(true, Ordering::SeqCst);
        if let Err(panic) = acted {
            std::panic::resume_unwind(panic);
        }
    });
}

const RELEASED: &str = "SELECT released_lsn FROM spock.recovery_horizon() WHERE origin_node = 'n1'";
const OWN: &str = "SELECT remote_lsn FROM pg_replication_origin_status";

/// Waits until n3's present slot vouches for something, and that is not what the lost one had let through.
fn assert_loss_is_told(n3: &Node, generation: u32, own_before: &str) {
    wait_slot(n3.db("postgres"), generation);
    n3.wait_until(&format!("SELECT ({RELEASED}) < 'FFFFFFFF/FFFFFFFF'"), "t");
    assert_eq!(
        n3.value(&format!("SELECT ({RELEASED}) >= '{own_before}'")),
        "t",
        "{} < {own_before}",
        n3.value(RELEASED)
    );
    let record = "SELECT (label::jsonb->'origins'->0->>'released')::pg_lsn FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass";
    assert_eq!(n3.value(&format!("SELECT ({record}) >= '{own_before}'")), "t");
    assert_eq!(log_count(n3, &format!("is missing; creating generation {generation}")), 1);
    let verdict = health(n3.db("postgres"), "recovery_slot");
    assert!(verdict.contains(&format!("generation {generation}: what earlier slots kept is lost")), "{verdict}");
}

#[test]
fn a_slot_dropped_or_invalidated_under_load_is_made_anew_and_the_loss_is_told() {
    let cluster = held_pair("slot_life_lost");
    let [n1, n3] = cluster.all();
    under_load(n1, || {
        n3.wait_until(&format!("SELECT ({RELEASED}) < 'FFFFFFFF/FFFFFFFF'"), "t");
        // What it keeps is beyond what it vouches for: nobody can say that it was given up in good order.
        n3.wait_until(&format!("SELECT ({OWN}) > ({RELEASED})"), "t");
        let own = n3.value(OWN);
        wait_for("nobody to have the slot", || {
            n3.try_sql(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).is_ok()
        });
        assert_loss_is_told(n3, 2, &own);

        n3.wait_until(&format!("SELECT ({OWN}) > ({RELEASED})"), "t");
        let own = n3.value(OWN);
        // Two segments that the slot needs, and none that may be kept: the checkpoint takes them.
        fill_wal(n3.db("postgres"), 33);
        n3.set(&[("max_slot_wal_keep_size", "1MB")]);
        n3.sql("CHECKPOINT");
        assert_loss_is_told(n3, 3, &own);
        n3.set(&[("max_slot_wal_keep_size", "-1")]);
    });
    assert_eq!(log_count(n3, "was invalidated; it will be created anew"), 1);
    assert_eq!(log_count(n3, "WARNING:"), 3, "{}", n3.log());
    // It keeps what has come since.
    n1.sql("INSERT INTO t VALUES (1, 'kept')");
    n3.wait_until("SELECT count(*) FROM t WHERE id = 1", "1");
    assert!(decodable(n3).contains(&1));
}

#[test]
fn a_slot_whose_record_is_lost_is_taken_on_and_vouches_for_nothing_of_before() {
    let cluster = held_pair("slot_life_record_lost");
    let [n1, n3] = cluster.all();
    n1.sql("INSERT INTO t VALUES (1, 'x')");
    n3.wait_until("SELECT count(*) FROM t", "1");
    wait_slot(n3.db("postgres"), 1);
    let own = n3.value(OWN);
    // The manager knows the record still, and may write it anew before the signal is there: then once more.
    wait_for("a manager to find the slot without its record", || {
        let manager = n3.wait_process("spock_recovery manager").pid;
        n3.sql("SECURITY LABEL FOR spock_recovery ON DATABASE postgres IS NULL");
        n3.sigterm(manager);
        wait_for("the manager to end", || n3.processes().iter().all(|process| process.pid != manager));
        n3.wait_process("spock_recovery manager");
        wait_rounds(n3.db("postgres"), 2);
        n3.log_contains("was found without a retention record")
    });
    n3.wait_until(&format!("SELECT ({RELEASED}) BETWEEN '{own}' AND 'FFFFFFFF/FFFFFFFE'"), "t");
    wait_slot(n3.db("postgres"), 1);
    // Neither another slot, nor one that keeps WAL for ever unseen.
    assert_eq!(
        n3.value("SELECT slot_name FROM pg_replication_slots WHERE database = 'postgres'"),
        "spk_recovery_postgres"
    );
}
