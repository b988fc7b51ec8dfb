//! The retention budget: announced, then spent on all peers but the slowest, and told.
//!
//! Four nodes are databases of one server: n2, n3 and n4 receive from n1; what n3's slot keeps is looked at.

use super::*;

const BUDGET_MB: u32 = 8;

const N3_SLOT: &str = "spk_recovery_n3";

pub fn four_nodes(name: &str) -> Cluster {
    let cluster = quick(name).start();
    let [server] = cluster.all();
    server.expect_log("schema \"spock\" does not exist");
    // A database gets its name when its first sessions are gone.
    for database in ["n1", "n2", "n3", "n4"] {
        server.sql(&format!("CREATE DATABASE {database} STRATEGY file_copy"));
        server.db(database).sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    }
    server.db("n1").sql("CREATE PUBLICATION p FOR ALL TABLES");
    for database in ["n2", "n3", "n4"] {
        // Within one server, CREATE SUBSCRIPTION would wait for itself if it were to make the slot.
        server.db("n1").sql(&format!("SELECT pg_create_logical_replication_slot('from_n1_{database}', 'pgoutput')"));
        server.db(database).sql(&format!(
            "CREATE SUBSCRIPTION from_n1_{database} CONNECTION '{}' PUBLICATION p
               WITH (create_slot = false, copy_data = false, origin = none)",
            server.dsn("n1")
        ));
    }
    for database in ["n1", "n2", "n3", "n4"] {
        make_node(server.db(database), database, &server.dsn(database));
    }
    let n3 = server.db("n3");
    for peer in ["n2", "n4"] {
        n3.sql(&format!("SELECT spock.peer_create('{peer}', '{}')", server.dsn(peer)));
    }
    n3.wait_until(
        "SELECT count(*) FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node IN ('n2', 'n4')",
        "2",
    );
    let is_settled = "SELECT released_lsn < 'FFFFFFFF/FFFFFFFF' AND peer_lsn IS NOT NULL FROM spock.recovery_horizon()";
    wait_for("n3 to know what it keeps", || {
        write(server, 0);
        n3.value(is_settled) == "t\nt"
    });
    cluster
}

/// A transaction of n1 that n3 has applied when this returns.
fn write(server: &Node, id: u32) {
    server.db("n1").sql(&format!("INSERT INTO t VALUES ({id}, 'x') ON CONFLICT (id) DO UPDATE SET v = t.v || 'x'"));
    let written = server.db("n1").value(&format!("SELECT v FROM t WHERE id = {id}"));
    server.db("n3").wait_until(&format!("SELECT v FROM t WHERE id = {id}"), &written);
}

fn kept_mb(n3: Database<'_>) -> f64 {
    n3.value("SELECT retained_bytes / 1048576.0 FROM spock.get_recovery_slot_status()").parse().expect("a number")
}

#[test]
fn past_its_budget_the_slot_gives_up_the_slowest_peer_alone_and_protects_it_again_when_it_has_caught_up() {
    let cluster = four_nodes("slot_life_budget");
    let [server] = cluster.all();
    let n3 = server.db("n3");
    wait_for("a slot that keeps next to nothing", || {
        server.sql("SELECT pg_log_standby_snapshot()");
        kept_mb(n3) < 1.0
    });
    server.set(&[("spock.recovery_slot_max_wal", &format!("{BUDGET_MB}MB"))]);
    // n4 lacks what comes now, n2 what comes later.
    server.db("n4").sql("ALTER SUBSCRIPTION from_n1_n4 DISABLE");
    write(server, 1);
    server.db("n2").wait_until("SELECT count(*) FROM t WHERE id = 1", "1");
    n3.wait_until("SELECT string_agg(peer_node || ' ' || coalesce(blocked_reason, 'none'), ', ' ORDER BY peer_node) FROM spock.recovery_horizon()",
                  "n2 none, n4 peer_lagging");
    fill_wal(n3, 3);
    wait_rounds(n3, 3);
    server.db("n2").sql("ALTER SUBSCRIPTION from_n1_n2 DISABLE");
    write(server, 2);
    n3.wait_until(
        "SELECT string_agg(peer_node || ' ' || blocked_reason, ', ' ORDER BY peer_node) FROM spock.recovery_horizon()",
        "n2 peer_lagging, n4 peer_lagging",
    );

    // Before: announced, and nobody given up.
    wait_for("three quarters of the budget", || {
        fill_wal(n3, 1);
        wait_rounds(n3, 2);
        kept_mb(n3) >= f64::from(BUDGET_MB) * 0.75
    });
    assert!(kept_mb(n3) < f64::from(BUDGET_MB));
    server.wait_log(&format!("recovery slot \"{N3_SLOT}\" keeps"));
    let announced = format!("of spock.recovery_slot_max_wal = {BUDGET_MB} MB, for node \"n4\"");
    assert!(server.log().lines().any(|line| line.contains(N3_SLOT) && line.contains(&announced)), "{}", server.log());
    assert_eq!(log_count(server, "has given up"), 0);
    assert_eq!(
        n3.value("SELECT unprotected_peers, retention_rate_bytes_per_s > 0, time_left > interval '0' AND time_left < interval '1 day' FROM spock.get_recovery_slot_status()"),
        "{}|t|t"
    );
    assert!(health(n3, "retention").starts_with("WARNING|"), "{}", health(n3, "retention"));

    // After: n4 alone.
    wait_for("the budget to be spent", || {
        // No further: nobody is given up within the first seconds, and n2's turn would come meanwhile.
        if kept_mb(n3) <= f64::from(BUDGET_MB) {
            fill_wal(n3, 1);
            wait_rounds(n3, 2);
        }
        n3.value("SELECT unprotected_peers FROM spock.get_recovery_slot_status()") == "{n4}"
    });
    wait_rounds(n3, 5);
    let given_up = format!("recovery slot \"{N3_SLOT}\" has given up node \"n4\"");
    assert_eq!(log_count(server, &given_up), 1);
    assert_eq!(log_count(server, &format!("recovery slot \"{N3_SLOT}\" has given up")), 1);
    assert!(health(n3, "retention").contains("not recoverable from this node: n4"), "{}", health(n3, "retention"));
    let mut session = n3.session();
    session.sql(&format!("SELECT pg_copy_logical_replication_slot('{N3_SLOT}', 'probe', true, 'test_decoding')"));
    assert_eq!(
        session.value(
            "SELECT data FROM pg_logical_slot_peek_changes('probe', NULL, NULL) WHERE data LIKE 'table public.t:%'"
        ),
        "table public.t: INSERT: id[integer]:2 v[text]:'x'"
    );

    // n4 has got everything from n1 itself.
    server.db("n4").sql("ALTER SUBSCRIPTION from_n1_n4 ENABLE");
    n3.wait_until("SELECT unprotected_peers FROM spock.get_recovery_slot_status()", "{}");
    server.db("n2").sql("ALTER SUBSCRIPTION from_n1_n2 ENABLE");
    wait_blocked(n3, "");
    wait_follows(n3);
    assert_eq!(log_count(server, &format!("recovery slot \"{N3_SLOT}\" has given up")), 1);
}
