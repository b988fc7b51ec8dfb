//! What the failed node publishes of its tables: some columns, some rows, some kinds of change, the tables of a schema.

use super::{Case, Wiring, play};

const TABLES: &str = "
    CREATE TABLE listed (id int PRIMARY KEY, a int, secret text DEFAULT 'default', b text);
    CREATE TABLE filtered (id int PRIMARY KEY, n int NOT NULL, v text); ALTER TABLE filtered REPLICA IDENTITY FULL;
    CREATE TABLE only_inserts (id int PRIMARY KEY, v text);
    CREATE TABLE not_published (id int PRIMARY KEY);";
const BEFORE: &str = "
    INSERT INTO listed SELECT g, g, 'of n1', 'b' || g FROM generate_series(1, 8) g;
    INSERT INTO filtered SELECT g, g, 'v' || g FROM generate_series(1, 20) g;
    INSERT INTO only_inserts VALUES (1, 'one'), (2, 'two'); INSERT INTO not_published VALUES (1);";
const CHANGES: &[&str] = &[
    "INSERT INTO listed VALUES (9, 9, 'of n1', 'b'), (10, NULL, 'of n1', NULL)",
    "UPDATE listed SET a = 100, secret = 'changed' WHERE id = 1; UPDATE listed SET secret = 'changed again' WHERE id < 5; UPDATE listed SET id = 20 WHERE id = 2",
    "DELETE FROM listed WHERE id = 3",
    // Into the filter, out of it, within and outside.
    "UPDATE filtered SET n = n + 10 WHERE id IN (5, 6)",
    "UPDATE filtered SET n = 1 WHERE id IN (15, 16)",
    "UPDATE filtered SET v = 'changed' WHERE id IN (1, 17); INSERT INTO filtered VALUES (30, 3, 'out'), (31, 31, 'in')",
    "DELETE FROM filtered WHERE id IN (2, 18)",
    "INSERT INTO only_inserts VALUES (3, 'three'); UPDATE only_inserts SET v = 'changed' WHERE id = 1; DELETE FROM only_inserts WHERE id = 2",
    "INSERT INTO not_published VALUES (2)",
];

#[test]
fn column_lists_row_filters_and_kinds_of_change_work_as_by_core() {
    // The survivors have the columns that are published, in another order.
    const FEWER: Case<'_> = Case {
        name: "lists",
        tables: TABLES,
        on_n1: "CREATE PUBLICATION inserts FOR TABLE only_inserts WITH (publish = 'insert')",
        on_source: "ALTER TABLE listed DROP COLUMN secret",
        on_target: "ALTER TABLE listed DROP COLUMN secret, DROP COLUMN a; ALTER TABLE listed ADD COLUMN a int, ADD COLUMN here text DEFAULT 'here'",
        before: BEFORE,
        gap: CHANGES,
    };
    // They have it too, and fill it alike.
    let publication = "FOR TABLE public.first, lists.listed (id, b, a), lists.filtered WHERE (n > 10), \"all\".listed (a, id), \"all\".filtered WHERE (n % 2 = 0),
        \"all\".only_inserts";
    let all = Case { name: "\"all\"", on_n1: "", on_source: "", on_target: "", ..FEWER };
    play("parity_lists", Wiring { publication, ..Wiring::default() }, &[FEWER, all]);
}

#[test]
fn tables_of_a_schema_and_kinds_of_change_are_published_as_by_core() {
    const IN_SCHEMA: Case<'_> = Case {
        name: "in_schema",
        tables: TABLES,
        on_n1: "",
        on_source: "",
        on_target: "",
        before: BEFORE,
        gap: CHANGES,
    };
    const TRUNCATED: Case<'_> = Case {
        name: "truncated",
        tables: "CREATE TABLE t (id int PRIMARY KEY)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t VALUES (1), (2)",
        gap: &["TRUNCATE t", "INSERT INTO t VALUES (3)", "UPDATE t SET id = 4 WHERE id = 3"],
    };
    let publication = "FOR TABLE public.first, TABLES IN SCHEMA in_schema, truncated WITH (publish = 'insert, update')";
    play("parity_schemas", Wiring { publication, ..Wiring::default() }, &[IN_SCHEMA, TRUNCATED]);
}
