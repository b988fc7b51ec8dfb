//! What others had done to rows of n1 that n2 did not have yet, and so has skipped.

use super::{VERSIONS, counted, drain_survivors, recover, start};
use crate::rescue::hold_back;

#[test]
fn what_others_did_to_rows_that_came_late_is_made_good() {
    let cluster = start("reconcile_versions", "CREATE TABLE t (id int PRIMARY KEY, v text, w text)");
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, 'before', repeat(md5(g::text), 400) FROM generate_series(1, 20) g");
    for node in [n2, n3] {
        crate::rescue::drain(n1, node);
    }
    hold_back(n2);
    n1.sql("INSERT INTO t SELECT g, 'n1', repeat(md5(g::text), 400) FROM generate_series(101, 200) g");
    n1.sql("UPDATE t SET v = 'n1' WHERE id <= 10");
    crate::rescue::drain(n1, n3);
    // n2 has none of these rows: it skips what is done to them.
    n3.sql("UPDATE t SET v = 'n3' WHERE id BETWEEN 101 AND 110");
    n3.sql("DELETE FROM t WHERE id BETWEEN 111 AND 120");
    n3.sql("DELETE FROM t WHERE id BETWEEN 121 AND 125");
    n3.sql("INSERT INTO t SELECT g, 'n3 again', 'short' FROM generate_series(121, 125) g");
    // These n2 has, in an older version: they replicate as ever.
    n3.sql("UPDATE t SET v = 'n3' WHERE id = 5");
    n3.sql("DELETE FROM t WHERE id = 6");
    n2.sql("UPDATE t SET v = 'n2' WHERE id = 7");
    n2.sql("INSERT INTO t VALUES (300, 'n2', 'its own')");
    drain_survivors(n2, n3);
    recover(&cluster);
    drain_survivors(n2, n3);
    assert_eq!(n2.value(VERSIONS), n3.value(VERSIONS));
    assert_eq!(n2.value("SELECT count(*) FILTER (WHERE v = 'n3'), count(*) FILTER (WHERE v = 'n3 again') FROM t"), "11|5");
    assert_eq!(n2.value("SELECT v FROM t WHERE id IN (7, 300)"), "n2\nn2");
    assert_eq!(counted(n2, "compared"), "110");
    assert_eq!(counted(n2, "updated"), "10");
    assert_eq!(counted(n2, "deleted"), "10");
    assert_eq!(counted(n2, "unjudged"), "");
}
