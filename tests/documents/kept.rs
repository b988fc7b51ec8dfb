//! Rows that a recovery could not judge, in a large object.

use super::*;
use crate::reconcile::kept::OBJECTS;
use crate::reconcile::recover;
use crate::rescue::{disable, drain, hold_back, start};
use crate::slot_keeps::wait_confirmed;

const UNJUDGED: &str = "SELECT u.key FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u";

#[test]
fn rows_that_a_later_version_has_kept_stay_kept_until_they_can_be_read() {
    let cluster = start("documents_kept", "CREATE TABLE t (id int PRIMARY KEY, v text)");
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    n1.sql("INSERT INTO t VALUES (1, 'n1')");
    drain(n1, n3);
    n3.sql("DELETE FROM t");
    wait_confirmed(n3, "sub_n2_n3");
    disable(n2, "sub_n2_n3");
    n3.sql("CREATE TABLE beside (id int)");
    recover(&cluster);
    assert_eq!(n2.value(UNJUDGED), "(id)=(1)");
    let object = n2.value(&format!("SELECT oid FROM {OBJECTS}"));
    let head = r#"{"version":"#;
    let begins = |version: &str| n2.sql(&format!("SELECT lo_put({object}, 0, '{head}{version}')"));
    assert_eq!(
        n2.value(&format!("SELECT convert_from(lo_get({object}, 0, {}), 'UTF8')", head.len() + 1)),
        format!("{head}1")
    );
    begins("2");
    cluster.expect_log("cannot be read");
    let document = format!("large object {object}");
    assert_critical(n2.db("postgres"), &document, &["version 2", "Install the version"]);
    assert_refused(n2, UNJUDGED);
    assert_refused(n2, "SELECT spock.node_drop('n2')");
    // They could be judged now.
    n2.sql("ALTER SUBSCRIPTION sub_n2_n3 ENABLE");
    n2.wait_log("are still not compared with those of node \"n3\"");
    assert_eq!(n2.value(&format!("SELECT count(*) FROM {OBJECTS}")), "1");
    assert_eq!(n2.value("SELECT v FROM t"), "n1");
    begins("1");
    n2.wait_until(&format!("SELECT count(*) FROM {OBJECTS}"), "0");
    assert_eq!(n2.value("SELECT count(*) FROM t"), "0");
    assert_eq!(verdict(n2.db("postgres"), &document), "");
}
