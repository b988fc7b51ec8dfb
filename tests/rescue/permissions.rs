//! As whom a rescue writes: as core's apply does, as the table's owner, or as the subscription's where that was asked for.

use super::{
    assert_identical, assert_replicate, begin, drain, end_gap, hold_back, origin_position, start, summary,
    wait_applied_lsn, wait_completed, wait_error, wait_tidy,
};
use crate::cluster::{Cluster, Node};

const TABLES: &str = "CREATE ROLE app LOGIN; CREATE ROLE keeper;
                      CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO keeper;
                      CREATE TABLE whoever (name text)";

/// n2's subscription to n1 belongs to `app`, t to `keeper`, and a trigger of n2 writes down who writes to t. n2 lacks as many
/// transactions as are asked for, their ends.
fn owned(cluster: &Cluster, transactions: usize) -> Vec<String> {
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n2.sql("GRANT CREATE ON DATABASE postgres TO app; GRANT pg_create_subscription TO app");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET (password_required = false)");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 OWNER TO app");
    n2.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.whoever VALUES (current_user); RETURN NULL; END $$;
         CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note(); ALTER TABLE t ENABLE REPLICA TRIGGER note;
         GRANT INSERT ON whoever TO app, keeper; GRANT ALL ON SCHEMA public TO keeper",
    );
    let ends = (1..=transactions)
        .map(|id| {
            n1.sql(&format!("INSERT INTO t VALUES ({id})"));
            wait_applied_lsn(n1, n3)
        })
        .collect();
    end_gap(n1);
    ends
}

/// The rescue of one transaction is refused until something is granted or lifted.
fn assert_refused_until(n2: &Node, n3: &Node, stop: &str, sqlstate: &str, mends: &str) {
    let before = origin_position(n2);
    begin(n2, n3, &format!(", stop_lsn => '{stop}'"));
    let error = wait_error(n2, stop);
    for part in [sqlstate, "public.t", "n1"] {
        assert!(error.contains(part), "\"{part}\" is not in: {error}");
    }
    assert_eq!(origin_position(n2), before);
    assert_replicate(n2, n3);
    n2.sql(mends);
    wait_completed(n2);
    wait_tidy(n2, n3);
    assert_eq!((origin_position(n2).as_str(), summary(n2, "transactions").as_str()), (stop, "1"));
}

#[test]
fn rows_are_written_as_the_tables_owner_whom_the_subscriptions_owner_may_become() {
    let cluster = start("rescue_table_owner", TABLES);
    let [_, n2, n3] = cluster.all();
    n2.expect_log("role \"app\" cannot SET ROLE to \"keeper\"");
    n2.expect_log("with row-level security enabled");
    let ends = owned(&cluster, 2);
    assert_refused_until(n2, n3, &ends[0], "42501", "GRANT keeper TO app");
    assert_eq!(n2.value("SELECT name FROM whoever"), "keeper");

    n2.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY; ALTER TABLE t FORCE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (true)");
    assert_refused_until(n2, n3, &ends[1], "0A000", "ALTER TABLE t NO FORCE ROW LEVEL SECURITY");
    n2.sql("TRUNCATE whoever");
    drain(n2, n3);
    n2.sql("ALTER TABLE t DISABLE ROW LEVEL SECURITY");
    assert_identical(n2, n3);
}

#[test]
fn with_run_as_owner_rows_are_written_as_the_subscriptions_owner() {
    let cluster = start("rescue_run_as_owner", TABLES);
    let [_, n2, n3] = cluster.all();
    n2.expect_log("permission denied for table t");
    n2.expect_log("with row-level security enabled");
    let ends = owned(&cluster, 2);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET (run_as_owner = true)");
    assert_refused_until(n2, n3, &ends[0], "42501", "GRANT INSERT, SELECT ON t TO app");
    assert_eq!(n2.value("SELECT name FROM whoever"), "app");
    n2.sql("ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (true)");
    assert_refused_until(n2, n3, &ends[1], "0A000", "ALTER TABLE t DISABLE ROW LEVEL SECURITY");
    n2.sql("TRUNCATE whoever");
    drain(n2, n3);
    assert_identical(n2, n3);
}
