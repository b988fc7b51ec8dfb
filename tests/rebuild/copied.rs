//! Whole rebuilds in which tables are copied: empty ones, ones without a key, and ones of which most rows differ.

use super::kills::{call_again, lose_slot};
use super::run::while_writing;
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::drain;
use crate::slot_keeps::{quick, start_mesh};

const TABLES: &str =
    "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, node text, v text, PRIMARY KEY (node, id));
    CREATE TABLE u (id int PRIMARY KEY, code text UNIQUE, big text);
    CREATE TABLE other (id int PRIMARY KEY, v text);
    CREATE TABLE keyless (id int, node text, v text); ALTER TABLE keyless REPLICA IDENTITY FULL;
    CREATE TABLE parted (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE parted_2 PARTITION OF parted DEFAULT";

const DIGEST: &str = "SELECT string_agg(d, ' ') FROM (
      SELECT 't ' || count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)), 0) FROM t x
      UNION ALL SELECT 'keyless ' || count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)), 0) FROM keyless x
      UNION ALL SELECT 'parted ' || count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)), 0) FROM parted x
      UNION ALL SELECT 'u ' || count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)), 0) FROM u x) s(d)";

fn cluster(name: &str) -> Cluster {
    let cluster = start_mesh(quick(name, 3), TABLES);
    for text in [
        "replication slot \"sub_n2_n1\" does not exist",
        "could not start WAL streaming",
        "could not receive data from WAL stream",
        "terminating connection due to administrator command",
        "\" does not exist",
    ] {
        cluster.expect_log(text);
    }
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t (node, v) SELECT 'n1', 'early ' || g FROM generate_series(1, 30000) g");
    n1.sql("INSERT INTO keyless SELECT g % 900, 'n1', 'early ' || g FROM generate_series(1, 1000) g");
    n3.sql("INSERT INTO parted SELECT g, g % 5, 'early ' || g FROM generate_series(1, 1000) g");
    n1.sql("INSERT INTO u SELECT g, 'c' || g, repeat('z', 1000000) FROM generate_series(1, 30) g");
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    cluster
}

/// Most rows of t are others, u is empty, keyless lacks rows and has some twice.
fn ruin(n2: &Node) {
    n2.session().sql(
        "SELECT pg_replication_origin_create('damage') WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'damage');
         SELECT pg_replication_origin_session_setup('damage');
         UPDATE t SET v = 'ruined'; DELETE FROM u; DELETE FROM keyless WHERE id % 3 = 0; INSERT INTO keyless SELECT * FROM keyless LIMIT 50;
         DELETE FROM parted WHERE id % 4 = 0",
    );
    // Its pages are gone as well.
    n2.sql("VACUUM u");
}

fn assert_level(cluster: &Cluster) {
    let [n1, n2, n3] = cluster.all();
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    assert_eq!((n2.value(DIGEST), n1.value(DIGEST)), (n3.value(DIGEST), n3.value(DIGEST)));
    assert_eq!(n2.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'spock_parked%'"), "0");
    n2.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
}

#[test]
fn tables_are_copied_where_that_is_the_only_way_or_the_better_one_while_everybody_writes() {
    let cluster = cluster("rebuild_copied");
    let [n1, n2, n3] = cluster.all();
    ruin(n2);
    lose_slot(n1, n2);
    n2.arm(names::REBUILD_COPIED, Action::Wait);
    let mut session = n2.session();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| session.try_sql("CALL spock.rebuild_run(source_node_name := 'n3', verb := true)"));
        n2.wait_hit(names::REBUILD_COPIED);
        let phases = n2.value("SELECT string_agg(relation || ' ' || method || ' ' || phase, ', ' ORDER BY relation::text) FROM spock.rebuild_progress WHERE method IS NOT NULL");
        assert!(phases.contains("t copy copying") && phases.contains("keyless copy copying"), "{phases}");
        // What is copied is not written to meanwhile, and read as it is.
        let refused = n2.try_sql("INSERT INTO keyless VALUES (1, 'n2', 'lost')").expect_err("it would be lost");
        assert_eq!((refused.sqlstate.as_str(), refused.hint.is_some()), ("55006", true), "{refused}");
        for statement in ["UPDATE t SET v = 'x'", "TRUNCATE keyless", "DELETE FROM t"] {
            assert_eq!(n2.try_sql(statement).expect_err(statement).sqlstate, "55006");
        }
        let first = n2.value("SELECT count(*) > 0 AND bool_and(rows > 0 AND checksum <> '') FROM spock.rebuild_manifest((SELECT DISTINCT intent_id FROM spock.rebuild_progress))");
        assert_eq!(first, "t");
        n1.sql("INSERT INTO keyless VALUES (1, 'n1', 'meanwhile'); UPDATE u SET code = 'meanwhile' WHERE id = 5; DELETE FROM t WHERE id = 9");
        n2.disarm(names::REBUILD_COPIED);
        call.join().expect("it ends").expect("it is rebuilt");
    });
    assert_level(&cluster);
    // By word, and by both methods for the same tables.
    ruin(n2);
    while_writing(&[n1, n3], || n2.sql("CALL spock.rebuild_run('n2', 'n1', method := 'copy')"));
    assert_level(&cluster);
    n2.sql("INSERT INTO keyless VALUES (2, 'n2', 'writes again')");
    assert_level(&cluster);
}

#[test]
fn a_copy_goes_on_after_the_death_of_anybody() {
    let cluster = cluster("rebuild_copy_kills");
    let [n1, n2, n3] = cluster.all();
    for step in [names::REBUILD_PARKED, names::COPY_AFTER_COMMIT, names::REBUILD_COPIED] {
        ruin(n2);
        n2.arm(step, Action::Crash);
        while_writing(&[n1, n3], || call_again(n2, "CALL spock.rebuild_run(source_node_name := 'n3')"));
        n2.wait_hit(step);
        assert_level(&cluster);
    }
    ruin(n2);
    n2.arm(names::REBUILD_COPIED, Action::Wait);
    std::thread::scope(|scope| {
        scope.spawn(|| n2.try_sql("CALL spock.rebuild_run(source_node_name := 'n3')"));
        n2.wait_hit(names::REBUILD_COPIED);
        n3.kill9();
        n3.start();
        n2.disarm(names::REBUILD_COPIED);
    });
    while_writing(&[n1], || call_again(n2, "CALL spock.rebuild_run(source_node_name := 'n3')"));
    assert_level(&cluster);
}

#[test]
fn a_copy_goes_on_under_its_snapshot_when_the_target_has_restarted() {
    let cluster = cluster("rebuild_copy_resumes");
    let [_, n2, n3] = cluster.all();
    let chunks = "SELECT string_agg(m::text, ' ' ORDER BY chunk) FROM spock.rebuild_manifest(
        (SELECT DISTINCT intent_id FROM spock.rebuild_progress)) m WHERE relation = 'u'::regclass";
    ruin(n2);
    n2.arm(names::COPY_AFTER_COMMIT, Action::Wait);
    let mut session = n2.session();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            session.try_sql(
                "CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY['u'::regclass], method := 'copy')",
            )
        });
        n2.wait_hit(names::COPY_AFTER_COMMIT);
        let before = n2.value(chunks);
        assert!(!before.is_empty());
        n2.kill9();
        n2.disarm(names::COPY_AFTER_COMMIT);
        n2.arm(names::REBUILD_COPIED, Action::Wait);
        n2.start();
        n2.wait_hit(names::REBUILD_COPIED);
        // Nothing was sent again: each chunk came when it came.
        assert_eq!(n2.value(chunks), before);
        n2.disarm(names::REBUILD_COPIED);
    });
    n2.wait_until("SELECT count(*) FROM spock.rebuild_progress", "0");
    // The other tables are as they were ruined.
    n2.sql("CALL spock.rebuild_run('n2', 'n3')");
    assert_eq!(n2.value("SELECT count(*) FROM u"), n3.value("SELECT count(*) FROM u"));
    assert_level(&cluster);
}
