//! Tables that inherit, and partitioned ones: a row is compared with that of its own table, and where the source has no partition for
//! a row its absence there proves nothing.

use super::{counted, recover};
use crate::rescue::{drain, hold_back};
use crate::slot_keeps::{make_mesh, quick, wait_confirmed};

const TABLES: &str = "
    CREATE TABLE p (id int PRIMARY KEY, v text);
    CREATE TABLE c (PRIMARY KEY (id)) INHERITS (p);
    CREATE TABLE m (at text COLLATE \"C\", id int, v text, PRIMARY KEY (id, at)) PARTITION BY RANGE (id);
    CREATE TABLE m1 PARTITION OF m FOR VALUES FROM (0) TO (100);
    CREATE TABLE m2 PARTITION OF m FOR VALUES FROM (100) TO (200) PARTITION BY LIST (at);
    CREATE TABLE m2a PARTITION OF m2 FOR VALUES IN ('a'); CREATE TABLE m2rest PARTITION OF m2 DEFAULT";

#[test]
fn rows_are_compared_with_those_of_their_own_table_and_left_where_the_source_has_no_partition_for_them() {
    let cluster = make_mesh(quick("reconcile_inheritance", 3).start(), |cluster| {
        cluster.sql(TABLES);
        cluster.mesh();
        cluster.sql("ALTER PUBLICATION mesh SET (publish_via_partition_root = true)");
        cluster.refresh_mesh();
    });
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO p SELECT g, 'n1' FROM generate_series(1, 4) g; INSERT INTO c SELECT g, 'n1' FROM generate_series(1, 4) g");
    n1.sql("INSERT INTO m SELECT 'a', g, 'n1' FROM generate_series(1, 3) g");
    n1.sql("INSERT INTO m SELECT x, g, 'n1' FROM generate_series(101, 103) g, unnest(ARRAY['a', 'größe']) x");
    drain(n1, n3);
    // n2 has none of these rows: it skips what is done to them.
    n3.sql("DELETE FROM ONLY p WHERE id = 1; DELETE FROM ONLY c WHERE id = 2");
    n3.sql("UPDATE ONLY p SET v = 'n3' WHERE id = 3; UPDATE ONLY c SET v = 'n3' WHERE id = 4");
    n3.sql("UPDATE m SET v = 'n3' WHERE id = 1; DELETE FROM m WHERE id IN (2, 102)");
    // To another partition: another node gets it as a new row.
    n3.sql("UPDATE m SET id = 50 WHERE id = 103");
    wait_confirmed(n3, "sub_n2_n3");
    n3.sql("ALTER TABLE m2 DETACH PARTITION m2rest");
    recover(&cluster);
    assert_eq!(n2.value("SELECT id, v FROM ONLY p ORDER BY id"), "2|n1\n3|n3\n4|n1");
    assert_eq!(n2.value("SELECT id, v FROM ONLY c ORDER BY id"), "1|n1\n3|n1\n4|n3");
    let rows = "SELECT id, at, v FROM m ORDER BY id, at";
    let kept = "101|größe|n1\n102|größe|n1\n103|größe|n1";
    let there = "1|a|n3\n3|a|n1\n50|a|n1\n50|größe|n1\n101|a|n1";
    assert_eq!(n2.value(rows), format!("{there}\n{kept}"));
    assert_eq!(counted(n2, "unjudged"), "{\"refused\": 3}");
    assert_eq!(counted(n2, "refused"), "{\"public.m\": \"node \\\"n3\\\" has no partition for rows of it\"}");
    // What became of them is known again, without another recovery.
    n3.sql("ALTER TABLE m2 ATTACH PARTITION m2rest DEFAULT");
    n2.wait_until(rows, &format!("{there}\n101|größe|n1"));
    assert_eq!(n3.value(rows), n2.value(rows));
}
