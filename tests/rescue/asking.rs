//! What create_rescue_subscription() makes of what it is asked: the same twice is one rescue, another one has to wait, and
//! what makes no sense is refused with what to do instead.

use super::{
    HELD, assert_identical, assert_replicate, begin, clone_slot, create_rescue, drain, fail, hold, hold_back,
    insert_each, quick, start, summary, wait_applied_lsn, wait_completed, wait_held, wait_tidy,
};
use crate::cluster::Node;
use crate::slot_keeps::start_mesh;

const TABLES: &str = "CREATE TABLE serial (n int);";

#[test]
fn a_rescue_that_is_asked_for_twice_runs_once_and_another_one_is_refused_meanwhile() {
    let builder = quick("rescue_twice", 4);
    let cluster = start_mesh(builder, &format!("{TABLES} {HELD}"));
    let [n1, n2, n3, n4] = cluster.all();
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 20);
    n1.sql("INSERT INTO held VALUES (1)");
    fail(&cluster);
    drain(n4, n3);
    let mut held = hold(n2);
    let (oid, clone) = begin(n2, n3, "");
    wait_held(n2);
    assert_eq!(n2.value(&create_rescue(&clone, "")), oid);
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "1");

    let other = n3.value("SELECT cloned_slot_name FROM spock.clone_recovery_slot('n4', 'n2')");
    for (what, statement) in [
        ("another clone", create_rescue(&other, "")),
        ("another stop", create_rescue(&clone, &format!(", stop_lsn => '{}'", super::applied(n3)))),
        (
            "another failed node",
            format!("SELECT spock.create_rescue_subscription('n2', 'n3', '{other}', failed_node => 'n4')"),
        ),
    ] {
        let error = n2.try_sql(&statement).expect_err(what);
        assert_eq!(error.sqlstate, "55006", "{what}: {error}");
        assert!(error.hint.is_some(), "{what}: {error}");
    }
    held.sql("COMMIT");
    wait_completed(n2);
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), "20|20");
    assert_eq!(summary(n2, "transactions"), "21");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "1");
    drain(n2, n3);
    assert_identical(n2, n3);
    n3.sql(&format!("SELECT pg_drop_replication_slot('{other}')"));
    wait_tidy(n2, n3);
}

/// It is refused so, with a hint that holds this; nothing has begun.
fn assert_refused(n2: &Node, statement: &str, sqlstate: &str, hint: &str) {
    let error = n2.try_sql(statement).expect_err(statement);
    assert_eq!(error.sqlstate, sqlstate, "{statement}: {error}");
    let told = error.hint.clone().unwrap_or_default();
    assert!(told.contains(hint) && told.ends_with(['.', ';']), "{statement}: {error}");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "0", "{statement}");
}

#[test]
fn what_cannot_be_rescued_is_refused_and_nothing_is_suspended() {
    let cluster = start("rescue_refused", TABLES);
    let [n1, n2, n3] = cluster.all();
    insert_each(&mut n1.session(), "serial", 1, 10);
    drain(n1, n2);
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 11, 12);
    let first = wait_applied_lsn(n1, n3);
    insert_each(&mut n1.session(), "serial", 13, 20);
    fail(&cluster);
    let clone = clone_slot(n3);
    n3.sql("SELECT pg_create_logical_replication_slot('no_clone', 'pgoutput')");
    let (applied, end) = (super::applied(n2), super::applied(n3));
    let create = |target: &str, source: &str, slot: &str, failed: &str, options: &str| {
        format!(
            "SELECT spock.create_rescue_subscription('{target}', '{source}', '{slot}', failed_node => '{failed}'{options})"
        )
    };
    for (statement, sqlstate, hint) in [
        (create("n9", "n3", &clone, "n1", ""), "42704", "spock.node"),
        (create("n2", "n9", &clone, "n1", ""), "42704", "spock.node"),
        (create("n2", "n3", &clone, "n9", ""), "42704", "spock.node"),
        (create("n2", "n2", &clone, "n1", ""), "22023", "another node"),
        (create("n3", "n3", &clone, "n1", ""), "22023", ""),
        (create("n2", "n3", &clone, "n3", ""), "22023", ""),
        (create("n2", "n3", &clone, "n2", ""), "22023", ""),
        // To be called where the target is.
        (create("n3", "n2", &clone, "n1", ""), "22023", "n3"),
        (create("n2", "n3", "no_such_slot", "n1", ""), "42704", "clone_recovery_slot"),
        (create("n2", "n3", "no_clone", "n1", ""), "42809", "clone_recovery_slot"),
        (create("n2", "n3", &clone, "n1", &format!(", skip_lsn => '{end}', stop_lsn => '{first}'")), "22023", ""),
        (create("n2", "n3", &clone, "n1", &format!(", stop_lsn => '{end}'::pg_lsn + 1")), "22023", &end),
        (create("n2", "n3", &clone, "n1", &format!(", skip_lsn => '{applied}'::pg_lsn - 1")), "22023", &applied),
        (create("n2", "n3", &clone, "n1", &format!(", stop_lsn => '{applied}'::pg_lsn - 1")), "22023", ""),
        ("SELECT spock.create_rescue_subscription(NULL, 'n3', 'x', failed_node => 'n1')".into(), "22004", ""),
        ("SELECT spock.create_rescue_subscription('n2', NULL, 'x', failed_node => 'n1')".into(), "22004", ""),
        ("SELECT spock.create_rescue_subscription('n2', 'n3', NULL, failed_node => 'n1')".into(), "22004", ""),
    ] {
        assert_refused(n2, &statement, sqlstate, hint);
    }
    n2.sql("CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA spock TO app");
    let error = n2.db("postgres").role("app").try_sql(&create_rescue(&clone, "")).expect_err("no superuser");
    assert_eq!(error.sqlstate, "42501", "{error}");
    assert_eq!(super::enabled(n2), "sub_n2_n1|t\nsub_n2_n3|t");
    assert_replicate(n2, n3);

    // What was refused has spoilt nothing. The failed node need not be named: the clone was made for it.
    n2.sql(&format!("SELECT spock.create_rescue_subscription('n2', 'n3', '{clone}')"));
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT count(*) FROM serial"), "20");
    assert_identical(n2, n3);
}
