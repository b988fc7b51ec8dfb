//! Transactions of every make: with savepoints, streamed before they commit, prepared.

use super::{Case, Wiring, play};
use crate::rescue::summary;

const fn case<'a>(name: &'a str, gap: &'a [&'a str]) -> Case<'a> {
    Case {
        name,
        tables: "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE big (id int PRIMARY KEY, v text); CREATE TABLE note (n int)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t SELECT g, 'before' FROM generate_series(1, 20) g; INSERT INTO big SELECT g, 'before' FROM generate_series(1, 3000) g",
        gap,
    }
}

const SAVEPOINTS: Case<'_> = case(
    "savepoints",
    &[
        "BEGIN; INSERT INTO t VALUES (21, 'a'); SAVEPOINT a; UPDATE t SET v = 'lost' WHERE id < 5; DELETE FROM t WHERE id = 6; ROLLBACK TO a;
         UPDATE t SET v = 'kept' WHERE id = 1; SAVEPOINT b; INSERT INTO t VALUES (22, 'b'); SAVEPOINT c; DELETE FROM t WHERE id = 22; ROLLBACK TO c;
         RELEASE b; COMMIT",
        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (100, 'lost'); ROLLBACK TO a; INSERT INTO t VALUES (100, 'kept'); SAVEPOINT d; TRUNCATE note; ROLLBACK TO d; COMMIT",
        "BEGIN; DELETE FROM t WHERE id = 2; ROLLBACK",
        "DO $$ BEGIN FOR n IN 200 .. 400 LOOP BEGIN INSERT INTO t VALUES (n, 'sub'); IF n % 3 = 0 THEN RAISE EXCEPTION 'x'; END IF;
         EXCEPTION WHEN raise_exception THEN INSERT INTO note VALUES (n); END; END LOOP; END $$",
        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (500, 'lost'); SAVEPOINT b; INSERT INTO t VALUES (501, 'lost'); ROLLBACK TO a; COMMIT",
    ],
);

/// Each is several times logical_decoding_work_mem.
const LARGE: Case<'_> = case(
    "large",
    &[
        "INSERT INTO big SELECT g, repeat('x', 100) FROM generate_series(3001, 9000) g",
        "UPDATE big SET v = 'changed ' || id WHERE id % 2 = 0",
        "BEGIN; DELETE FROM big WHERE id > 8000; SAVEPOINT a; UPDATE big SET v = 'lost'; ROLLBACK TO a; SAVEPOINT b; UPDATE big SET v = v || '!' WHERE id < 4000;
         RELEASE b; INSERT INTO t VALUES (1000, 'end'); COMMIT",
        "BEGIN; INSERT INTO big SELECT g, 'lost' FROM generate_series(20000, 26000) g; ROLLBACK",
        "BEGIN; TRUNCATE big; INSERT INTO big SELECT g, 'again' FROM generate_series(1, 5000) g; DELETE FROM big WHERE id % 7 = 0; COMMIT",
        "DO $$ BEGIN FOR n IN 1 .. 2000 LOOP BEGIN UPDATE big SET v = 'by ' || n WHERE id = n; IF n % 5 = 0 THEN RAISE EXCEPTION 'x'; END IF;
         EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$",
    ],
);

const PREPARED: Case<'_> = case(
    "prepared",
    &[
        "BEGIN; INSERT INTO t VALUES (21, 'prepared'); SAVEPOINT a; DELETE FROM t WHERE id = 3; ROLLBACK TO a; PREPARE TRANSACTION 'committed'",
        "INSERT INTO t VALUES (22, 'between')",
        "COMMIT PREPARED 'committed'",
        "BEGIN; INSERT INTO t VALUES (23, 'prepared'); UPDATE t SET v = 'lost' WHERE id = 4; PREPARE TRANSACTION 'rolled back'",
        "ROLLBACK PREPARED 'rolled back'",
        "BEGIN; INSERT INTO big SELECT g, repeat('y', 100) FROM generate_series(3001, 9000) g; UPDATE big SET v = 'p' WHERE id < 100; PREPARE TRANSACTION 'large'",
        "UPDATE t SET v = 'between' WHERE id = 22",
        "COMMIT PREPARED 'large'",
        "BEGIN; INSERT INTO big SELECT g, 'lost' FROM generate_series(20000, 26000) g; PREPARE TRANSACTION 'large, rolled back'",
        "ROLLBACK PREPARED 'large, rolled back'",
        "BEGIN; TRUNCATE note; INSERT INTO note VALUES (1); PREPARE TRANSACTION 'committed'",
        "COMMIT PREPARED 'committed'",
    ],
);

/// Of the gaps above, those that commit something.
const COMMITTED: &str = "13";

#[test]
fn transactions_with_savepoints_large_and_prepared_ones_arrive_as_by_core() {
    let cluster = play("parity_transactions", Wiring::default(), &[SAVEPOINTS, LARGE, PREPARED]);
    assert_eq!(summary(cluster.node("n2"), "transactions"), COMMITTED);
}

#[test]
fn transactions_that_were_streamed_or_prepared_at_the_source_arrive_as_by_core() {
    let options = ", streaming = parallel, two_phase = true";
    let cluster = play("parity_two_phase", Wiring { options, ..Wiring::default() }, &[SAVEPOINTS, LARGE, PREPARED]);
    assert_eq!(summary(cluster.node("n2"), "transactions"), COMMITTED);
}
