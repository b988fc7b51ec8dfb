//! What is refused, with a reason and what to type next; nothing is changed by it.

use super::{assert_tidy, with_gap};

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_changed() {
    let cluster = with_gap("recover_refused");
    let [_, n2, n3] = cluster.all();
    let refused = |arguments: &str, code: &str, part: &str| {
        let error = n2.try_sql(&format!("CALL spock.recover_run({arguments})")).expect_err(arguments);
        assert_eq!(error.sqlstate, code, "{arguments}: {error}");
        assert!(error.to_string().contains(part), "{arguments}: {error}");
    };
    refused("'nobody'", "42704", "nobody");
    refused("'n1', source_node_name => 'n2', target_node_name => 'n2'", "22023", "n2");
    refused("'n1', source_node_name => 'n1', target_node_name => 'n2'", "22023", "n1");
    refused("'n1', target_node_name => 'n1'", "22023", "n1");
    refused("'n1', source_node_name => 'n9'", "42704", "n9");
    refused("'n1', stop_lsn => '0/1'", "22023", "");
    refused("'n1', stop_lsn => 'FFFFFFFF/FFFFFFFF'", "22023", "");
    refused("'n1', skip_lsn => '0/1'", "22023", "");
    refused(&format!("'n1', source_node_name => 'n3', source_dsn => '{}'", n2.dsn("postgres")), "55000", "n2");
    let error = n2.try_sql("BEGIN; CALL spock.recover_run('n1')").expect_err("within a transaction block");
    assert_eq!(error.sqlstate, "25001", "{error}");
    n2.sql("CREATE ROLE nobody LOGIN");
    let error = n2.db("postgres").role("nobody").try_sql("CALL spock.recover_run('n1')").expect_err("no superuser");
    assert_eq!(error.sqlstate, "42501", "{error}");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "20");
    assert_eq!(n2.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    assert_tidy(&[n2, n3], &[]);
    n2.sql("CALL spock.recover_run('n1')");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "70");
}

#[test]
fn a_recovery_that_waits_is_an_error_that_says_for_what_and_the_next_call_sees_its_end() {
    let cluster = with_gap("recover_waits");
    let [_, n2, n3] = cluster.all();
    n2.expect_log("violates check constraint");
    n2.sql("ALTER TABLE t ADD CONSTRAINT small CHECK (id < 50)");
    let error = n2.try_sql("CALL spock.recover_run('n1')").expect_err("a row that does not fit");
    assert_eq!(error.sqlstate, "55000", "{error}");
    for part in ["waits", "public.t", "23514"] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    assert_eq!(n2.value("SELECT count(*) FROM t"), "49", "up to the transaction that does not fit");
    n2.sql("ALTER TABLE t DROP CONSTRAINT small");
    n2.sql("CALL spock.recover_run('n1')");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "70");
    assert_tidy(&[n2, n3], &["n1"]);
}
