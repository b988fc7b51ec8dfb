//! The recovery slot on real servers: how it comes and goes, what peers and crashes do to it, and what is told about it.
//!
//! Where one server will do, the nodes are databases of it; a peer that is to be stopped has a server of its own.

mod budget;
mod by_hand;
mod crash;
mod creation;
mod ending;
mod failover;
mod idle;
mod lost;
mod names;
mod open_transaction;
mod peers;
mod status;

use crate::cluster::{Builder, Cluster, Database, Node, wait_for};

/// The slot of the database `postgres`.
pub const SLOT: &str = "spk_recovery_postgres";

/// Managers, pollers and moves follow each other at once.
pub fn quick(name: &str) -> Builder {
    Cluster::new(name)
        .setting("spock.manager_naptime", "100ms")
        .setting("spock.recovery_poll_interval", "100ms")
        .setting("spock.recovery_slot_advance_interval", "100ms")
}

pub fn make_node(database: Database<'_>, name: &str, dsn: &str) {
    database.sql(&format!("CREATE EXTENSION spock_recovery; SELECT spock.node_create('{name}', '{dsn}')"));
}

/// Waits until the database's slot is there, usable, and the first of its generation to be `generation`.
pub fn wait_slot(database: Database<'_>, generation: u32) {
    database.wait_until(
        "SELECT active, recovery_generation FROM spock.get_recovery_slot_status()",
        &format!("t|{generation}"),
    );
}

pub fn wait_blocked(database: Database<'_>, reason: &str) {
    database.wait_until("SELECT blocked_reason FROM spock.get_recovery_slot_status()", reason);
}

/// The answer to a check of quick_health_check().
pub fn health(database: Database<'_>, check: &str) -> String {
    database.value(&format!("SELECT status, details FROM spock.quick_health_check() WHERE check_name = '{check}'"))
}

/// Waits until the slot has gone beyond all WAL that is there now.
fn wait_follows(database: Database<'_>) {
    let end = database.value("SELECT pg_current_wal_insert_lsn()");
    database.wait_until(&format!("SELECT confirmed_flush_lsn >= '{end}' FROM spock.get_recovery_slot_status()"), "t");
}

/// Writes so many MB of WAL that mean nothing to anybody.
pub fn fill_wal(database: Database<'_>, megabytes: u32) {
    database.sql(&format!(
        "SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1048576)) FROM generate_series(1, {megabytes})"
    ));
    flush_wal(database);
}

/// What was written before is on disk when this returns: apply workers commit asynchronously, and decoding ends there.
pub fn flush_wal(database: Database<'_>) {
    database.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
}

/// Returns when the database's manager has done this many more rounds, and so had its chances.
pub fn wait_rounds(database: Database<'_>, rounds: u32) {
    for _ in 0..rounds {
        let now = database.value("SELECT clock_timestamp()");
        database.wait_until(
            &format!(
                "SELECT state_change > '{now}' FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager'
                    AND datname = current_database() AND state = 'idle'"
            ),
            "t",
        );
    }
}

/// How often the log has a text.
pub fn log_count(server: &Node, text: &str) -> usize {
    server.log().matches(text).count()
}

/// Three nodes that replicate table t to each other, each with a slot that follows.
pub fn mesh_of_three(name: &str) -> Cluster {
    let cluster = quick(name).nodes(3).setting("spock.peer_timeout", "500ms").start();
    // A question to a peer before its CREATE EXTENSION.
    cluster.expect_log("schema \"spock\" does not exist");
    cluster.sql("CREATE TABLE t (id int PRIMARY KEY, v text)");
    cluster.mesh();
    for node in cluster.nodes() {
        make_node(node.db("postgres"), node.name(), &node.dsn("postgres"));
    }
    for node in cluster.nodes() {
        node.wait_until("SELECT count(*) FROM spock.node", "3");
    }
    // What a slot has released of an origin is known from the first transaction on that comes after the slot.
    let is_settled = "SELECT count(*) FROM spock.recovery_horizon() WHERE peer_lsn IS NOT NULL AND released_lsn < 'FFFFFFFF/FFFFFFFF'";
    wait_for("every slot to know what it keeps of whom", || {
        for (index, node) in cluster.nodes().iter().enumerate() {
            node.sql(&format!("INSERT INTO t VALUES ({index}, 'first') ON CONFLICT (id) DO UPDATE SET v = 'again'"));
        }
        cluster.nodes().iter().all(|node| node.value(is_settled) == "2")
    });
    for node in cluster.nodes() {
        wait_follows(node.db("postgres"));
    }
    cluster
}

/// Which rows of t, by id, can be decoded from the slot: the temporary copy goes with its session.
fn decodable(node: &Node) -> Vec<u32> {
    flush_wal(node.db("postgres"));
    let mut session = node.session();
    session.sql(&format!("SELECT pg_copy_logical_replication_slot('{SLOT}', 'probe', true, 'test_decoding')"));
    let rows = session.value(
        "SELECT substring(data FROM 'table public\\.t: INSERT: id\\[integer\\]:(\\d+)')
           FROM pg_logical_slot_peek_changes('probe', NULL, NULL) WHERE data LIKE 'table public.t: INSERT%'",
    );
    rows.lines().map(|id| id.parse().expect("an id")).collect()
}
