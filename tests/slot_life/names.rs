//! Whatever a database is called, its slot has a legal name of its own, and keeps it.

use super::*;

fn identifier(name: &str) -> String {
    spock_recovery_cluster::client::identifier(name)
}

#[test]
fn every_database_has_a_legal_slot_of_its_own() {
    let cluster = quick("slot_life_names").start();
    let [server] = cluster.all();
    let long = ["x".repeat(63), format!("{}y", "x".repeat(62))];
    let names = [long[0].as_str(), &long[1], "Sales", "we\"ird 'n", "größe", "a_b", "a-b", "a.b"];
    for name in names {
        server.sql(&format!("CREATE DATABASE {} STRATEGY file_copy", identifier(name)));
        make_node(server.db(name), "n1", "host=/nonexistent");
    }
    for name in names {
        wait_slot(server.db(name), 1);
        // The slot that the status names is this database's, and the only one.
        assert_eq!(
            server.db(name).value(
                "SELECT s.slot_name = t.slot_name, t.slot_name ~ '^spk_recovery_[a-z0-9_]{1,50}$'
                   FROM pg_replication_slots s, spock.get_recovery_slot_status() t WHERE s.database = current_database()"
            ),
            "t|t",
            "{name}"
        );
    }
    assert_eq!(server.db("a_b").value("SELECT slot_name FROM spock.get_recovery_slot_status()"), "spk_recovery_a_b");
    assert_eq!(server.value("SELECT count(DISTINCT slot_name), count(*) FROM pg_replication_slots"), "8|8");
}

#[test]
fn a_renamed_database_keeps_its_slot_and_another_under_the_old_name_gets_its_own() {
    let cluster = quick("slot_life_rename").start();
    let [server] = cluster.all();
    server.sql("CREATE DATABASE old STRATEGY file_copy");
    make_node(server.db("old"), "n1", "host=/nonexistent");
    wait_slot(server.db("old"), 1);
    server.sql("ALTER DATABASE old RENAME TO new");
    server.sql("CREATE DATABASE old STRATEGY file_copy");
    make_node(server.db("old"), "n2", "host=/nonexistent");
    wait_slot(server.db("old"), 1);
    wait_slot(server.db("new"), 1);
    wait_follows(server.db("new"));
    assert_eq!(server.value("SELECT database FROM pg_replication_slots WHERE slot_name = 'spk_recovery_old'"), "new");
    assert_eq!(server.value("SELECT count(*) FROM pg_replication_slots"), "2");
}
