//! Values of every type that a column can have.

use super::{Case, Wiring, play};
use crate::cluster::Node;
use std::collections::BTreeSet;

/// Each built-in type with the text of two values; ranges and multiranges included, arrays are made of all of them.
const BUILTIN: [(&str, &str, &str); 75] = [
    ("aclitem", "postgres=arwd/postgres", "=r/postgres"),
    ("bit", "1", "0"),
    ("bool", "true", "false"),
    ("box", "(3,4),(1,2)", "(1,1),(0,0)"),
    ("bpchar", "three ", "Ünïcode"),
    ("bytea", "\\x00ff275c", "\\x"),
    ("char", "x", "\\377"),
    ("cid", "7", "0"),
    ("cidr", "10.1.0.0/16", "2001:db8::/32"),
    ("circle", "<(1,2),3.5>", "<(0,0),0>"),
    ("date", "2026-11-20", "0044-03-15 BC"),
    ("datemultirange", "{[2026-01-01,2026-02-01),[2026-03-01,)}", "{}"),
    ("daterange", "[2026-01-01,infinity]", "empty"),
    ("float4", "1.1754944e-38", "NaN"),
    ("float8", "0.1", "-Infinity"),
    ("inet", "192.168.1.5/24", "::1"),
    ("int2", "-32768", "32767"),
    ("int2vector", "1 2 3", "4"),
    ("int4", "-2147483648", "0"),
    ("int4multirange", "{[1,3),[5,)}", "{(,)}"),
    ("int4range", "[1,10]", "(,5)"),
    ("int8", "-9223372036854775808", "9223372036854775807"),
    ("int8multirange", "{[1,2),[3,4)}", "{[9223372036854775806,9223372036854775807)}"),
    ("int8range", "[1,9223372036854775807)", "empty"),
    ("interval", "1 year 2 mons -3 days 04:05:06.789", "-infinity"),
    ("json", "{\"b\": 1,  \"a\":[null, 1e10], \"a\": 2}", "null"),
    ("jsonb", "{\"b\": 1.10, \"ä\": [null, {}]}", "\"text\""),
    ("jsonpath", "$.a[*] ? (@ > 1)", "strict $"),
    ("line", "{1,-1,0}", "{0,1,2}"),
    ("lseg", "[(1,2),(3,4)]", "[(0,0),(0,0)]"),
    ("macaddr", "08:00:2b:01:02:03", "00:00:00:00:00:00"),
    ("macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:ff:fe:01:02:03"),
    ("money", "-1234.56", "0"),
    ("name", "a name", ""),
    ("numeric", "123456789012345678901234567890.0123456789000", "-Infinity"),
    ("nummultirange", "{[1.5,2.50),(3,)}", "{}"),
    ("numrange", "(1.10,2.200]", "(,)"),
    ("oid", "4294967295", "0"),
    ("oidvector", "1 4294967295", "2"),
    ("path", "((1,2),(3,4))", "[(0,0),(1,1)]"),
    ("pg_lsn", "16/B374D848", "0/0"),
    ("pg_snapshot", "10:20:10,14,15", "1:1:"),
    ("point", "(1.5,-2)", "(1e+300,NaN)"),
    ("polygon", "((0,0),(1,0),(1,1))", "((2,2))"),
    ("refcursor", "cursor", ""),
    ("regclass", "pg_class", "-"),
    ("regcollation", "\"C\"", "\"POSIX\""),
    ("regconfig", "simple", "english"),
    ("regdictionary", "simple", "english_stem"),
    ("regnamespace", "pg_catalog", "public"),
    ("regoper", "pg_catalog.||/", "0"),
    ("regoperator", "+(integer,integer)", "*(numeric,numeric)"),
    ("regproc", "now", "-"),
    ("regprocedure", "abs(integer)", "now()"),
    ("regrole", "postgres", "pg_monitor"),
    ("regtype", "numeric", "timestamp with time zone[]"),
    ("text", "with 'quotes', \"double\" and \\backslash\n\ttab ☃", ""),
    ("tid", "(1,2)", "(0,1)"),
    ("time", "04:05:06.789012", "24:00:00"),
    ("timestamp", "2026-11-20 04:05:06.789012", "infinity"),
    ("timestamptz", "2026-11-20 04:05:06.789012+13", "0044-03-15 12:00:00+00 BC"),
    ("timetz", "04:05:06.789-08:30", "00:00:00+00"),
    ("tsmultirange", "{[2026-01-01,2026-02-01)}", "{}"),
    ("tsquery", "'fat' & ( 'rat':AB | !'cat' ) <2> 'dog'", "'a':*"),
    ("tsrange", "[2026-01-01 10:00,2026-01-01 11:30]", "empty"),
    ("tstzmultirange", "{[2026-01-01 00:00+00,2026-02-01 00:00+05)}", "{}"),
    ("tstzrange", "[2026-01-01 10:00+00,)", "(,)"),
    ("tsvector", "'a':1A,2 'b c':3B", "'ö'"),
    ("txid_snapshot", "10:20:10,14,15", "1:1:"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"),
    ("varbit", "10110", ""),
    ("varchar", "ä varying text", ""),
    ("xid", "4294967295", "3"),
    ("xid8", "18446744073709551615", "3"),
    ("xml", "<a b=\"1\">text<!-- comment --></a>", "<empty/>"),
];

/// Types whose values cannot be given: internal ones, which tables of users cannot fill.
const NOT_GIVEN: [&str; 7] = [
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A column for each type and one for its array; a row with values, one with nulls.
struct Table {
    definition: String,
    before: String,
    changes: [String; 3],
}

fn table() -> Table {
    let mut definition = "CREATE TABLE builtin (id int PRIMARY KEY".to_owned();
    let (mut first, mut second) = (String::new(), String::new());
    let mut changed = "id = id".to_owned();
    for (name, one, other) in BUILTIN {
        definition.push_str(&format!(", c_{name} pg_catalog.\"{name}\", a_{name} pg_catalog.\"{name}\"[]"));
        let (one, other) = (quoted(one), quoted(other));
        let array = format!("ARRAY[[{one}, NULL], [{other}, {one}]]::pg_catalog.\"{name}\"[]");
        first.push_str(&format!(", {one}, {array}"));
        second.push_str(", NULL, '{}'");
        changed.push_str(&format!(", c_{name} = {other}, a_{name} = '[2:2]={{NULL}}'"));
    }
    definition.push(')');
    Table {
        definition,
        before: format!("INSERT INTO builtin VALUES (1{first}), (2{second}), (3{first}), (4{first})"),
        changes: [
            format!("INSERT INTO builtin VALUES (5{first}), (6{second})"),
            format!("UPDATE builtin SET {changed} WHERE id IN (1, 2)"),
            "UPDATE builtin SET id = id + 10 WHERE id = 3; DELETE FROM builtin WHERE id = 4".to_owned(),
        ],
    }
}

const OWN: Case<'_> = Case {
    name: "own_types",
    tables: "
        CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'Very Happy');
        CREATE DOMAIN positive AS numeric(10, 2) NOT NULL CHECK (VALUE > 0);
        CREATE DOMAIN short AS varchar(5)[] DEFAULT '{a}';
        CREATE TYPE place AS (name text, at point, mood mood);
        CREATE TYPE journey AS (places place[], cost positive);
        CREATE DOMAIN near AS place CHECK (VALUE IS NULL OR (VALUE).name IS NOT NULL);
        CREATE TYPE textrange AS RANGE (subtype = text, collation = \"C\", multirange_type_name = textmultirange);
        CREATE TYPE \"Odd Type\" AS ENUM ('a,b', '\"');
        CREATE TABLE own (id int PRIMARY KEY, m mood, ms mood[], p positive, s short, c place, j journey, n near,
            r textrange, mr textmultirange, rs textrange[], o \"Odd Type\", os \"Odd Type\"[], fixed char(7), bits bit(5));
        CREATE TABLE pair (mood mood, r textrange, PRIMARY KEY (mood, r), v text);",
    on_n1: "",
    on_source: "",
    on_target: "ALTER TYPE mood ADD VALUE 'only here' BEFORE 'sad'",
    before: "
        INSERT INTO own VALUES (1, 'sad', '{sad,\"it''s ok\"}', 1.50, '{x,y}', ('here', '(1,2)', 'sad'),
            (ARRAY[('a, \"b\"', NULL, NULL)::place], 2), ('n', NULL, NULL), '[a,b)', '{[a,b),[x,)}', '{\"[a,b]\",NULL}',
            'a,b', '{\"\\\"\"}', 'x', '10101'), (2, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
        INSERT INTO pair VALUES ('sad', '[a,b)', 'one'), ('sad', '[b,c)', 'two'), ('it''s ok', '[a,b)', 'three')",
    gap: &[
        "INSERT INTO own SELECT 3, 'Very Happy', ms, 9.99, s, c, j, n, '(,)', mr, rs, '\"', os, fixed, bits FROM own WHERE id = 1",
        "UPDATE own SET m = 'it''s ok', c.mood = NULL, j.cost = 3, n.name = '(\",\\', s[2] = 'zzzzz' WHERE id = 1",
        "UPDATE own SET (m, ms, r) = ('sad', '{}', 'empty') WHERE id = 2",
        "UPDATE pair SET v = 'changed' WHERE mood = 'sad' AND r = '[a,b)'",
        "UPDATE pair SET mood = 'Very Happy', r = '[\"a,b\",c]' WHERE r = '[b,c)'",
        "DELETE FROM pair WHERE mood = 'it''s ok'",
    ],
};

/// Each node prints and reads dates, intervals, numbers and bytes in a way of its own.
const PRINTED: Case<'_> = Case {
    name: "printed",
    tables: "CREATE TABLE t (id int PRIMARY KEY, at timestamptz, d date, i interval, f float8, g float4, b bytea, r regclass, x xml)",
    on_n1: "",
    on_source: "ALTER DATABASE postgres SET datestyle = 'SQL, DMY'; ALTER DATABASE postgres SET intervalstyle = 'sql_standard';
        ALTER DATABASE postgres SET extra_float_digits = -3; ALTER DATABASE postgres SET bytea_output = 'escape';
        ALTER DATABASE postgres SET timezone = 'Asia/Kathmandu'; ALTER DATABASE postgres SET search_path = printed, public",
    on_target: "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET datestyle = ''German, MDY''', current_database());
        EXECUTE format('ALTER DATABASE %I SET intervalstyle = iso_8601', current_database());
        EXECUTE format('ALTER DATABASE %I SET timezone = ''America/St_Johns''', current_database()); END $$",
    before: "INSERT INTO t VALUES (1, now(), now(), '1 mon', 0, 0, '', 't', '')",
    gap: &[
        "INSERT INTO t VALUES (2, '2026-02-03 04:05:06.123456+00', '2026-02-03', '-1 year 2 mons -3 days 04:05:06', 1/3::float8,
            1/3::float4, '\\x00ff5c', 'printed.t', 'no document <a/>')",
        "UPDATE t SET (d, i, f) = ('2026-12-11', '-1 day +01:00', 0.1 + 0.2) WHERE id = 1",
    ],
};

#[test]
fn values_of_every_type_arrive_as_by_core() {
    let table = table();
    let changes: Vec<&str> = table.changes.iter().map(String::as_str).collect();
    let builtin = Case {
        name: "builtin_types",
        tables: &table.definition,
        before: &table.before,
        gap: &changes,
        ..Case::default()
    };
    let cluster = play("parity_types", Wiring::default(), &[builtin, OWN, PRINTED]);
    assert_no_type_is_forgotten(cluster.node("n2"));
}

/// The values above are of all types that this major has.
fn assert_no_type_is_forgotten(node: &Node) {
    let there = node.value(
        "SELECT typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm')
            AND NOT (typcategory = 'A' AND typsubscript = 'array_subscript_handler'::regproc AND typlen = -1
                     AND typname LIKE '\\_%')",
    );
    let there: BTreeSet<&str> = there.lines().collect();
    let known: BTreeSet<&str> = BUILTIN.iter().map(|(name, ..)| *name).chain(NOT_GIVEN).collect();
    assert_eq!(there, known);
}
