//! What is replicated is compared, in whatever form the two nodes hold it, and nothing else.

use super::{compare, differences, of_table, past_replication};
use crate::rescue::drain;
use crate::slot_keeps::{make_mesh, quick};

const TYPES: &str = "CREATE SCHEMA own; CREATE TYPE own.mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN own.positive AS int CHECK (VALUE > 0); CREATE TYPE own.pair AS (a float8, b own.mood);
    CREATE TYPE own.span AS RANGE (SUBTYPE = float8);
    CREATE TABLE types (id uuid PRIMARY KEY, f4 real, f8 float8, n numeric, ts timestamp, tz timestamptz, d date, i interval, b bytea,
        j jsonb, m own.mood, p own.positive, c own.pair, ca own.pair[], s own.span, bits bit varying, ip inet, money_is int[][], q \"char\",
        x text COLLATE \"C\", r regclass)";

const FILL: &str = "INSERT INTO types SELECT md5(g::text)::uuid, g / 3.0::real, g / 7.0::float8, g / 11.0, now()::timestamp, now(), now()::date,
        g * interval '1 day 3 hours 0.001 s', decode(md5(g::text), 'hex'), jsonb_build_object('ä', g), 'ok', g, (g / 3.0::float8, 'sad')::own.pair,
        ARRAY[(g / 9.0::float8, 'ok')::own.pair, NULL], own.span(g, g + 0.1), g::bit(20), '10.0.0.1', ARRAY[[g, 2], [3, NULL]], 'q',
        'größe \"' || g, 'pg_class'::regclass FROM generate_series(1, 1500) g";

#[test]
fn tables_are_equal_in_whatever_form_the_two_nodes_hold_them() {
    let cluster = make_mesh(quick("compare_replicated", 2).start(), |cluster| {
        let [n1, n2] = cluster.all();
        cluster.sql(TYPES);
        cluster.sql("ALTER DATABASE postgres SET search_path = public, own");
        // The servers write values differently.
        n1.set(&[
            ("datestyle", "SQL, DMY"),
            ("intervalstyle", "iso_8601"),
            ("extra_float_digits", "-3"),
            ("timezone", "Asia/Tokyo"),
        ]);
        n2.set(&[("bytea_output", "escape"), ("timezone", "America/New_York")]);
        // Partitioned on one of the two; other columns in another order; a column that is only here; a computed one.
        n1.sql("CREATE TABLE parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
            CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (1000); CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
            CREATE TABLE columns (gone int, id int, v text, twice int GENERATED ALWAYS AS (2 * id) STORED, PRIMARY KEY (id)); ALTER TABLE columns DROP COLUMN gone;
            CREATE TABLE listed (id int, v text, secret text, region text, PRIMARY KEY (id, region)); CREATE TABLE large (id int PRIMARY KEY, v text)");
        n2.sql("CREATE TABLE parts (v text, id int PRIMARY KEY);
            CREATE TABLE columns (v text, own text DEFAULT 'x', id int PRIMARY KEY, twice int GENERATED ALWAYS AS (2 * id) STORED);
            CREATE TABLE listed (region text, v text, id int, secret text, PRIMARY KEY (region, id)); CREATE TABLE large (id int PRIMARY KEY, v text)");
        for node in [n1, n2] {
            node.sql("CREATE PUBLICATION some_rows FOR TABLE types, columns (id, v), listed (id, v, region) WHERE (region = 'eu'), large, parts, first
                WITH (publish_via_partition_root = true)");
        }
        for (node, from) in [(n1, n2), (n2, n1)] {
            node.sql(&format!(
                "CREATE SUBSCRIPTION sub_{}_{} CONNECTION '{}' PUBLICATION some_rows WITH (copy_data = false, origin = none)",
                node.name(), from.name(), from.dsn("postgres")
            ));
        }
        for node in [n1, n2] {
            node.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
        }
    });
    let [n1, n2] = cluster.all();
    n1.sql(FILL);
    n1.sql("INSERT INTO parts SELECT g, g FROM generate_series(1, 2000) g; INSERT INTO columns (id, v) SELECT g, g FROM generate_series(1, 2000) g;
            INSERT INTO large SELECT g, repeat(md5(g::text), 32768) FROM generate_series(1, 10) g");
    n2.sql("INSERT INTO listed (id, v, secret, region) SELECT g, g, 'n2', CASE g % 2 WHEN 0 THEN 'eu' ELSE 'us' END FROM generate_series(1, 2000) g");
    n1.sql("INSERT INTO listed (id, v, secret, region) VALUES (5001, 'v', 'n1', 'us'), (5002, 'v', 'n1', 'eu')");
    drain(n1, n2);
    drain(n2, n1);
    let report = compare(n1, "");
    for table in ["types", "parts", "columns", "listed", "large"] {
        assert_eq!(of_table(&report, &format!("public.{table}"))["outcome"], "equal", "{table}: {report}");
    }
    assert_eq!(of_table(&report, "public.listed")["rows"], 1001);
    assert!(of_table(&report, "public.large")["bytes"].as_u64() >= Some(10 << 20), "{report}");
    past_replication(n2, "UPDATE types SET f8 = 0.1::float8 + 0.2 WHERE id = md5('7')::uuid; UPDATE parts SET v = 'x' WHERE id IN (999, 1500);
        UPDATE columns SET own = 'y'; UPDATE columns SET v = 'y' WHERE id = 3; UPDATE listed SET secret = 'other'; UPDATE listed SET v = 'x' WHERE id <= 2;
        UPDATE large SET v = v || 'x' WHERE id = 9; DELETE FROM large WHERE id = 10");
    let report = compare(n1, "");
    let expected = "columns|{\"id\": \"3\"}|different|there\nlarge|{\"id\": \"10\"}|missing_there|here\nlarge|{\"id\": \"9\"}|different|there\n\
         listed|{\"id\": \"2\", \"region\": \"eu\"}|different|there\nparts|{\"id\": \"1500\"}|different|there\nparts|{\"id\": \"999\"}|different|there\n\
         types|{\"id\": \"8f14e45f-ceea-167a-5a36-dedd4bea2543\"}|different|there";
    assert_eq!(differences(n1, &report), expected);
    let report = compare(n1, ", repair := true");
    assert_eq!((&report["differing"], &report["repaired"]), (&1.into(), &6.into()), "{report}");
    assert_eq!(n1.value("SELECT v, secret FROM listed WHERE id = 2"), "x|", "what is not replicated stays");
    assert_eq!(n1.value("SELECT length(v) FROM large WHERE id = 9"), "1048577");
    assert_eq!(compare(n1, "")["differing"], 1);
}

#[test]
fn databases_in_different_encodings_are_compared() {
    let cluster = quick("compare_encodings", 2).start();
    for (node, (encoding, locale)) in cluster.nodes().iter().zip([("LATIN1", "C"), ("UTF8", "C.UTF-8")]) {
        node.db("template1").sql("DROP DATABASE postgres");
        let create = format!("CREATE DATABASE postgres TEMPLATE template0 ENCODING '{encoding}' LOCALE '{locale}'");
        node.db("template1").sql(&create);
    }
    let cluster = make_mesh(cluster, |cluster| {
        cluster.sql("CREATE TABLE \"tâble\" (\"clé\" text PRIMARY KEY, v text)");
        cluster.mesh();
    });
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO \"tâble\" SELECT chr(33 + g % 90) || 'é' || g, repeat('ñ', g) FROM generate_series(1, 3000) g");
    drain(n1, n2);
    assert_eq!(compare(n1, "")["differing"], 0);
    past_replication(n2, "UPDATE \"tâble\" SET v = 'ÿ' WHERE v = 'ññ'; INSERT INTO \"tâble\" VALUES ('ö', 'ß')");
    let report = compare(n1, "");
    let keys = "\"tâble\"|{\"clé\": \"#é2\"}|different|there\n\"tâble\"|{\"clé\": \"ö\"}|missing_here|there";
    assert_eq!(differences(n1, &report), keys);
    assert_eq!(compare(n1, ", repair := true")["repaired"], 2);
    assert_eq!(n1.value("SELECT v FROM \"tâble\" WHERE \"clé\" = 'ö'"), "ß");
}
