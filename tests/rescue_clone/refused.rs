//! What keeps a clone from being made: the server's state is told in the answer, the caller's mistakes are errors.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;
use crate::slot_life::fill_wal;

/// The call makes nothing, raises nothing, and says what to do.
fn assert_not_made(database: Database<'_>, message: &str) {
    let mut session = database.session();
    session.sql("BEGIN");
    let answer = answer(&session.rows(&call(""))[0]);
    assert!(!answer.success && answer.clone.is_empty() && answer.restart.is_empty(), "{answer:?}");
    assert!(answer.message.contains(message), "{answer:?}");
    // The caller's transaction goes on.
    session.sql("COMMIT");
    assert_eq!(database.value(CLONES), "0", "{answer:?}");
}

#[test]
fn without_a_usable_slot_the_answer_says_why_and_what_to_do() {
    let cluster = quick("rescue_clone_unusable").start();
    let [server] = cluster.all();
    let database = server.db("postgres");
    server.sql("CREATE DATABASE other STRATEGY file_copy");
    server.sql("CREATE EXTENSION spock_recovery");
    assert_not_made(database, "SELECT spock.node_create('n1'");
    let mut open = server.db("other").session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    server.sql(&format!("SELECT spock.node_create('n3', '{}')", server.dsn("postgres")));
    server.wait_until("SELECT count(*) FROM pg_replication_slots", "1");
    assert_not_made(database, "still being created: SELECT * FROM spock.quick_health_check()");
    open.sql("COMMIT");
    wait_slot(database, 1);

    server.set(&[("spock.enable_recovery_slots", "off")]);
    assert_not_made(database, "ALTER SYSTEM SET spock.enable_recovery_slots = on; SELECT pg_reload_conf()");
    server.wait_until("SELECT count(*) FROM pg_replication_slots", "0");
    let mut open = server.db("other").session();
    open.sql("BEGIN; SELECT pg_current_xact_id()");
    server.arm(names::MANAGER_TICK, Action::Wait);
    server.wait_hit(names::MANAGER_TICK);
    server.set(&[("spock.enable_recovery_slots", "on")]);
    assert_not_made(database, "there is no recovery slot at the moment");
    open.sql("COMMIT");
    server.disarm(names::MANAGER_TICK);
    wait_slot(database, 2);

    // Lost, and nobody has made it anew yet.
    server.arm(names::MANAGER_TICK, Action::Wait);
    server.wait_hit(names::MANAGER_TICK);
    fill_wal(database, 33);
    server.set(&[("max_slot_wal_keep_size", "1MB")]);
    server.sql("CHECKPOINT");
    server.wait_until("SELECT count(*) FROM pg_replication_slots WHERE invalidation_reason IS NOT NULL", "1");
    assert_not_made(database, "the recovery slot was invalidated");
    server.set(&[("max_slot_wal_keep_size", "-1")]);
    server.disarm(names::MANAGER_TICK);
    wait_slot(database, 3);
    made(database, "");
}

#[test]
fn cores_own_refusals_are_told_with_the_setting_to_change() {
    let cluster = quick("rescue_clone_refusals").setting("max_replication_slots", "2").start();
    let [n3] = cluster.all();
    make_source(n3);
    let database = n3.db("postgres");
    n3.sql("SELECT pg_create_physical_replication_slot('other')");
    assert_not_made(database, "raise max_replication_slots = 2 and restart");
    n3.sql("SELECT pg_drop_replication_slot('other')");
    // Not every minor has this setting.
    let lists = "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'";
    if n3.value(lists) == "1" {
        n3.set(&[("output_plugin_libraries", "pgoutput, test_decoding")]);
        assert_not_made(
            database,
            "ALTER SYSTEM SET output_plugin_libraries = pgoutput, test_decoding, spock_recovery; SELECT pg_reload_conf()",
        );
        n3.set(&[("output_plugin_libraries", "pgoutput, test_decoding, spock_recovery")]);
    }
    // The refused ones have left nothing that a clone would stumble upon.
    made(database, "");
}

#[test]
fn a_mistake_of_the_caller_is_an_error_that_says_what_to_type() {
    let cluster = source("rescue_clone_mistakes");
    let [n3] = cluster.all();
    let database = n3.db("postgres");
    for (arguments, sqlstate, message, hint) in [
        ("'n9'", "42704", "node \"n9\" does not exist", "SELECT * FROM spock.node;"),
        ("NULL, 'n9'", "42704", "node \"n9\" does not exist", "spock.peer_create('n9'"),
        ("'n3', 'n2'", "22023", "node \"n3\" is this node", "failed_node_name => 'n1'"),
        ("'n1', 'n3'", "22023", "node \"n3\" is this node", "failed_node_name => 'n1'"),
        (
            "'n1', 'n1'",
            "22023",
            "node \"n1\" cannot be both the failed and the target node",
            "target_node_name => 'n2'",
        ),
    ] {
        let error = refused(database, &call(arguments));
        assert_error(&error, sqlstate, hint);
        assert_eq!(error.message, message);
        assert!(error.detail.is_some(), "{error}");
    }
    let mut session = database.session();
    for before in ["CREATE TABLE written (i int)", &call("")] {
        session.sql("BEGIN");
        session.sql(before);
        let error = session.try_sql(&call("")).expect_err("it has written");
        assert_error(&error, "25001", "End the transaction first");
        session.sql("ROLLBACK");
    }
    assert_eq!(n3.value(REGISTERED), "0");
}

#[test]
fn a_claim_that_does_not_fit_is_refused() {
    let cluster = source("rescue_clone_claims");
    let [n3] = cluster.all();
    let database = n3.db("postgres");
    let clone = made(database, "'n1', 'n2'");
    let free = made(database, "");
    n3.sql("SELECT spock.peer_create('n4', 'host=/nonexistent')");
    n3.sql("SELECT pg_create_logical_replication_slot('mine', 'test_decoding')");
    let claim_as = |slot: &str, failed: &str, target: &str| {
        format!("SELECT spock_internal.claim_clone('{slot}', '{INTENT}', '{failed}', '{target}')")
    };
    for (statement, sqlstate, hint) in [
        (claim_as("spk_recovery_nothing", "n1", "n2"), "42704", "spock.recovery_clones()"),
        (claim_as("mine", "n1", "n2"), "42809", "spock.recovery_clones()"),
        (claim_as(SLOT, "n1", "n2"), "42809", "spock.recovery_clones()"),
        (claim_as(&clone, "n1", "n4"), "22023", "spock.clone_recovery_slot('n1', 'n2')"),
        (claim_as(&clone, "n4", "n2"), "22023", "spock.clone_recovery_slot('n1', 'n2')"),
        (claim_as(&clone, "n1", "n9"), "42704", "spock.peer_create('n9'"),
        (claim_as(&clone, "n1", "n3"), "22023", "spock.clone_recovery_slot("),
        (claim_as(&free, "n3", "n2"), "22023", "spock.clone_recovery_slot("),
        (claim_as(&free, "n2", "n2"), "22023", "spock.clone_recovery_slot("),
        (
            format!("SELECT spock_internal.claim_clone(NULL, '{INTENT}', 'n1', 'n2')"),
            "22004",
            "SELECT spock_internal.claim_clone(",
        ),
        (
            format!("SELECT spock_internal.claim_clone('{clone}', NULL, 'n1', 'n2')"),
            "22004",
            "SELECT spock_internal.claim_clone(",
        ),
        (
            format!("SELECT spock_internal.claim_clone('{clone}', '{INTENT}', NULL, 'n2')"),
            "22004",
            "SELECT spock_internal.claim_clone(",
        ),
        (
            format!("SELECT spock_internal.claim_clone('{clone}', '{INTENT}', 'n1', NULL)"),
            "22004",
            "SELECT spock_internal.claim_clone(",
        ),
    ] {
        assert_error(&refused(database, &statement), sqlstate, hint);
    }
    let claimed = "SELECT intent_id, failed_node, target_node FROM spock.recovery_clones() WHERE intent_id IS NOT NULL";
    assert_eq!(n3.value(claimed), "");
    // The same claim a second time is none; one of another intent is refused.
    for slot in [&clone, &free] {
        n3.sql(&claim(slot, INTENT));
        n3.sql(&claim(slot, INTENT));
        let error = refused(database, &claim(slot, OTHER_INTENT));
        assert_error(&error, "55006", "spock.clone_recovery_slot('n1', 'n2')");
        assert!(error.detail.as_deref().is_some_and(|detail| detail.contains(INTENT)), "{error}");
    }
    assert_eq!(n3.value(claimed), format!("{INTENT}|n1|n2\n{INTENT}|n1|n2"));
    n3.sql(&format!("SELECT pg_drop_replication_slot('{free}')"));
    assert_error(&refused(database, &claim(&free, INTENT)), "42704", "spock.recovery_clones()");

    fill_wal(database, 33);
    n3.set(&[("max_slot_wal_keep_size", "1MB")]);
    n3.sql("CHECKPOINT");
    n3.wait_until(&format!("SELECT usable FROM spock.recovery_clones() WHERE slot_name = '{clone}'"), "f");
    assert_error(&refused(database, &claim(&clone, INTENT)), "55000", "spock.clone_recovery_slot('n1', 'n2')");
    let row = health(database, &format!("clone {clone}"));
    assert!(row.starts_with("WARNING|was invalidated"), "{row}");
}

#[test]
fn roles_with_replication_may_make_and_claim_clones_and_pg_monitor_may_look() {
    let cluster = source("rescue_clone_roles");
    let [n3] = cluster.all();
    n3.sql("CREATE ROLE nobody LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE \"Mover\" LOGIN REPLICATION");
    let database = n3.db("postgres");
    let clone = made(database.role("Mover"), "'n1', 'n2'");
    database.role("Mover").sql(&claim(&clone, INTENT));
    for role in ["postgres", "Mover", "watcher"] {
        assert_eq!(database.role(role).value("SELECT slot_name FROM spock.recovery_clones()"), clone, "{role}");
    }
    assert_error(&refused(database.role("nobody"), "SELECT * FROM spock.recovery_clones()"), "42501", "pg_monitor");
    for role in ["watcher", "nobody"] {
        for statement in [call(""), claim(&clone, INTENT)] {
            let error = refused(database.role(role), &statement);
            assert_error(&error, "42501", &format!("ALTER ROLE {role} REPLICATION;"));
            assert!(error.detail.as_deref().is_some_and(|detail| detail.contains("REPLICATION")), "{error}");
        }
    }
    assert_eq!(n3.value(CLONES), "1");
}
