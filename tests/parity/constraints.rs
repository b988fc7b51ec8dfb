//! Constraints of the target: core's apply checks foreign keys nowhere, the others as everybody does.

use super::{Case, Wiring, play};

const CASES: [Case<'_>; 5] = [
    Case {
        name: "foreign_keys",
        tables: "
            CREATE TABLE parent (id int PRIMARY KEY);
            CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
            CREATE TABLE setting (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
            CREATE TABLE self (id int PRIMARY KEY, up int REFERENCES self);",
        on_n1: "",
        on_source: "",
        // Parents of its own, none, and an action that n1 does not have.
        on_target: "
            CREATE TABLE elsewhere (id int PRIMARY KEY); ALTER TABLE child ADD FOREIGN KEY (id) REFERENCES elsewhere;
            ALTER TABLE setting DROP CONSTRAINT setting_parent_fkey; ALTER TABLE setting ADD FOREIGN KEY (parent) REFERENCES parent ON DELETE CASCADE",
        before: "INSERT INTO parent SELECT generate_series(1, 6); INSERT INTO child SELECT g, g FROM generate_series(1, 6) g;
            INSERT INTO setting SELECT g, g FROM generate_series(1, 6) g; INSERT INTO self VALUES (1, 1), (2, 1)",
        gap: &[
            "DELETE FROM parent WHERE id = 1",
            "UPDATE parent SET id = 20 WHERE id = 2 AND false; UPDATE setting SET parent = NULL WHERE id = 2; UPDATE parent SET id = 20 WHERE id = 2",
            "BEGIN; INSERT INTO setting VALUES (7, 70); INSERT INTO parent VALUES (70); COMMIT",
            "INSERT INTO child VALUES (30, 3); INSERT INTO self VALUES (3, 2)",
            "BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM parent WHERE id = 4; INSERT INTO child VALUES (99, 99); COMMIT",
        ],
    },
    Case {
        name: "exclusion",
        tables: "CREATE TABLE booked (id int PRIMARY KEY, at int4range, EXCLUDE USING gist (at WITH &&))",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO booked VALUES (1, '[1,5)'), (2, '[5,9)')",
        gap: &[
            "INSERT INTO booked VALUES (3, '[9,12)')",
            "DELETE FROM booked WHERE id = 1; INSERT INTO booked VALUES (4, '[2,4)')",
            "UPDATE booked SET at = '[4,6)' WHERE id = 2; UPDATE booked SET at = NULL WHERE id = 3",
        ],
    },
    Case {
        name: "deferred",
        tables: "
            CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED, at int4range,
                EXCLUDE USING gist (at WITH &&) DEFERRABLE INITIALLY DEFERRED)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t SELECT g, g, int4range(g, g + 1) FROM generate_series(1, 6) g",
        gap: &[
            "BEGIN; UPDATE t SET place = 2 WHERE id = 1; UPDATE t SET place = 1 WHERE id = 2; COMMIT",
            "UPDATE t SET place = place + 1, at = int4range(lower(at) + 1, upper(at) + 1)",
            "BEGIN; INSERT INTO t VALUES (7, 3, NULL); DELETE FROM t WHERE id = 1; UPDATE t SET place = 100 WHERE place = 3 AND id <> 7; COMMIT",
        ],
    },
    Case {
        name: "checks",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v int CHECK (v < 100), w int)",
        on_n1: "",
        on_source: "",
        on_target: "ALTER TABLE t ADD CHECK (w IS NULL OR w > v) NOT VALID, ALTER COLUMN w SET DEFAULT 1;
            CREATE UNIQUE INDEX ON t (v) WHERE w > 5; CREATE UNIQUE INDEX ON t ((id % 1000), w)",
        before: "INSERT INTO t VALUES (1, 1, 10), (2, 2, 10)",
        gap: &["INSERT INTO t VALUES (3, 99, 100)", "UPDATE t SET v = 3 WHERE id = 1", "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 3, 4)"],
    },
    Case {
        name: "unlogged_on_the_target",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE nulls (id int PRIMARY KEY, u int UNIQUE NULLS NOT DISTINCT)",
        on_n1: "",
        on_source: "",
        on_target: "ALTER TABLE t SET UNLOGGED; CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM t; CREATE VIEW shown AS SELECT * FROM t;
            CREATE RULE nothing AS ON INSERT TO t DO INSTEAD NOTHING; ALTER TABLE t ENABLE ALWAYS RULE nothing",
        before: "INSERT INTO t VALUES (1, 'one'); INSERT INTO nulls VALUES (1, NULL)",
        gap: &["INSERT INTO t VALUES (2, 'two')", "UPDATE t SET v = 'changed' WHERE id = 1", "UPDATE nulls SET u = 1; INSERT INTO nulls VALUES (2, NULL)"],
    },
];

#[test]
fn constraints_of_the_target_are_kept_as_by_core() {
    play("parity_constraints", Wiring::default(), &CASES);
}
