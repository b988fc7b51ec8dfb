//! What others had done to rows of n1 that n2 did not have yet, and so has skipped.

use super::{VERSIONS, counted, recover, start};
use crate::cluster::Action;
use crate::failpoint_names as names;
use crate::rescue::{disable, drain, hold_back};
use crate::slot_keeps::{quick, start_mesh};
use std::thread;

#[test]
fn what_others_did_to_rows_that_came_late_is_made_good() {
    let cluster = start("reconcile_versions", "CREATE TABLE t (id int PRIMARY KEY, v text, w text)");
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 'before', repeat(md5(g::text), 400) FROM generate_series(1, 20) g");
    for node in [n2, n3] {
        drain(n1, node);
    }
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1', repeat(md5(g::text), 400) FROM generate_series(101, 200) g");
    n1.sql("UPDATE t SET v = 'n1' WHERE id <= 10");
    drain(n1, n3);
    // n2 has none of these rows: it skips what is done to them.
    n3.sql("UPDATE t SET v = 'n3' WHERE id BETWEEN 101 AND 110");
    n3.sql("DELETE FROM t WHERE id BETWEEN 111 AND 120");
    n3.sql("DELETE FROM t WHERE id BETWEEN 121 AND 125");
    n3.sql("INSERT INTO t SELECT g, 'n3 again', 'short' FROM generate_series(121, 125) g");
    // These n2 has, in an older version: they replicate as ever.
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 5");
    n3.sql("DELETE FROM t WHERE id = 6");
    n2.sql("UPDATE t SET v = 'n2' WHERE id = 7");
    n2.sql("INSERT INTO t VALUES (300, 'n2', 'its own')");
    drain(n2, n3);
    let theirs = n3.value(VERSIONS);
    recover(&cluster);
    drain(n2, n3);
    assert_eq!(n2.value(VERSIONS), theirs);
    assert_eq!(n3.value(VERSIONS), theirs, "what was brought from n3 does not come back to it");
    assert_eq!(
        n2.value("SELECT count(*) FILTER (WHERE v = 'n3'), count(*) FILTER (WHERE v = 'n3 again') FROM t"),
        "11|5"
    );
    assert_eq!(n2.value("SELECT v FROM t WHERE id IN (7, 300)"), "n2\nn2");
    assert_eq!(counted(n2, "compared"), "110");
    assert_eq!(counted(n2, "updated"), "10");
    assert_eq!(counted(n2, "deleted"), "10");
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn rows_that_others_have_given_another_key_are_followed() {
    let cluster = start(
        "reconcile_moves",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
         CREATE TABLE whole (id int PRIMARY KEY, v text); ALTER TABLE whole REPLICA IDENTITY FULL;
         CREATE TABLE pair (a int, b text, v text, PRIMARY KEY (b, a))",
    );
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    for table in ["t", "whole"] {
        n1.sql(&format!("INSERT INTO {table} SELECT g, 'n1' FROM generate_series(1, 20) g"));
    }
    n1.sql("INSERT INTO pair SELECT g, 'x', 'n1' FROM generate_series(1, 20) g");
    drain(n1, n3);
    for table in ["t", "whole"] {
        n3.sql(&format!("UPDATE {table} SET id = id + 100, v = 'moved' WHERE id <= 5"));
        n3.sql(&format!("UPDATE {table} SET id = id + 100 WHERE id BETWEEN 101 AND 102"));
        // Its place was taken again, by a row that n2 got.
        n3.sql(&format!("INSERT INTO {table} VALUES (1, 'n3')"));
        n3.sql(&format!("UPDATE {table} SET v = 'n3' WHERE id = 7"));
    }
    n3.sql("UPDATE pair SET b = 'y' WHERE a <= 3");
    drain(n2, n3);
    recover(&cluster);
    drain(n2, n3);
    for table in ["t", "whole", "pair"] {
        let rows =
            format!("SELECT t.*, (pg_xact_commit_timestamp_origin(xmin)).timestamp FROM {table} t ORDER BY 1, 2");
        assert_eq!(n2.value(&rows), n3.value(&rows), "{table}");
    }
    assert_eq!(n2.value("SELECT id FROM t WHERE v = 'moved' ORDER BY id"), "103\n104\n105\n201\n202");
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn what_the_target_and_its_peers_have_written_later_stays() {
    let cluster = start("reconcile_own", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 'before' FROM generate_series(1, 20) g");
    for node in [n2, n3] {
        drain(n1, node);
    }
    hold_back(n2);
    n1.sql("UPDATE t SET v = 'n1' WHERE id <= 10");
    n1.sql("INSERT INTO t VALUES (30, 'n1')");
    n1.sql("DELETE FROM t WHERE id = 30");
    drain(n1, n3);
    // Later than n1's, and not on n3 yet when rows are compared.
    disable(n3, "sub_n3_n2");
    n2.sql("UPDATE t SET v = 'n2 later' WHERE id IN (1, 2)");
    n2.sql("DELETE FROM t WHERE id = 3");
    n2.sql("INSERT INTO t VALUES (30, 'n2 later')");
    recover(&cluster);
    assert_eq!(n2.value("SELECT id, v FROM t WHERE id <= 4 ORDER BY id"), "1|n2 later\n2|n2 later\n4|n1");
    assert_eq!(n2.value("SELECT v FROM t WHERE id = 30"), "n2 later", "n3 has no such row");
    // n3 shows a row that n2 has deleted: nobody can tell before n3 has heard of it.
    assert_eq!(counted(n2, "unjudged"), "{\"source_lags\": 1}");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n2 ENABLE");
    drain(n2, n3);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn without_commit_timestamps_nothing_is_compared_and_the_report_says_so() {
    let builder = crate::slot_keeps::quick("reconcile_no_times", 3).setting("track_commit_timestamp", "off");
    let cluster = crate::slot_keeps::start_mesh(builder, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 5) g");
    drain(n1, n3);
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 1");
    drain(n2, n3);
    recover(&cluster);
    assert_eq!(n2.value("SELECT v, count(*) FROM t GROUP BY v"), "n1|5");
    assert_eq!(counted(n2, "unjudged"), "{\"no_commit_timestamps\": 5}");
}

#[test]
fn a_long_value_that_the_later_update_did_not_send_is_brought() {
    let cluster = start(
        "reconcile_unsent",
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text); ALTER TABLE t ALTER w SET STORAGE EXTERNAL",
    );
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 'before', repeat('old', 2000) FROM generate_series(1, 3) g");
    for node in [n2, n3] {
        drain(n1, node);
    }
    hold_back(n2);
    n1.sql("UPDATE t SET w = repeat('new', 2000) WHERE id <= 2");
    drain(n1, n3);
    // n2 gets of it all but the long value, which is the old one there.
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 1");
    drain(n2, n3);
    assert_eq!(n2.value("SELECT v, left(w, 3) FROM t WHERE id = 1"), "n3|old");
    let theirs = n3.value(VERSIONS);
    recover(&cluster);
    assert_eq!(n2.value(VERSIONS), theirs);
    assert_eq!(counted(n2, "updated"), "1");
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn what_the_target_does_not_receive_now_is_left_to_replication_and_counted() {
    let cluster = start("reconcile_lags", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1'), (3, 'n1')");
    drain(n1, n3);
    disable(n2, "sub_n2_n3");
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 1; DELETE FROM t WHERE id = 2");
    recover(&cluster);
    assert_eq!(n2.value("SELECT v, count(*) FROM t GROUP BY v"), "n1|3");
    assert_eq!(counted(n2, "unjudged"), "{\"target_lags\": 2}");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n3 ENABLE");
    drain(n2, n3);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn what_others_did_to_a_table_that_the_target_does_not_have_of_them_is_not_brought() {
    let cluster = start("reconcile_not_replicated", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    // n2 has t from n1 alone.
    n3.sql("DROP PUBLICATION mesh; CREATE PUBLICATION mesh FOR TABLE first");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n3 REFRESH PUBLICATION");
    drain(n2, n3);
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1'), (3, 'n1')");
    drain(n1, n3);
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 1; DELETE FROM t WHERE id = 2");
    drain(n2, n3);
    recover(&cluster);
    assert_eq!(n2.value("SELECT v, count(*) FROM t GROUP BY v"), "n1|3");
    assert_eq!(counted(n2, "unjudged"), "{\"not_replicated\": 2}");
}

#[test]
fn what_a_fourth_node_did_counts_as_settled_only_where_the_source_has_it() {
    let builder = crate::slot_keeps::quick("reconcile_fourth", 4);
    let cluster = crate::slot_keeps::start_mesh(builder, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1'), (2, 'n1')");
    for node in [n3, n4] {
        drain(n1, node);
    }
    disable(n3, "sub_n3_n4");
    // n2 skips it, and n3 does not have it yet: they look alike.
    n4.sql("UPDATE t SET v = 'n4' WHERE id = 1");
    crate::slot_keeps::wait_confirmed(n4, "sub_n2_n4");
    recover(&cluster);
    assert_eq!(counted(n2, "unjudged"), "{\"source_lags\": 2}");
}

#[test]
fn what_the_source_has_yet_to_get_of_a_living_node_is_not_lost() {
    let builder = crate::slot_keeps::quick("reconcile_source_behind", 4);
    let cluster = crate::slot_keeps::start_mesh(builder, "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 4) g");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n3.sql("UPDATE t SET v = 'n3' WHERE id IN (1, 4)");
    for slot in ["sub_n2_n3", "sub_n4_n3"] {
        crate::slot_keeps::wait_confirmed(n3, slot);
    }
    disable(n3, "sub_n3_n4");
    // n2 has none of these rows, and skips it; n3 does not have it yet.
    n4.sql("DELETE FROM t WHERE id = 1");
    n4.sql("UPDATE t SET id = id + 100, v = 'moved' WHERE id IN (2, 4)");
    n4.sql("UPDATE t SET id = 303 WHERE id = 102");
    crate::slot_keeps::wait_confirmed(n4, "sub_n2_n4");
    recover(&cluster);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n1\n2|n1\n3|n1\n4|n1");
    assert_eq!(n4.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%_clone_%'"), "0");
    // Three rows and what they have moved to, beside the one that is as it was: nobody can tell yet.
    assert_eq!(counted(n2, "unjudged"), "{\"source_lags\": 7}");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n4 ENABLE");
    n2.wait_until("SELECT count(*) FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u", "0");
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "3|n1\n104|moved\n303|moved");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!(n4.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn what_a_source_has_of_its_own_recovery_is_compared_as_well() {
    let tables = "CREATE TABLE t (id int PRIMARY KEY, v text);
                  CREATE TABLE whole (id int PRIMARY KEY, v text); ALTER TABLE whole REPLICA IDENTITY FULL";
    let cluster = start_mesh(quick("reconcile_late_source", 4), tables);
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    disable(n4, "sub_n4_n1");
    for table in ["t", "whole"] {
        n1.sql(&format!("INSERT INTO {table} SELECT g, 'n1' FROM generate_series(1, 6) g"));
    }
    drain(n1, n3);
    // n2 and n4 have none of these rows.
    for table in ["t", "whole"] {
        n3.sql(&format!("UPDATE {table} SET id = 101 WHERE id = 1"));
        n3.sql(&format!("UPDATE {table} SET v = 'n3' WHERE id = 2"));
        n3.sql(&format!("DELETE FROM {table} WHERE id = 3"));
    }
    for node in [n2, n4] {
        drain(n3, node);
    }
    n1.kill9();
    for node in [n2, n3, n4] {
        node.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    }
    n2.sql("CALL spock.recover_run('n1', 'n3')");
    // What n3 did is in n2's WAL as what n2's recovery has written alone.
    n4.sql("CALL spock.recover_run('n1', 'n2', target_node_name := 'n4')");
    for table in ["t", "whole"] {
        for node in [n2, n4] {
            assert_eq!(
                node.value(&format!("SELECT id, v FROM {table} ORDER BY id")),
                "2|n3\n4|n1\n5|n1\n6|n1\n101|n1",
                "{} on {}",
                table,
                node.name()
            );
        }
    }
    assert_eq!(n4.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn what_a_recovery_has_deleted_is_gone_for_a_node_that_came_back_too() {
    let cluster = start_mesh(quick("reconcile_gone", 4), "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 6) g");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    // All but the last row n2 skips for want of the rows, and n1 does not hear of it.
    n4.sql(
        "UPDATE t SET id = 101 WHERE id = 1; DELETE FROM t WHERE id IN (2, 3, 4); UPDATE t SET v = 'n4' WHERE id = 5",
    );
    n4.sql("INSERT INTO t VALUES (7, 'n4')");
    for node in [n2, n3] {
        drain(n4, node);
    }
    n4.kill9();
    for (node, dead) in [(n2, "n1"), (n2, "n4"), (n3, "n1"), (n3, "n4")] {
        let state = format!("SELECT state FROM spock.peer_status() WHERE node_name = '{dead}'");
        node.wait_until(&state, "unreachable");
    }
    n2.sql("CALL spock.recover_run('n1', 'n3')");
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "5|n4\n6|n1\n7|n4\n101|n1");
    n1.start();
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    // A later version of what is gone for the others; what is written anew is not what they have deleted.
    n1.sql("UPDATE t SET v = 'again' WHERE id = 3; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 'anew')");
    for node in [n2, n3] {
        drain(n1, node);
    }
    n1.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n4'", "unreachable");
    n1.sql("CALL spock.recover_run('n4', 'n2')");
    for node in [n1, n2, n3] {
        let rows = node.value("SELECT id, v FROM t ORDER BY id");
        assert_eq!(rows, "4|anew\n5|n4\n6|n1\n7|n4\n101|n1", "{}", node.name());
    }
    assert_eq!(n1.value(VERSIONS), n2.value(VERSIONS));
}

#[test]
fn a_key_that_the_source_has_many_times_hides_no_other_row() {
    let cluster = start("reconcile_many_times", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n3.sql("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t REPLICA IDENTITY FULL");
    // Nobody else receives them.
    n3.sql(
        "SELECT pg_replication_origin_create('aside'); SELECT pg_replication_origin_session_setup('aside');
         INSERT INTO t SELECT id, 'n3' FROM generate_series(1, 2) id, generate_series(1, 100) ORDER BY id",
    );
    n1.sql("INSERT INTO t SELECT g, 'n1' FROM generate_series(1, 3) g");
    drain(n1, n3);
    recover(&cluster);
    assert_eq!(n2.value("SELECT id, v FROM t ORDER BY id"), "1|n1\n2|n1\n3|n1");
    assert_eq!(counted(n2, "unjudged"), "{\"not_comparable\": 2}");
}

#[test]
fn a_row_that_gets_another_key_while_it_is_compared_is_followed() {
    let cluster = start_mesh(quick("reconcile_moves_on", 4), "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1')");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n4.sql("UPDATE t SET id = 101 WHERE id = 1");
    for node in [n2, n3] {
        drain(n4, node);
    }
    n1.kill9();
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "unreachable");
    n2.arm(names::RESCUE_MOVES_READ, Action::Wait);
    thread::scope(|scope| {
        let call = scope.spawn(|| n2.sql("CALL spock.recover_run('n1', 'n3')"));
        n2.wait_hit(names::RESCUE_MOVES_READ);
        // n2 knows that the row is row 101 by now, has no such row, and skips this as well.
        n3.sql("UPDATE t SET id = 201 WHERE id = 101");
        drain(n3, n2);
        n2.disarm(names::RESCUE_MOVES_READ);
        call.join().expect("the call returns");
    });
    assert_eq!(n2.value("SELECT id, v FROM t"), "201|n1");
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
}

#[test]
fn rows_are_found_by_keys_of_every_kind() {
    let kinds = [
        ("a_text", "text", vec!["a,b", "\"quoted\"", "back\\slash", "it''s", "NULL", "", " ", "{}", "größe"]),
        ("a_char", "char(5)", vec!["x", "y z"]),
        ("an_enum", "mood", vec!["sad", "not so sad"]),
        ("a_domain", "positive", vec!["1", "2"]),
        ("an_array", "int[]", vec!["{1,2}", "{}"]),
        ("a_range", "int4range", vec!["[1,5)", "empty"]),
        ("bytes", "bytea", vec!["\\x00ff", "\\x5c22"]),
        ("a_uuid", "uuid", vec!["00000000-0000-0000-0000-00000000000a"]),
        ("a_time", "timestamptz", vec!["2026-01-01 00:00:00.123456+00", "infinity"]),
        ("a_table", "regclass", vec!["pg_class", "pg_type"]),
        ("a_pair", "pair", vec!["(1,x)", "(2,\"y z\")"]),
        ("a_short", "varchar(10)", vec!["a,b", "c"]),
        ("an_address", "cidr", vec!["10.0.0.0/8"]),
        ("a_number", "numeric", vec!["1.0", "-2.50", "NaN"]),
    ];
    let tables: Vec<String> =
        kinds.iter().map(|(name, kind, _)| format!("CREATE TABLE {name} (k {kind} PRIMARY KEY, v text);")).collect();
    let types = "CREATE TYPE mood AS ENUM ('sad', 'not so sad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b text);";
    let cluster = start("reconcile_keys", &format!("{types} {}", tables.concat()));
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    let mut count = 0;
    for (name, _, values) in &kinds {
        for value in values {
            n1.sql(&format!("INSERT INTO {name} VALUES ('{value}', 'n1')"));
            count += 1;
        }
    }
    drain(n1, n3);
    // n2 skips it.
    for (name, ..) in &kinds {
        n3.sql(&format!("UPDATE {name} SET v = 'n3'"));
    }
    drain(n3, n2);
    recover(&cluster);
    for (name, ..) in &kinds {
        assert_eq!(n2.value(&format!("SELECT count(*) FILTER (WHERE v <> 'n3') FROM {name}")), "0", "{name}");
    }
    assert_eq!((counted(n2, "compared"), counted(n2, "updated")), (count.to_string(), count.to_string()));
    assert_eq!(counted(n2, "unjudged"), "");
}

#[test]
fn more_keys_than_are_kept_in_memory_are_all_compared() {
    let cluster = start("reconcile_spilled", "CREATE TABLE t (id text PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    // 18 MB of keys, of which 4 MB stay in memory and 16 MB are put in order together.
    let key = |number: &str| format!("lpad({number}::text, 6000, 'x')");
    n1.sql(&format!("INSERT INTO t SELECT {}, 'n1' FROM generate_series(1, 3000) g", key("g")));
    drain(n1, n3);
    for number in ["1", "1500", "3000"] {
        n3.sql(&format!("UPDATE t SET v = 'n3' WHERE id = {}", key(number)));
    }
    n3.sql(&format!("DELETE FROM t WHERE id IN ({}, {})", key("2"), key("2999")));
    drain(n2, n3);
    recover(&cluster);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!((counted(n2, "compared"), counted(n2, "updated")), ("3000".to_owned(), "3".to_owned()));
    assert_eq!((counted(n2, "deleted"), counted(n2, "unjudged")), ("2".to_owned(), String::new()));
}
