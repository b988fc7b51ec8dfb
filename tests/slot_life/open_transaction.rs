//! A transaction that stays open pins the WAL that decoding must start from: moving the slot again and again would decode
//! all of it again and again.

use super::*;

#[test]
fn an_open_transaction_is_named_and_the_pinned_wal_is_not_decoded_again_and_again() {
    let cluster = quick("slot_life_open").setting("log_min_messages", "debug1").start();
    let [server] = cluster.all();
    server.sql("CREATE DATABASE other STRATEGY file_copy");
    let database = server.db("postgres");
    make_node(database, "n1", &server.dsn("postgres"));
    wait_slot(database, 1);
    wait_follows(database);
    let moves = || log_count(server, "starting background worker process \"spock_recovery slot worker");
    let mut open = server.db("other").session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    fill_wal(database, 40);
    wait_blocked(database, "open_transaction");
    let before = moves();
    let rounds_begun = server.value("SELECT clock_timestamp()");
    // Each move is due by the target, and none by the pace: 0.1 s doubles each time.
    wait_for("forty times the interval", || {
        fill_wal(database, 1);
        server.value(&format!("SELECT clock_timestamp() > '{rounds_begun}'::timestamptz + interval '4 s'")) == "t"
    });
    let moved = moves() - before;
    assert!((1..=7).contains(&moved), "{moved} moves in four seconds");
    wait_blocked(database, "open_transaction");
    assert!(health(database, "retention").contains("held: open_transaction"), "{}", health(database, "retention"));
    let pinned = "SELECT retained_bytes > 40 * 1048576 FROM spock.get_recovery_slot_status()";
    assert_eq!(server.value(pinned), "t");
    open.sql("COMMIT");
    // Decoding may start later only from where core has written down that nothing older runs.
    server.sql("SELECT pg_log_standby_snapshot()");
    server.wait_until(pinned, "f");
    wait_blocked(database, "");
    // A move by core's account: what decoding said is not in the log.
    assert_eq!(log_count(server, "starting logical decoding for slot"), 0);
}
