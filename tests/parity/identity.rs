//! How rows are found that are updated or deleted: every replica identity, with and without an index that helps.

use super::{Case, Wiring, play};

const FULL: &str = "CREATE TABLE t (a int, b text, c numeric); ALTER TABLE t REPLICA IDENTITY FULL";
const FULL_ROWS: &str = "INSERT INTO t SELECT g % 10, CASE WHEN g % 4 > 0 THEN 'text ' || g % 5 END, CASE WHEN g % 3 > 0 THEN g END
      FROM generate_series(1, 60) g; INSERT INTO t VALUES (99, 'twice', NULL), (99, 'twice', NULL), (99, 'twice', NULL), (NULL, NULL, NULL), (NULL, NULL, NULL)";
const FULL_CHANGES: &[&str] = &[
    "UPDATE t SET c = 1000 WHERE a = 3",
    "UPDATE t SET b = NULL WHERE a = 4; UPDATE t SET b = 'again' WHERE a = 4 AND b IS NULL",
    // One of several that are alike, and all rows without a value.
    "UPDATE t SET c = 5 WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 99)",
    "DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t WHERE a = 99)",
    "UPDATE t SET a = 1 WHERE a IS NULL AND ctid = (SELECT min(ctid) FROM t WHERE a IS NULL)",
    "DELETE FROM t WHERE a IS NULL; INSERT INTO t VALUES (NULL, NULL, 7)",
    "DELETE FROM t WHERE a IN (5, 6); UPDATE t SET a = NULL, b = 'was 7' WHERE a = 7",
];

const fn full<'a>(name: &'a str, on_target: &'a str) -> Case<'a> {
    Case { name, tables: FULL, on_n1: "", on_source: "", on_target, before: FULL_ROWS, gap: FULL_CHANGES }
}

const CASES: [Case<'_>; 18] = [
    Case {
        name: "by_primary_key",
        tables: "CREATE TABLE t (a int, b text, v int, PRIMARY KEY (b, a))",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t SELECT g % 3, 'k' || g, 0 FROM generate_series(1, 12) g",
        gap: &[
            "UPDATE t SET v = 1 WHERE a = 0",
            "UPDATE t SET a = a + 10 WHERE a = 1",
            "UPDATE t SET b = b || b, v = 2 WHERE a = 2",
            "DELETE FROM t WHERE b IN ('k3', 'k1')",
            // Keys change places.
            "BEGIN; UPDATE t SET b = 'tmp' WHERE b = 'k6'; UPDATE t SET b = 'k6' WHERE b = 'k9'; UPDATE t SET b = 'k9' WHERE b = 'tmp'; COMMIT",
        ],
    },
    Case {
        name: "by_index",
        tables: "CREATE TABLE t (id int PRIMARY KEY, k text NOT NULL, n int NOT NULL, v int);
                 CREATE UNIQUE INDEX by ON t (n, k); ALTER TABLE t REPLICA IDENTITY USING INDEX by",
        on_n1: "",
        on_source: "",
        on_target: "ALTER TABLE t DROP CONSTRAINT t_pkey",
        before: "INSERT INTO t SELECT g, 'k' || g, g % 4, 0 FROM generate_series(1, 12) g",
        gap: &[
            "UPDATE t SET v = 1 WHERE n = 1",
            "UPDATE t SET n = 7 WHERE n = 2; UPDATE t SET id = id + 100 WHERE n = 3",
            "DELETE FROM t WHERE n = 0",
        ],
    },
    Case {
        name: "deferrable_key_on_the_target",
        tables: "CREATE TABLE t (id int NOT NULL, v int)",
        on_n1: "ALTER TABLE t ADD PRIMARY KEY (id)",
        on_source: "ALTER TABLE t ADD PRIMARY KEY (id)",
        on_target: "ALTER TABLE t ADD PRIMARY KEY (id), ADD UNIQUE (v) DEFERRABLE INITIALLY DEFERRED",
        before: "INSERT INTO t SELECT g, g FROM generate_series(1, 5) g",
        gap: &[
            "BEGIN; UPDATE t SET v = 2 WHERE id = 1; UPDATE t SET v = 1 WHERE id = 2; COMMIT",
            "UPDATE t SET v = v + 1 WHERE id >= 3",
            "DELETE FROM t WHERE v = 1",
        ],
    },
    full("full_without_index", ""),
    full("full_with_plain_index", "CREATE INDEX ON t (a)"),
    full("full_with_index_of_several", "CREATE INDEX ON t (b, c)"),
    full("full_with_hash_index", "CREATE INDEX ON t USING hash (b)"),
    full("full_with_useless_indexes", "CREATE INDEX ON t (a) WHERE a > 5; CREATE INDEX ON t ((a + 1)); CREATE INDEX ON t ((b || 'x'), a); CREATE INDEX ON t USING brin (a)"),
    full("full_with_more_columns", "ALTER TABLE t ADD COLUMN here int; CREATE INDEX ON t (here); CREATE INDEX ON t (a, here)"),
    full("full_on_the_target_in_partitions", "DROP TABLE t; CREATE TABLE t (c numeric, b text, a int) PARTITION BY LIST (a);
        CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1, 2, 3, 99); CREATE TABLE t2 PARTITION OF t DEFAULT; CREATE INDEX ON t2 (b);
        ALTER TABLE t1 REPLICA IDENTITY FULL; ALTER TABLE t2 REPLICA IDENTITY FULL; ALTER TABLE t REPLICA IDENTITY FULL"),
    Case {
        name: "full_found_by_the_targets_key",
        tables: "CREATE TABLE t (id int PRIMARY KEY, k int UNIQUE NOT NULL, v text); ALTER TABLE t REPLICA IDENTITY FULL",
        on_n1: "",
        on_source: "",
        on_target: "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        before: "INSERT INTO t SELECT g, -g, 'v' || g FROM generate_series(1, 9) g",
        gap: &[
            "UPDATE t SET v = NULL WHERE id < 3; UPDATE t SET id = id + 10 WHERE k > -5",
            "DELETE FROM t WHERE k = -7; UPDATE t SET k = 0 WHERE id = 9",
        ],
    },
    Case {
        // The source's is another than the failed node's: what it sends is more than is needed.
        name: "full_on_the_source_alone",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v text, w text STORAGE EXTERNAL)",
        on_n1: "",
        on_source: "ALTER TABLE t REPLICA IDENTITY FULL",
        on_target: "ALTER TABLE t ADD COLUMN here text DEFAULT 'here'",
        before: "INSERT INTO t SELECT g, 'v' || g, repeat('w', 4000) FROM generate_series(1, 5) g",
        gap: &["UPDATE t SET v = 'new' WHERE id = 1", "UPDATE t SET id = 20 WHERE id = 2", "DELETE FROM t WHERE id = 3"],
    },
    Case {
        name: "none",
        tables: "CREATE TABLE none (a int, b text); CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
                 CREATE TABLE empty ()",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO none VALUES (1, 'a'), (1, 'a')",
        gap: &[
            "INSERT INTO none VALUES (1, 'a'), (2, NULL); INSERT INTO nothing VALUES (1), (2); INSERT INTO empty DEFAULT VALUES",
            "TRUNCATE nothing; INSERT INTO nothing VALUES (3)",
        ],
    },
    Case {
        name: "case_insensitive_key",
        tables: "CREATE COLLATION blind (provider = libc, locale = 'C');
                 CREATE TABLE t (k text COLLATE blind PRIMARY KEY, v int); CREATE TABLE f (f float8 PRIMARY KEY, n numeric)",
        on_n1: "",
        on_source: "",
        on_target: "",
        // -0 and 0, 1.0 and 1.00 are equal and not the same.
        before: "INSERT INTO t VALUES ('a', 1), ('A', 2), ('ä', 3); INSERT INTO f VALUES (0, 1.0), ('NaN', 'NaN'), (1, 1)",
        gap: &[
            "UPDATE t SET v = 20 WHERE k = 'A'; UPDATE t SET k = 'Ä' WHERE k = 'ä'; DELETE FROM t WHERE k = 'a'",
            "UPDATE f SET f = '-0', n = 1.00 WHERE f = 0; UPDATE f SET n = 0 WHERE f = 'NaN'; UPDATE f SET n = 1.000 WHERE f = 1",
        ],
    },
    Case {
        name: "included_columns",
        tables: "CREATE TABLE t (id int, v text, w int, PRIMARY KEY (id) INCLUDE (v)); CREATE UNIQUE INDEX ON t (w) WHERE w > 0 AND length('const') = 5;
            CREATE INDEX ON t ((upper(v)))",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', -3)",
        gap: &["UPDATE t SET v = 'included' WHERE id = 1", "UPDATE t SET id = 20 WHERE id = 2; DELETE FROM t WHERE id = 3"],
    },
    Case {
        name: "full_with_dropped_and_generated",
        tables: "CREATE TABLE t (gone point, a int, c text); ALTER TABLE t DROP COLUMN gone; ALTER TABLE t REPLICA IDENTITY FULL",
        on_n1: "",
        on_source: "",
        on_target: "ALTER TABLE t ADD COLUMN b int GENERATED ALWAYS AS (a * 7) STORED",
        before: "INSERT INTO t (a, c) VALUES (1, 'a'), (2, NULL), (3, 'c')",
        gap: &["UPDATE t SET c = 'changed' WHERE a = 1; UPDATE t SET a = 20 WHERE a = 2; DELETE FROM t WHERE a = 3"],
    },
    Case {
        name: "temporary_unlogged_and_materialized",
        tables: "CREATE UNLOGGED TABLE unlogged (id int); CREATE TABLE t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM t",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t VALUES (1)",
        gap: &[
            "BEGIN; CREATE TEMPORARY TABLE temporary (id int) ON COMMIT DROP; INSERT INTO temporary VALUES (1); UPDATE temporary SET id = 2;
             INSERT INTO unlogged VALUES (1); UPDATE unlogged SET id = 2; INSERT INTO t VALUES (2); COMMIT",
            "REFRESH MATERIALIZED VIEW seen",
            "SELECT pg_logical_emit_message(true, 'a', 'message'), pg_logical_emit_message(false, 'another', 'message'); INSERT INTO t VALUES (3)",
        ],
    },
    Case {
        name: "rows_changed_often",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v int)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t VALUES (1, 0), (2, 0)",
        gap: &[
            "BEGIN; INSERT INTO t VALUES (3, 0); UPDATE t SET v = 1 WHERE id = 3; UPDATE t SET id = 4 WHERE id = 3; DELETE FROM t WHERE id = 4;
             INSERT INTO t VALUES (4, 4); COMMIT",
            "BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 10); UPDATE t SET v = v + 1 WHERE id = 1; UPDATE t SET v = v + 1 WHERE id = 1; COMMIT",
            "DELETE FROM t WHERE id = 2",
            "INSERT INTO t VALUES (2, 2) ON CONFLICT (id) DO UPDATE SET v = 9; INSERT INTO t VALUES (2, 2) ON CONFLICT (id) DO UPDATE SET v = 9",
            "MERGE INTO t USING (VALUES (1), (77)) s (id) ON t.id = s.id WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.id, 77)",
        ],
    },
];

#[test]
fn rows_are_found_as_by_core_by_every_replica_identity() {
    play("parity_identity", Wiring::default(), &CASES);
}
