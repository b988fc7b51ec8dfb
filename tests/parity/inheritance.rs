//! Tables that inherit from others: a row is that of its own table, whatever its parents and children hold under the same key.

use super::{Case, Wiring, play};

/// Of several generations, with keys of their own, with another one, and without.
const FAMILY: &str = "
    CREATE TABLE p (id int PRIMARY KEY, v text);
    CREATE TABLE q (q int);
    CREATE TABLE c (w text DEFAULT 'w', PRIMARY KEY (id)) INHERITS (p);
    CREATE TABLE g (x int DEFAULT 7, PRIMARY KEY (x, id)) INHERITS (c, q);
    CREATE TABLE f () INHERITS (p); ALTER TABLE f REPLICA IDENTITY FULL;
    CREATE TABLE r (p int REFERENCES p)";
/// The same tables, each for itself.
const STRANGERS: &str = "
    CREATE TABLE p (id int PRIMARY KEY, v text);
    CREATE TABLE c (w text DEFAULT 'w', v text, id int PRIMARY KEY);
    CREATE TABLE g (id int, v text, w text DEFAULT 'w', q int, x int DEFAULT 7, PRIMARY KEY (x, id));
    CREATE TABLE f (id int, v text); ALTER TABLE f REPLICA IDENTITY FULL;
    CREATE TABLE q (q int); CREATE TABLE r (p int)";
const BEFORE: &str = "
    INSERT INTO p SELECT i, 'p' FROM generate_series(1, 10) i; INSERT INTO c (id, v) SELECT i, 'c' FROM generate_series(1, 10) i;
    INSERT INTO g (id, v) SELECT i, 'g' FROM generate_series(1, 10) i; INSERT INTO f (id, v) SELECT i, 'f' FROM generate_series(1, 10) i";
const CHANGES: &[&str] = &[
    "INSERT INTO p SELECT i, 'new' FROM generate_series(11, 13) i; INSERT INTO g (id, v) SELECT i, 'new' FROM generate_series(11, 13) i",
    "UPDATE p SET v = 'all' WHERE id = 1; UPDATE ONLY p SET v = 'parent' WHERE id = 2; UPDATE c SET v = 'child and below' WHERE id = 3",
    "DELETE FROM ONLY p WHERE id = 4; DELETE FROM p WHERE id = 5; DELETE FROM ONLY c WHERE id = 6; DELETE FROM g WHERE id = 7",
    "UPDATE ONLY p SET id = id + 100 WHERE id = 8; UPDATE ONLY c SET id = id + 100 WHERE id = 9; UPDATE f SET id = id + 100 WHERE id = 10",
    "BEGIN; INSERT INTO p VALUES (4, 'again'); UPDATE p SET v = v || '!' WHERE id = 4; DELETE FROM ONLY c WHERE id = 4; COMMIT",
];
const EMPTIED: &[&str] = &[
    "TRUNCATE ONLY c",
    "INSERT INTO c (id, v) VALUES (1, 'c'), (2, 'c')",
    "TRUNCATE c; INSERT INTO g (id, v) VALUES (1, 'g'); INSERT INTO c (id, v) VALUES (3, 'c')",
    "INSERT INTO r VALUES (1)",
    "TRUNCATE ONLY p CASCADE; INSERT INTO p VALUES (4, 'p')",
    "BEGIN; INSERT INTO f (id, v) VALUES (4, 'f'); TRUNCATE p CASCADE; INSERT INTO p VALUES (5, 'p'); COMMIT",
    "INSERT INTO c (id, v) VALUES (5, 'c'); INSERT INTO f (id, v) VALUES (5, 'f')",
];

const fn family<'a>(
    name: &'a str,
    gap: &'a [&'a str],
    on_n1: &'a str,
    on_source: &'a str,
    on_target: &'a str,
) -> Case<'a> {
    Case { name, tables: "", on_n1, on_source, on_target, before: BEFORE, gap }
}

/// A child that the target alone has, and keys of its parent in it.
const OWN_CHILD: &str =
    "; CREATE TABLE own (PRIMARY KEY (id)) INHERITS (p); INSERT INTO own SELECT i, 'own' FROM generate_series(1, 13) i";

#[test]
fn rows_of_tables_that_inherit_arrive_as_by_core() {
    let with_own = format!("{FAMILY}{OWN_CHILD}");
    let of_strangers = format!("{STRANGERS}{OWN_CHILD}");
    let alone = format!("{FAMILY}; INSERT INTO c (id, v) SELECT i, 'of this node' FROM generate_series(1, 13) i");
    let cases = [
        family("changed", CHANGES, FAMILY, FAMILY, FAMILY),
        family("changed_strangers_on_the_target", CHANGES, FAMILY, FAMILY, STRANGERS),
        family("changed_strangers_on_the_source", CHANGES, FAMILY, STRANGERS, &with_own),
        family("changed_strangers_on_n1", CHANGES, STRANGERS, FAMILY, FAMILY),
        family("emptied", EMPTIED, FAMILY, FAMILY, FAMILY),
        family("emptied_strangers_on_the_target", EMPTIED, FAMILY, FAMILY, &of_strangers),
        // The source has no foreign key and no children: what n1's CASCADE has reached is told table by table.
        family("emptied_strangers_on_the_source", EMPTIED, FAMILY, STRANGERS, &with_own),
        // Of this one the parent alone is published.
        Case {
            before: "INSERT INTO p SELECT i, 'p' FROM generate_series(1, 10) i",
            ..family("parent_alone", CHANGES, FAMILY, &alone, &alone)
        },
    ];
    let of = |case: &Case<'_>| match case.name {
        "parent_alone" => "ONLY parent_alone.p".to_owned(),
        // With all that inherit from it.
        name if !name.contains("n1") => format!("{name}.p, {name}.r"),
        name => format!("{name}.p, {name}.c, {name}.g, {name}.f, {name}.r"),
    };
    let publication = format!("FOR TABLE first, {}", cases.iter().map(of).collect::<Vec<_>>().join(", "));
    play("parity_inheritance", Wiring { publication: &publication, ..Wiring::default() }, &cases);
}
