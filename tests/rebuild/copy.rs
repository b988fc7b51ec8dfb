//! The copy of a table from a pin. n1 is the source, n2 the target.

use super::{Pin, intent, release};
use crate::cluster::{Action, Cluster, Node, SqlError};
use crate::failpoint_names as names;
use crate::slot_keeps::{quick, start};

/// A source and a target that know each other and do not replicate: the copies are all that comes.
fn pair(name: &str) -> Cluster {
    let cluster = start(quick(name, 2).setting("track_commit_timestamp", "on"));
    let [n1, n2] = cluster.all();
    // n1 does not reach n2, which would say that it knows no such intent.
    n1.sql("SELECT spock.peer_create('n2', 'host=/nonexistent')");
    n2.sql(&format!("SELECT spock.peer_create('n1', '{}')", n1.dsn("postgres")));
    cluster
}

fn copy_call(intent: &str, table: &str, pin: &Pin, more: &str) -> String {
    format!("SELECT spock_internal.copy_table('{intent}', 'n1', '{table}', '{}'{more})", pin.text)
}

fn pin(n1: &Node, digit: u32, table: &str) -> Pin {
    Pin::take(n1, &intent(digit), &format!("'{table}'"))
}

/// Pins a table and copies it.
fn copy(n1: &Node, n2: &Node, digit: u32, table: &str, more: &str) -> String {
    let copied = n2.value(&copy_call(&intent(digit), table, &pin(n1, digit, table), more));
    assert!(release(n1, &intent(digit)));
    copied
}

fn refused(node: &Node, statement: &str) -> SqlError {
    node.try_sql(statement).expect_err(statement)
}

/// What a table contains, whatever the order of its rows.
fn content(node: &Node, columns: &str, table: &str) -> String {
    node.value(&format!("SELECT count(*), md5(string_agg(r, chr(1) ORDER BY r COLLATE \"C\")) FROM (SELECT ({columns})::text r FROM {table}) t"))
}

fn assert_same(n1: &Node, n2: &Node, columns: &str, table: &str) {
    let there = content(n1, columns, table);
    assert!(!there.starts_with("0|"), "{table} is empty");
    assert_eq!(content(n2, columns, table), there, "{table}");
}

/// The chunks that are there, and when each came.
fn chunks(node: &Node, digit: u32) -> Vec<String> {
    let question = format!(
        "SELECT table_name || ' ' || chunk || ' ' || rows || ' ' || applied_at FROM spock_internal.copy_manifest('{}')
          ORDER BY table_name, chunk",
        intent(digit)
    );
    node.value(&question).lines().map(str::to_owned).collect()
}

/// A table of many types; `s` are made on the target in another order, so that their oids differ.
pub(super) const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'so ''so'' {,}');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE pair AS (a positive, b text);";

pub(super) const MANY: &str = "
    CREATE TABLE many (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone int, t text, v varchar(20), c char(7), b bytea, n numeric,
        f float8, r real, d date, ts timestamp, tz timestamptz, i interval, j json, jb jsonb, u uuid, ip inet, m mood,
        p pair, dom positive, ms mood[], ps pair[], ta text[], na numeric[], ir int4range, mr int4multirange, bits varbit,
        pt point, x \"char\", rc regclass, twice numeric GENERATED ALWAYS AS (n * 2) STORED, UNIQUE (u) DEFERRABLE);
    ALTER TABLE many DROP COLUMN gone";

pub(super) const ROWS: &str = r#"
    INSERT INTO many (t, v, c, b, n, f, r, d, ts, tz, i, j, jb, u, ip, m, p, dom, ms, ps, ta, na, ir, mr, bits, pt, x, rc)
    SELECT E'tab\t newline\n return\r back\\slash \\N ' || g, 'größer ☃', 'x', decode(md5(g::text), 'hex'), g / 7.0,
           'infinity', 1.1, 'infinity', '-infinity', '2020-02-29 12:00+05', '-1 year 2 mons -3 days 04:05:06.7', '{"a" : 1}',
           '{"b": [1, null]}', gen_random_uuid(), '::1/64', 'so ''so'' {,}', ROW(g, E'q"\\,(')::pair, g, '{sad,"so ''so'' {,}"}',
           ARRAY[(1, NULL)::pair, (2, 'NULL')::pair], ARRAY['', NULL, 'NULL', '{}', E'\\'], '{NaN,Infinity,1e-20}',
           '[1,5)', '{[1,2),[5,9)}', B'0101', '(1.5,-2)', 'z', 'pg_class'
      FROM generate_series(1, 3000) g;
    INSERT INTO many DEFAULT VALUES;
    ALTER TABLE many ALTER t SET STORAGE EXTERNAL;
    INSERT INTO many (t, n) SELECT repeat(md5(g::text), 32768), 1 FROM generate_series(1, 100) g"#;

/// One pair of servers serves these cases.
#[test]
fn the_copy_is_what_the_source_had() {
    let cluster = pair("rebuild_copy_same");
    let [n1, n2] = cluster.all();
    rows_of_many_types_and_large_ones_arrive(n1, n2);
    partitions_may_be_on_either_side(n1, n2);
    what_is_published_is_copied(n1, n2);
    tables_refer_to_each_other(n1, n2);
    triggers_fire_as_on_a_replica(n1, n2);
    the_rows_belong_to_no_node_and_have_the_time_that_was_given(n1, n2);
    owners_read_and_write(n1, n2);
    parked_tables_refuse_the_users(n1, n2);
}

fn rows_of_many_types_and_large_ones_arrive(n1: &Node, n2: &Node) {
    n1.sql(TYPES);
    n1.sql(MANY);
    n1.sql(ROWS);
    n2.sql("CREATE TYPE other AS ENUM ('x'); CREATE TYPE another AS (x int)");
    n2.sql(TYPES);
    n2.sql(MANY);
    // What is there goes.
    n2.sql("INSERT INTO many (t) VALUES ('old')");
    let call = copy_call(&intent(1), "public.many", &pin(n1, 1, "public.many"), "");
    let copied = n2.value(&call);
    assert!(copied.contains(r#""rows": 3101"#), "{copied}");
    assert_same(n1, n2, "many.*", "many");
    assert_eq!(n2.value("SELECT bool_and(twice = n * 2) FROM many WHERE n IS NOT NULL"), "t");
    let double = refused(
        n2,
        "BEGIN; SET CONSTRAINTS ALL IMMEDIATE; INSERT INTO many (u) SELECT u FROM many WHERE u IS NOT NULL LIMIT 1",
    );
    assert_eq!(double.sqlstate, "23505", "indexes are built");
    // A second call finds nothing to do.
    let before = chunks(n2, 1);
    assert!(!before.is_empty());
    let again = n2.value(&call);
    assert!(again.contains(r#""chunks": 0"#), "{again}");
    assert_eq!(chunks(n2, 1), before);
    assert!(release(n1, &intent(1)));
}

const PARTED: &str = "
    CREATE TABLE parted (id int, k text) PARTITION BY RANGE (id);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200) PARTITION BY LIST (k);
    CREATE TABLE parted_2a PARTITION OF parted_2 FOR VALUES IN ('a');
    CREATE TABLE parted_2b (k text, id int);
    ALTER TABLE parted_2 ATTACH PARTITION parted_2b DEFAULT;
    CREATE TABLE parted_3 PARTITION OF parted FOR VALUES FROM (200) TO (300)";

const PARTED_ROWS: &str =
    "INSERT INTO parted SELECT g, CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END FROM generate_series(0, 199) g";

fn partitions_may_be_on_either_side(n1: &Node, n2: &Node) {
    n1.sql(PARTED);
    n1.sql(PARTED_ROWS);
    n2.sql("CREATE TABLE parted (k text, id int)");
    copy(n1, n2, 2, "public.parted", "");
    assert_same(n1, n2, "id, k", "parted");
    // Empty partitions are chunks as well.
    assert_eq!(chunks(n2, 2).len(), 4);
    n2.sql("DROP TABLE parted");
    n1.sql("CREATE TABLE whole (id int, k text)");
    n1.sql(&PARTED_ROWS.replace("INTO parted", "INTO whole"));
    n2.sql(&PARTED.replace("parted", "whole"));
    n2.sql("INSERT INTO whole VALUES (250, 'old')");
    copy(n1, n2, 3, "public.whole", "");
    assert_same(n1, n2, "id, k", "whole");
}

fn what_is_published_is_copied(n1: &Node, n2: &Node) {
    n1.sql("CREATE TABLE chosen (id int PRIMARY KEY, \"Odd $ # @\" text, secret text); INSERT INTO chosen SELECT g, g, 'no' FROM generate_series(1, 100) g");
    n1.sql("CREATE PUBLICATION p1 FOR TABLE chosen (id, \"Odd $ # @\") WHERE (id <= 10); CREATE PUBLICATION p2 FOR TABLE chosen (id, \"Odd $ # @\") WHERE (id > 90)");
    n1.sql("CREATE PUBLICATION p3 FOR TABLE chosen; CREATE PUBLICATION p4");
    n2.sql("CREATE TABLE chosen (id int PRIMARY KEY, \"Odd $ # @\" text, secret text DEFAULT 'mine')");
    copy(n1, n2, 4, "public.chosen", ", ARRAY['p1', 'p2']");
    assert_eq!(
        n2.value("SELECT count(*), min(\"Odd $ # @\"::int), max(id), min(secret), max(secret) FROM chosen"),
        "20|1|100|mine|mine"
    );
    for (publications, sqlstate) in [("'p1', 'p3'", "55000"), ("'p4'", "55000"), ("'none'", "42704")] {
        let call =
            copy_call(&intent(5), "public.chosen", &pin(n1, 5, "public.chosen"), &format!(", ARRAY[{publications}]"));
        let error = refused(n2, &call);
        assert_eq!(error.sqlstate, sqlstate, "{publications}: {error}");
    }
    assert!(release(n1, &intent(5)));
    n1.expect_log("publication \"none\" does not exist");
    n1.expect_log("is not published");
    n1.expect_log("is published with different column lists");
    // What was refused has not emptied the table.
    assert_eq!(n2.value("SELECT count(*) FROM chosen"), "20");
    // Through the root of a partitioned table, and by its partitions.
    n1.sql("CREATE PUBLICATION root FOR TABLE parted WHERE (id < 150) WITH (publish_via_partition_root = true)");
    n1.sql("CREATE PUBLICATION parts FOR TABLE parted_1, parted_2a, parted_2b, parted_3");
    n2.sql("CREATE TABLE parted (id int, k text)");
    for (digit, publication, count) in [(6, "root", "150"), (7, "parts", "200")] {
        copy(n1, n2, digit, "public.parted", &format!(", ARRAY['{publication}']"));
        assert_eq!(n2.value("SELECT count(*) FROM parted"), count, "{publication}");
    }
}

fn tables_refer_to_each_other(n1: &Node, n2: &Node) {
    let tables = "CREATE TABLE parent (id int PRIMARY KEY, up int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
                  CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE)";
    n1.sql(tables);
    n2.sql(tables);
    n1.sql("INSERT INTO parent VALUES (1, 2), (2, 1), (3, NULL); INSERT INTO child VALUES (1, 1)");
    n2.sql("INSERT INTO parent VALUES (1, NULL); INSERT INTO child VALUES (1, 1)");
    copy(n1, n2, 8, "public.parent", "");
    assert_same(n1, n2, "id, up", "parent");
    // The parent's rows went without those that refer to them.
    assert_eq!(n2.value("SELECT id, parent FROM child"), "1|1");
}

fn triggers_fire_as_on_a_replica(n1: &Node, n2: &Node) {
    n1.sql("CREATE TABLE watched (id int PRIMARY KEY); INSERT INTO watched VALUES (1), (2)");
    n2.sql("CREATE TABLE watched (id int PRIMARY KEY); CREATE TABLE seen (what text, who text)");
    n2.sql(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN INSERT INTO public.seen VALUES (TG_NAME, current_user); RETURN NEW; END $$",
    );
    n2.sql("CREATE ROLE watcher; ALTER TABLE watched OWNER TO watcher; GRANT INSERT ON seen TO watcher");
    for (name, when) in [("usual", ""), ("always", "ENABLE ALWAYS"), ("replica", "ENABLE REPLICA"), ("off", "DISABLE")]
    {
        let kind = if name == "always" { "CONSTRAINT TRIGGER" } else { "TRIGGER" };
        let deferred = if name == "always" { "DEFERRABLE INITIALLY DEFERRED" } else { "" };
        n2.sql(&format!("CREATE {kind} {name} AFTER INSERT ON watched {deferred} FOR EACH ROW EXECUTE FUNCTION see()"));
        if !when.is_empty() {
            n2.sql(&format!("ALTER TABLE watched {when} TRIGGER {name}"));
        }
    }
    copy(n1, n2, 9, "public.watched", "");
    let seen = "SELECT what, who, count(*) FROM seen GROUP BY 1, 2 ORDER BY 1";
    assert_eq!(n2.value(seen), "always|watcher|2\nreplica|watcher|2", "also what is deferred runs as the owner");
}

fn the_rows_belong_to_no_node_and_have_the_time_that_was_given(n1: &Node, n2: &Node) {
    n1.sql("CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain SELECT generate_series(1, 1000)");
    n2.sql("CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (-1)");
    n2.sql("SELECT pg_create_logical_replication_slot('judge', 'test_decoding')");
    copy(n1, n2, 10, "public.plain", ", written_at := '2020-01-01 00:00+00'");
    assert_same(n1, n2, "id", "plain");
    let times = "SELECT DISTINCT pg_xact_commit_timestamp(xmin) = '2020-01-01 00:00+00' FROM plain";
    assert_eq!(n2.value(times), "t");
    // Copies do not wait for the disk, and what is not flushed is not decoded.
    n2.sql("CREATE TABLE flushed ()");
    let changes = "SELECT count(*) FROM pg_logical_slot_peek_changes('judge', NULL, NULL, 'only-local', '1') WHERE data LIKE 'table public.plain%'";
    assert_eq!(n2.value(changes), "0", "no node forwards them");
    assert_eq!(n2.value(&changes.replace("only-local', '1'", "only-local', '0'")), "1001");
    n2.sql("SELECT pg_drop_replication_slot('judge')");
}

fn owners_read_and_write(n1: &Node, n2: &Node) {
    for node in [n1, n2] {
        node.sql("CREATE ROLE keeper; CREATE TABLE kept (id int PRIMARY KEY CHECK (id > 0)); ALTER TABLE kept OWNER TO keeper");
    }
    n1.sql("INSERT INTO kept VALUES (1), (2)");
    copy(n1, n2, 11, "public.kept", "");
    assert_same(n1, n2, "id", "kept");
    // The copy must not be less than the table without an error.
    n1.sql("GRANT SELECT ON kept TO PUBLIC");
    let held = pin(n1, 12, "public.kept");
    n1.sql("CREATE ROLE reader LOGIN REPLICATION; CREATE ROLE stranger LOGIN REPLICATION");
    n1.sql("REVOKE SELECT ON kept FROM PUBLIC; GRANT SELECT ON kept TO reader");
    let rows = "SELECT count(*) FROM (SELECT spock_internal.copy_rows('public', 'kept', '{}', 'public', 'kept', '{id}', 0, 1)) t";
    assert_eq!(n1.db("postgres").role("reader").value(rows), "2");
    let error = n1.db("postgres").role("stranger").try_sql(rows).expect_err("it may not read the table");
    assert_eq!(error.sqlstate, "42501");
    let part = rows.replace("'public', 'kept', '{id}'", "'pg_catalog', 'pg_authid', '{oid}'");
    let error = n1.db("postgres").role("reader").try_sql(&part).expect_err("it is no part of the table");
    assert_eq!(error.sqlstate, "42809");
    drop(held);
    n1.sql(&format!("SELECT spock_internal.release_pin('{}')", intent(12)));
    n1.wait_until(&format!("SELECT count(*) FROM spock_internal.pins() WHERE intent_id = '{}'", intent(12)), "0");
    n1.sql("ALTER TABLE kept ENABLE ROW LEVEL SECURITY; ALTER TABLE kept FORCE ROW LEVEL SECURITY");
    let error = n1.db("postgres").role("postgres").try_sql(rows).expect_err("rows would be hidden from the owner");
    assert_eq!(error.sqlstate, "42501");
    // What the target does not accept is an error with its place, and without the row's values.
    n1.sql("ALTER TABLE kept NO FORCE ROW LEVEL SECURITY; ALTER TABLE kept DROP CONSTRAINT kept_id_check; INSERT INTO kept VALUES (-4711)");
    let error = refused(n2, &copy_call(&intent(13), "public.kept", &pin(n1, 13, "public.kept"), ""));
    assert_eq!(error.sqlstate, "23514");
    assert!(error.message.contains("constraint \"kept_id_check\""), "{error}");
    assert!(!format!("{error:?}").contains("4711"), "{error}");
    assert_eq!(n2.value("SELECT count(*) FROM kept"), "0");
}

fn parked_tables_refuse_the_users(n1: &Node, n2: &Node) {
    n2.sql(&PARTED.replace("parted", "parked"));
    n1.sql("CREATE TABLE parked (id int, k text); INSERT INTO parked SELECT g, 'a' FROM generate_series(0, 199) g");
    n2.sql("SELECT spock_internal.park_tables(ARRAY['plain', 'parked']::regclass[])");
    n2.sql("SELECT spock_internal.park_tables(ARRAY['plain', 'parked']::regclass[])");
    n2.sql("CREATE TABLE parked_4 PARTITION OF parked FOR VALUES FROM (300) TO (400)");
    for statement in [
        "INSERT INTO plain VALUES (5000)",
        "UPDATE plain SET id = 5000 WHERE id = 1",
        "DELETE FROM plain WHERE id = 1",
        // Rows that are not there yet.
        "UPDATE plain SET id = 5001 WHERE id = 5000",
        "DELETE FROM plain WHERE id = 5000",
        "DELETE FROM parked_2b WHERE id = 999",
        "TRUNCATE plain",
        "COPY plain FROM PROGRAM 'echo 5000'",
        "INSERT INTO parked VALUES (1, 'a')",
        "INSERT INTO parked_2b VALUES ('c', 150)",
        "INSERT INTO parked_4 VALUES (301, 'c')",
        "TRUNCATE parked_2",
        "TRUNCATE parked_2a",
    ] {
        let error = refused(n2, statement);
        assert_eq!(error.sqlstate, "55006", "{statement}: {error}");
        assert!(error.message.contains("is being copied") && error.hint.is_some(), "{error}");
    }
    // Readers and the copy go on.
    copy(n1, n2, 14, "public.parked", "");
    assert_same(n1, n2, "id, k", "parked");
    n2.sql("SELECT spock_internal.unpark_tables(ARRAY['plain', 'parked']::regclass[])");
    n2.sql("INSERT INTO plain VALUES (5000); INSERT INTO parked_2b VALUES ('c', 150); TRUNCATE parked_1");
    assert_eq!(n2.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'spock%'"), "0");
}

/// A table of many partitions, each of which is a chunk.
fn make_chunks(n1: &Node, n2: &Node, table: &str) {
    n1.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, t text) PARTITION BY HASH (id)"));
    for part in 0..6 {
        n1.sql(&format!(
            "CREATE TABLE {table}_{part} PARTITION OF {table} FOR VALUES WITH (MODULUS 6, REMAINDER {part})"
        ));
    }
    n1.sql(&format!("INSERT INTO {table} SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 6000) g"));
    n2.sql(&format!("CREATE TABLE {table} (id int PRIMARY KEY, t text)"));
}

/// One pair of servers serves these cases.
#[test]
fn a_copy_that_was_interrupted_goes_on_where_it_was() {
    let cluster = pair("rebuild_copy_resumed");
    let [n1, n2] = cluster.all();
    a_killed_target_goes_on_with_the_next_chunk(n1, n2);
    a_cancelled_call_ends_its_workers(n1, n2);
    a_pin_that_was_lost_makes_the_copy_begin_anew(n1, n2);
}

fn a_killed_target_goes_on_with_the_next_chunk(n1: &Node, n2: &Node) {
    make_chunks(n1, n2, "big");
    let pin = pin(n1, 1, "public.big");
    let call = copy_call(&intent(1), "public.big", &pin, "");
    // A worker that ends leaves what it has committed.
    n2.arm(names::COPY_AFTER_COMMIT, Action::Error);
    refused(n2, &call);
    n2.sql("CREATE TABLE flushed ()");
    let mut before = chunks(n2, 1);
    assert_eq!(before.len(), 1);
    for name in [names::COPY_PIECE, names::COPY_BEFORE_COMMIT, names::COPY_AFTER_COMMIT] {
        n2.arm(name, Action::Crash);
        n2.try_sql(&call).expect_err("the server is killed");
        n2.wait_until("SELECT 1", "1");
        n2.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
        // A commit that does not wait for the disk may be lost with its entry, but nothing else.
        let now = chunks(n2, 1);
        assert!(now.starts_with(&before) && now.len() <= before.len() + 1, "{name}: {now:?}");
        let rows: u64 =
            now.iter().map(|line| line.split(' ').nth(2).expect("rows").parse::<u64>().expect("rows")).sum();
        assert_eq!(n2.value("SELECT count(*) FROM big"), rows.to_string(), "{name}: rows and manifest differ");
        before = now;
    }
    let copied = n2.value(&call);
    assert!(copied.contains(&format!(r#""chunks": {}"#, 6 - before.len())), "{copied}");
    assert_same(n1, n2, "id, t", "big");
    assert_eq!(chunks(n2, 1)[..before.len()], before);
}

fn a_cancelled_call_ends_its_workers(n1: &Node, n2: &Node) {
    make_chunks(n1, n2, "stopped");
    let pin = pin(n1, 2, "public.stopped");
    n2.arm(names::COPY_BEFORE_COMMIT, Action::Wait);
    let mut session = n2.session();
    session.sql("SET statement_timeout = '1s'");
    let error =
        session.try_sql(&copy_call(&intent(2), "public.stopped", &pin, ", streams := 2")).expect_err("it is cancelled");
    assert_eq!(error.sqlstate, "57014");
    n2.expect_log("terminating background worker \"spock_recovery copy");
    n2.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery copy'", "0");
    n2.disarm(names::COPY_BEFORE_COMMIT);
    assert_eq!(n2.value("SELECT count(*) FROM stopped"), "0");
    n2.sql(&copy_call(&intent(2), "public.stopped", &pin, ", streams := 2"));
    assert_same(n1, n2, "id, t", "stopped");
}

fn a_pin_that_was_lost_makes_the_copy_begin_anew(n1: &Node, n2: &Node) {
    make_chunks(n1, n2, "again");
    let lost = pin(n1, 3, "public.again");
    n2.arm(names::COPY_AFTER_COMMIT, Action::Error);
    let error = refused(n2, &copy_call(&intent(3), "public.again", &lost, ""));
    assert_eq!(error.sqlstate, "57000", "{error}");
    n1.kill9();
    n1.start();
    n1.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
    n1.expect_log("invalid snapshot identifier");
    n1.expect_log("does not exist");
    let error = refused(n2, &copy_call(&intent(3), "public.again", &lost, ""));
    assert!(["22023", "42704"].contains(&error.sqlstate.as_str()), "{error}");
    n1.sql("INSERT INTO again VALUES (10000, 'new')");
    let copied = copy(n1, n2, 3, "public.again", "");
    assert!(copied.contains(r#""chunks": 6"#), "{copied}");
    assert_same(n1, n2, "id, t", "again");
}

#[test]
fn a_byte_that_changes_on_its_way_is_found() {
    let cluster = pair("rebuild_copy_changed");
    let [n1, n2] = cluster.all();
    make_chunks(n1, n2, "hit");
    make_chunks(n1, n2, "other");
    n2.sql(&copy_call(&intent(1), "public.other", &Pin::take(n1, &intent(1), "'public.hit', 'public.other'"), ""));
    let pin = Pin::take(n1, &intent(1), "'public.hit', 'public.other'");
    let call = copy_call(&intent(1), "public.hit", &pin, "");
    // Once: the chunk is sent again.
    n1.arm(names::COPY_CHANGED, Action::Error);
    n2.sql(&call);
    n2.wait_log("chunk 0 of table public.hit has arrived damaged, and is sent again");
    assert_same(n1, n2, "id, t", "hit");
    // Always.
    n2.sql(&format!("SELECT spock_internal.forget_manifest('{}')", intent(1)));
    n1.arm(names::COPY_CHANGED, Action::Wait);
    let error = refused(n2, &call);
    assert_eq!(error.sqlstate, "XX001", "{error}");
    assert!(error.message.contains("chunk 0 of table public.hit"), "{error}");
    assert_eq!(n2.value("SELECT count(*) FROM hit"), "0");
    assert!(chunks(n2, 1).is_empty());
    assert_same(n1, n2, "id, t", "other");
    n1.disarm(names::COPY_CHANGED);
    n2.sql(&call);
    assert_same(n1, n2, "id, t", "hit");
}

#[test]
fn two_streams_share_the_chunks_and_bring_each_once() {
    let cluster = pair("rebuild_copy_streams");
    let [n1, n2] = cluster.all();
    make_chunks(n1, n2, "shared");
    copy(n1, n2, 1, "public.shared", ", streams := 2");
    assert_same(n1, n2, "id, t", "shared");
    assert_eq!(chunks(n2, 1).len(), 6);
    let by_stream =
        "SELECT o.roname, count(DISTINCT s.xmin::text) FROM shared s, LATERAL pg_xact_commit_timestamp_origin(s.xmin) c
                       JOIN pg_replication_origin o ON o.roident = c.roident GROUP BY 1 ORDER BY 1";
    assert_eq!(n2.value(by_stream), "spock_rebuild_0|3\nspock_rebuild_1|3");
}

/// Each database has an encoding of its own.
#[test]
fn encodings_may_differ() {
    let cluster = pair("rebuild_copy_encodings");
    let [n1, n2] = cluster.all();
    for (node, encoding) in [(n1, "LATIN1"), (n2, "UTF8")] {
        node.sql(&format!("CREATE DATABASE other TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"));
        let database = node.db("other");
        database.sql(
            "CREATE EXTENSION spock_recovery; CREATE SCHEMA \"Größe\"; CREATE TABLE \"Größe\".\"Maß\" (\"Höhe\" text)",
        );
        database.sql(&format!("SELECT spock.node_create('{}', '{}')", node.name(), node.dsn("other")));
    }
    n1.db("other").sql("SELECT spock.peer_create('n2', 'host=/nonexistent')");
    n2.db("other").sql(&format!("SELECT spock.peer_create('n1', '{}')", n1.dsn("other")));
    n1.db("other").sql("INSERT INTO \"Größe\".\"Maß\" VALUES ('drei Ellen ½'), (NULL)");
    n1.db("other").sql("CREATE PUBLICATION \"Füße\" FOR TABLE \"Größe\".\"Maß\" WHERE (\"Höhe\" <> 'Übel')");
    let pin = n1.db("other").value(&super::pin_call(&intent(1), "'\"Größe\".\"Maß\"'", ""));
    let copy =
        format!("SELECT spock_internal.copy_table('{}', 'n1', '\"Größe\".\"Maß\"', '{pin}', '{{Füße}}')", intent(1));
    n2.db("other").sql(&copy);
    assert_eq!(n2.db("other").value("SELECT \"Höhe\" FROM \"Größe\".\"Maß\""), "drei Ellen ½");
}
