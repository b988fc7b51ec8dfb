//! TRUNCATE: several tables, CASCADE, RESTART IDENTITY.

use super::{Case, Wiring, play};

const CASES: [Case<'_>; 3] = [
    Case {
        name: "several",
        tables: "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY);",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1)",
        gap: &["TRUNCATE a, b", "INSERT INTO a VALUES (1)", "BEGIN; INSERT INTO c VALUES (2); TRUNCATE c; INSERT INTO c VALUES (3); COMMIT", "TRUNCATE ONLY a; INSERT INTO b VALUES (9)"],
    },
    Case {
        name: "cascade",
        tables: "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
                 CREATE TABLE grandchild (child int REFERENCES child)",
        on_n1: "",
        on_source: "",
        // A table of the target alone that refers to none of them is left alone.
        on_target: "ALTER TABLE grandchild DROP CONSTRAINT grandchild_child_fkey; CREATE TABLE own (parent int); INSERT INTO own VALUES (1)",
        before: "INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1); INSERT INTO grandchild VALUES (1)",
        gap: &["TRUNCATE parent CASCADE", "INSERT INTO parent VALUES (3); INSERT INTO child VALUES (3, 3)", "TRUNCATE child, grandchild"],
    },
    Case {
        name: "identities",
        tables: "CREATE TABLE restarted (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, s serial);
                 CREATE TABLE continued (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY);",
        on_n1: "",
        on_source: "",
        on_target: "ALTER TABLE restarted ADD COLUMN here int GENERATED ALWAYS AS IDENTITY (START 50);
            ALTER TABLE continued ADD COLUMN here int GENERATED ALWAYS AS IDENTITY (START 50);
            SELECT setval('restarted_n_seq', 1000), setval('continued_n_seq', 1000), setval('restarted_s_seq', 77)",
        before: "INSERT INTO restarted (id) SELECT generate_series(1, 9); INSERT INTO continued (id) SELECT generate_series(1, 9)",
        gap: &[
            "TRUNCATE restarted RESTART IDENTITY",
            "TRUNCATE continued CONTINUE IDENTITY",
            "INSERT INTO restarted (id) SELECT generate_series(1, 3); INSERT INTO continued (id) SELECT generate_series(1, 3)",
        ],
    },
];

#[test]
fn tables_are_truncated_as_by_core() {
    let cluster = play("parity_truncate", Wiring::default(), &CASES);
    let restarted = cluster.node("n2").value("SELECT max(here) FROM identities.restarted");
    assert_eq!(restarted, "52", "the target's own identity has begun anew");
}
