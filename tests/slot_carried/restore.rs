//! A node is restored from a base backup, its slot is put back, and what had not reached the subscriber is in it.

use super::*;
use crate::slot_keeps::wait_confirmed;
use std::fs;
use std::path::Path;

/// In flight: transactions 1 to 20, while a transaction is open across the position where decoding begins; 21 to 40, with
/// changes of catalogs in between.
const ALL: &str = "40";

const IN_THE_SLOT: &str = "SELECT count(*), count(DISTINCT data) FROM pg_logical_slot_peek_changes('probe', NULL, NULL) WHERE data LIKE 'table public.t: INSERT%'";

fn insert(node: &Node, from: u32, to: u32) {
    node.sql(&format!("DO $$ BEGIN FOR id IN {from} .. {to} LOOP INSERT INTO t VALUES (id); COMMIT; END LOOP; END $$"));
}

/// Puts the slot back into a server that is paused after its base backup, opens it, and returns how many of the rows are
/// decoded from a copy of the slot.
fn put_back(cluster: &mut Cluster, name: &str, with_snapshot: bool) -> String {
    let archive = cluster.node("n1").data().join("pg_wal");
    let restored = cluster.add_restored(
        name,
        "n1",
        &[
            ("max_logical_replication_workers", "0"),
            ("restore_command", &format!("cp {}/%f %p", archive.display())),
            ("recovery_target", "immediate"),
            ("recovery_target_action", "pause"),
        ],
    );
    restored.expect_log("could not stat file");
    restored.start();
    restored.wait_until("SELECT pg_get_wal_replay_pause_state()", "paused");
    assert_eq!(restored.value("SELECT count(*) FROM pg_replication_slots"), "0", "a base backup has no slots");
    let column = |column: &str| restored.value(&format!("SELECT {column} FROM spock_internal.saved_recovery_slot()"));
    let restart = column("restart_lsn");
    let folder = restored.data().to_owned();
    let put = |path: &str, hex: &str| {
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
        (folder.join(path), bytes)
    };
    let state = put(&format!("pg_replslot/{SLOT}/state"), &column("encode(state, 'hex')"));
    let snap = put(&format!("pg_logical/snapshots/{}", column("snap_name")), &column("encode(snap, 'hex')"));
    let first = restored.value(&format!(
        "SELECT format('%s%s%s', '00000001', lpad(to_hex(('{restart}'::pg_lsn - '0/0')::bigint >> 32), 8, '0'),
                lpad(to_hex(((('{restart}'::pg_lsn - '0/0')::bigint & 4294967295) / 16777216)), 8, '0'))"
    ));
    restored.stop_fast();

    let own = |path: &Path| cluster.user().own(path).expect("the server's");
    let slot_folder = folder.join("pg_replslot").join(SLOT);
    fs::create_dir(&slot_folder).expect("the slot's folder");
    own(&slot_folder);
    fs::write(&state.0, &state.1).expect("the state file");
    own(&state.0);
    // A base backup may have snapshot files of other positions, by which decoding can become consistent as well.
    for other in fs::read_dir(folder.join("pg_logical/snapshots")).expect("the snapshots").flatten() {
        fs::remove_file(other.path()).expect("a snapshot file");
    }
    if with_snapshot {
        fs::write(&snap.0, &snap.1).expect("the snapshot file");
        own(&snap.0);
    }
    // Decoding reads no archive.
    for segment in fs::read_dir(&archive).expect("the archive").flatten() {
        let segment_name = segment.file_name().to_string_lossy().to_uppercase();
        let target = folder.join("pg_wal").join(segment.file_name());
        if segment_name.len() == 24 && segment_name >= first.to_uppercase() && !target.exists() {
            fs::copy(segment.path(), &target).expect("a segment");
            own(&target);
        }
    }

    // Our own workers would move the slot as soon as the server is open.
    let settings = folder.join("postgresql.auto.conf");
    let before = fs::read_to_string(&settings).expect("the settings");
    fs::write(&settings, before + "\nshared_preload_libraries = ''\n").expect("the settings");

    let restored = cluster.node(name);
    restored.start();
    restored.wait_until("SELECT pg_get_wal_replay_pause_state()", "paused");
    let slot = restored.value(&format!(
        "SELECT restart_lsn, wal_status <> 'lost', invalidation_reason FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
    ));
    assert_eq!(slot, format!("{restart}|t|"));
    restored.sql("SELECT pg_wal_replay_resume()");
    restored.wait_until("SELECT pg_is_in_recovery()", "f");
    let mut session = restored.session();
    session.sql(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', 'probe', true, 'test_decoding')"));
    session.value(IN_THE_SLOT)
}

#[test]
fn a_slot_that_is_put_back_has_all_that_was_in_flight_and_without_its_snapshot_it_would_not() {
    let mut cluster = start_mesh(quick("slot_carried_restore", 2), TABLE);
    let (n1, n2) = (cluster.node("n1"), cluster.node("n2"));
    // A transaction that has an id, and has written nothing, is open where decoding begins.
    let mut open = n1.session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    wait_confirmed(n1, "sub_n2_n1");
    move_beyond(n1, &n1.value("SELECT pg_current_wal_insert_lsn()"));
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n1.wait_until("SELECT active FROM pg_replication_slots WHERE slot_name = 'sub_n2_n1'", "f");
    insert(n1, 1, 20);
    open.sql("ROLLBACK");
    // Decoding would become consistent here without the snapshot.
    for _ in 0..2 {
        n1.sql("SELECT pg_log_standby_snapshot(), pg_logical_emit_message(true, 'one more', '')");
    }
    n1.sql("SELECT pg_switch_wal()");
    n1.sql("CREATE TABLE churn (a int); INSERT INTO churn VALUES (1); ALTER TABLE churn ADD b text; DROP TABLE churn");
    insert(n1, 21, 40);
    n1.sql("SELECT pg_log_standby_snapshot(); SELECT pg_switch_wal(); CHECKPOINT");
    n1.sql("SELECT spock.advance_recovery_slot()");
    assert_eq!(n1.value("SELECT saved FROM spock_internal.save_recovery_slot()"), "t");
    let behind = "SELECT bool_and(s.confirmed_flush_lsn <= o.confirmed_flush_lsn)
                    FROM spock_internal.saved_recovery_slot() s, pg_replication_slots o WHERE o.slot_name = 'sub_n2_n1'";
    assert_eq!(n1.value(behind), "t", "the recovery slot has not passed the subscriber's");

    assert_eq!(put_back(&mut cluster, "restored", true), format!("{ALL}|{ALL}"));
    // The test can fail: this is how rows are lost silently.
    assert_eq!(put_back(&mut cluster, "careless", false), "20|20");
}
