//! Partitioned tables on either side, and rows that move between partitions.

use super::{Case, Wiring, play};

const MEASURED: &str = "
    CREATE TABLE measured (id int, at date, v text DEFAULT 'none', PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE january PARTITION OF measured FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
    CREATE TABLE february PARTITION OF measured FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');";
const BEFORE: &str =
    "INSERT INTO measured SELECT g, date '2026-01-15' + g, repeat('before', 500) FROM generate_series(1, 30) g";
const CHANGES: &[&str] = &[
    "INSERT INTO measured SELECT g, date '2026-01-20', 'new' FROM generate_series(31, 40) g",
    "UPDATE measured SET v = 'changed' WHERE id % 3 = 0",
    // From one partition to the other, by n1's bounds or by the target's.
    "UPDATE measured SET at = at + 14 WHERE id BETWEEN 10 AND 14",
    "UPDATE measured SET at = at - 14, v = 'back' WHERE id = 25",
    "UPDATE measured SET id = id + 100 WHERE id IN (2, 3)",
    "BEGIN; UPDATE measured SET at = at + 28 WHERE id = 5; UPDATE measured SET v = 'moved' WHERE id = 5; UPDATE measured SET at = at - 28 WHERE id = 5; COMMIT",
    "DELETE FROM measured WHERE id IN (1, 30, 31)",
    "INSERT INTO measured (id, at) VALUES (1, '2026-02-20')",
];
/// Alike in columns, not in partitions.
const BY_ID: &str = "
    CREATE TABLE measured (here text DEFAULT 'of the target', at date, v text, id int, PRIMARY KEY (id, at)) PARTITION BY LIST (id);
    CREATE TABLE few PARTITION OF measured FOR VALUES IN (1, 2, 3, 25);
    CREATE TABLE most (gone int, v text, id int NOT NULL, here text, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (id);
    ALTER TABLE most DROP COLUMN gone; ALTER TABLE measured ATTACH PARTITION most DEFAULT;
    CREATE TABLE low PARTITION OF most FOR VALUES FROM (MINVALUE) TO (20);
    CREATE TABLE high (at date NOT NULL, id int NOT NULL, v text, here text, PRIMARY KEY (id, at)); ALTER TABLE most ATTACH PARTITION high DEFAULT;";
const PLAIN: &str = "CREATE TABLE measured (id int, at date, v text, PRIMARY KEY (id, at));";
const LEAVES: &str = "CREATE TABLE january (id int, at date, v text, PRIMARY KEY (id, at)); CREATE TABLE february (v text, at date, id int, PRIMARY KEY (id, at));";

const fn measured<'a>(name: &'a str, on_n1: &'a str, on_source: &'a str, on_target: &'a str) -> Case<'a> {
    Case { name, tables: "", on_n1, on_source, on_target, before: BEFORE, gap: CHANGES }
}

const TRUNCATED: Case<'_> = Case {
    name: "truncated",
    tables: "
        CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
        CREATE TABLE p2a PARTITION OF p2 DEFAULT; CREATE TABLE q (LIKE p INCLUDING ALL) PARTITION BY HASH (id);
        CREATE TABLE q1 PARTITION OF q FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE TABLE q2 PARTITION OF q FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
    on_n1: "",
    on_source: "",
    on_target: "",
    before: "INSERT INTO p SELECT g FROM generate_series(1, 15) g; INSERT INTO q SELECT g FROM generate_series(1, 19) g",
    gap: &["TRUNCATE p1; INSERT INTO p VALUES (0)", "TRUNCATE p2", "INSERT INTO p VALUES (17)", "TRUNCATE q; INSERT INTO q VALUES (5)"],
};

#[test]
fn rows_of_partitioned_tables_arrive_as_by_core_published_as_their_roots() {
    let cases = [
        measured("alike", MEASURED, MEASURED, MEASURED),
        measured("from_partitioned_to_plain", MEASURED, MEASURED, PLAIN),
        measured("from_plain_to_partitioned", PLAIN, PLAIN, BY_ID),
        measured("other_partitions_on_the_target", MEASURED, MEASURED, BY_ID),
        measured("plain_on_the_source", MEASURED, PLAIN, MEASURED),
        measured("partitioned_on_the_source", PLAIN, MEASURED, PLAIN),
        Case {
            name: "full_identity",
            tables: "CREATE TABLE t (a int, b text) PARTITION BY LIST (a); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1, NULL);
                     CREATE TABLE t2 (b text, a int); ALTER TABLE t ATTACH PARTITION t2 DEFAULT;
                     ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t1 REPLICA IDENTITY FULL; ALTER TABLE t2 REPLICA IDENTITY FULL",
            on_target: "CREATE INDEX ON t2 (b)",
            before: "INSERT INTO t SELECT NULLIF(g % 4, 3), 'b' || g % 7 FROM generate_series(1, 40) g",
            gap: &[
                "UPDATE t SET a = 2 WHERE a = 1 AND b = 'b1'",
                "UPDATE t SET a = NULL WHERE a = 2 AND b = 'b2'; UPDATE t SET b = NULL WHERE a IS NULL",
                "DELETE FROM t WHERE a = 0; DELETE FROM t WHERE b IS NULL AND ctid = (SELECT min(ctid) FROM t1 WHERE b IS NULL)",
            ],
            ..Case::default()
        },
        TRUNCATED,
    ];
    let publication = "FOR ALL TABLES WITH (publish_via_partition_root = true)";
    play("parity_partition_roots", Wiring { publication, ..Wiring::default() }, &cases);
}

#[test]
fn rows_of_partitioned_tables_arrive_as_by_core_published_as_their_leaves() {
    let cases = [
        measured("alike", MEASURED, MEASURED, MEASURED),
        measured("leaves_are_plain_on_the_target", MEASURED, MEASURED, LEAVES),
        measured("leaves_are_plain_on_the_source", MEASURED, LEAVES, MEASURED),
        measured(
            "a_leaf_is_partitioned_on_the_target",
            MEASURED,
            MEASURED,
            "CREATE TABLE february (id int, v text, at date, PRIMARY KEY (id, at));
             CREATE TABLE january (id int, at date, v text, PRIMARY KEY (id, at)) PARTITION BY HASH (id);
             CREATE TABLE even PARTITION OF january FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE odd PARTITION OF january FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
        ),
        TRUNCATED,
    ];
    play("parity_partition_leaves", Wiring::default(), &cases);
}
