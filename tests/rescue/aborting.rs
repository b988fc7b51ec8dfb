//! A rescue that is given up leaves a node that replicates with its peers, and the rest to the next one.

use super::{
    HELD, applied, assert_identical, assert_replicate, begin, drain, enabled, fail, hold, hold_back, insert_each,
    origin_position, rescue, start, wait_error, wait_held, wait_phase, wait_tidy,
};
use crate::cluster::Node;

const TABLES: &str = "CREATE TABLE serial (n int);";

fn assert_aborted(n2: &Node, n3: &Node, rows: &str) {
    wait_phase(n2, "aborted");
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), format!("{rows}|{rows}"));
    assert_eq!(applied(n2), origin_position(n2), "what n2 tells its peers again");
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_eq!(n2.value("SELECT sub_name FROM spock.subscription WHERE sub_rescue_suspended"), "sub_n2_n1");
    assert_replicate(n2, n3);
}

#[test]
fn an_aborted_rescue_ends_between_two_transactions_and_the_next_one_goes_on_from_there() {
    let cluster = start("rescue_abort", &format!("{TABLES} {HELD}"));
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("violates check constraint");
    // The worker of a rescue that is aborted while it waits for a lock is ended.
    n2.expect_log("due to administrator command");
    n2.expect_log("canceling statement");
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 10);
    n1.sql("BEGIN; INSERT INTO serial VALUES (11); INSERT INTO held VALUES (1); COMMIT");
    insert_each(&mut n1.session(), "serial", 12, 20);
    insert_each(&mut n1.session(), "serial", 21, 30);
    fail(&cluster);

    // While it stands in the midst of a transaction.
    let mut held = hold(n2);
    begin(n2, n3, "");
    wait_held(n2);
    n2.sql("CALL spock.recover_abort('n1')");
    assert_aborted(n2, n3, "10");
    held.sql("COMMIT");

    // While it waits for a cause to be mended.
    n2.sql("ALTER TABLE serial ADD CONSTRAINT is_small CHECK (n <= 20)");
    begin(n2, n3, "");
    wait_error(n2, "23514");
    n2.sql("CALL spock.recover_abort('n1')");
    assert_aborted(n2, n3, "20");
    assert_eq!(n2.value("SELECT phase FROM spock.recovery_intents() ORDER BY begun_at"), "aborted\naborted");

    let error = n2.try_sql("CALL spock.recover_abort('n1')").expect_err("nothing runs");
    assert_eq!(error.sqlstate, "42704", "{error}");
    n2.sql("ALTER TABLE serial DROP CONSTRAINT is_small");
    rescue(n2, n3, "");
    drain(n2, n3);
    assert_identical(n2, n3);
    assert_eq!(applied(n2), applied(n3));
}

#[test]
fn a_rescue_whose_subscription_was_dropped_waits_and_can_be_aborted() {
    let cluster = start("rescue_abort_dropped", TABLES);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n2.sql("ALTER TABLE serial ADD CONSTRAINT is_small CHECK (n <= 10)");
    insert_each(&mut n1.session(), "serial", 1, 20);
    fail(&cluster);
    begin(n2, n3, "");
    wait_error(n2, "23514");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE; ALTER SUBSCRIPTION sub_n2_n1 SET (slot_name = NONE)");
    n2.sql("DROP SUBSCRIPTION sub_n2_n1");
    wait_error(n2, "no subscription that comes from node \"n1\" (SQLSTATE 42704)");
    n2.sql("CALL spock.recover_abort('n1')");
    wait_phase(n2, "aborted");
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), "10|10");
    assert_eq!(enabled(n2), "sub_n2_n3|t");
    assert_replicate(n2, n3);
}
