//! Each kind of difference: found, judged by its commit time, shown, and repaired on this node.

use super::{compare, differences, of_table, past_replication, start};
use crate::rescue::drain;

#[test]
fn what_differs_is_found_judged_and_repaired_here() {
    let cluster = start(
        "compare_kinds",
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text); CREATE TABLE pair (a text, b int, v int, PRIMARY KEY (b, a));
         CREATE TABLE nokey (v text)",
    );
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, md5(g::text), repeat(md5(g::text), 100) FROM generate_series(1, 3000) g; INSERT INTO nokey VALUES ('x')");
    n2.sql("INSERT INTO pair SELECT md5(g::text), g % 7, g FROM generate_series(1, 3000) g");
    drain(n1, n2);
    drain(n2, n1);
    let report = compare(n1, "");
    assert_eq!(of_table(&report, "public.t")["outcome"], "equal", "{report}");
    assert_eq!(
        (&report["rows"], &report["differing"], &report["not_comparable"]),
        (&6002.into(), &0.into(), &1.into())
    );
    let reason = of_table(&report, "public.nokey")["reason"].as_str().expect("a reason");
    assert!(reason.contains("no primary key"), "{reason}");
    assert_eq!(differences(n1, &report), "");

    past_replication(
        n2,
        "DELETE FROM t WHERE id = 5; INSERT INTO t VALUES (5000, 'n2', 'w'); UPDATE t SET v = 'later' WHERE id = 7",
    );
    past_replication(
        n1,
        "DELETE FROM t WHERE id = 6; UPDATE t SET w = 'later' WHERE id = 8; DELETE FROM pair WHERE v = 100",
    );
    let report = compare(n1, ", verb := true");
    assert_eq!(report["differing"], 6, "{report}");
    let one = of_table(&report, "public.t");
    assert_eq!(
        ["outcome", "missing_here", "missing_there", "different", "repaired"].map(|field| one[field].to_string()),
        ["\"different\"", "2", "1", "2", "0"]
    );
    let key_of_pair = n2.value("SELECT jsonb_build_object('a', a, 'b', b::text) FROM pair WHERE v = 100");
    assert_eq!(
        differences(n1, &report),
        format!(
            "pair|{key_of_pair}|missing_here|there\nt|{{\"id\": \"5\"}}|missing_there|here\nt|{{\"id\": \"5000\"}}|missing_here|there\n\
             t|{{\"id\": \"6\"}}|missing_here|there\nt|{{\"id\": \"7\"}}|different|there\nt|{{\"id\": \"8\"}}|different|here"
        )
    );
    let authors = n1.value(&format!(
        "SELECT here_author, there_author, here_at < there_at FROM spock.compare_differences('{}')
          WHERE key = '{{\"id\": \"7\"}}'",
        report["run_id"].as_str().expect("an id")
    ));
    assert_eq!(authors, "n1||t", "the later one has an origin that is no node");
    assert_eq!(n1.value("SELECT differing, undecided, not_comparable, tables_done FROM spock.comparisons"), "6|0|1|4");

    let theirs = n2.value("SELECT v, pg_xact_commit_timestamp(xmin) FROM t WHERE id = 7");
    let report = compare(n1, ", tables := ARRAY['t', 'pair']::regclass[], repair := true");
    assert_eq!((&report["differing"], &report["repaired"]), (&2.into(), &4.into()), "{report}");
    assert_eq!(n1.value("SELECT v, pg_xact_commit_timestamp(xmin) FROM t WHERE id = 7"), theirs);
    assert_eq!(
        differences(n1, &report).lines().filter(|line| line.ends_with("|here")).collect::<Vec<_>>(),
        ["t|{\"id\": \"5\"}|missing_there|here", "t|{\"id\": \"8\"}|different|here"],
        "where the other node has the earlier version, it is that one which is to be repaired"
    );
    n2.sql("CALL spock.compare('n1', repair := true)");
    assert_eq!(compare(n1, "")["differing"], 0);
    let all = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM t";
    assert_eq!(n1.value(all), n2.value(all));
    drain(n1, n2);
    assert_eq!(n1.value(all), n2.value(all), "what was repaired is not sent back");
}

#[test]
fn a_comparison_that_makes_no_sense_is_refused() {
    let cluster = start("compare_refused", "CREATE TABLE t (id int PRIMARY KEY)");
    let [n1, _] = cluster.all();
    n1.sql("CREATE TABLE other (id int PRIMARY KEY); CREATE ROLE mallory LOGIN; GRANT USAGE ON SCHEMA spock, spock_internal TO mallory");
    for (arguments, sqlstate) in [
        ("'n3'", "42704"),
        ("'n1'", "22023"),
        ("NULL", "22004"),
        ("'n2', repair := NULL", "22004"),
        ("'n2', ARRAY[NULL]::regclass[]", "22004"),
        ("'n2', ARRAY['other']::regclass[]", "42P01"),
        ("'n2', pace_mb_per_s := -1", "22023"),
    ] {
        let error = n1.try_sql(&format!("CALL spock.compare({arguments})")).expect_err(arguments);
        assert_eq!(error.sqlstate, sqlstate, "{arguments}: {error}");
    }
    let mut session = n1.session();
    session.sql("BEGIN");
    assert_eq!(session.try_sql("CALL spock.compare('n2')").expect_err("in a block").sqlstate, "25001");
    n1.sql("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA spock_internal TO mallory; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA spock TO mallory");
    for statement in [
        "CALL spock.compare('n2')",
        "SELECT spock_internal.begin_comparison('n2', NULL, false)",
        "SELECT * FROM spock.compare_differences('00000000-0000-4000-8000-000000000000')",
        "SELECT * FROM spock.comparisons",
    ] {
        let error = n1.db("postgres").role("mallory").try_sql(statement).expect_err(statement);
        assert_eq!(error.sqlstate, "42501", "{statement}: {error}");
    }
    let unknown = "SELECT * FROM spock.compare_differences('00000000-0000-4000-8000-000000000000')";
    assert_eq!(n1.try_sql(unknown).expect_err("unknown").sqlstate, "42704");
}
