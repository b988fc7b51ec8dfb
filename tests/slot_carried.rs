//! The recovery slot survives a restore from a backup: its files are saved in the database, and it stays behind the slots
//! that are made anew as copies of it.

mod horizon;
mod restore;

use crate::cluster::{Cluster, Node, wait_for};
use crate::reconcile::kept::vacuumlo;
use crate::slot_keeps::{quick, start_mesh};
use crate::slot_life::{self, SLOT, make_node, wait_rounds, wait_slot};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY)";

/// Whether what is saved are the files of the slot as it is.
const IS_SAVED: &str =
    "SELECT s.restart_lsn = r.restart_lsn AND s.slot_name = r.slot_name AND s.generation = i.recovery_generation
        AND s.state = pg_read_binary_file('pg_replslot/' || s.slot_name || '/state')
        AND s.snap IS NOT DISTINCT FROM pg_read_binary_file('pg_logical/snapshots/' || s.snap_name)
   FROM spock_internal.saved_recovery_slot() s, pg_replication_slots r, spock.get_recovery_slot_status() i
  WHERE r.slot_name = i.slot_name";

/// The objects to which the view refers, and the version of what is in them.
const OBJECT: &str =
    "SELECT object, data.xmin FROM spock.recovery_kept_objects JOIN pg_largeobject data ON loid = object";

/// Moves the slot so that decoding begins later than before, and returns when that is saved.
fn move_on(node: &Node) {
    let before = node.value("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'spk_recovery_postgres'");
    move_beyond(node, &before);
}

/// Moves the slot so that decoding begins beyond a position, and returns when that is saved.
fn move_beyond(node: &Node, position: &str) {
    wait_for("decoding to begin later", || {
        node.sql("SELECT pg_logical_emit_message(true, 'more', ''); SELECT pg_log_standby_snapshot()");
        node.sql("SELECT spock.advance_recovery_slot()");
        let later = format!("SELECT restart_lsn > '{position}' FROM spock_internal.saved_recovery_slot()");
        node.value(&later) == "t"
    });
}

#[test]
fn the_saved_files_follow_the_slot_and_an_idle_node_writes_nothing() {
    let cluster = start_mesh(quick("slot_carried_moves", 2), TABLE);
    let [n1, n2] = cluster.all();
    n1.wait_until("SELECT count(*) FROM spock_internal.saved_recovery_slot()", "1");
    let object = n1.value("SELECT object FROM spock.recovery_kept_objects");
    for _ in 0..3 {
        move_on(n1);
        // What is confirmed alone, core writes to disk with a checkpoint.
        n1.sql("CHECKPOINT; SELECT spock_internal.save_recovery_slot()");
        n1.wait_until(IS_SAVED, "t");
        assert_eq!(n1.value("SELECT snap IS NOT NULL FROM spock_internal.saved_recovery_slot()"), "t");
        assert_eq!(n1.value("SELECT object FROM spock.recovery_kept_objects"), object, "it is written over in place");
    }
    assert_eq!(n1.value("SELECT count(*) FROM pg_largeobject_metadata"), "1");

    for node in [n1, n2] {
        node.set(&[("spock.recovery_slot_advance_interval", "1h")]);
    }
    let look = || (n1.value("SELECT pg_current_wal_insert_lsn()"), n1.value(OBJECT));
    wait_for("ten rounds in which nothing is written", || {
        let before = look();
        wait_rounds(n1.db("postgres"), 10);
        look() == before
    });
    // Nothing has moved, so nothing is saved.
    let before = look();
    assert_eq!(n1.value("SELECT saved FROM spock_internal.save_recovery_slot()"), "t");
    assert_eq!(look(), before);
}

#[test]
fn the_saved_files_outlives_vacuumlo_and_a_crash_and_go_with_the_slot() {
    let cluster = slot_life::quick("slot_carried_object").start();
    let [server] = cluster.all();
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    wait_slot(server.db("postgres"), 1);
    move_on(server);
    let saved = server.value("SELECT restart_lsn FROM spock_internal.saved_recovery_slot()");
    vacuumlo(&cluster, server);
    server.kill9();
    server.start();
    server.sql("REFRESH MATERIALIZED VIEW spock.recovery_kept_objects");
    vacuumlo(&cluster, server);
    let kept = format!("SELECT restart_lsn >= '{saved}' FROM spock_internal.saved_recovery_slot()");
    assert_eq!(server.value(&kept), "t");
    // By other means it can be removed, and is there again with the next move.
    server.sql("SELECT lo_unlink(object) FROM spock.recovery_kept_objects");
    assert_eq!(server.value("SELECT count(*) FROM spock_internal.saved_recovery_slot()"), "0");
    move_on(server);
    assert_eq!(server.value("SELECT count(*) FROM pg_largeobject_metadata"), "1");
    vacuumlo(&cluster, server);
    assert_eq!(server.value("SELECT count(*) FROM spock_internal.saved_recovery_slot()"), "1");

    server.sql("SELECT spock.drop_recovery_slot()");
    wait_slot(server.db("postgres"), 2);
    server.wait_until("SELECT generation FROM spock_internal.saved_recovery_slot()", "2");
    server.set(&[("spock.enable_recovery_slots", "off")]);
    server.wait_until("SELECT count(*) FROM pg_largeobject_metadata", "0");
    assert_eq!(server.value("SELECT count(*) FROM spock.recovery_kept_objects"), "0");
    assert_eq!(server.value("SELECT * FROM spock_internal.save_recovery_slot()"), format!("{SLOT}|||f"));
    server.set(&[("spock.enable_recovery_slots", "on")]);
    server.wait_until("SELECT generation FROM spock_internal.saved_recovery_slot()", "3");
    server.sql("SELECT spock.node_drop('n1')");
    server.wait_until("SELECT count(*) FROM pg_largeobject_metadata", "0");
}

#[test]
fn the_files_are_for_superusers_and_are_saved_where_something_can_be_written() {
    let cluster = slot_life::quick("slot_carried_roles").start();
    let [server] = cluster.all();
    server.sql("CREATE EXTENSION spock_recovery; CREATE ROLE r LOGIN REPLICATION; GRANT pg_monitor TO r");
    let state = |sql: &str| server.try_sql(sql).expect_err("it is refused").sqlstate;
    assert_eq!(state("SELECT spock_internal.save_recovery_slot()"), "55000");
    server.sql(&format!("SELECT spock.node_create('n1', '{}')", server.dsn("postgres")));
    wait_slot(server.db("postgres"), 1);
    server.wait_until("SELECT count(*) FROM spock_internal.saved_recovery_slot()", "1");
    for call in ["spock_internal.save_recovery_slot()", "spock_internal.saved_recovery_slot()"] {
        assert_eq!(state(&format!("SET ROLE r; SELECT {call}")), "42501");
        assert_eq!(state(&format!("GRANT EXECUTE ON FUNCTION {call} TO r; SET ROLE r; SELECT {call}")), "42501");
    }
    server.sql("BEGIN READ ONLY; SELECT spock_internal.saved_recovery_slot(); COMMIT");
    assert_eq!(state("BEGIN READ ONLY; SELECT spock_internal.save_recovery_slot()"), "25006");
    // What was saved belongs to a transaction that was rolled back.
    let before = server.value(OBJECT);
    server.sql("SELECT pg_log_standby_snapshot(); BEGIN; SELECT spock_internal.save_recovery_slot(); ROLLBACK");
    assert_eq!(server.value("SELECT count(*) FROM spock_internal.saved_recovery_slot()"), "1");
    assert_eq!(server.value(OBJECT).split('|').next(), before.split('|').next());
}

#[test]
fn saved_files_that_cannot_be_read_are_told_of_and_not_written_over() {
    let cluster = slot_life::quick("slot_carried_unreadable").start();
    let [server] = cluster.all();
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    wait_slot(server.db("postgres"), 1);
    move_on(server);
    let object = server.value("SELECT object FROM spock.recovery_kept_objects");
    let content = server.value(&format!("SELECT encode(lo_get({object}), 'hex')"));
    let put = |what: &str| server.sql(&format!("SELECT lo_put({object}, 0, {what})"));
    for (damage, state) in [
        (
            format!(
                "decode(replace('{content}', encode('\"version\":1', 'hex'), encode('\"version\":9', 'hex')), 'hex')"
            ),
            "0A000",
        ),
        (format!("set_byte(decode('{content}', 'hex'), length(decode('{content}', 'hex')) - 1, 255)"), "XX001"),
    ] {
        put(&damage);
        let damaged = server.value(&format!("SELECT md5(lo_get({object}))"));
        for call in ["spock_internal.saved_recovery_slot()", "spock_internal.save_recovery_slot()"] {
            assert_eq!(server.try_sql(&format!("SELECT {call}")).expect_err("it is refused").sqlstate, state);
        }
        let check = format!("document large object {object}");
        assert!(slot_life::health(server.db("postgres"), &check).starts_with("CRITICAL|"), "{state}");
        // The slot goes on all the same.
        let end = server.value("SELECT pg_current_wal_flush_lsn()");
        server.wait_until(&format!("SELECT spock.advance_recovery_slot() >= '{end}'"), "t");
        wait_rounds(server.db("postgres"), 3);
        assert_eq!(server.value(&format!("SELECT md5(lo_get({object}))")), damaged);
    }
    put(&format!("decode('{content}', 'hex')"));
    move_on(server);
}
