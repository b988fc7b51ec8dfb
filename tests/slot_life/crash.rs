//! Whatever moment a crash chooses, the record never vouches for more than the slot still has.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;

/// A crash at a random moment comes within this after the slot has moved: several moves' time.
const WINDOW_MS: u32 = 400;

const RECORD: &str = "SELECT label::jsonb->>'position' FROM pg_shseclabel WHERE classoid = 'pg_database'::regclass";
const RELEASED: &str = "SELECT o->>'released' FROM pg_shseclabel, jsonb_array_elements(label::jsonb->'origins') o
                         WHERE classoid = 'pg_database'::regclass AND o->>'node' = 'n1'";
const CONFIRMED: &str =
    "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'spk_recovery_postgres'";

fn kills() -> u32 {
    env::var("SOAK_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(10)
}

/// Runs `act` while n1 writes what can be told by its position there, and n3 saves its slot again and again.
fn under_load(n1: &Node, act: impl FnOnce()) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = n1.session();
            while !ended.load(Ordering::SeqCst) {
                session.sql("INSERT INTO serial (at) VALUES (pg_current_wal_insert_lsn())");
            }
        });
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        ended.store(true, Ordering::SeqCst);
        if let Err(panic) = acted {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Three nodes, of which n3's slot follows n1 under load.
fn moving(name: &str) -> Cluster {
    let cluster = mesh_of_three(name);
    // Everything that n1 writes passes through the table; the origin position of a row is beyond its `at`.
    cluster.sql("CREATE TABLE serial (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at pg_lsn)");
    cluster.refresh_mesh();
    cluster
}

/// Waits until the slot has moved, on disk too.
fn wait_moved(n3: &Node) {
    let before = n3.value(CONFIRMED);
    n3.wait_until(&format!("SELECT ({CONFIRMED}) > '{before}'"), "t");
    n3.sql("CHECKPOINT");
}

/// The server is up again, and its manager stands before its first look: record and slot are what the crash has left.
fn assert_record_covers(n3: &Node) {
    n3.wait_hit(names::MANAGER_START);
    n3.wait_until(
        "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'spk_recovery_postgres' AND NOT active",
        "1",
    );
    let (position, confirmed, released) = (n3.value(RECORD), n3.value(CONFIRMED), n3.value(RELEASED));
    assert_eq!(
        n3.value(&format!("SELECT '{position}'::pg_lsn >= '{confirmed}'::pg_lsn")),
        "t",
        "{position} < {confirmed}"
    );
    let mut session = n3.session();
    // What is there now; n1 goes on.
    session.sql("CREATE TEMP TABLE written AS SELECT * FROM serial");
    flush_wal(n3.db("postgres"));
    session.sql(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', 'probe', true, 'test_decoding')"));
    session.sql(
        "CREATE TEMP TABLE kept AS SELECT substring(data FROM 'n\\[bigint\\]:(\\d+)')::bigint AS n
           FROM pg_logical_slot_peek_changes('probe', NULL, NULL) WHERE data LIKE 'table public.serial: INSERT%'",
    );
    // A row's origin position is at or below the next row's `at`.
    let lost = session.value(&format!(
        "SELECT string_agg(n || ' at ' || at, ', ') FROM written w
          WHERE at >= '{released}' AND NOT EXISTS (SELECT FROM kept k WHERE k.n = w.n)"
    ));
    assert_eq!(lost, "", "beyond released {released}, and not in the slot");
    n3.disarm(names::MANAGER_START);
    wait_slot(n3.db("postgres"), 1);
}

#[test]
fn after_kill_9_at_random_moments_nothing_beyond_the_record_is_missing_from_the_slot() {
    let cluster = moving("slot_life_kill9");
    let [n1, _, n3] = cluster.all();
    under_load(n1, || {
        for _ in 0..kills() {
            wait_moved(n3);
            let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").subsec_nanos();
            // The moment is what is tested: no condition stands for it.
            thread::sleep(Duration::from_millis(u64::from(nanos / 1_000 % WINDOW_MS)));
            n3.arm(names::MANAGER_START, Action::Wait);
            n3.kill9();
            n3.start();
            assert_record_covers(n3);
        }
    });
    wait_follows(n3.db("postgres"));
}

#[test]
fn after_a_crash_on_either_side_of_a_move_nothing_beyond_the_record_is_missing_from_the_slot() {
    let cluster = moving("slot_life_crash");
    let [n1, _, n3] = cluster.all();
    under_load(n1, || {
        for _ in 0..2 {
            for failpoint in [names::MANAGER_RECORD_WRITTEN, names::SLOT_JOB_BEFORE, names::SLOT_JOB_AFTER] {
                wait_moved(n3);
                n3.arm(names::MANAGER_START, Action::Wait);
                n3.arm(failpoint, Action::Crash);
                n3.wait_hit(failpoint);
                assert_record_covers(n3);
            }
        }
    });
    wait_follows(n3.db("postgres"));
}
