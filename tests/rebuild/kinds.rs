//! Tables of every kind, brought level by comparing; and a source that has not all that the target has.

use super::copy::{MANY, ROWS, TYPES};
use super::run::TABLES;
use crate::cluster::Node;
use crate::rescue::{drain, hold_back};
use crate::slot_keeps::{quick, start_mesh};

/// Tables whose key is no primary key, that refer to others, whose owner is nobody special, and that are partitioned.
const OTHERS: &str = "
    CREATE TABLE parent (id int PRIMARY KEY, up int REFERENCES parent DEFERRABLE INITIALLY DEFERRED, rank int UNIQUE DEFERRABLE);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE);
    CREATE TABLE \"Odd \"\"name\" (\"Key 1\" text COLLATE \"C\" NOT NULL, k2 date NOT NULL, v text);
    CREATE UNIQUE INDEX odd ON \"Odd \"\"name\" (k2, \"Key 1\"); ALTER TABLE \"Odd \"\"name\" REPLICA IDENTITY USING INDEX odd;
    CREATE TABLE parted (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
    CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
    CREATE TABLE watched (id int PRIMARY KEY, v text);";

const WATCH: &str = "
    CREATE ROLE watcher; CREATE TABLE seen (what text, who text); ALTER TABLE watched OWNER TO watcher;
    GRANT INSERT ON seen TO watcher; GRANT USAGE, CREATE ON SCHEMA public TO watcher;
    CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (TG_OP, current_user); RETURN NULL; END $$;
    CREATE TRIGGER always AFTER INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION see();
    ALTER TABLE watched ENABLE ALWAYS TRIGGER always;
    CREATE TRIGGER usual AFTER INSERT OR UPDATE OR DELETE ON watched FOR EACH ROW EXECUTE FUNCTION see()";

/// Only the owner may run what the index computes.
const INDEX: &str = "
    CREATE FUNCTION who(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN IF current_user <> 'watcher' THEN RAISE 'the index of watched runs as %', current_user; END IF; RETURN $1; END $$;
    SET ROLE watcher; CREATE INDEX watched_who ON watched (who(v))";

const FILL: &str = r#"
    INSERT INTO parent SELECT g, NULL, g FROM generate_series(1, 50) g; UPDATE parent SET up = id % 50 + 1;
    INSERT INTO child SELECT g, g FROM generate_series(1, 50) g;
    INSERT INTO "Odd ""name" SELECT 'key ' || g % 7, date '2026-01-01' + g, 'v' || g FROM generate_series(1, 900) g;
    INSERT INTO parted SELECT g, g % 5, 'v' || g FROM generate_series(1, 900) g;
    INSERT INTO watched SELECT g, 'v' || g FROM generate_series(1, 20) g"#;

const DAMAGE: &str = r#"
    SELECT pg_replication_origin_create('damage'); SELECT pg_replication_origin_session_setup('damage');
    SET session_replication_role = replica;
    DELETE FROM many WHERE id % 9 = 0; UPDATE many SET n = n + 1, dom = 7, ps = NULL WHERE id % 10 = 0;
    UPDATE many SET t = 'short' WHERE length(t) > 100000; INSERT INTO many (id, t) OVERRIDING SYSTEM VALUE SELECT 90000 + g, 'too many' FROM generate_series(1, 20) g;
    BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE parent SET rank = 51 - rank; COMMIT;
    DELETE FROM parent WHERE id = 3; INSERT INTO parent VALUES (1000, NULL, 1000);
    DELETE FROM "Odd ""name" WHERE k2 > '2027-01-01'; UPDATE "Odd ""name" SET v = NULL WHERE "Key 1" = 'key 3';
    UPDATE parted SET day = day + 1 WHERE id % 50 = 0; DELETE FROM parted WHERE id % 41 = 0;
    DELETE FROM watched WHERE id = 1; UPDATE watched SET v = 'x' WHERE id = 2; INSERT INTO watched VALUES (99, 'x')"#;

fn digest(node: &Node, table: &str) -> String {
    node.value(&format!("SELECT count(*) || ' ' || coalesce(sum(hashtextextended(x::text, 0)), 0) FROM {table} x"))
}

#[test]
fn tables_of_every_kind_are_level_after_a_comparison() {
    let cluster = start_mesh(quick("rebuild_kinds", 3), &format!("{TYPES}{MANY};{OTHERS}"));
    let [n1, n2, n3] = cluster.all();
    // Core's parallel workers, when the subscriptions are suspended.
    cluster.expect_log("terminating logical replication worker due to administrator command");
    for node in [n1, n2, n3] {
        node.session().sql(WATCH);
    }
    n1.sql(FILL);
    // One statement after the other: the values of an enum cannot be used in the transaction that adds them.
    n1.sql(ROWS);
    for (one, other) in [(n1, n2), (n1, n3)] {
        drain(one, other);
    }
    n2.session().sql(DAMAGE);
    for node in [n1, n2, n3] {
        node.sql("TRUNCATE seen");
    }
    let tables = ["many", "parent", "\"Odd \"\"name\"", "parted_1", "parted_2", "watched"];
    for table in tables {
        assert_ne!(digest(n2, table), digest(n3, table), "{table} is damaged");
    }
    n2.session().sql(INDEX);
    let list = tables.map(|table| format!("'{table}'::regclass")).join(", ");
    n2.sql(&format!("CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY[{list}], method := 'compare')"));
    for table in tables.into_iter().chain(["child", "parted"]) {
        assert_eq!(digest(n2, table), digest(n3, table), "{table}");
    }
    // The owner's triggers fire as for a replica, and run as the owner.
    let seen = "SELECT what, who, count(*) FROM seen GROUP BY 1, 2 ORDER BY 1";
    assert_eq!(n2.value(seen), "DELETE|watcher|1\nINSERT|watcher|1\nUPDATE|watcher|1");
    // What was damaged in the same way is level by copying as well.
    n2.sql("DROP INDEX watched_who");
    n2.session().sql(&DAMAGE.replace("SELECT pg_replication_origin_create('damage');", ""));
    n2.sql(&format!("CALL spock.rebuild_run(source_node_name := 'n3', tables := ARRAY[{list}], method := 'copy')"));
    for table in tables.into_iter().chain(["child", "parted"]) {
        assert_eq!(digest(n2, table), digest(n3, table), "{table}");
    }
}

#[test]
fn a_source_that_lacks_what_the_target_has_of_another_lost_node_is_refused() {
    let cluster = start_mesh(quick("rebuild_ahead", 4).setting("spock.peer_timeout", "5s"), TABLES);
    let [n1, n2, n3, n4] = cluster.all();
    cluster.expect_log("could not connect to the publisher");
    cluster.expect_log("could not receive data from WAL stream");
    cluster.expect_log("source node \"n3\" has node \"n4\" up to");
    n1.sql("INSERT INTO other SELECT g, 'of n1' FROM generate_series(1, 100) g");
    for node in [n2, n3, n4] {
        drain(n1, node);
    }
    // n2 lacks what n1 did last, and n3 what n4 did.
    hold_back(n2);
    n1.sql("UPDATE other SET v = 'late' WHERE id <= 10");
    for node in [n3, n4] {
        drain(n1, node);
    }
    n3.sql("ALTER SUBSCRIPTION sub_n3_n4 DISABLE");
    n4.sql("INSERT INTO other SELECT g, 'of n4' FROM generate_series(1001, 1050) g");
    drain(n4, n2);
    for node in [n1, n4] {
        node.kill9();
    }
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n4 ENABLE");
    let call = "CALL spock.rebuild_run(source_node_name := 'n3', failed_node_name := 'n1')";
    let error = n2.try_sql(call).expect_err("it would take back what n2 has of n4");
    assert_eq!(error.sqlstate, "55000", "{error}");
    let hint = error.hint.clone().unwrap_or_default();
    assert!(error.to_string().contains("source node \"n3\" has node \"n4\" up to"), "{error}");
    assert!(hint.contains("CALL spock.recover_run('n4', target_node_name := 'n3')"), "{hint}");
    assert_eq!(n2.value("SELECT count(*) FROM other WHERE v = 'of n4'"), "50", "nothing is taken back");
    n2.sql("CALL spock.rebuild_abort()");
    assert_eq!(
        n2.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'spock_parked%'"),
        "0",
        "nothing was parked"
    );
}
