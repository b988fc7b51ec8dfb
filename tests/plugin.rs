//! The output plugin on one server: transactions of a replication origin, made by hand with exact positions and times, and
//! what the plugin makes of them.

use crate::cluster::{Cluster, Node, Session};

/// Positions at the origin of the transactions that `Stream::transaction` makes: 0/100, 0/200, …
fn lsn(number: u32) -> String {
    format!("0/{:X}", number * 0x100)
}

/// A server with a slot behind the plugin, and the settings of a stream.
struct Stream<'a> {
    node: &'a Node,
    session: Session<'a>,
    tables: String,
}

impl<'a> Stream<'a> {
    /// `tables`: created before the slot; those of `sent` are listed.
    fn new(node: &'a Node, tables: &str, sent: &[&str]) -> Stream<'a> {
        node.sql(tables);
        node.sql("SELECT pg_replication_origin_create('n1'), pg_replication_origin_create('other')");
        node.sql("SELECT pg_create_logical_replication_slot('s', 'spock_recovery')");
        let oids: Vec<String> =
            sent.iter().map(|name| node.value(&format!("SELECT '{name}'::regclass::oid"))).collect();
        let mut session = node.db("postgres").session();
        session.sql("SELECT pg_replication_origin_session_setup('n1')");
        Stream { node, session, tables: oids.join(",") }
    }

    /// One transaction of the origin, at position `number` there, committed `second` seconds after the hour.
    fn transaction(&mut self, number: u32, second: u32, statements: &str) {
        self.session.sql(&format!(
            "BEGIN; SELECT pg_replication_origin_xact_setup('{}', timestamptz '2026-01-01 00:00:00Z' + interval '{second} s');
             {statements}; COMMIT",
            lsn(number)
        ));
    }

    fn settings(&self, skip: u32, stop: u32) -> String {
        let origin = self.node.value("SELECT roident FROM pg_replication_origin WHERE roname = 'n1'");
        format!(
            "SET spock.rescue_origin = '{origin}'; SET spock.rescue_skip_lsn = '{}'; SET spock.rescue_stop_lsn = '{}';
             SET spock.rescue_tables = '{}'",
            lsn(skip),
            lsn(stop),
            self.tables
        )
    }

    /// The messages of a stream, decoded, without consuming them.
    fn messages(&self, settings: &str) -> Vec<String> {
        self.raw(settings).iter().map(|message| decode(message)).collect()
    }

    /// What a stream sends, each by itself.
    fn raw(&self, settings: &str) -> Vec<Vec<u8>> {
        let mut session = self.node.db("postgres").session();
        session.sql(settings);
        let rows = session.rows("SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL)");
        rows.iter().map(|row| bytes(row[0].as_deref().expect("data"))).collect()
    }

    fn sent(&self, skip: u32, stop: u32) -> Vec<String> {
        self.messages(&self.settings(skip, stop))
    }
}

pub fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16).expect("hex")).collect()
}

/// A message of pgoutput's protocol (protocol-logicalrep-message-formats in PostgreSQL's documentation), in words.
pub fn decode(message: &[u8]) -> String {
    let mut rest = Reader(&message[1..]);
    match message[0] {
        b'B' => "begin".to_owned(),
        b'C' => "commit".to_owned(),
        b'O' => format!("origin 0/{:X}", rest.int(8)),
        b'R' => {
            rest.int(4);
            let (schema, name) = (rest.text(), rest.text());
            rest.int(1);
            let columns: Vec<String> = (0..rest.int(2))
                .map(|_| {
                    rest.int(1);
                    let column = rest.text();
                    rest.int(8);
                    column
                })
                .collect();
            format!("table {schema}.{name}({})", columns.join(","))
        }
        b'Y' => {
            rest.int(4);
            format!("type {}.{}", rest.text(), rest.text())
        }
        b'I' | b'U' | b'D' => {
            let mut text = match message[0] {
                b'I' => "insert",
                b'U' => "update",
                _ => "delete",
            }
            .to_owned();
            rest.int(4);
            while !rest.0.is_empty() {
                let part = rest.int(1) as u8 as char;
                text.push_str(&format!(" {part}({})", rest.tuple().join(",")));
            }
            text
        }
        b'T' => {
            let count = rest.int(4);
            format!("truncate {count} options {}", rest.int(1))
        }
        other => format!("unknown {}", other as char),
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn int(&mut self, length: usize) -> u64 {
        let (value, rest) = self.0.split_at(length);
        self.0 = rest;
        value.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn text(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).expect("a terminator");
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        text
    }

    fn tuple(&mut self) -> Vec<String> {
        (0..self.int(2))
            .map(|_| match self.int(1) as u8 {
                b'n' => "null".to_owned(),
                b'u' => "unchanged".to_owned(),
                _ => {
                    let length = self.int(4) as usize;
                    let (value, rest) = self.0.split_at(length);
                    self.0 = rest;
                    String::from_utf8_lossy(value).into_owned()
                }
            })
            .collect()
    }
}

/// The rows that were inserted, in order.
pub fn inserted(messages: &[String]) -> Vec<&str> {
    messages.iter().filter_map(|message| message.strip_prefix("insert N(")?.strip_suffix(')')).collect()
}

#[test]
fn exactly_the_transactions_of_the_origin_between_skip_and_stop_are_sent() {
    let cluster = Cluster::new("plugin_boundaries").start();
    let [node] = cluster.all();
    let mut stream = Stream::new(node, "CREATE TABLE t (id int PRIMARY KEY)", &["t"]);
    for number in 1..=5 {
        stream.transaction(number, number, &format!("INSERT INTO t VALUES ({number})"));
        node.sql(&format!("INSERT INTO t VALUES ({})", 100 + number));
    }
    node.sql("SELECT pg_replication_origin_session_setup('other'); INSERT INTO t VALUES (200)");
    for (skip, stop, expected) in [
        (0, 5, vec!["1", "2", "3", "4", "5"]),
        (1, 5, vec!["2", "3", "4", "5"]),
        (0, 4, vec!["1", "2", "3", "4"]),
        (2, 3, vec!["3"]),
        (3, 3, vec![]),
        (5, 9, vec![]),
    ] {
        assert_eq!(inserted(&stream.sent(skip, stop)), expected, "({skip}, {stop}]");
    }
    // Between two commits.
    let between = stream.settings(0, 5).replace("'0/500'", "'0/2FF'").replace("skip_lsn = '0/0'", "skip_lsn = '0/1FF'");
    assert_eq!(inserted(&stream.messages(&between)), ["2"]);
    assert_eq!(
        stream.sent(4, 5),
        ["begin", "origin 0/500", "table public.t(id)", "insert N(5)", "commit"],
        "each transaction carries its origin and position"
    );
}

#[test]
fn a_stop_timestamp_ends_the_stream_before_the_first_later_commit_in_lsn_order() {
    let cluster = Cluster::new("plugin_timestamp").start();
    let [node] = cluster.all();
    let mut stream = Stream::new(node, "CREATE TABLE t (id int PRIMARY KEY)", &["t"]);
    for (number, second) in [(1, 10), (2, 30), (3, 20), (4, 40)] {
        stream.transaction(number, second, &format!("INSERT INTO t VALUES ({number})"));
    }
    let until = |second: u32, microseconds: i64| {
        let at = node.value(&format!(
            "SELECT (extract(epoch FROM timestamptz '2026-01-01 00:00:00Z' - timestamptz '2000-01-01 00:00:00Z') * 1000000
                     + {second}000000 + {microseconds})::bigint"
        ));
        format!("{}; SET spock.rescue_stop_timestamp = '{at}'", stream.settings(0, 4))
    };
    for (second, microseconds, expected) in [
        (9, 0, vec![]),
        (10, -1, vec![]),
        (10, 0, vec!["1"]),
        // 3 committed earlier than 2, but comes after it.
        (20, 0, vec!["1"]),
        (30, 0, vec!["1", "2", "3"]),
        (40, -1, vec!["1", "2", "3"]),
        (40, 0, vec!["1", "2", "3", "4"]),
    ] {
        let messages = stream.messages(&until(second, microseconds));
        assert_eq!(inserted(&messages), expected, "until {second} s {microseconds} us");
    }
}

#[test]
fn only_listed_tables_are_sent_and_publications_do_not_matter() {
    let cluster = Cluster::new("plugin_tables").start();
    let [node] = cluster.all();
    let tables = "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE unlisted (id int);
                  CREATE PUBLICATION filtered FOR TABLE t WHERE (id > 1000)";
    let mut stream = Stream::new(node, tables, &["t"]);
    stream.transaction(1, 1, "INSERT INTO t VALUES (1); INSERT INTO unlisted VALUES (2)");
    stream.transaction(2, 2, "INSERT INTO unlisted VALUES (3)");
    node.sql("DROP PUBLICATION filtered");
    let messages = stream.sent(0, 2);
    assert_eq!(messages, ["begin", "origin 0/100", "table public.t(id)", "insert N(1)", "commit"]);
}

#[test]
fn updates_deletes_and_truncates_carry_what_the_receiver_needs_to_find_the_row() {
    let cluster = Cluster::new("plugin_changes").start();
    let [node] = cluster.all();
    let tables = "CREATE TABLE t (id int PRIMARY KEY, big text STORAGE EXTERNAL, v int);
                  CREATE TABLE whole (a int, b int); ALTER TABLE whole REPLICA IDENTITY FULL;
                  CREATE TABLE nothing (a int); ALTER TABLE nothing REPLICA IDENTITY NOTHING";
    let mut stream = Stream::new(node, tables, &["t", "whole", "nothing"]);
    stream.transaction(1, 1, "INSERT INTO t VALUES (1, repeat('x', 10000), 1); INSERT INTO whole VALUES (1, NULL)");
    stream.transaction(2, 2, "UPDATE t SET v = 2; UPDATE t SET id = 7, v = 3; DELETE FROM t");
    stream.transaction(3, 3, "UPDATE whole SET b = 2; DELETE FROM whole");
    stream.transaction(4, 4, "INSERT INTO nothing VALUES (1); DELETE FROM nothing");
    stream.transaction(5, 5, "TRUNCATE t, whole RESTART IDENTITY CASCADE");
    let messages = stream.sent(1, 5);
    let changes: Vec<&str> = messages
        .iter()
        .map(String::as_str)
        .filter(|message| ["update", "delete", "trunca", "insert"].iter().any(|kind| message.starts_with(kind)))
        .collect();
    assert_eq!(
        changes,
        [
            "update N(1,unchanged,2)",
            "update K(1,null,null) N(7,unchanged,3)",
            "delete K(7,null,null)",
            "update O(1,null) N(1,2)",
            "delete O(1,2)",
            "insert N(1)",
            // Nobody can find that row: the receiver says so, rather than nobody.
            "delete K(null)",
            "truncate 2 options 3",
        ]
    );
}

#[test]
fn rows_of_partitions_are_sent_as_the_listed_ancestor() {
    let cluster = Cluster::new("plugin_partitions").start();
    let [node] = cluster.all();
    let tables = "CREATE TABLE root (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
                  CREATE TABLE low (v text, gone int, id int NOT NULL); ALTER TABLE low DROP COLUMN gone;
                  ALTER TABLE low ADD PRIMARY KEY (id);
                  ALTER TABLE root ATTACH PARTITION low FOR VALUES FROM (0) TO (10);
                  CREATE TABLE high PARTITION OF root FOR VALUES FROM (10) TO (20);
                  CREATE TABLE leaves (id int PRIMARY KEY) PARTITION BY RANGE (id);
                  CREATE TABLE leaf PARTITION OF leaves FOR VALUES FROM (0) TO (10)";
    let mut stream = Stream::new(node, tables, &["root", "leaf"]);
    stream.transaction(1, 1, "INSERT INTO root VALUES (1, 'a'), (11, 'b'); UPDATE root SET id = 12 WHERE id = 1");
    stream.transaction(2, 2, "INSERT INTO leaves VALUES (5)");
    let messages = stream.sent(0, 2);
    assert_eq!(inserted(&messages), ["1,a", "11,b", "12,a", "5"]);
    assert!(messages.contains(&"delete K(1,null)".to_owned()), "{messages:?}");
    let told: Vec<&String> = messages.iter().filter(|message| message.starts_with("table")).collect();
    assert!(
        told.iter().all(|table| *table == "table public.root(id,v)" || *table == "table public.leaf(id)"),
        "{told:?}"
    );
}

#[test]
fn a_table_that_changes_in_mid_stream_is_told_anew() {
    let cluster = Cluster::new("plugin_schema").start();
    let [node] = cluster.all();
    let mut stream = Stream::new(node, "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (id int PRIMARY KEY)", &["t"]);
    stream.transaction(1, 1, "INSERT INTO t VALUES (1)");
    node.sql("ALTER TABLE t ADD COLUMN m mood DEFAULT 'ok'");
    stream.transaction(2, 2, "INSERT INTO t VALUES (2)");
    node.sql("ALTER TABLE t RENAME TO renamed");
    stream.transaction(
        3,
        3,
        "INSERT INTO renamed VALUES (3); ALTER TABLE renamed DROP COLUMN m; INSERT INTO renamed VALUES (4)",
    );
    let messages = stream.sent(0, 3);
    let told: Vec<&str> = messages
        .iter()
        .map(String::as_str)
        .filter(|message| ["table", "type", "insert"].iter().any(|kind| message.starts_with(kind)))
        .collect();
    assert_eq!(
        told,
        [
            "table public.t(id)",
            "insert N(1)",
            "type public.mood",
            "table public.t(id,m)",
            "insert N(2,ok)",
            "type public.mood",
            "table public.renamed(id,m)",
            "insert N(3,ok)",
            "table public.renamed(id)",
            "insert N(4)",
        ]
    );
}

#[test]
fn a_prepared_transaction_is_sent_when_it_commits() {
    let cluster = Cluster::new("plugin_two_phase").setting("max_prepared_transactions", "5").start();
    let [node] = cluster.all();
    let mut stream = Stream::new(node, "CREATE TABLE t (id int PRIMARY KEY)", &["t"]);
    let at = "SELECT pg_replication_origin_xact_setup('0/100', '2026-01-01 00:00:00Z')";
    stream.session.sql(&format!("BEGIN; {at}; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'"));
    assert!(stream.sent(0, 5).is_empty());
    // The position set for the session stands until its next commit.
    stream.session.sql(at);
    stream.session.sql("COMMIT PREPARED 'p'");
    node.sql("SELECT pg_log_standby_snapshot()");
    assert_eq!(inserted(&stream.sent(0, 5)), ["1"]);
}

#[test]
fn a_packed_stream_is_the_same_bytes_in_fewer_pieces_and_no_piece_has_two_transactions() {
    let cluster = Cluster::new("plugin_packed").start();
    let [node] = cluster.all();
    let mut stream = Stream::new(node, "CREATE TABLE t (id int PRIMARY KEY, v text)", &["t"]);
    stream.transaction(1, 1, "INSERT INTO t VALUES (1, 'a'), (2, 'b'); DELETE FROM t WHERE id = 1");
    stream.transaction(2, 2, "INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(10, 2009) g");
    // A stop timestamp that ends the stream before the last is said at once.
    stream.transaction(3, 9, "INSERT INTO t VALUES (3, 'c')");
    let stop =
        node.value("SELECT (extract(epoch FROM timestamptz '2026-01-01 00:00:05Z') - 946684800)::bigint * 1000000");
    let settings = format!("{}; SET spock.rescue_stop_timestamp = '{stop}'", stream.settings(0, 3));
    let single = stream.raw(&settings);
    let packed = stream.raw(&format!("{settings}; SET spock.rescue_packed = 'on'"));
    assert_eq!(packed.concat(), single.concat());
    assert_eq!(single.iter().map(|message| message[0]).filter(|kind| *kind == b'I').count(), 2002);
    // The first transaction, the second in pieces of 32 kB and a rest, and the end.
    assert_eq!((packed.first().map(|pack| pack[0]), packed.last().map(|pack| pack[0])), (Some(b'B'), Some(b'M')));
    let second = packed[1..packed.len() - 1].iter().map(Vec::len);
    assert!(packed[1][0] == b'B' && second.clone().sum::<usize>() > 2000 * 100, "the second begins a piece");
    assert!((7..9).contains(&second.clone().count()) && second.max() < Some(33_000), "{}", packed.len());
}

#[test]
fn without_its_settings_or_with_a_malformed_one_it_refuses_and_names_it() {
    let cluster = Cluster::new("plugin_settings").start();
    let [node] = cluster.all();
    let mut stream = Stream::new(node, "CREATE TABLE t (id int PRIMARY KEY)", &["t"]);
    stream.transaction(1, 1, "INSERT INTO t VALUES (1)");
    let mut session = node.db("postgres").session();
    let peek = "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL)";
    let error = session.try_sql(peek).expect_err("no settings");
    assert_eq!((error.sqlstate.as_str(), error.message.contains("spock.rescue_origin")), ("55000", true), "{error}");
    session.sql(&stream.settings(0, 1));
    for (setting, value) in [
        ("spock.rescue_origin", "n1"),
        ("spock.rescue_skip_lsn", "0"),
        ("spock.rescue_stop_lsn", "x/1"),
        ("spock.rescue_stop_timestamp", "now"),
        ("spock.rescue_tables", "t"),
        ("spock.rescue_packed", "yes"),
    ] {
        session.sql(&format!("SET {setting} = '{value}'"));
        let error = session.try_sql(peek).expect_err("a malformed setting");
        assert_eq!((error.sqlstate.as_str(), error.message.contains(setting)), ("22023", true), "{error}");
        session.sql(&format!("RESET {setting}; {}", stream.settings(0, 1)));
    }
    // After all that the session still streams.
    assert_eq!(session.rows(peek)[0][0].as_deref(), Some("5"));
}
