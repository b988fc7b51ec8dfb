//! Who may ask for a plan, what about, and what recover_run() makes of it.

use super::{fail, make_gap, start};
use crate::cluster::{Action, Node};
use crate::failpoint_names as names;

fn choose(node: &Node, source: &str, target: &str) -> String {
    node.value(&format!(
        "SELECT target_node, source_node, outcome, reason FROM spock_internal.choose_recovery('n1', {source}, NULL, {target}, NULL)"
    ))
}

fn assert_refused(node: &Node, statement: &str, sqlstate: &str, hint: &str) {
    let error = node.try_sql(statement).expect_err(statement);
    assert_eq!(error.sqlstate, sqlstate, "{statement}: {error}");
    let told = error.hint.clone().unwrap_or_default();
    assert!(told.contains(hint) && !told.is_empty(), "{statement}: {error}");
}

#[test]
fn targets_and_sources_are_chosen_where_none_is_named_and_nonsense_is_refused() {
    let cluster = start("plan_asking", 3);
    let [_, n2, n3] = cluster.all();
    make_gap(&cluster);
    fail(&cluster);
    let catch_up = "n2|n3|catch_up|gap_covered";
    for node in [n2, n3] {
        assert_eq!(choose(node, "NULL", "NULL"), catch_up);
        assert_eq!(choose(node, "'n3'", "NULL"), catch_up);
        assert_eq!(choose(node, "'n3'", "'n2'"), catch_up);
        assert_eq!(choose(node, "NULL", "'n3'"), "n3||zero_gap|nothing_missing");
        // A source that is behind is never used to take something back.
        assert_eq!(choose(node, "'n2'", "'n3'"), "n3|n2|needs_rebuild|source_behind_target");
    }
    // By the connection string alone.
    let by_dsn = format!(
        "SELECT target_node, source_node, outcome FROM spock_internal.choose_recovery('n1', NULL, '{}', NULL, '{}')",
        n3.dsn("postgres"),
        n2.dsn("postgres")
    );
    assert_eq!(n3.value(&by_dsn), "n2|n3|catch_up");
    for (statement, sqlstate, hint) in [
        ("SELECT spock.recover_plan('n9')", "42704", "spock.node"),
        ("SELECT spock.recover_plan('n1', 'n9')", "42704", "spock.node"),
        ("SELECT spock.recover_plan('n1', 'n1')", "22023", ""),
        ("SELECT spock.recover_plan('n2')", "22023", "lost"),
        ("SELECT spock.recover_plan(NULL)", "22004", "recover_plan"),
        ("SELECT spock.find_rescue_source(NULL)", "22004", "find_rescue_source"),
        ("SELECT spock_internal.recovery_facts(NULL)", "22004", "recovery_facts"),
        ("SELECT spock_internal.choose_recovery('n1', 'n2', NULL, 'n2', NULL)", "22023", ""),
        ("SELECT spock_internal.choose_recovery('n1', 'n1', NULL, 'n2', NULL)", "22023", ""),
        ("SELECT spock_internal.choose_recovery('n1', 'n9', NULL, 'n2', NULL)", "42704", "spock.node"),
    ] {
        assert_refused(n2, statement, sqlstate, hint);
    }
    assert_eq!(n2.value("SELECT x IS NULL FROM spock.find_rescue_source('n9') x"), "t");
    only_who_may_read_positions_may_ask(n2, n3);
}

fn only_who_may_read_positions_may_ask(n2: &Node, n3: &Node) {
    n2.sql("CREATE ROLE app LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor; CREATE ROLE sender LOGIN REPLICATION");
    let as_role = |role| n2.db("postgres").role(role);
    for call in ["recover_plan('n1')", "find_rescue_source('n1')", "recovery_facts('n1')"] {
        let error = as_role("app").try_sql(&format!("SELECT * FROM spock.{call}")).expect_err("no right");
        assert_eq!(error.sqlstate, "42501", "{error}");
    }
    for role in ["watcher", "sender"] {
        let plan = "SELECT outcome, source_node FROM spock.recover_plan('n1', 'n2')";
        assert_eq!(as_role(role).value(plan), "catch_up|n3", "{role}");
        let error = as_role(role).try_sql("SELECT spock_internal.choose_recovery('n1', NULL, NULL, NULL, NULL)");
        assert_eq!(error.expect_err("no superuser").sqlstate, "42501");
    }
    // What others' processes do counts, whoever asks.
    let workers = "SELECT (spock_internal.recovery_facts('n1')->'capacity'->'workers'->>'used')::int > 2";
    assert_eq!(as_role("sender").value(workers), "t");
    let role = n3.value("SELECT spock_internal.recovery_facts('n1')->'asked_by'->>'role'");
    assert_eq!(role, "postgres");
}

#[test]
fn several_that_lag_are_named_and_one_that_is_being_recovered_is_joined() {
    let cluster = start("plan_several", 4);
    let [n1, n2, n3, n4] = cluster.all();
    n4.sql("ALTER SUBSCRIPTION sub_n4_n1 DISABLE");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    for node in [n2, n4] {
        node.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE subname LIKE '%_n1' AND pid IS NOT NULL", "0");
    }
    n1.sql("INSERT INTO held VALUES (1)");
    n3.wait_until("SELECT count(*) FROM held", "1");
    n1.kill9();
    assert_eq!(choose(n2, "NULL", "NULL"), "n2|n3|catch_up|gap_covered");
    let error = n3.try_sql("SELECT spock_internal.choose_recovery('n1', NULL, NULL, NULL, NULL)").expect_err("two lag");
    assert_eq!(error.sqlstate, "22023", "{error}");
    assert!(error.message.contains("n2, n4"), "{error}");
    assert!(error.hint.is_some_and(|hint| hint.contains("recover_failed_node('n1')")));

    let mut held = n2.session();
    held.sql("BEGIN; LOCK TABLE held IN EXCLUSIVE MODE");
    n2.sql("SELECT spock_internal.begin_recovery('n1', 'n3', 'n2')");
    n2.wait_until("SELECT phase FROM spock.recovery_progress", "replaying");
    let joined = "SELECT outcome, plan->>'notes' LIKE '%joins%' FROM spock.recover_plan('n1', 'n2')";
    for node in [n2, n3, n4] {
        assert_eq!(node.value(joined), "catch_up|t", "{}", node.name());
    }
    held.sql("COMMIT");
    n2.wait_until("SELECT phase FROM spock.recovery_intents()", "completed");
    n3.wait_until("SELECT outcome FROM spock.recover_plan('n1', 'n2')", "zero_gap");
}

#[test]
fn a_node_that_has_answered_a_moment_before_it_was_killed_is_asked_again() {
    let cluster = start("plan_killed", 3);
    let [n1, n2, _] = cluster.all();
    // Its pollers go on asking for longer than the test takes.
    n2.set(&[("spock.peer_timeout", "10min")]);
    n2.arm(names::POLLER_CONNECTED, Action::Wait);
    n2.wait_hit(names::POLLER_CONNECTED);
    n2.wait_until(
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery poller' AND state = 'active'
            AND state_change < clock_timestamp() - interval '1 s'",
        "2",
    );
    assert_eq!(n2.value("SELECT spock_internal.recovery_facts('n1') -> 'failed_answers'"), "true");
    n1.kill9();
    // Its poller knows no better.
    let state = "SELECT state FROM spock.peer_status() WHERE node_name = 'n1'";
    assert_eq!(n2.value(state), "connected");
    assert_eq!(n2.value("SELECT spock_internal.recovery_facts('n1') -> 'failed_answers'"), "false");
    assert_eq!(n2.value(state), "connected");
}

#[test]
fn who_has_locked_a_table_holds_up_neither_a_plan_nor_the_facts_that_a_node_tells() {
    let cluster = super::start_with(
        "plan_locked",
        "CREATE TABLE parts (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF parts DEFAULT;",
    );
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO parts VALUES (1, 'x')");
    n2.wait_until("SELECT count(*) FROM parts", "1");
    make_gap(&cluster);
    fail(&cluster);
    let facts = "SELECT spock_internal.recovery_facts('n1') ->> 'table_bytes'";
    let sizes = n2.value(
        "SELECT sum(pg_relation_size(c.oid) + coalesce(pg_relation_size(nullif(c.reltoastrelid, 0)), 0))
           FROM pg_class c WHERE c.oid IN (SELECT srrelid FROM pg_subscription_rel) AND c.relname <> 'parts'",
    );
    assert_eq!(n2.value(facts), sizes);
    let mut others = [n2, n3].map(|node| node.session());
    for other in &mut others {
        other.sql("BEGIN; LOCK TABLE t, held, parts IN ACCESS EXCLUSIVE MODE");
    }
    // Each would wait for the lock, and be cancelled in the end.
    for node in [n2, n3] {
        node.sql("SET lock_timeout = '1s'");
        assert!(node.value(facts).parse::<u64>().expect("bytes") > 0);
        assert_eq!(choose(node, "NULL", "NULL"), "n2|n3|catch_up|gap_covered");
    }
    let begun = n2.session().try_sql(&format!(
        "SET lock_timeout = '1s'; {}",
        crate::rescue::create_rescue(&crate::rescue::clone_slot(n3), "")
    ));
    assert!(begun.is_ok(), "{begun:?}");
    others.into_iter().for_each(|mut other| {
        other.sql("COMMIT");
    });
    crate::rescue::wait_completed(n2);
}
