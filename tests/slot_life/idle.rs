//! Settings of core that could take the slot are warned of, and the one that can be met is met.

use super::*;

/// A slot that an origin with an unreachable subscriber holds for ever: nothing moves it.
fn hold_for_ever(server: &Node) {
    let database = server.db("postgres");
    make_node(database, "n3", &server.dsn("postgres"));
    server.sql("CREATE SUBSCRIPTION s CONNECTION 'host=/nonexistent' PUBLICATION p WITH (connect = false)");
    server.sql(
        "SELECT spock.peer_create('n1', 'host=/nonexistent'); SELECT spock.peer_create('n2', 'host=/nonexistent')",
    );
    server.sql("SELECT spock.sub_set_origin('s', 'n1')");
    wait_slot(database, 1);
    wait_blocked(database, "peer_unreachable");
}

#[test]
fn settings_that_could_take_the_slot_are_warned_of() {
    let cluster = quick("slot_life_settings").start();
    let [server] = cluster.all();
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    let verdict = || health(server.db("postgres"), "slot_invalidation");
    assert!(verdict().starts_with("HEALTHY|"), "{}", verdict());
    server.set(&[("max_slot_wal_keep_size", "1GB")]);
    assert!(
        verdict().starts_with("WARNING|max_slot_wal_keep_size = 1024 invalidates")
            || verdict().starts_with("WARNING|max_slot_wal_keep_size = 1GB"),
        "{}",
        verdict()
    );
    server.set(&[("max_slot_wal_keep_size", "-1")]);
    if cluster.major() >= 18 {
        server.set(&[("idle_replication_slot_timeout", "60s")]);
        assert!(verdict().starts_with("WARNING|idle_replication_slot_timeout = "), "{}", verdict());
    }
}

#[test]
fn an_idle_slot_is_touched_in_time_for_idle_replication_slot_timeout() {
    // 17 has no such setting.
    let cluster = quick("slot_life_idle").start();
    if cluster.major() < 18 {
        return;
    }
    let [server] = cluster.all();
    hold_for_ever(server);
    // A nap longer than the limit: the limit decides.
    server.set(&[("idle_replication_slot_timeout", "2s"), ("spock.manager_naptime", "1h")]);
    let position = server.value("SELECT confirmed_flush_lsn FROM pg_replication_slots");
    let now = server.value("SELECT clock_timestamp()");
    wait_for("twice the limit to pass, with checkpoints", || {
        server.sql("CHECKPOINT");
        server.value(&format!("SELECT clock_timestamp() > '{now}'::timestamptz + interval '5 s'")) == "t"
    });
    assert_eq!(
        server.value("SELECT slot_name, invalidation_reason, confirmed_flush_lsn FROM pg_replication_slots"),
        format!("{SLOT}||{position}")
    );
    wait_slot(server.db("postgres"), 1);
}
