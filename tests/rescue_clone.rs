//! Clones of the recovery slot on real servers: how they are made, who keeps them, and when they go.
//!
//! The node with the slot is called n3 everywhere, the node that failed n1, the one that a clone is for n2.

mod crash;
mod ending;
mod idle;
mod journal;
mod life;
mod making;
mod refused;

use crate::cluster::{Cluster, Database, Node, SqlError};
use crate::slot_life::{SLOT, health, log_count, make_node, mesh_of_three, quick, wait_rounds, wait_slot};

/// An intent of n2's.
pub const INTENT: &str = "11111111-1111-4111-8111-111111111111";
const OTHER_INTENT: &str = "22222222-2222-4222-8222-222222222222";

const CLONES: &str = "SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery'";
const REGISTERED: &str = "SELECT count(*) FROM spock.recovery_clones()";
const SCHEMA_LABELS: &str =
    "SELECT count(*) FROM pg_seclabel WHERE classoid = 'pg_namespace'::regclass AND provider = 'spock_recovery'";

/// What clone_recovery_slot() has answered.
#[derive(Debug)]
struct Answer {
    clone: String,
    original: String,
    restart: String,
    success: bool,
    message: String,
}

fn clone_slot(database: Database<'_>, arguments: &str) -> Answer {
    answer(&database.rows(&call(arguments))[0])
}

fn call(arguments: &str) -> String {
    format!("SELECT * FROM spock.clone_recovery_slot({arguments})")
}

fn answer(row: &[Option<String>]) -> Answer {
    let text = |column: usize| row[column].clone().unwrap_or_default();
    Answer { clone: text(0), original: text(1), restart: text(2), success: text(3) == "t", message: text(4) }
}

/// A clone that must come to be.
fn made(database: Database<'_>, arguments: &str) -> String {
    let answer = clone_slot(database, arguments);
    assert!(answer.success, "{answer:?}");
    answer.clone
}

fn refused(database: Database<'_>, statement: &str) -> SqlError {
    database.try_sql(statement).expect_err(statement)
}

/// The error has its code, and a hint with this text.
fn assert_error(error: &SqlError, sqlstate: &str, hint: &str) {
    assert_eq!(error.sqlstate, sqlstate, "{error}");
    assert!(error.hint.as_deref().is_some_and(|given| given.contains(hint)), "{error}");
}

/// n3 in the database `postgres` of a server, with its slot; n1 and n2 are known by name and cannot be reached.
fn make_source(server: &Node) {
    make_node(server.db("postgres"), "n3", &server.dsn("postgres"));
    for peer in ["n1", "n2"] {
        server.sql(&format!("SELECT spock.peer_create('{peer}', 'host=/nonexistent')"));
    }
    wait_slot(server.db("postgres"), 1);
}

fn source(name: &str) -> Cluster {
    let cluster = quick(name).start();
    make_source(cluster.node("n1"));
    cluster
}

fn claim(clone: &str, intent: &str) -> String {
    format!("SELECT spock_internal.claim_clone('{clone}', '{intent}', 'n1', 'n2')")
}

/// A journal with these intents, as this database would write it; `identifier`: of the server, None for its own.
fn journal_of(database: Database<'_>, identifier: Option<u64>, intents: &[String]) -> String {
    let own = || database.value("SELECT system_identifier FROM pg_control_system()");
    let identifier = identifier.map_or_else(own, |identifier| identifier.to_string());
    let oid = database.value("SELECT oid FROM pg_database WHERE datname = current_database()");
    let intents = intents.join(",");
    format!(
        r#"{{"version":1,"system_identifier":{identifier},"database":{oid},"intents":[{intents}],"suspensions":[],"clones":[]}}"#
    )
}

/// An intent of node n2 to recover from n1; `more`: further fields, each with its comma before it.
fn intent(id: &str, failed: &str, more: &str) -> String {
    format!(
        r#"{{"id":"{id}","subscription":1,"request":{{"failed":"{failed}","source":"n3","target":"n2","clone":"c"}},"applied_before":"0/1","passed_before":"0/1","begun_at":1,"since_transaction":700{more}}}"#
    )
}

const ENDED: &str = r#","end":{"outcome":"aborted","at":2}"#;

fn set_journal(database: Database<'_>, document: &str) {
    database.sql(&format!("SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS '{document}'"));
}

fn restart_manager(server: &Node) {
    let manager = server.wait_process("spock_recovery manager").pid;
    server.sigterm(manager);
    server.wait_until(
        &format!(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery manager' AND pid <> {manager}"
        ),
        "1",
    );
}

/// The manager tells the log after its commit: what can be seen by SQL is there a moment before the line.
fn assert_logged_once(node: &Node, text: &str) {
    node.wait_log(text);
    assert_eq!(log_count(node, text), 1, "{text}");
}
