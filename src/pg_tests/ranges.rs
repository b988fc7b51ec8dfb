//! The comparison of tables by ranges, of two schemas of one database in the place of two nodes.

#[pgrx::pg_schema]
mod tests {
    use crate::compare::comparison::{Comparison, Visitor};
    use crate::compare::found::{Found, FoundKeys};
    use crate::compare::pace::Pace;
    use crate::compare::progress::Progress;
    use crate::compare::question::{Answer, Asked, Question};
    use crate::compare::side::{Here, Side, There};
    use crate::compare::table::{Incomparable, Request, Table};
    use crate::refused::Refused;
    use crate::remote::error::RemoteError;
    use pgrx::prelude::*;
    use std::collections::BTreeMap;

    /// The same database under another schema, through the text of question and answer as a peer would get it.
    struct OtherSchema(Here);

    impl Side for OtherSchema {
        fn node(&self) -> &str {
            "there"
        }

        fn ask(&mut self, question: &Question) -> Result<Result<Answer, Refused>, RemoteError> {
            let question = Question { schema: "there".to_owned(), ..question.clone() };
            let question = Question::of_text(&question.to_text()).expect("a question");
            let answer = self.0.ask(&question)?;
            Ok(answer.map(|answer| {
                serde_json::from_str(&serde_json::to_string(&answer).expect("written")).expect("an answer")
            }))
        }
    }

    #[derive(Default)]
    struct Collector {
        found: FoundKeys,
        spans: u64,
        most_spans: u64,
    }

    impl Visitor for Collector {
        fn found(&mut self, found: &Found) {
            self.found.push(found);
        }

        fn goes_on(&mut self, _: &Progress) -> bool {
            self.spans += 1;
            self.spans != self.most_spans
        }
    }

    fn learn(name: &str, publications: &[&str]) -> Result<Table, Incomparable> {
        let published: Vec<String> = publications.iter().map(|name| (*name).to_owned()).collect();
        let request = Request {
            schema: "public",
            name,
            published_here: &published,
            published_there: &published,
            may_be_incomplete_here: false,
        };
        let mut there = OtherSchema(Here::new("there"));
        Table::learn(&request, &mut Here::new("here"), &mut there).expect("both answer")
    }

    /// The kinds of the keys that differ, the number of rows, and the number of spans. The comparison is broken off
    /// after each span if `in_steps`.
    fn compare(table: &Table, in_steps: bool) -> (BTreeMap<String, &'static str>, u64, u64) {
        let (mut here, mut there) = (Here::new("here"), OtherSchema(Here::new("there")));
        let mut collector = Collector { most_spans: if in_steps { 1 } else { 0 }, ..Collector::default() };
        let (mut progress, mut steps) = (Progress::default(), 0);
        while !progress.is_over {
            collector.spans = 0;
            progress = Comparison::new(table, Pace::default(), 42)
                .run(progress, &mut here, &mut there, &mut collector)
                .expect("compared");
            steps += collector.spans;
        }
        assert_eq!(progress.differing, collector.found.count());
        collector.found.rewind();
        let found = std::iter::from_fn(|| collector.found.next());
        let kinds: Vec<_> = found.map(|found| (found.key.join(","), found.kind.name())).collect();
        let count = kinds.len();
        let kinds: BTreeMap<_, _> = kinds.into_iter().collect();
        assert_eq!(kinds.len(), count, "no key is reported twice");
        (kinds, progress.rows, steps)
    }

    fn run(statements: &str) {
        Spi::run(statements).expect("done");
    }

    const DIFFERENCES: &str = "UPDATE there.t SET v = 'other' WHERE k = 17; DELETE FROM there.t WHERE k = 40000;
         DELETE FROM t WHERE k IN (1, 100000); INSERT INTO there.t VALUES (100001, 'new'), (-5, 'new')";

    #[pg_test]
    fn each_key_that_differs_is_found_with_its_kind_also_in_steps() {
        run("CREATE SCHEMA there; CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE there.t (v text, gone int, k int PRIMARY KEY);
             ALTER TABLE there.t DROP COLUMN gone;
             INSERT INTO t SELECT g, md5(g::text) FROM generate_series(1, 100000) g; INSERT INTO there.t (k, v) SELECT * FROM t;
             ANALYZE t");
        let table = learn("t", &[]).expect("comparable");
        assert_eq!(table.rows, 100_000);
        assert_eq!(compare(&table, false), (BTreeMap::new(), 100_000, 4));
        run(&DIFFERENCES.replace("VALUES (100001, 'new'), (-5, 'new')", "(k, v) VALUES (100001, 'new'), (-5, 'new')"));
        let expected = [
            ("-5", "missing_here"),
            ("1", "missing_here"),
            ("100000", "missing_here"),
            ("100001", "missing_here"),
            ("17", "different"),
            ("40000", "missing_there"),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(key, kind)| (key.to_owned(), kind)).into();
        for in_steps in [false, true] {
            let (found, rows, _) = compare(&table, in_steps);
            assert_eq!(found, expected);
            assert!((99_999..=100_002).contains(&rows), "{rows}");
        }
        run("TRUNCATE t; DELETE FROM there.t WHERE k % 1000 <> 0");
        assert_eq!(compare(&table, false).0.len(), 99);
        run("INSERT INTO t SELECT k, v FROM there.t; TRUNCATE there.t");
        let (found, ..) = compare(&table, true);
        assert_eq!(found.values().filter(|kind| **kind == "missing_there").count(), 99);
    }

    #[pg_test]
    fn where_one_node_has_far_more_rows_that_node_divides_them() {
        run("CREATE SCHEMA there; CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE there.t (k int PRIMARY KEY, v text);
             INSERT INTO there.t SELECT g, repeat('x', 10000) FROM generate_series(1, 5000) g;
             INSERT INTO t SELECT k, v FROM there.t WHERE k > 4990");
        let (found, rows, spans) = compare(&learn("t", &[]).expect("comparable"), true);
        assert_eq!((found.len(), rows), (4990, 5000));
        assert!(spans >= 3, "{spans}");
    }

    #[pg_test]
    fn rows_are_found_whatever_order_the_nodes_have() {
        run("CREATE SCHEMA there; CREATE TABLE t (k text COLLATE \"C\" PRIMARY KEY, v int);
             CREATE TABLE there.t (k text COLLATE \"C\" PRIMARY KEY, v int);
             INSERT INTO t SELECT md5(g::text), g FROM generate_series(1, 40000) g; INSERT INTO there.t SELECT * FROM t");
        let table = learn("t", &[]).expect("comparable");
        assert_eq!(compare(&table, false).0.len(), 0);
        // An order that is very different: of numbers that look alike as texts.
        run("DROP TABLE there.t; CREATE TABLE there.t (k numeric PRIMARY KEY, v int); DELETE FROM t;
             INSERT INTO t SELECT (g * 7919 % 40009)::text, g FROM generate_series(1, 40000) g;
             INSERT INTO there.t SELECT k::numeric, v FROM t;
             UPDATE t SET v = -1 WHERE k = '123'; DELETE FROM t WHERE k IN ('9', '39999'); DELETE FROM there.t WHERE k IN (8, 12345);
             INSERT INTO there.t VALUES (-1, 1), (99999, 1)");
        let table = learn("t", &[]).expect("comparable");
        let expected = [
            ("-1", "missing_here"),
            ("123", "different"),
            ("12345", "missing_there"),
            ("39999", "missing_here"),
            ("8", "missing_there"),
            ("9", "missing_here"),
            ("99999", "missing_here"),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(key, kind)| (key.to_owned(), kind)).into();
        assert_eq!(compare(&table, true).0, expected);
    }

    #[pg_test]
    fn keys_of_several_columns_and_of_users_types_are_compared() {
        run("CREATE SCHEMA there; CREATE SCHEMA own; CREATE TYPE own.mood AS ENUM ('sad', 'ok', 'happy'); CREATE DOMAIN own.small AS int CHECK (VALUE < 1000);
             CREATE TABLE t (v text, b own.mood, a own.small, c \"char\"[], PRIMARY KEY (b, a, c));
             CREATE TABLE there.t (LIKE t INCLUDING ALL);
             INSERT INTO t SELECT g, CASE g % 3 WHEN 0 THEN 'sad' WHEN 1 THEN 'ok' ELSE 'happy' END::own.mood, g % 500, ARRAY['\"', '\\', chr(g / 500 + 65)::\"char\"]
               FROM generate_series(1, 20000) g;
             INSERT INTO there.t SELECT * FROM t; UPDATE t SET v = 'x' WHERE v IN ('1', '17777'); DELETE FROM there.t WHERE v = '2'");
        let (found, rows, _) = compare(&learn("t", &[]).expect("comparable"), true);
        assert_eq!((found.len(), rows), (3, 20_000));
        assert_eq!(found.get("ok,1,{\"\\\"\",\"\\\\\",A}"), Some(&"different"), "{found:?}");
    }

    #[pg_test]
    fn rows_and_columns_are_those_that_are_published() {
        run("CREATE SCHEMA there; CREATE TABLE t (k int, v text, secret text, region text, PRIMARY KEY (k, region));
             CREATE TABLE there.t (k int, v text, region text, other int, PRIMARY KEY (k, region));
             CREATE PUBLICATION partly FOR TABLE t (k, v, region) WHERE (region = 'eu'), there.t (k, v, region) WHERE (region = 'eu');
             INSERT INTO t SELECT g, g, 'mine', CASE g % 2 WHEN 0 THEN 'eu' ELSE 'us' END FROM generate_series(1, 2000) g;
             INSERT INTO there.t SELECT k, v, region, 1 FROM t WHERE k % 4 = 0;
             UPDATE there.t SET v = 'x' WHERE k = 4; ALTER PUBLICATION partly SET TABLE t (k, v, region) WHERE (region = 'eu'), there.t (k, v, region) WHERE (region = 'eu' AND k <> 8);
             UPDATE there.t SET v = 'x' WHERE k = 8; DELETE FROM t WHERE k = 12");
        let table = learn("t", &["partly", "no such publication"]).expect("comparable");
        assert_eq!(table.columns, ["k", "v", "region"]);
        let (found, ..) = compare(&table, false);
        assert_eq!(found.len(), 503, "500 that are missing there, one that is missing here, and two that differ");
        let kind = |key: &str| found.get(key).copied();
        assert_eq!(
            ["4,eu", "8,eu", "2,eu", "12,eu"].map(kind),
            [Some("different"), Some("different"), Some("missing_there"), Some("missing_here")]
        );
        assert_eq!([kind("1,us"), kind("16,eu")], [None, None], "one is not published, the other is alike");
    }

    #[pg_test]
    fn large_rows_are_compared_a_few_at_a_time() {
        run("CREATE SCHEMA there; CREATE TABLE t (k int PRIMARY KEY, v text); CREATE TABLE there.t (k int PRIMARY KEY, v text);
             INSERT INTO t SELECT g, repeat(md5(g::text), 1 << 15) FROM generate_series(1, 30) g; INSERT INTO there.t SELECT * FROM t;
             UPDATE there.t SET v = v || 'x' WHERE k = 29");
        let (found, rows, spans) = compare(&learn("t", &[]).expect("comparable"), true);
        assert_eq!((found.into_keys().collect::<Vec<_>>(), rows), (vec!["29".to_owned()], 30));
        assert!(spans >= 4, "{spans}");
    }

    #[pg_test]
    fn a_refused_question_leaves_a_transaction_that_is_open_on_the_connection_usable() {
        let mut connection = super::super::tests::connection_to_this_server();
        connection.prepare().expect("prepared");
        connection.require_extension().expect("it is there");
        connection.command("BEGIN ISOLATION LEVEL REPEATABLE READ").expect("begun");
        let mut there = There::in_transaction("there", &mut connection).expect("a savepoint");
        let mut shape = |schema: &str, name: &str| {
            let question = Question {
                schema: schema.to_owned(),
                name: name.to_owned(),
                columns: Vec::new(),
                key: Vec::new(),
                publications: Vec::new(),
                seed: 0,
                asked: Asked::Shape,
            };
            there.ask(&question).expect("it answers")
        };
        for _ in 0..2 {
            let refused = shape("public", "no such table").expect_err("refused");
            assert_eq!(refused.sqlstate, "42P01");
            let Ok(Answer::Shape(shape)) = shape("pg_catalog", "pg_am") else { panic!("no shape") };
            assert_eq!((shape.key, shape.columns.len()), (Some(vec!["oid".to_owned()]), 4));
        }
    }

    #[pg_test]
    fn what_cannot_be_compared_is_said() {
        run("CREATE SCHEMA there; CREATE TABLE nokey (k int, v text); CREATE TABLE there.nokey (k int PRIMARY KEY, v text);
             CREATE TABLE otherkey (k int PRIMARY KEY, v int); CREATE TABLE there.otherkey (k int, v int PRIMARY KEY);
             CREATE TABLE missing (k int PRIMARY KEY); CREATE TABLE own_key (k int PRIMARY KEY); CREATE TABLE there.own_key (k int, n int NOT NULL);
             CREATE UNIQUE INDEX i ON there.own_key (n); ALTER TABLE there.own_key REPLICA IDENTITY USING INDEX i");
        for (name, expected) in [
            ("nokey", "node \"here\" has no primary key or replica identity index for it"),
            ("otherkey", "its key has other columns on node \"there\""),
            ("own_key", "its key has other columns on node \"there\""),
            ("missing", "node \"there\" reports relation \"there.missing\" does not exist (SQLSTATE 42P01)"),
        ] {
            assert_eq!(learn(name, &[]).map_err(|error| error.to_string()), Err(expected.to_owned()), "{name}");
        }
    }
}
