//! Runs of changes of the same tables in one transaction, which the rescue stores together or for which it keeps tables open:
//! nothing of that may show.

use super::{Case, Wiring, play};

const CASES: [Case<'_>; 7] = [
    Case {
        name: "alternating",
        tables: "CREATE TABLE a (id int PRIMARY KEY, v text, u int UNIQUE); CREATE TABLE b (id int PRIMARY KEY, v text); CREATE TABLE keyless (v int)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO a SELECT g, 'before', g FROM generate_series(1, 40) g",
        gap: &[
            "BEGIN; INSERT INTO a SELECT g, 'run', g FROM generate_series(101, 130) g; INSERT INTO b SELECT g, 'run' FROM generate_series(1, 30) g;
             UPDATE a SET v = 'changed' WHERE id BETWEEN 95 AND 115; DELETE FROM a WHERE id = 110; INSERT INTO a VALUES (110, 'again', 110);
             INSERT INTO keyless SELECT generate_series(1, 20); UPDATE b SET id = id + 1000 WHERE id > 20; COMMIT",
            "DO $$ BEGIN FOR i IN 200..240 LOOP INSERT INTO a VALUES (i, 'by turns', i); INSERT INTO b VALUES (i, 'by turns');
                UPDATE a SET v = v || i WHERE id = i - 1; INSERT INTO keyless VALUES (i); END LOOP; END $$",
            "BEGIN; DELETE FROM a WHERE id <= 20; INSERT INTO a SELECT g, 'anew', 41 - g FROM generate_series(1, 20) g WHERE g <> 41 - g AND 41 - g <= 20;
             INSERT INTO a SELECT g, 'anew', g FROM generate_series(1, 20) g ON CONFLICT DO NOTHING; COMMIT",
            "BEGIN; INSERT INTO b SELECT g, 'taken back' FROM generate_series(500, 530) g; SAVEPOINT s; DELETE FROM b WHERE id = 500; ROLLBACK TO s; COMMIT",
        ],
    },
    Case {
        name: "truncated",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other (id int PRIMARY KEY)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t VALUES (1, 'before')",
        gap: &["BEGIN; INSERT INTO t SELECT g, 'gone' FROM generate_series(2, 40) g; INSERT INTO other VALUES (1); TRUNCATE t;
             INSERT INTO t SELECT g, 'stays' FROM generate_series(1, 30) g; UPDATE t SET v = 'changed' WHERE id = 7; COMMIT"],
    },
    Case {
        name: "looking",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE checked (id int PRIMARY KEY, v int)",
        on_n1: "",
        on_source: "",
        // Each row sees those that came before it.
        on_target: "
            CREATE FUNCTION looking.rows() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM looking.t';
            ALTER TABLE t ADD COLUMN before bigint DEFAULT looking.rows();
            CREATE TABLE seen (n serial, rows bigint);
            CREATE FUNCTION looking.note(int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO looking.seen (rows) SELECT count(*) FROM looking.checked; RETURN true; END $$;
            ALTER TABLE checked ADD CHECK (looking.note(v))",
        before: "",
        gap: &["INSERT INTO t SELECT g, g FROM generate_series(1, 30) g", "INSERT INTO checked SELECT g, g FROM generate_series(1, 30) g"],
    },
    Case {
        name: "indexed",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v int, w text)",
        on_n1: "",
        on_source: "",
        on_target: "
            CREATE UNIQUE INDEX ON t (v) WHERE v > 10; CREATE UNIQUE INDEX ON t ((v + 1), id); CREATE INDEX ON t USING hash (w);
            CREATE INDEX ON t USING brin (v); CREATE INDEX ON t USING gin (to_tsvector('simple', w)); ALTER TABLE t ADD CHECK (v < 1000)",
        before: "INSERT INTO t SELECT g, g, g FROM generate_series(1, 9) g",
        gap: &[
            "INSERT INTO t SELECT g, g, 'word ' || g FROM generate_series(11, 60) g",
            "UPDATE t SET w = 'other' WHERE id > 30; UPDATE t SET v = v + 100 WHERE id > 40; DELETE FROM t WHERE id = 50",
        ],
    },
    Case {
        name: "wide",
        tables: "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "",
        gap: &[
            "INSERT INTO t SELECT g, repeat(md5(g::text), 500) FROM generate_series(1, 60) g",
            "UPDATE t SET id = id + 100 WHERE id > 30",
            "INSERT INTO t SELECT g, g FROM generate_series(1000, 3500) g",
        ],
    },
    Case {
        name: "triggered",
        tables: "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE plain (id int PRIMARY KEY)",
        on_n1: "",
        on_source: "",
        on_target: "
            CREATE TABLE fired (n serial PRIMARY KEY, what text);
            CREATE FUNCTION triggered.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO triggered.fired (what) SELECT concat_ws(' ', TG_NAME, TG_WHEN, TG_OP, NEW, count(*)) FROM triggered.plain;
                IF NEW.id = 15 THEN EXECUTE 'ALTER TABLE triggered.plain ADD COLUMN IF NOT EXISTS more int DEFAULT 1'; END IF;
                RETURN NEW; END $$;
            CREATE TRIGGER always BEFORE INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION triggered.note(); ALTER TABLE a ENABLE ALWAYS TRIGGER always;
            CREATE TRIGGER replica AFTER INSERT OR UPDATE ON a FOR EACH ROW EXECUTE FUNCTION triggered.note(); ALTER TABLE a ENABLE REPLICA TRIGGER replica;
            CREATE TRIGGER never AFTER INSERT ON b FOR EACH ROW EXECUTE FUNCTION triggered.note();
            CREATE CONSTRAINT TRIGGER late AFTER INSERT ON b DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION triggered.note();
            ALTER TABLE b ENABLE REPLICA TRIGGER late",
        before: "INSERT INTO plain SELECT generate_series(101, 120)",
        gap: &[
            "BEGIN; INSERT INTO plain SELECT generate_series(1, 12); INSERT INTO a SELECT generate_series(1, 12); INSERT INTO b SELECT generate_series(1, 12); COMMIT",
            "DO $$ BEGIN FOR i IN 13..20 LOOP INSERT INTO plain VALUES (i); INSERT INTO a VALUES (i); INSERT INTO b VALUES (i); END LOOP; END $$",
            "BEGIN; INSERT INTO plain SELECT generate_series(21, 40); UPDATE a SET id = id + 100; COMMIT",
        ],
    },
    Case {
        name: "deferred_runs",
        tables: "CREATE TABLE t (id int PRIMARY KEY, place int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        on_n1: "",
        on_source: "",
        on_target: "",
        before: "INSERT INTO t SELECT g, g FROM generate_series(1, 30) g",
        gap: &["BEGIN; INSERT INTO t SELECT g + 100, g FROM generate_series(1, 30) g; UPDATE t SET place = place + 1000 WHERE id <= 30; COMMIT"],
    },
];

#[test]
fn runs_of_changes_in_one_transaction_arrive_as_by_core() {
    play("parity_runs", Wiring::default(), &CASES);
}
