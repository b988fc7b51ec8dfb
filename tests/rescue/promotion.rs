//! An unfinished rescue is where its database goes on, and nowhere else.

use super::{
    HELD, applied, begin, clone_slot, create_rescue, enabled, fail, hold, hold_back, insert_each, start,
    wait_completed, wait_held, wait_tidy,
};
use crate::cluster::{Action, Node};
use crate::failpoint_names as names;
use crate::registry::{restore, run_program};
use crate::slot_life::wait_rounds;

const TABLES: &str = "CREATE TABLE serial (n int);";

fn wait_replayed(primary: &Node, standby: &Node) {
    let end = primary.value("SELECT pg_current_wal_flush_lsn()");
    standby.wait_until(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'"), "t");
}

#[test]
fn a_promoted_standby_of_the_target_carries_the_rescue_to_its_end() {
    let mut cluster = start("rescue_promotion", &format!("{TABLES} {HELD}"));
    cluster.add_standby("n2b", "n2");
    let [n1, n2, n3, standby] = cluster.all();
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 30);
    n1.sql(
        "BEGIN; INSERT INTO serial VALUES (31); INSERT INTO held VALUES (1); INSERT INTO serial VALUES (32); COMMIT",
    );
    insert_each(&mut n1.session(), "serial", 33, 50);
    fail(&cluster);
    let held = hold(n2);
    begin(n2, n3, "");
    wait_held(n2);
    n2.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    wait_replayed(n2, standby);
    assert_eq!(standby.value("SELECT phase FROM spock.recovery_intents()"), "replaying", "visible on a standby");
    n2.kill9();
    drop(held);
    standby.promote();
    wait_completed(standby);
    assert_eq!(standby.value("SELECT count(*), count(DISTINCT n) FROM serial"), "50|50");
    assert_eq!(applied(standby), applied(n3));
    assert_eq!(enabled(standby), "sub_n2_n1|f\nsub_n2_n3|t");
    // The source learns where n2 is now, and that it has done with the clone.
    n3.sql(&format!("SELECT spock.peer_create('n2', '{}')", standby.dsn("postgres")));
    wait_tidy(standby, n3);
}

#[test]
fn a_copy_of_a_database_with_an_unfinished_rescue_does_nothing_about_it() {
    let cluster = start("rescue_copy", TABLES);
    let [n1, n2, n3] = cluster.all();
    hold_back(n2);
    insert_each(&mut n1.session(), "serial", 1, 20);
    fail(&cluster);
    n2.arm(names::RESCUE_AFTER_COMMIT, Action::Wait);
    begin(n2, n3, "");
    n2.wait_hit(names::RESCUE_AFTER_COMMIT);
    let dump = cluster.folder().join("dump.sql");
    run_program(&cluster, n2, "pg_dump", &["-d", "postgres", "-f", &dump.display().to_string()]);
    n2.sql("CREATE DATABASE dumped TEMPLATE template0");
    restore(&cluster, n2, "dumped", &dump);
    // Nobody may be connected to a template. Peers are kept away; the rescue steps aside by itself, and comes back.
    n3.stop_immediate();
    n2.db("template1").sql("CREATE DATABASE copied TEMPLATE postgres");
    n3.start();
    let copies = [n2.db("dumped"), n2.db("copied")];
    for copy in copies {
        assert_eq!(copy.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
        assert_eq!(copy.value("SELECT count(*) FROM serial"), "1");
        wait_rounds(copy, 3);
    }
    n2.disarm(names::RESCUE_AFTER_COMMIT);
    wait_completed(n2);
    assert_eq!(n2.value("SELECT count(*), count(DISTINCT n) FROM serial"), "20|20");
    let slot = clone_slot(n3);
    for copy in copies {
        wait_rounds(copy, 3);
        assert_eq!(copy.value("SELECT count(*) FROM serial"), "1");
        assert_eq!(
            copy.value(
                "SELECT count(*) FROM pg_subscription JOIN pg_database d ON d.oid = subdbid
                  WHERE datname = current_database() AND subenabled"
            ),
            "0"
        );
        let error = copy.try_sql(&create_rescue(&slot, "")).expect_err("a copy is no node");
        assert_eq!((error.sqlstate.as_str(), error.hint.is_some()), ("55000", true), "{error}");
    }
    n3.sql(&format!("SELECT pg_drop_replication_slot('{slot}')"));
}
