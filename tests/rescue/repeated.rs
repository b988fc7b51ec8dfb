//! One rescue after another, and one that finds nothing to do.

use super::{
    applied, assert_identical, drain, enabled, end_gap, hold_back, insert_each, origin_position, rescue, start, summary,
};

#[test]
fn two_gaps_of_the_same_node_are_rescued_one_after_the_other_and_an_empty_one_completes_with_nothing() {
    let cluster = start("rescue_repeated", "CREATE TABLE serial (n int)");
    let [n1, n2, n3] = cluster.all();
    // It stays disabled: n1 may come and go, and n2 gets nothing of it but by a rescue.
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 10);
    end_gap(n1);
    rescue(n2, n3, "");
    assert_eq!(summary(n2, "transactions"), "10");
    assert_identical(n2, n3);

    let position = origin_position(n2);
    rescue(n2, n3, "");
    assert_eq!(summary(n2, "transactions"), "0");
    assert_eq!([summary(n2, "skip_lsn"), summary(n2, "stop_lsn"), summary(n2, "final_lsn")], [&*position; 3]);
    assert_eq!(origin_position(n2), position);

    n1.start();
    drain(n3, n1);
    insert_each(&mut n1.session(), "serial", 11, 30);
    end_gap(n1);
    assert_eq!(n2.value("SELECT count(*) FROM serial"), "10");
    rescue(n2, n3, "");
    assert_eq!(summary(n2, "transactions"), "20");
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), "30|30");
    assert_identical(n2, n3);
    assert_eq!(applied(n2), applied(n3));
    assert_eq!(enabled(n2), "sub_n2_n1|f\nsub_n2_n3|t");
    assert_eq!(n2.value("SELECT phase FROM spock.recovery_intents()"), "completed\ncompleted\ncompleted");
}
