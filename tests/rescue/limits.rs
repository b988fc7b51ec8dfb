//! What a recovery must remember has no limit of the server's; and what is no fault of a transaction is no reason to give it up.

use super::{
    Node, assert_identical, begin, drain, end_gap, hold_back, start, summary, wait_applied_lsn, wait_completed,
    wait_error, wait_tidy,
};

fn advice(node: &Node) -> String {
    node.value("SELECT s->>'is_transactions_fault', s->>'advice' FROM spock_internal.recovery_state() s")
}

#[test]
fn a_recovery_needs_more_than_temp_file_limit_and_proposes_a_loss_only_where_the_transaction_is_at_fault() {
    let cluster = start("rescue_limits", "CREATE TABLE t (k text PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)");
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("violates check constraint");
    hold_back(n2);
    // The keys alone are more than what is kept in memory.
    let many = "INSERT INTO t SELECT repeat('k', 2000) || g FROM generate_series(1, 2500) g";
    let ends = [many, "INSERT INTO u VALUES (1)", "INSERT INTO u VALUES (2)"].map(|statement| {
        n1.sql(statement);
        wait_applied_lsn(n1, n3)
    });
    end_gap(n1);
    n2.set(&[("temp_file_limit", "0")]);
    begin(n2, n3, &format!(", stop_lsn => '{}'", ends[0]));
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(summary(n2, "rows"), "2500");
    // The test's own sessions compare tables.
    n2.set(&[("temp_file_limit", "-1")]);

    n2.sql(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'no space left on the test''s device' USING ERRCODE = 'disk_full'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION full_disk();
         ALTER TABLE u ENABLE REPLICA TRIGGER full_disk",
    );
    begin(n2, n3, &format!(", stop_lsn => '{}'", ends[1]));
    wait_error(n2, "53100");
    let told = advice(n2);
    assert!(told.starts_with("false|") && told.contains("disk space"), "{told}");
    let refused = n2.try_sql("SELECT spock.recover_skip('n1', '0/1')").expect_err("it is another position");
    assert!(refused.hint.as_ref().is_some_and(|hint| !hint.contains("recover_skip")), "{refused}");
    n2.sql("DROP TRIGGER full_disk ON u; SELECT spock_internal.retry_recovery()");
    wait_completed(n2);
    wait_tidy(n2, n3);

    n2.sql("ALTER TABLE u ADD CONSTRAINT few CHECK (id < 2)");
    let refused = n2.try_sql("CALL spock.recover_run('n1')").expect_err("a constraint is violated");
    assert!(refused.hint.as_ref().is_some_and(|hint| hint.contains("recover_skip")), "{refused}");
    assert_eq!(advice(n2), "true|");
    n2.sql("ALTER TABLE u DROP CONSTRAINT few; SELECT spock_internal.retry_recovery()");
    wait_completed(n2);
    wait_tidy(n2, n3);
    drain(n2, n3);
    assert_identical(n2, n3);
}
