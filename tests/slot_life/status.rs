//! What is told of the slot, and to whom.

use super::*;

#[test]
fn what_status_tells_is_for_pg_monitor_and_replication_and_nobody_else() {
    let cluster = quick("slot_life_rights").start();
    let [server] = cluster.all();
    make_node(server.db("postgres"), "n1", &server.dsn("postgres"));
    wait_slot(server.db("postgres"), 1);
    server.sql(
        "CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE peer LOGIN REPLICATION; CREATE ROLE nobody LOGIN",
    );
    for source in [
        "spock.get_recovery_slot_status()",
        "spock.recovery_horizon()",
        "spock.quick_health_check()",
        "spock.node_positions()",
        "spock.lag_tracker",
    ] {
        let statement = format!("SELECT * FROM {source}");
        for role in ["watcher", "peer"] {
            if let Err(error) = server.db("postgres").role(role).try_sql(&statement) {
                panic!("{role}, {source}: {error}");
            }
        }
        let error = server.db("postgres").role("nobody").try_sql(&statement).expect_err(source);
        assert_eq!(error.sqlstate, "42501", "{source}: {error}");
        assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("GRANT pg_monitor")), "{source}: {error}");
    }
}

#[test]
fn lag_tracker_shows_each_nodes_lag_behind_each_origin() {
    let cluster = budget::four_nodes("slot_life_lag");
    let [server] = cluster.all();
    let n3 = server.db("n3");
    let pairs = "SELECT string_agg(origin_name || '>' || receiver_name, ' ' ORDER BY origin_name, receiver_name) FROM spock.lag_tracker";
    n3.wait_until(pairs, "n1>n2 n1>n3 n1>n4");
    assert_eq!(n3.value("SELECT receiver_name FROM spock.lag_tracker LIMIT 1"), "n3");
    server.db("n4").sql("ALTER SUBSCRIPTION from_n1_n4 DISABLE");
    server.db("n1").sql("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(100, 10100) i");
    n3.wait_until("SELECT count(*) FROM t WHERE id >= 100", "10001");
    // n3 has it, n4 does not, by bytes of n1's WAL.
    n3.wait_until(
        "SELECT string_agg(receiver_name || ' ' || (replication_lag_bytes > 1000000), ', ' ORDER BY receiver_name) FROM spock.lag_tracker",
        "n2 false, n3 false, n4 true",
    );
    let lsn = |receiver: &str| format!("(SELECT commit_lsn FROM spock.lag_tracker WHERE receiver_name = '{receiver}')");
    assert_eq!(n3.value(&format!("SELECT {} > {}", lsn("n3"), lsn("n4"))), "t");
    server.db("n4").sql("ALTER SUBSCRIPTION from_n1_n4 ENABLE");
    n3.wait_until("SELECT bool_and(replication_lag_bytes < 1000000) FROM spock.lag_tracker", "t");
}

#[test]
fn every_check_of_the_health_check_is_there_and_says_what_to_do() {
    let cluster = quick("slot_life_health").setting("track_commit_timestamp", "off").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    server.sql("CREATE EXTENSION spock_recovery");
    let no_node = server.value("SELECT check_name, status, details FROM spock.quick_health_check()");
    assert!(no_node.starts_with("node|MISSING|") && no_node.contains("spock.node_create("), "{no_node}");
    server.sql(&format!("SELECT spock.node_create('n1', '{}')", server.dsn("postgres")));
    server.sql("SELECT spock.peer_create('n2', 'host=/nonexistent')");
    wait_slot(database, 1);
    database.wait_until("SELECT status FROM spock.quick_health_check() WHERE check_name = 'peer n2'", "CRITICAL");
    assert_eq!(
        server.value("SELECT check_name, status FROM spock.quick_health_check() ORDER BY check_name COLLATE \"C\""),
        "apply_workers|HEALTHY\nmanager|HEALTHY\noutput_plugin_libraries|HEALTHY\npeer n2|CRITICAL\nrecovery|HEALTHY\nrecovery_slot|HEALTHY\nrescue_capacity|HEALTHY\nretention|HEALTHY\n\
         slot_invalidation|HEALTHY\ntrack_commit_timestamp|WARNING\nvouching|HEALTHY\nwal_level|HEALTHY"
    );
    assert!(health(database, "track_commit_timestamp").contains("ALTER SYSTEM SET"));
    // It only looks: a transaction that has called it may still create a slot.
    let mut session = database.session();
    session.sql("BEGIN");
    assert_ne!(session.value("SELECT count(*) FROM spock.quick_health_check()"), "0");
    assert_eq!(session.value("SELECT pg_current_xact_id_if_assigned() IS NULL"), "t");
    session.sql("COMMIT");
    if !cluster.installation().has_output_plugin_libraries {
        // An older minor: any plugin may be used, and nothing is to be listed.
        return;
    }
    server.set(&[("output_plugin_libraries", "pgoutput,test_decoding")]);
    let verdict = health(database, "output_plugin_libraries");
    assert!(
        verdict.starts_with("WARNING|") && verdict.contains("= pgoutput, test_decoding, spock_recovery;"),
        "{verdict}"
    );
}
