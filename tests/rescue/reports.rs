//! What users see of a transaction that failed: what the server's log has, but for rows, which only superusers see.

use super::{LAST_INTENT, LIMIT, fail, hold_back, start, wait_applied_lsn, wait_completed, wait_error, wait_tidy};
use spock_recovery_cluster::deadline;

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY, v text)";

/// Labels are for all to read.
const QUOTED: &str = "SELECT count(*) FROM pg_seclabels WHERE label LIKE '%secret%'";

#[test]
fn superusers_see_what_the_server_said_and_others_all_but_the_rows() {
    let cluster = start("rescue_reports", TABLES);
    let [n1, n2, n3] = cluster.all();
    n2.expect_log("secret");
    n2.sql("CREATE ROLE watcher LOGIN IN ROLE pg_monitor; ALTER TABLE u ADD CONSTRAINT is_good CHECK (v <> 'secret')");
    hold_back(n2);
    n1.sql("INSERT INTO u VALUES (1, 'secret')");
    let at = wait_applied_lsn(n1, n3);
    n1.sql("INSERT INTO t VALUES (1)");
    fail(&cluster);

    let refused = n3.try_sql("CALL spock.recover_run('n1', target_node_name => 'n2')").expect_err("a constraint");
    for part in ["23514", "check violation", "relation public.u", "constraint \"is_good\"", &at] {
        assert!(refused.message.contains(part), "{part} is not in: {}", refused.message);
    }
    assert!(!refused.message.contains("secret"), "{}", refused.message);
    let detail = refused.detail.clone().unwrap_or_default();
    let said = "new row for relation \"u\" violates check constraint \"is_good\"\nFailing row contains (1, secret).";
    assert!(detail.contains(said), "{said} is not in: {detail}");

    let report = format!(
        "SELECT server_error->>'sqlstate', server_error->>'schema', server_error->>'table', server_error->>'constraint',
                server_error->>'detail' FROM {LAST_INTENT}"
    );
    assert_eq!(n2.value(&report), "23514|public|u|is_good|Failing row contains (1, secret).");
    let mut watcher = n2.db("postgres").role("watcher").session();
    let seen = watcher.value(&format!("SELECT server_error IS NULL, error FROM {LAST_INTENT}"));
    assert!(seen.starts_with("t|") && seen.contains("is_good") && !seen.contains("secret"), "{seen}");
    // Now and then it tries again.
    let waits = "SELECT details FROM spock.recover_status() WHERE state = 'waiting'";
    let seen = deadline::poll(LIMIT, || Some(watcher.value(waits)).filter(|details| !details.is_empty()));
    let seen = seen.expect("it waits");
    assert!(seen.contains("is_good") && !seen.contains("secret"), "{seen}");
    n2.wait_log("Failing row contains (1, secret).");
    assert_eq!(n2.value(QUOTED), "0");

    // The names that an ERROR gives may be any text.
    n2.sql(
        "CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'so much of %', NEW.v USING ERRCODE = 'unique_violation', SCHEMA = 'public', TABLE = 'u',
                  COLUMN = NEW.v, CONSTRAINT = NEW.v; END $$;
         CREATE TRIGGER forge BEFORE INSERT ON u FOR EACH ROW EXECUTE FUNCTION forge();
         ALTER TABLE u ENABLE ALWAYS TRIGGER forge; ALTER TABLE u DROP CONSTRAINT is_good",
    );
    let error = wait_error(n2, "23505");
    assert!(error.contains("unique violation") && !error.contains("secret"), "{error}");
    assert_eq!(n2.value(QUOTED), "0");
    let said = n2.value(&format!("SELECT server_error->>'message', server_error->>'context' FROM {LAST_INTENT}"));
    assert!(said.starts_with("so much of secret|PL/pgSQL function public.forge() line 1 at RAISE"), "{said}");
    n2.sql("DROP TRIGGER forge ON u");
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT v FROM u"), "secret");

    // What a peer answers with an ERROR is raised here as it was raised there.
    let refused = n3.try_sql("CALL spock.recover_abort('n1', 'n2')").expect_err("nothing runs there");
    let there = n2.try_sql("CALL spock.recover_abort('n1')").expect_err("nothing runs here");
    assert_eq!(refused.sqlstate, there.sqlstate);
    assert!(refused.message.contains(&there.message) && refused.message.contains("\"n2\""), "{refused}");
    let detail = refused.detail.clone().unwrap_or_default();
    for part in [&there.detail, &there.hint].into_iter().flatten() {
        assert!(detail.contains(part.as_str()), "{part} is not in: {detail}");
    }
}
