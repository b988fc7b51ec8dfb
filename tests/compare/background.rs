//! Comparisons by the clock, and what the health check says of them.

use super::{compare, past_replication, start};
use crate::rescue::drain;

#[test]
fn tables_are_compared_by_the_clock_and_the_health_check_tells_what_differs() {
    let cluster =
        start("compare_background", "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE nokey (v text)");
    let [n1, n2] = cluster.all();
    n1.sql("INSERT INTO t SELECT g, g FROM generate_series(1, 2000) g");
    drain(n1, n2);
    let health = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'comparison'";
    assert_eq!(n1.value(health), "", "nothing was ever compared");
    n1.set(&[("spock.compare_interval", "1s")]);
    n1.wait_until(
        "SELECT ended_at IS NOT NULL, is_automatic, differing, not_comparable FROM spock.comparisons",
        "t|t|0|1",
    );
    n1.wait_until(health, "HEALTHY");
    past_replication(n2, "UPDATE t SET v = 'x' WHERE id = 5");
    n1.wait_until(health, "WARNING");
    let details = n1.value("SELECT details FROM spock.quick_health_check() WHERE check_name = 'comparison'");
    for part in ["1 difference with node \"n2\"", "CALL spock.compare('n2', repair := true)"] {
        assert!(details.contains(part), "{details}");
    }
    // A session's comparison takes precedence, and what it repairs is known.
    assert_eq!(compare(n1, ", repair := true")["differing"], 0);
    n1.wait_until(health, "HEALTHY");
    n1.set(&[("spock.compare_interval", "0")]);
    n1.wait_until("SELECT count(*) FROM spock.comparisons WHERE is_running", "0");
}
