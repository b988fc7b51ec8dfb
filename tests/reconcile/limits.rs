//! Tables at PostgreSQL's limits, one that a node does not show, and values that look like a sign of ours: each is compared, or is
//! left for itself.

use super::{counted, recover, start};
use crate::rescue::{LAST_INTENT, drain, hold_back};
use crate::slot_keeps::wait_confirmed;

/// The most columns that a table may have, and the most that a key may have.
fn widest() -> String {
    let columns: Vec<String> = (1..=1600).map(|column| format!("c{column} int")).collect();
    let key: Vec<String> = (1..=32).map(|column| format!("c{column}")).collect();
    format!("CREATE TABLE widest ({}, PRIMARY KEY ({}))", columns.join(", "), key.join(", "))
}

fn insert(rows: u32) -> String {
    let columns: Vec<String> = (1..=1600).map(|column| format!("g + {column}")).collect();
    format!("INSERT INTO widest SELECT {} FROM generate_series(1, {rows}) g", columns.join(", "))
}

#[test]
fn the_widest_table_and_one_that_is_not_shown_keep_no_row_of_others_from_being_compared() {
    let cluster = start(
        "reconcile_limits",
        &format!(
            "{}; CREATE TABLE hidden (id int PRIMARY KEY, v text); CREATE TABLE signs (id int PRIMARY KEY, v text);
             CREATE TABLE plain (id int PRIMARY KEY, v text)",
            widest()
        ),
    );
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql(&insert(30));
    n1.sql("INSERT INTO hidden SELECT g, 'n1' FROM generate_series(1, 20) g");
    n1.sql("INSERT INTO plain SELECT g, 'n1' FROM generate_series(1, 20) g");
    // What a reader of bytes puts in the place of those that are no text is text itself.
    n1.sql("INSERT INTO signs VALUES (1, U&'a\\FFFD'), (2, U&'\\FFFD'), (3, repeat(U&'\\FFFD', 2000)), (4, '{\"no_text\":1}')");
    drain(n1, n3);
    n3.sql("UPDATE widest SET c1600 = -1 WHERE c1 <= 11; DELETE FROM widest WHERE c1 = 31");
    n3.sql("UPDATE plain SET v = 'n3' WHERE id = 1; DELETE FROM plain WHERE id = 2");
    n3.sql("UPDATE hidden SET v = 'n3' WHERE id = 1");
    n3.sql("UPDATE signs SET v = U&'b\\FFFD' WHERE id = 1; UPDATE signs SET v = v || U&'\\FFFD' WHERE id = 3; DELETE FROM signs WHERE id = 2");
    wait_confirmed(n3, "sub_n2_n3");
    n3.sql(
        "CREATE ROLE owner; ALTER TABLE hidden OWNER TO owner;
         ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE hidden FORCE ROW LEVEL SECURITY",
    );
    n3.expect_log("query would be affected by row-level security policy for table \"hidden\"");
    recover(&cluster);
    for table in ["widest", "plain", "signs"] {
        let rows = format!("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t");
        assert_eq!(n2.value(&rows), n3.value(&rows), "{table}");
    }
    assert_eq!(n2.value("SELECT count(*) FROM widest WHERE c1600 = -1"), "10");
    assert_eq!(n2.value("SELECT v = U&'b\\FFFD' FROM signs WHERE id = 1"), "t");
    assert_eq!((counted(n2, "updated"), counted(n2, "deleted")), ("13".to_owned(), "3".to_owned()));
    assert_eq!(counted(n2, "unjudged"), "{\"refused\": 20}");
    assert_eq!(counted(n2, "refused"), "{\"public.hidden\": \"node \\\"n3\\\" reports SQLSTATE 42501\"}");
    let told = format!(
        "SELECT DISTINCT relation, reason, detail FROM spock.recovery_unjudged((SELECT intent_id FROM {LAST_INTENT}))"
    );
    let expected = "public.hidden|refused|node \"n3\" reports query would be affected by row-level security policy for table \"hidden\" (SQLSTATE 42501)";
    assert_eq!(n2.value(&told), expected);
    n3.sql("ALTER TABLE hidden NO FORCE ROW LEVEL SECURITY");
    n2.wait_until("SELECT v FROM hidden WHERE id = 1", "n3");
    n2.wait_until(&format!("SELECT summary->'reconciled'->>'refused' FROM {LAST_INTENT}"), "");
}
