//! What is changed on the target while a rescue is under way counts from the next transaction on: nothing that the worker
//! keeps of a table outlives that table's definition.

use super::{apart, begin, end_gap, start, summary, wait_completed, wait_error, wait_tidy};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;

/// Tables that are alike; each is changed in another way.
const CHANGED: [&str; 8] = ["widened", "indexed", "unindexed", "fired", "retyped", "rekeyed", "replaced", "plain"];

fn tables() -> String {
    let create = |name: &&str| {
        format!("CREATE TABLE {name} (id int PRIMARY KEY, v text, w int); CREATE INDEX {name}_w ON {name} (w);")
    };
    CHANGED.iter().map(create).collect()
}

/// n1 writes to each table: a run of inserts, an update and a delete.
fn write(n1: &Node, number: u32) {
    let (from, to) = (number * 100, number * 100 + 20);
    let statements = CHANGED.iter().map(|table| {
        format!(
            "INSERT INTO {table} SELECT g, 'n1', g FROM generate_series({from}, {to}) g;
             UPDATE {table} SET v = 'changed', w = -id WHERE id = {from}; DELETE FROM {table} WHERE id = {to};"
        )
    });
    n1.sql(&format!("BEGIN; {} COMMIT", statements.collect::<String>()));
}

/// The rescue stands after its first transaction, with everything known of every table.
fn stand(cluster: &Cluster, transactions: u32) {
    let [n1, n2, n3] = cluster.all();
    apart(n1, n2, n3);
    (1..=transactions).for_each(|number| write(n1, number));
    end_gap(n1);
    n2.arm(names::RESCUE_AFTER_COMMIT, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_AFTER_COMMIT);
}

#[test]
fn what_is_changed_on_the_target_between_two_transactions_counts_for_the_next() {
    let cluster = start("rescue_meanwhile", &tables());
    let [_, n2, n3] = cluster.all();
    stand(&cluster, 3);
    n2.sql(
        "ALTER TABLE widened ADD COLUMN more text DEFAULT 'of n2', DROP COLUMN w, ADD COLUMN w int;
         CREATE UNIQUE INDEX indexed_v ON indexed (id, v); CREATE INDEX indexed_expression ON indexed ((w * 2)) WHERE w > 0;
         DROP INDEX unindexed_w;
         CREATE TABLE noted (n serial, what text);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.noted (what) VALUES (concat_ws(' ', TG_OP, OLD.id, NEW.id)); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON fired FOR EACH ROW EXECUTE FUNCTION note();
         ALTER TABLE fired ENABLE REPLICA TRIGGER note;
         ALTER TABLE retyped ALTER id TYPE bigint, ALTER w TYPE text, ALTER v SET DEFAULT 'x';
         ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (id) INCLUDE (v);
         TRUNCATE replaced; INSERT INTO replaced SELECT g, 'n2', g FROM generate_series(1000, 1100) g; CLUSTER replaced USING replaced_pkey;
         REINDEX TABLE plain",
    );
    n2.sql("VACUUM FULL plain");
    n2.disarm(names::RESCUE_AFTER_COMMIT);
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!((summary(n2, "transactions"), summary(n2, "conflicts")), ("3".into(), "0".into()));
    assert!(!n2.log().contains("recovery of node \"n1\" waits"), "the first attempt goes on with what is there now");
    for table in CHANGED {
        let late = n2.value(&format!("SELECT count(*), sum(id) FROM {table} WHERE id BETWEEN 200 AND 999"));
        assert_eq!(
            late,
            n3.value(&format!("SELECT count(*), sum(id) FROM {table} WHERE id BETWEEN 200 AND 999")),
            "{table}"
        );
        assert_eq!(n2.value(&format!("SELECT v FROM {table} WHERE id = 300")), "changed", "{table}");
    }
    assert_eq!(n2.value("SELECT more, count(*) FROM widened WHERE id > 199 GROUP BY 1"), "of n2|40");
    assert_eq!(n2.value("SELECT w FROM widened WHERE id = 310"), "310");
    for condition in ["(id, v) > (199, '')", "w * 2 > 300 AND w > 0"] {
        let by_index = format!("SET enable_seqscan = off; SELECT count(*) FROM indexed WHERE {condition}");
        let by_rows = format!(
            "SET enable_indexscan = off; SET enable_bitmapscan = off; SELECT count(*) FROM indexed WHERE {condition}"
        );
        assert_eq!(n2.value(&by_index), n2.value(&by_rows), "{condition}");
    }
    // Of the second and the third transaction: 21 inserts, an update and a delete each.
    assert_eq!(n2.value("SELECT count(*) FROM noted"), "46");
    assert_eq!(
        n2.value("SELECT string_agg(what, ', ' ORDER BY n) FROM noted WHERE n IN (21, 22, 23)"),
        "INSERT 220, UPDATE 200 200, DELETE 220"
    );
}

#[test]
fn row_security_that_is_switched_on_meanwhile_holds_the_next_transaction_and_the_next_attempt_goes_on() {
    let cluster = start("rescue_meanwhile_security", &format!("CREATE ROLE keeper; {}", tables()));
    let [_, n2, n3] = cluster.all();
    n2.expect_log("with row-level security enabled");
    n2.expect_log("permission denied");
    stand(&cluster, 3);
    n2.sql("ALTER TABLE plain OWNER TO keeper; ALTER TABLE plain ENABLE ROW LEVEL SECURITY; ALTER TABLE plain FORCE ROW LEVEL SECURITY");
    n2.disarm(names::RESCUE_AFTER_COMMIT);
    assert!(wait_error(n2, "public.plain").contains("0A000"));
    for table in CHANGED {
        assert_eq!(
            n2.value(&format!("SELECT count(*) FROM {table}")),
            "20",
            "of {table} nothing but the first transaction"
        );
    }
    // The next attempt comes as far, and stops for another reason.
    n2.sql("ALTER TABLE plain DISABLE ROW LEVEL SECURITY; REVOKE INSERT ON plain FROM keeper");
    assert!(wait_error(n2, "42501").contains("public.plain"));
    n2.sql("GRANT INSERT ON plain TO keeper");
    wait_completed(n2);
    wait_tidy(n2, n3);
    for table in CHANGED {
        assert_eq!(n2.value(&format!("SELECT count(*) FROM {table}")), "60", "{table}");
    }
}

#[test]
fn rows_that_a_user_has_locked_and_then_changes_are_judged_as_they_are_then() {
    let cluster = start("rescue_meanwhile_locked", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 'before' FROM generate_series(1, 9) g");
    for node in [n2, n3] {
        super::drain(n1, node);
    }
    apart(n1, n2, n3);
    n1.sql("UPDATE t SET v = 'n1' WHERE id = 1");
    n1.sql("DELETE FROM t WHERE id = 2");
    n1.sql("UPDATE t SET v = 'n1' WHERE id = 3");
    n1.sql("DELETE FROM t WHERE id = 4");
    n1.sql("UPDATE t SET v = 'n1' WHERE id = 5");
    end_gap(n1);
    let mut users: Vec<_> = [
        "UPDATE t SET v = 'n2' WHERE id = 1",
        "UPDATE t SET v = 'n2' WHERE id = 2",
        "DELETE FROM t WHERE id = 3",
        "SELECT",
        "ROLLBACK",
    ]
    .into_iter()
    .zip(1..)
    .map(|(statement, id)| {
        let mut session = n2.session();
        session.sql(&format!("BEGIN; SELECT FROM t WHERE id = {id} FOR UPDATE"));
        (session, statement)
    })
    .collect();
    begin(n2, n3, "");
    for (session, statement) in &mut users {
        n2.wait_until(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue' AND wait_event_type = 'Lock'",
            "1",
        );
        session.sql(&format!("{statement}; COMMIT"));
    }
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!(n2.value("SELECT id, v FROM t WHERE id < 6 ORDER BY id"), "1|n2\n2|n2\n5|n1");
    assert_eq!(summary(n2, "conflicts"), "3");
}
