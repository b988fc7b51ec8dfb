//! A name is what anybody may give: who is believed to be a node, and what it takes to become it.

use std::fs;

use super::{ORIGINS, QUICK, make_node, make_nodes, start, wait_round};
use crate::cluster::{Cluster, Node};

fn quick(name: &str, nodes: usize) -> Cluster {
    let builder = Cluster::new(name).nodes(nodes);
    start(QUICK.iter().fold(builder, |builder, (name, value)| builder.setting(name, value)))
}

fn health(node: &Node, check: &str) -> String {
    node.value(&format!("SELECT status, details FROM spock.quick_health_check() WHERE check_name = '{check}'"))
}

fn system_identifier(node: &Node) -> String {
    node.value("SELECT system_identifier FROM pg_control_system()")
}

#[test]
fn another_server_in_a_peers_place_counts_for_nothing_until_a_superuser_says_so() {
    let cluster = quick("identity_bound", 3);
    let [n1, n2, stranger] = cluster.all();
    make_node(n1.db("postgres"), &n1.dsn("postgres"), "n1");
    for node in [n2, stranger] {
        make_node(node.db("postgres"), &node.dsn("postgres"), "n2");
    }
    n1.sql(&format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    let bound = "SELECT option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)
                  WHERE srvname = 'n2' AND option_name = 'peer_system_identifier'";
    n1.wait_until(bound, &system_identifier(n2));
    // Its address, say, was taken over by somebody who calls himself n2.
    n1.sql(&format!("ALTER USER MAPPING FOR PUBLIC SERVER n2 OPTIONS (SET dsn '{}')", stranger.dsn("postgres")));
    n1.wait_until("SELECT state FROM spock.peer_status()", "other server");
    let verdict = health(n1, "peer n2");
    assert!(verdict.starts_with("CRITICAL|other server: "), "{verdict}");
    for part in [&system_identifier(n2), &system_identifier(stranger), "SELECT spock.peer_create('n2', "] {
        assert!(verdict.contains(part), "no {part} in {verdict}");
    }
    // Neither does a recovery believe it.
    n1.sql("SELECT spock.peer_create('n9', 'host=/nonexistent dbname=x')");
    let plan = n1.value("SELECT outcome, reason, plan FROM spock.recover_plan('n9') WHERE target_node = 'n2'");
    assert!(plan.starts_with("|other_node|") && plan.contains("another identity than before"), "{plan}");
    wait_round(n1.db("postgres"));
    assert_eq!(n1.value(bound), system_identifier(n2));
    // Nor is a subscription to it taken for one of n2's.
    n1.sql(&format!(
        "CREATE SUBSCRIPTION dup CONNECTION '{}' PUBLICATION p WITH (connect = false)",
        stranger.dsn("postgres")
    ));
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE sub_name = 'dup'", "connected");
    super::refused(
        n1.db("postgres"),
        "SELECT spock.sub_set_origin('dup', 'n2')",
        "55000",
        "sub_set_origin('dup', NULL)",
    );
    n1.sql("SELECT spock.sub_set_origin('dup', NULL)");
    // A restart changes nothing about that.
    n1.restart();
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "other server");
    // It was rebuilt there, says who must know.
    n1.sql(&format!("SELECT spock.peer_create('n2', '{}')", stranger.dsn("postgres")));
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "connected");
    n1.wait_until(bound, &system_identifier(stranger));
    // It answers; that it does not know n1 is another matter.
    assert!(health(n1, "peer n2").contains("|answers"), "{}", health(n1, "peer n2"));
}

#[test]
fn a_subscription_whose_owner_is_no_superuser_takes_nobodys_place() {
    let cluster = quick("identity_stranger", 4);
    let [n1, n2, n3, stranger] = cluster.all();
    for node in [n1, n2, n3] {
        node.sql("CREATE TABLE t (id int PRIMARY KEY)");
        node.sql("CREATE PUBLICATION mesh FOR ALL TABLES");
    }
    for (target, source) in [(n2, n1), (n2, n3), (n1, n3)] {
        target.sql(&format!(
            "CREATE SUBSCRIPTION sub_{}_{} CONNECTION '{}' PUBLICATION mesh WITH (origin = none)",
            target.name(),
            source.name(),
            source.dsn("postgres")
        ));
    }
    for node in [n1, n2, n3] {
        make_node(node.db("postgres"), &node.dsn("postgres"), node.name());
    }
    let known = "sub_n2_n1|n1\nsub_n2_n3|n3";
    n2.wait_until(ORIGINS, known);
    // Somebody's own server, which says that it is n3, and has everything that there is.
    make_node(stranger.db("postgres"), &stranger.dsn("postgres"), "n3");
    stranger.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR ALL TABLES");
    stranger.sql("CREATE ROLE evil SUPERUSER LOGIN PASSWORD 'x'");
    let hba = stranger.data().join("pg_hba.conf");
    let trusting = fs::read_to_string(&hba).expect("pg_hba.conf can be read");
    fs::write(&hba, format!("local all evil scram-sha-256\n{trusting}")).expect("it can be written");
    stranger.sql("SELECT pg_reload_conf()");
    n2.sql("CREATE ROLE sub LOGIN; GRANT pg_create_subscription TO sub; GRANT CREATE ON DATABASE postgres TO sub");
    let dsn = stranger.dsn("postgres").replace("user=postgres", "user=evil");
    for name in ["aaa", "zzz"] {
        n2.db("postgres").role("sub").sql(&format!(
            "CREATE SUBSCRIPTION {name} CONNECTION '{dsn} password=x' PUBLICATION p WITH (copy_data = false, origin = none)"
        ));
        n2.wait_until(&format!("SELECT state FROM spock.peer_status() WHERE sub_name = '{name}'"), "connected");
    }
    wait_round(n2.db("postgres"));
    assert_eq!(n2.value(ORIGINS), format!("aaa|\n{known}\nzzz|"));
    assert_eq!(
        n2.value("SELECT state, system_identifier FROM spock.peer_status() WHERE node_name = 'n3'"),
        format!("connected|{}", system_identifier(n3))
    );
    // It has no say: neither in what is told to others, nor here in what the slot keeps, nor in a plan.
    assert_eq!(n2.value("SELECT origin_node FROM spock.node_positions() ORDER BY 1"), "n1\nn3");
    assert_eq!(
        n2.value("SELECT spock_internal.recovery_facts('n1') -> 'unknown_origins', spock_internal.recovery_facts('n1') -> 'target'"),
        "[]|"
    );
    assert_ne!(n2.value("SELECT blocked_reason FROM spock.get_recovery_slot_status()"), "peer_unknown");
    let verdict = health(n2, "subscription aaa");
    for part in ["WARNING|its owner \"sub\" is not a superuser", "node \"n3\"", "sub_set_origin(''aaa'', NULL)"] {
        assert!(verdict.contains(&part.replace("''", "'")), "no {part} in {verdict}");
    }
    // Its owner says nothing about that either.
    let error = n2.db("postgres").role("sub").try_sql("SELECT spock.sub_set_origin('aaa', 'n3')").expect_err("refused");
    assert_eq!(error.sqlstate, "42501", "{error}");
    for name in ["aaa", "zzz"] {
        n2.sql(&format!("SELECT spock.sub_set_origin('{name}', NULL)"));
        assert_eq!(health(n2, &format!("subscription {name}")), "");
    }
    // One that is known to come from another server is not taken for this node's.
    let error = n2.try_sql("SELECT spock.sub_set_origin('sub_n2_n1', 'n3')").expect_err("n1's");
    assert!(error.message.contains("does not lead to node \"n3\""), "{error}");
    // Nobody asks it any more.
    n2.wait_until("SELECT count(*) FROM spock.peer_status() WHERE sub_name IS NOT NULL", "0");
    assert_eq!(n2.value(ORIGINS), format!("aaa|\n{known}\nzzz|"));
}

#[test]
fn what_a_strangers_subscription_comes_from_is_for_a_superuser_to_say() {
    let cluster = quick("identity_vouched", 2);
    let [n1, n2] = cluster.all();
    make_nodes(&cluster);
    n2.sql("CREATE ROLE reader LOGIN SUPERUSER PASSWORD 'x'");
    let hba = n2.data().join("pg_hba.conf");
    let trusting = fs::read_to_string(&hba).expect("pg_hba.conf can be read");
    fs::write(&hba, format!("local all reader scram-sha-256\n{trusting}")).expect("it can be written");
    n2.sql("SELECT pg_reload_conf()");
    n1.sql("CREATE ROLE sub LOGIN IN ROLE pg_create_subscription; GRANT CREATE ON DATABASE postgres TO sub");
    let dsn = n2.dsn("postgres").replace("user=postgres", "user=reader");
    n1.db("postgres")
        .role("sub")
        .sql(&format!("CREATE SUBSCRIPTION s CONNECTION '{dsn} password=x' PUBLICATION p WITH (connect = false)"));
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE sub_name = 's'", "connected");
    wait_round(n1.db("postgres"));
    assert_eq!(n1.value("SELECT node_name FROM spock.node"), "n1");
    // The health check says what to type, and leaves the name to who types it; a node that is not known yet becomes known by it.
    let verdict = health(n1, "subscription s");
    assert!(verdict.contains("SELECT spock.sub_set_origin('s', '…')"), "{verdict}");
    n1.sql("SELECT spock.sub_set_origin('s', 'n2')");
    n1.wait_until("SELECT state, error FROM spock.peer_status() WHERE node_name = 'n2'", "connected|");
    assert_eq!(n1.value(ORIGINS), "s|n2");
    // It was said of this connection, and of this slot. Its owner can change both, and with them what was said is over.
    let connection = |role: &str, dsn: &str| {
        n1.db("postgres").role(role).sql(&format!("ALTER SUBSCRIPTION s CONNECTION '{dsn} password=x'"));
    };
    connection("sub", &format!("{dsn} application_name=elsewhere"));
    assert_eq!(n1.value(ORIGINS), "s|");
    assert_eq!(n1.value("SELECT count(*) FROM spock.node_positions()"), "0");
    let verdict = health(n1, "subscription s");
    assert!(verdict.contains("its connection was changed since"), "{verdict}");
    let way = "SELECT state, error FROM spock.peer_status() WHERE node_name = 'n2'";
    n1.wait_until(way, "unreachable|no connection string is known");
    connection("sub", &dsn);
    assert_eq!(n1.value(ORIGINS), "s|n2");
    n1.db("postgres").role("sub").sql("ALTER SUBSCRIPTION s SET (slot_name = 'another')");
    assert_eq!(n1.value(ORIGINS), "s|");
    n1.sql("SELECT spock.sub_set_origin('s', 'n2')");
    assert_eq!(n1.value(ORIGINS), "s|n2");
    // A superuser's own is followed wherever it leads.
    n1.sql("ALTER SUBSCRIPTION s OWNER TO postgres");
    connection("postgres", &format!("{dsn} application_name=moved"));
    assert_eq!(n1.value(ORIGINS), "s|n2");
    wait_round(n1.db("postgres"));
    // Given away it keeps what it was at that moment, and no more.
    n1.sql("ALTER SUBSCRIPTION s OWNER TO sub");
    assert_eq!(n1.value(ORIGINS), "s|n2");
    connection("sub", &dsn);
    assert_eq!(n1.value(ORIGINS), "s|");
}

#[test]
fn what_a_stranger_calls_himself_is_not_repeated() {
    let cluster = quick("identity_names", 2);
    let [n1, n2] = cluster.all();
    make_node(n1.db("postgres"), &n1.dsn("postgres"), "n1");
    n2.sql("CREATE EXTENSION spock_recovery");
    // A server of his own answers whatever he likes.
    n2.sql(
        "ALTER EXTENSION spock_recovery DROP FUNCTION spock_internal.node_identity(); DROP FUNCTION spock_internal.node_identity() CASCADE;
         CREATE FUNCTION spock_internal.node_identity() RETURNS TABLE (node_name text, system_identifier text, database oid, version text,
             timeline int, wal_end pg_lsn, started_at_lsn pg_lsn, timeline_forks text, started_at timestamptz) LANGUAGE sql AS
         $$ SELECT E'n3\"; all is well\n ALTER ROLE bob SUPERUSER; --', '1', 5::oid, '0', 1, '0/1'::pg_lsn, '0/1'::pg_lsn, '', now() $$;
         ALTER EXTENSION spock_recovery ADD FUNCTION spock_internal.node_identity()",
    );
    n1.sql(&format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (connect = false)", n2.dsn("postgres")));
    n1.sql(&format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "other node");
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE sub_name = 's'", "connected");
    let shown =
        n1.value("SELECT details FROM spock.quick_health_check()") + &n1.value("SELECT error FROM spock.peer_status()");
    assert!(shown.contains("a name that no node can have") && !shown.contains("bob"), "{shown}");
    assert!(!n1.log_contains("ALTER ROLE bob"), "{}", n1.log());
}

#[test]
fn a_node_whose_server_was_dropped_by_hand_is_found_again() {
    let cluster = quick("identity_dropped", 2);
    let [n1, n2] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    cluster.mesh();
    make_nodes(&cluster);
    n1.wait_until(ORIGINS, "sub_n1_n2|n2");
    n1.wait_until("SELECT state FROM spock.peer_status()", "connected");
    let id = n1.value("SELECT oid FROM pg_foreign_server WHERE srvname = 'n2'");
    n1.sql("DROP SERVER n2");
    // Nobody knows where it comes from, and that holds the slot, until its provider has said so again.
    n1.wait_until(&format!("SELECT count(*) FROM pg_foreign_server WHERE srvname = 'n2' AND oid <> {id}"), "1");
    n1.wait_until(ORIGINS, "sub_n1_n2|n2");
    n1.wait_until("SELECT node_name, state FROM spock.peer_status()", "n2|connected");
    let _ = n2;
}

#[test]
fn a_provider_that_changes_its_name_again_and_again_makes_no_ghosts() {
    let cluster = quick("identity_ghosts", 2);
    let [n1, n2] = cluster.all();
    make_nodes(&cluster);
    n1.sql(&format!("CREATE SUBSCRIPTION s CONNECTION '{}' PUBLICATION p WITH (connect = false)", n2.dsn("postgres")));
    n1.wait_until(ORIGINS, "s|n2");
    n1.wait_until("SELECT state FROM spock.peer_status()", "connected");
    for round in 0..10 {
        n2.sql(&format!(
            "SELECT spock.node_drop(node_name) FROM spock.node; SELECT spock.node_create('ghost{round}', 'dbname=x')"
        ));
        wait_round(n1.db("postgres"));
        wait_round(n1.db("postgres"));
        assert_eq!(
            n1.value("SELECT count(*) FROM spock.node"),
            "2",
            "{}",
            n1.value("SELECT node_name FROM spock.node")
        );
    }
    // It was followed once; the rest waits.
    assert_eq!(n1.log().matches("comes from node").count(), 1);
    assert!(
        health(n1, &format!("peer {}", n1.value("SELECT node_name FROM spock.peer_status()")))
            .starts_with("CRITICAL|other node")
    );
}

#[test]
fn functions_of_ours_are_called_by_their_very_arguments_whatever_fits_better() {
    let cluster = quick("identity_overloads", 3);
    let [n1, n2, n3] = cluster.all();
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY)");
    cluster.mesh();
    make_nodes(&cluster);
    n1.wait_until(ORIGINS, "sub_n1_n2|n2\nsub_n1_n3|n3");
    // Even where somebody may create in the schema. A literal of no type would be taken for text before it was taken for a name.
    for node in [n2, n3] {
        for (function, returned) in [
            ("recovery_facts(text)", "jsonb"),
            ("node_positions()", "int"),
            ("recovery_is_open(text)", "boolean"),
            ("recovery_state(text, text)", "jsonb"),
            ("claim_clone(text, text, text, text)", "void"),
            ("clone_for_recovery(text, int, text, text)", "int"),
            ("release_clone(text, text)", "boolean"),
            ("ask_to_abort(text)", "uuid"),
        ] {
            node.sql(&format!(
                "CREATE FUNCTION spock.{function} RETURNS {returned} LANGUAGE plpgsql AS
                 $$ BEGIN RAISE 'the overload was called'; END $$"
            ));
        }
    }
    n1.wait_until("SELECT count(*) FROM spock.peer_status() WHERE state = 'connected'", "2");
    let now = n1.value("SELECT clock_timestamp()");
    n1.wait_until(
        &format!("SELECT count(*) FROM spock.peer_status() WHERE state = 'connected' AND last_contact > '{now}'"),
        "2",
    );
    let plans = n1.value("SELECT target_node, plan FROM spock.recover_plan('n2')");
    assert!(plans.contains("n1|") && plans.contains("n3|") && !plans.contains("not_a_node"), "{plans}");
    for node in [n2, n3] {
        assert!(!node.log_contains("the overload was called"), "{}", node.log());
    }
}
