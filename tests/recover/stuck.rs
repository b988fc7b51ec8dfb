//! The source cannot apply what the target has.

use super::{report_of_last, write};
use crate::rescue::{drain, hold_back, start, wait_arrived};

#[test]
fn a_source_that_cannot_apply_what_the_target_has_is_named_and_its_rows_are_kept() {
    let cluster =
        start("recover_stuck", "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE c (v text PRIMARY KEY)");
    cluster.expect_log("violates check constraint");
    let [n1, n2, n3] = cluster.all();
    write(n1, 1, 20);
    for node in [n2, n3] {
        drain(n1, node);
    }
    // n3 has a rule of its own, which what n2 writes breaks.
    n3.sql("ALTER TABLE c ADD CHECK (v <> 'bad')");
    hold_back(n2);
    n1.sql("UPDATE t SET v = 'changed' WHERE id <= 5");
    write(n1, 21, 70);
    wait_arrived(n1);
    n2.sql("INSERT INTO c VALUES ('bad')");
    n2.sql("DELETE FROM t WHERE id <= 5");
    n3.wait_until("SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = 'sub_n3_n2'", "t");
    // It says so itself.
    n3.wait_until(
        "SELECT count(*) FROM spock.quick_health_check() WHERE check_name = 'subscription sub_n3_n2' AND status = 'WARNING'",
        "1",
    );
    n1.kill9();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    let mut session = n2.session();
    session.sql("CALL spock.recover_run('n1')");
    let notices = session.notices().join("\n");
    assert!(notices.contains("subscription \"sub_n3_n2\" of node \"n3\", from node \"n2\""), "{notices}");
    assert_eq!(report_of_last(n2, "transactions"), "51");
    assert!(report_of_last(n2, "reconciled").contains("\"source_lags\": 5"), "{}", report_of_last(n2, "reconciled"));
    assert!(n2.log_contains("and stands at"), "{}", n2.log());
    // What is in the way is removed: the rows that were kept are judged.
    n3.sql("ALTER TABLE c DROP CONSTRAINT c_v_check");
    drain(n2, n3);
    n2.wait_until("SELECT count(*) FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u", "0");
    for node in [n2, n3] {
        assert_eq!(node.value("SELECT count(*), min(id) FROM t"), "65|6", "{}", node.name());
    }
}
