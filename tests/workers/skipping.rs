//! One object that the manager cannot tend costs the others nothing, and the health check says which and why.

use super::*;

fn health(server: &Node, database: &str) -> String {
    let check = "SELECT status, details FROM spock.quick_health_check() WHERE check_name = 'manager'";
    server.db(database).value(check)
}

fn wait_health(server: &Node, database: &str, status: &str) {
    let check = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'manager'";
    server.db(database).wait_until(check, status);
}

#[test]
fn a_name_that_is_taken_costs_the_other_peers_nothing() {
    let cluster = Cluster::new("workers_skips_name")
        .setting("spock.manager_naptime", "200ms")
        .setting("spock.recovery_poll_interval", "100ms")
        .start();
    let [server] = cluster.all();
    server.expect_log("schema \"spock\" does not exist");
    for (database, name) in [("a", "n1"), ("b", "n2"), ("c", "n3")] {
        server.sql(&format!("CREATE DATABASE {database}"));
        server.db(database).sql(&format!(
            "CREATE EXTENSION spock_recovery; SELECT spock.node_create('{name}', '{}')",
            server.dsn(database)
        ));
    }
    let a = server.db("a");
    // Whoever may use some wrapper may give a server any name.
    a.sql("CREATE ROLE dev; CREATE FOREIGN DATA WRAPPER other; GRANT USAGE ON FOREIGN DATA WRAPPER other TO dev");
    a.sql("SET ROLE dev; CREATE SERVER n3 FOREIGN DATA WRAPPER other; RESET ROLE");
    for (subscription, provider) in [("from_c", "c"), ("from_b", "b")] {
        a.sql(&format!(
            "CREATE SUBSCRIPTION {subscription} CONNECTION '{}' PUBLICATION p WITH (connect = false, slot_name = NONE)",
            server.dsn(provider)
        ));
    }
    wait_health(server, "a", "WARNING");
    let verdict = health(server, "a");
    for part in ["subscription \"from_c\"", "server \"n3\" already exists", "last successful round"] {
        assert!(verdict.contains(part), "no {part} in {verdict}");
    }
    // The rest is as ever: the other peer, the slot, and the same process.
    wait_state(server, "a", "n2", "connected");
    a.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
    let pid = wait_worker(server, "manager", "a");
    assert!(verdict.contains(&format!("process {pid},")), "{verdict}");
    // Said once, not once per round.
    let end = a.value("SELECT pg_current_wal_insert_lsn()");
    a.wait_until(&format!("SELECT confirmed_flush_lsn >= '{end}' FROM spock.get_recovery_slot_status()"), "t");
    assert_eq!(server.log().matches("skips subscription \"from_c\"").count(), 1, "{}", server.log());
    a.sql("ALTER SERVER n3 RENAME TO something");
    wait_state(server, "a", "n3", "connected");
    wait_health(server, "a", "HEALTHY");
    assert_eq!(wait_worker(server, "manager", "a"), pid);
}
