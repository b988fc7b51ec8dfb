//! The failed node comes back after the rescue, with its own data.

use super::{
    HELD, applied, assert_identical, assert_replicate, begin, drain, enabled, fail, hold, hold_back, insert_each,
    rescue, start, summary, wait_completed, wait_held, wait_tidy,
};
use crate::slot_life::wait_rounds;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE serial (n int)";

#[test]
fn a_failed_node_that_returns_goes_on_where_the_rescue_ended_and_nobody_receives_anything_twice() {
    let cluster = start("rescue_return", TABLES);
    let [n1, n2, n3] = cluster.all();
    insert_each(&mut n1.session(), "serial", 1, 10);
    drain(n1, n2);
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 11, 50);
    n1.sql("INSERT INTO t SELECT g, 'of n1' FROM generate_series(1, 20) g");
    n1.sql("UPDATE t SET v = 'changed on n1' WHERE id <= 10; DELETE FROM t WHERE id = 20");
    fail(&cluster);
    rescue(n2, n3, "");
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_eq!(summary(n2, "transactions"), "42");
    // Survivors go on: n1 has to catch up with both.
    n2.sql("INSERT INTO serial VALUES (1002); UPDATE t SET v = 'changed on n2' WHERE id = 11");
    n3.sql("INSERT INTO serial VALUES (1003)");
    drain(n2, n3);

    n1.start();
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    n2.wait_until("SELECT count(*) FROM spock.subscription WHERE sub_rescue_suspended", "0");
    insert_each(&mut n1.session(), "serial", 51, 60);
    n1.sql("UPDATE t SET v = 'changed on n1 again' WHERE id = 5");
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    for node in [n1, n2, n3] {
        assert_eq!(node.value("SELECT count(*), count(DISTINCT n) FROM serial"), "62|62", "{}", node.name());
        assert_eq!(node.value("SELECT v FROM t WHERE id IN (5, 11) ORDER BY id"), "changed on n1 again\nchanged on n2");
        for kind in ["insert_exists", "update_missing", "delete_missing", "multiple_unique_conflicts"] {
            assert!(!node.log_contains(&format!("conflict={kind}")), "{}: {kind}", node.name());
        }
    }
    // What n1 sends meets rows of its own origin there; core of 17 says nothing of conflicts.
    assert!(!n2.log_contains("conflict detected on relation"));
    assert_identical(n2, n3);
    assert_identical(n1, n3);
    assert_eq!(applied(n2), applied(n3));
    assert_replicate(n1, n2);
    assert_replicate(n1, n3);
}

#[test]
fn a_failed_node_that_returns_in_the_midst_of_a_rescue_waits_for_its_end_and_sends_what_it_left_out() {
    let cluster = start("rescue_return_early", &format!("{TABLES}; {HELD}"));
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 20);
    n1.sql("BEGIN; INSERT INTO serial VALUES (21); INSERT INTO held VALUES (1); COMMIT");
    let stop = n1.value("SELECT pg_current_wal_insert_lsn()");
    insert_each(&mut n1.session(), "serial", 22, 30);
    fail(&cluster);
    let mut held = hold(n2);
    begin(n2, n3, &format!(", stop_lsn => '{stop}'"));
    wait_held(n2);
    n1.start();
    insert_each(&mut n1.session(), "serial", 31, 40);
    n3.wait_until("SELECT count(*) FROM serial", "40");
    n2.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n1'", "connected");
    wait_rounds(n2.db("postgres"), 3);
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|f");
    held.sql("COMMIT");
    wait_completed(n2);
    assert_eq!(summary(n2, "transactions"), "21");
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    for node in [n1, n2, n3] {
        assert_eq!(node.value("SELECT count(*), count(DISTINCT n) FROM serial"), "40|40", "{}", node.name());
    }
    assert_identical(n2, n3);
    assert_eq!(enabled(n2), "sub_n2_n1|t\nsub_n2_n3|t");
    wait_tidy(n2, n3);
}

#[test]
fn a_subscription_that_cannot_be_enabled_again_is_named_and_holds_up_nothing_else() {
    let cluster = start("rescue_return_no_slot", TABLES);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 20);
    fail(&cluster);
    rescue(n2, n3, "");
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    // The first half of what drops a subscription whose provider is dead; the second never came.
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET (slot_name = NONE)");
    let manager =
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager' AND datname = 'postgres'";
    let pid = n2.value(manager);
    n1.start();
    let verdict = "SELECT status, details FROM spock.quick_health_check() WHERE check_name = 'manager'";
    n2.wait_until(&format!("SELECT status FROM ({verdict}) x"), "WARNING");
    let said = n2.value(verdict);
    for part in ["node \"n1\", which is back", "does not have a slot name", &format!("process {pid},")] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    // The slot goes on moving, and so does everything else.
    wait_rounds(n2.db("postgres"), 3);
    assert_eq!(n2.value(manager), pid);
    n2.sql("INSERT INTO serial VALUES (1002)");
    drain(n2, n3);
    let end = n2.value("SELECT pg_current_wal_flush_lsn()");
    n2.wait_until(&format!("SELECT confirmed_flush_lsn >= '{end}' FROM spock.get_recovery_slot_status()"), "t");
    // Given its slot back it goes on by itself.
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET (slot_name = sub_n2_n1)");
    n2.wait_until("SELECT subenabled FROM pg_subscription WHERE subname = 'sub_n2_n1'", "t");
    n2.wait_until(&format!("SELECT status FROM ({verdict}) x"), "HEALTHY");
    drain(n1, n2);
}
