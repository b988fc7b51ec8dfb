//! The list of restore points, what is refused, and who may.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;
use crate::slot_keeps::start;

fn refused(node: &Node, statement: &str) -> SqlError {
    node.try_sql(statement).expect_err(statement)
}

fn names_on(node: &Node) -> String {
    node.value("SELECT coalesce(string_agg(restore_point, ' ' ORDER BY created_at), '') FROM spock.restore_points()")
}

#[test]
fn the_list_is_the_same_everywhere_and_bad_input_changes_nothing() {
    let cluster = mesh_of("restore_points_listed", 3);
    let [n1, n2, n3] = cluster.all();
    let row = n2
        .rows("SELECT * FROM spock.create_restore_point('größe ''1''', lease := '30 s') ORDER BY node_name")
        .remove(0);
    let value = |at: usize| row[at].clone().unwrap_or_default();
    assert_eq!(
        (value(0), value(1), value(3), value(5)),
        ("größe '1'".into(), "n1".into(), "1".into(), "drained".into())
    );
    let long = "x".repeat(60);
    let newline = "a\nb";
    for (arguments, sqlstate, message) in [
        ("''".to_owned(), "42602", "must not be empty"),
        ("NULL".to_owned(), "22004", "restore_point must not be null"),
        (format!("'{long}'"), "42602", "too long"),
        (format!("'{newline}'"), "42602", "control characters"),
        ("'größe ''1'''".to_owned(), "42710", "is used already"),
        ("'p', lease := '0'".to_owned(), "22023", "lease is outside its range"),
        ("'p', lease := '2 min'".to_owned(), "22023", "lease is outside its range"),
        ("'p', lease := NULL".to_owned(), "22004", "lease must not be null"),
        ("'p', drain := NULL".to_owned(), "22004", "drain must not be null"),
    ] {
        let error = refused(n1, &format!("SELECT spock.create_restore_point({arguments})"));
        assert!(error.sqlstate == sqlstate && error.message.contains(message), "{arguments}: {error}");
        assert!(error.hint.is_some(), "{arguments}: {error}");
    }
    let error = refused(n1, "SELECT spock.drop_restore_point('nothing')");
    assert_eq!(error.sqlstate, "42704");
    for node in cluster.nodes() {
        assert_eq!(names_on(node), "größe '1'", "{}", node.name());
    }
    n3.sql("SELECT spock.drop_restore_point('größe ''1''')");
    for node in cluster.nodes() {
        assert_eq!(names_on(node), "", "{}", node.name());
    }
    let error = refused(n2, "SELECT spock.create_restore_point('größe ''1''')");
    assert_eq!(error.sqlstate, "42710");
    assert!(error.detail.unwrap_or_default().contains("was dropped"));
    who_may(n1);
    by_the_clock(&cluster);
    a_base_backup_is_told(&cluster);
    with_a_subscriber_behind(&cluster);
    with_a_peer_down(&cluster);
}

fn who_may(n1: &Node) {
    n1.sql(
        "CREATE ROLE nobody LOGIN; CREATE ROLE peer LOGIN REPLICATION; CREATE ROLE monitor LOGIN IN ROLE pg_monitor",
    );
    let as_role = |role, statement: &str| n1.db("postgres").role(role).try_sql(statement);
    for statement in [
        "SELECT spock.create_restore_point('p')",
        "SELECT spock.drop_restore_point('p')",
        "SELECT spock_internal.restore_point_step('close', '{\"number\":1,\"holds_all\":true,\"lease_ms\":60000}')",
        "SELECT spock_internal.note_base_backup('n1', now(), '0/1')",
    ] {
        for role in ["nobody", "peer", "monitor"] {
            let error = as_role(role, statement).expect_err(statement);
            assert_eq!(error.sqlstate, "42501", "{role}: {statement}");
        }
    }
    for (role, may) in [("nobody", false), ("peer", true), ("monitor", true)] {
        for function in ["spock.restore_points()", "spock_internal.restore_point_list()"] {
            assert_eq!(as_role(role, &format!("SELECT FROM {function}")).is_ok(), may, "{role}: {function}");
        }
    }
    // Whoever is let in by a superuser does the steps, and nothing else.
    n1.sql("GRANT EXECUTE ON FUNCTION spock_internal.restore_point_step TO peer; GRANT INSERT ON t TO peer");
    let close =
        "SELECT spock_internal.restore_point_step('close', '{\"number\":1,\"holds_all\":false,\"lease_ms\":60000}')";
    as_role("peer", close).expect("it may");
    // What else its transaction writes waits like that of anybody.
    thread::scope(|scope| {
        let mut session = n1.db("postgres").role("peer").session();
        let sly = scope.spawn(move || {
            session.sql("BEGIN; SELECT spock_internal.restore_point_step('save', '{}'); INSERT INTO t (node, v) VALUES ('sly', 0); COMMIT");
        });
        n1.wait_until(WAITING, "1");
        assert!(super::open(n1, 1));
        sly.join().expect("it goes on");
    });
    let zero = r#"{"number":0,"holds_all":false,"lease_ms":10}"#;
    for (step, argument) in [("close", "{}"), ("close", "x"), ("close", zero), ("explode", "{}")] {
        let error = super::step(n1, step, argument).expect_err(step);
        assert_eq!(error.sqlstate, "22023", "{step} {argument}");
    }
}

/// The node with the lowest name makes points, and lists so many of them; what a person has made stays.
fn by_the_clock(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    n2.sql("SELECT spock.create_restore_point('mine')");
    for node in [n1, n2, n3] {
        node.set(&[("spock.restore_points_kept", "2"), ("spock.restore_point_interval", "1s")]);
    }
    let automatic = "SELECT count(*) FROM spock.restore_points() WHERE restore_point ~ '^auto-\\d{8}T\\d{6}Z-\\d+$'";
    n3.wait_until(automatic, "2");
    let newest = "SELECT max(restore_point) FROM spock.restore_points() WHERE restore_point LIKE 'auto-%'";
    let seen = n3.value(newest);
    n3.wait_until(&format!("SELECT ({newest}) > '{seen}'"), "t");
    n3.wait_until(automatic, "2");
    for node in [n1, n2, n3] {
        node.set(&[("spock.restore_point_interval", "0")]);
        assert!(names_on(node).contains("mine"));
    }
    assert!(n1.log_contains("spock_recovery restore point"));
    assert!(
        !n2.value("SELECT coalesce(string_agg(backend_type, ' '), '') FROM pg_stat_activity").contains("restore point")
    );
}

fn a_base_backup_is_told(cluster: &Cluster) {
    let n1 = cluster.node("n1");
    let told = "SELECT base_backup_before::text FROM spock.restore_points() WHERE restore_point = 'mine'";
    n1.wait_until(&format!("SELECT ({told}) IS NULL"), "t");
    for (node, at) in [("n1", "2026-01-02"), ("n2", "2026-01-01"), ("n3", "2026-01-03")] {
        n1.wait_until(&format!("SELECT ({told}) IS NULL"), "t");
        n1.sql(&format!("SELECT spock_internal.note_base_backup('{node}', '{at} 00:00:00+00', '0/1')"));
    }
    n1.wait_until(&format!("SELECT ({told})::timestamptz = '2026-01-01 00:00:00+00'"), "t");
}

/// It is a cut, and why it is not more is told.
fn with_a_subscriber_behind(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    let make = |name: &str| {
        let mut session = n3.session();
        let made = session.value(&format!(
            "SELECT string_agg(quality, ' ') FROM spock.create_restore_point('{name}', lease := '5 s')"
        ));
        (made, session.notices().join("\n"))
    };
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n2.wait_until("SELECT count(*) FROM pg_stat_subscription WHERE subname = 'sub_n2_n1' AND pid IS NOT NULL", "0");
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 1)");
    let (made, told) = make("disabled");
    assert_eq!(made, "cut cut cut");
    assert!(told.contains("not drained") && told.contains("node \"n2\" is too far behind node \"n1\""), "{told}");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n2.wait_until("SELECT count(*) FROM t WHERE node = 'n1'", "1");
    let mut session = n2.session();
    session.sql("BEGIN; LOCK TABLE t");
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 2)");
    let (made, told) = make("locked");
    assert_eq!(made, "cut cut cut");
    assert!(told.contains("node \"n2\" had not received everything in time"), "{told}");
    session.sql("ROLLBACK");
    n2.wait_until("SELECT count(*) FROM t WHERE node = 'n1'", "2");
    assert_eq!(make("again").0, "drained drained drained");
    // A table that is being copied: its rows come at positions of their own.
    for node in [n1, n2, n3] {
        node.sql("CREATE TABLE late (id int PRIMARY KEY)");
    }
    let mut session = n2.session();
    session.sql("BEGIN; LOCK TABLE late IN SHARE MODE");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 REFRESH PUBLICATION");
    let (made, told) = make("copying");
    assert_eq!(made, "loose loose loose");
    assert!(told.contains("a table is being copied from node \"n1\" to node \"n2\""), "{told}");
    session.sql("ROLLBACK");
    n2.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    assert_eq!(make("copied").0, "drained drained drained");
}

fn with_a_peer_down(cluster: &Cluster) {
    let [n1, _, n3] = cluster.all();
    n3.stop_fast();
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n3'", "unreachable");
    let error = refused(n1, "SELECT spock.create_restore_point('all')");
    assert!(error.sqlstate == "08006" && error.message.contains("node \"n3\" does not answer"), "{error}");
    assert!(error.hint.clone().unwrap_or_default().contains("drain := false"), "{error}");
    assert!(!names_on(n1).contains("all"), "nothing was changed");
    let mut session = n1.session();
    let rows =
        session.rows("SELECT node_name, lsn IS NULL, quality FROM spock.create_restore_point('all', drain := false)");
    let rows: Vec<String> =
        rows.into_iter().map(|row| row.into_iter().flatten().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows, ["n1 f cut", "n2 f cut", "n3 t absent"]);
    assert!(session.notices().iter().any(|notice| notice.contains("node \"n3\" has no part")));
    assert_eq!(n1.value("SELECT nodes::text FROM spock.restore_points() WHERE restore_point = 'all'"), "{n1,n2}");
    n3.start();
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n3'", "connected");
    for peer in ["n1", "n2"] {
        n3.wait_until(&format!("SELECT state FROM spock.peer_status() WHERE node_name = '{peer}'"), "connected");
    }
    cluster.expect_log("name \"all\" is used already");
    // n3 does not know the name. The others do, and keep their point.
    let error = refused(n3, "SELECT spock.create_restore_point('all')");
    assert!(error.sqlstate == "42710" && error.message.contains("is used already"), "{error}");
    for node in [n1, cluster.node("n2")] {
        assert_eq!(node.value("SELECT quality FROM spock.restore_points() WHERE restore_point = 'all'"), "cut");
    }
    assert!(!names_on(n3).contains("all"));
}

/// n1 passes on to n2 what it applies of n3: that is on its way to n2 too, so that it must not be committed either.
#[test]
fn where_a_node_passes_on_what_it_applies_everything_is_held_back() {
    let cluster = start(quick("restore_points_forwarded", 3));
    let [n1, n2, _] = cluster.all();
    cluster.sql(TABLE);
    cluster.wire(&[("n1", "n3"), ("n2", "n1")]);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET (origin = any)");
    for (node, peer) in [(n1, "n3"), (n2, "n1")] {
        node.wait_until(&format!("SELECT state FROM spock.peer_status() WHERE node_name = '{peer}'"), "connected");
    }
    n1.sql(&format!("SELECT spock.peer_create('n2', '{}')", n2.dsn("postgres")));
    let n3 = cluster.node("n3");
    n2.sql(&format!("SELECT spock.peer_create('n3', '{}')", n3.dsn("postgres")));
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "connected");
    let begin = judge::ends(&cluster);
    under_load(&cluster, || {
        for number in 0..5 {
            n1.sql(&format!("SELECT spock.create_restore_point('p{number}')"));
        }
    });
    let judged = judge::judge(&cluster, &begin);
    assert_eq!(judged.points.len(), 5);
    for (name, point) in judged.points {
        assert!(judge::inconsistent(&point).is_empty(), "{name}");
    }
    n1.arm(names::RESTORE_POINT_CLOSED, Action::Wait);
    thread::scope(|scope| {
        let creating = scope.spawn(|| n1.sql("SELECT spock.create_restore_point('held', lease := '20 s')"));
        n1.wait_hit(names::RESTORE_POINT_CLOSED);
        // A commit of an apply worker, as far as the gate can tell.
        let applying = scope.spawn(|| {
            n1.session().sql(
                "SELECT pg_replication_origin_create('elsewhere');
                 SELECT pg_replication_origin_session_setup('elsewhere');
                 INSERT INTO t (node, v) VALUES ('elsewhere', 0)",
            );
        });
        n1.wait_until(WAITING, "1");
        n1.disarm(names::RESTORE_POINT_CLOSED);
        creating.join().expect("the point is made");
        applying.join().expect("it goes on");
    });
}

/// A node that some peer knows and this one does not would be left out.
#[test]
fn a_node_that_only_a_peer_knows_is_named() {
    let cluster = mesh_of("restore_points_stranger", 2);
    let [n1, n2] = cluster.all();
    n2.sql("SELECT spock.peer_create('n3', 'host=/nonexistent')");
    let error = refused(n1, "SELECT spock.create_restore_point('p')");
    assert_eq!(error.sqlstate, "55000");
    assert!(error.message.contains("knows a node \"n3\""), "{error}");
    assert!(error.hint.clone().unwrap_or_default().contains("spock.peer_create('n3'"), "{error}");
    assert_eq!((names_on(n1), names_on(n2)), (String::new(), String::new()));
    // Nobody sees the error of one that is made by the clock, until the health check tells it.
    let told = "SELECT coalesce(string_agg(status || ': ' || details, ''), '') FROM spock.quick_health_check()
                 WHERE check_name = 'automatic_restore_points'";
    assert_eq!(n1.value(told), "");
    n1.set(&[("spock.restore_point_interval", "1s")]);
    n1.wait_until(&format!("SELECT ({told}) LIKE 'WARNING: %node \"n2\" knows a node \"n3\"%'"), "t");
    n2.sql("SELECT spock.node_drop('n3')");
    n1.wait_until(&format!("SELECT ({told}) = ''"), "t");
    n1.set(&[("spock.restore_point_interval", "0")]);
    // The interval may have it that one is being made.
    wait_for("a restore point", || match n1.try_sql("SELECT spock.create_restore_point('p')") {
        Ok(_) => true,
        Err(error) if error.sqlstate == "55006" => false,
        Err(error) => panic!("{error}"),
    });
    what_is_rolled_back_is_not_dropped_elsewhere(&cluster);
}

fn what_is_rolled_back_is_not_dropped_elsewhere(cluster: &Cluster) {
    let [n1, n2] = cluster.all();
    let drop = "SELECT spock.drop_restore_point('p')";
    let in_block = format!("BEGIN; {drop}; ROLLBACK");
    let caught =
        "DO $$BEGIN BEGIN PERFORM spock.drop_restore_point('p'); EXCEPTION WHEN division_by_zero THEN NULL; END; END$$";
    for statement in [in_block.as_str(), caught] {
        let error = refused(n1, statement);
        assert_eq!(error.sqlstate, "25001", "{statement}: {error}");
        assert!(names_on(n1).ends_with('p') && names_on(n2).ends_with('p'), "{statement}");
    }
    n1.sql(drop);
    assert!(!names_on(n1).ends_with('p') && !names_on(n2).ends_with('p'));
}
