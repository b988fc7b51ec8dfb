//! Rescues on real servers: n1 has failed, n2 lacks transactions of it that n3 has.
//!
//! Each test says what n2 must hold afterwards: rows, their origin and commit time, and how often.

mod aborting;
mod asking;
mod basic;
mod big;
mod boundaries;
mod conflicts;
mod connection;
mod ended;
mod failures;
mod kills;
mod limits;
mod locks;
mod meanwhile;
mod permissions;
mod promotion;
mod publications;
mod repeated;
mod reports;
mod returning;
mod unsendable;

use std::collections::BTreeSet;
use std::time::Duration;

use spock_recovery_cluster::deadline;

use crate::cluster::{Cluster, Node, Session};
use crate::slot_keeps::{quick, start_mesh, wait_confirmed};

/// How long a rescue may take. Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(480);

/// A table that nobody writes to but the transactions at which a test wants the rescue to stand still.
const HELD: &str = "CREATE TABLE held (id int PRIMARY KEY);";

/// Three nodes in a mesh, whose slots follow; a peer that is dead is noticed soon.
pub fn start(name: &str, tables: &str) -> Cluster {
    start_mesh(quick(name, 3), tables)
}

/// Disables a subscription; nobody works for it when this returns.
pub fn disable(node: &Node, subscription: &str) {
    node.sql(&format!("ALTER SUBSCRIPTION {subscription} DISABLE"));
    node.wait_until(
        &format!("SELECT count(*) FROM pg_stat_subscription WHERE subname = '{subscription}' AND pid IS NOT NULL"),
        "0",
    );
}

/// From here on n2 gets nothing of n1.
pub fn hold_back(n2: &Node) {
    disable(n2, "sub_n2_n1");
}

/// n2 gets nothing of n1, and nobody gets anything of n2: its rows clash with n1's on n2 alone.
fn apart(n1: &Node, n2: &Node, n3: &Node) {
    hold_back(n2);
    disable(n1, "sub_n1_n2");
    disable(n3, "sub_n3_n2");
}

/// n3 has everything of n1, on its disk; then n1 dies. n2's subscription to it is enabled again, and finds nobody.
pub fn fail(cluster: &Cluster) {
    let [n1, n2] = ["n1", "n2"].map(|name| cluster.node(name));
    end_gap(n1);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
}

/// The same, and n2's subscription stays as it is.
pub fn end_gap(n1: &Node) {
    wait_arrived(n1);
    n1.kill9();
}

/// n3 has everything of n1, on its disk.
pub fn wait_arrived(n1: &Node) {
    // What was written with synchronous_commit = off is written out.
    n1.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    let end = n1.value("SELECT pg_current_wal_flush_lsn()");
    wait_long(
        n1,
        &format!("SELECT confirmed_flush_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'sub_n3_n1'"),
        "t",
    );
}

/// As `wait_until`, as long as a rescue may take.
fn wait_long(node: &Node, statement: &str, expected: &str) {
    let mut session = node.session();
    let mut last = String::new();
    let reached = deadline::poll(LIMIT, || {
        last = session.value(statement);
        (last == expected).then_some(())
    });
    assert!(reached.is_some(), "{}: not \"{expected}\" but \"{last}\": {statement}", node.name());
}

/// A clone of n3's recovery slot, for n2.
pub fn clone_slot(n3: &Node) -> String {
    let answer = n3.rows("SELECT cloned_slot_name, success, message FROM spock.clone_recovery_slot('n1', 'n2')");
    let [row] = answer.as_slice() else { panic!("not one row: {answer:?}") };
    assert_eq!(row[1].as_deref(), Some("t"), "{row:?}");
    row[0].clone().expect("a clone has a name")
}

/// The statement that begins a rescue; `options` are further arguments, each after a comma.
pub fn create_rescue(clone: &str, options: &str) -> String {
    format!("SELECT spock.create_rescue_subscription('n2', 'n3', '{clone}', failed_node => 'n1'{options})")
}

/// Clones, and begins a rescue on n2; the oid of the rescue subscription and the clone's name.
pub fn begin(n2: &Node, n3: &Node, options: &str) -> (String, String) {
    let clone = clone_slot(n3);
    (n2.value(&create_rescue(&clone, options)), clone)
}

/// Clones, rescues to the end, and looks that nothing is left behind.
pub fn rescue(n2: &Node, n3: &Node, options: &str) {
    begin(n2, n3, options);
    wait_completed(n2);
    wait_tidy(n2, n3);
}

pub const LAST_INTENT: &str = "(SELECT * FROM spock.recovery_intents() ORDER BY begun_at DESC LIMIT 1) intent";

pub fn wait_completed(target: &Node) {
    wait_phase(target, "completed");
}

/// Waits until the last recovery of this node is in the phase; rides out restarts.
pub fn wait_phase(target: &Node, phase: &str) {
    wait_intent(target, "phase", |seen| seen == phase);
}

/// Why the recovery that runs on this node waits.
pub fn wait_error(target: &Node, part: &str) -> String {
    wait_intent(target, "error", |error| error.contains(part))
}

fn wait_intent(target: &Node, column: &str, is_reached: impl Fn(&str) -> bool) -> String {
    let mut last = String::new();
    let question = format!(
        "SELECT {column} AS wanted, phase, error, summary, (SELECT count(*) FROM spock.recovery_intents()) FROM {LAST_INTENT}"
    );
    let found = deadline::poll(LIMIT, || match target.try_sql(&question) {
        Ok(rows) => {
            last = format!("{rows:?}");
            rows.first().and_then(|row| row[0].clone()).filter(|value| is_reached(value))
        }
        Err(error) if error.is_disconnection() => None,
        Err(error) => panic!("{}: {error}", target.name()),
    });
    found.unwrap_or_else(|| {
        panic!("{}: {column} has not come to what is wanted after {} s: {last}", target.name(), LIMIT.as_secs())
    })
}

/// A figure of the last recovery's summary.
pub fn summary(target: &Node, key: &str) -> String {
    target.value(&format!("SELECT summary->>'{key}' FROM {LAST_INTENT}"))
}

/// The clone is gone, nobody works on a rescue, and the slot is nobody's any more.
pub fn wait_tidy(target: &Node, source: &Node) {
    source.wait_until("SELECT count(*) FROM pg_replication_slots WHERE plugin = 'spock_recovery'", "0");
    source.wait_until("SELECT active, in_recovery FROM spock.get_recovery_slot_status()", "t|f");
    target.wait_until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue'", "0");
    target.wait_until("SELECT count(*) FROM spock.recovery_progress", "0");
    target.wait_until("SELECT count(*) FROM spock.subscription WHERE sub_rescue_temporary", "0");
}

/// How far a node has durably applied n1, whatever it holds its peers' WAL for.
pub fn applied(node: &Node) -> String {
    applied_of(node, "n1")
}

pub fn applied_of(node: &Node, origin: &str) -> String {
    node.value(&format!("SELECT applied_lsn FROM spock.node_positions(held := false) WHERE origin_node = '{origin}'"))
}

/// Where its origin for n1 stands, whatever it tells its peers.
pub fn origin_position(node: &Node) -> String {
    node.value(&format!(
        "SELECT pg_replication_origin_progress('pg_' || oid, true) FROM pg_subscription WHERE subname = 'sub_{}_n1'",
        node.name()
    ))
}

/// Its native subscriptions, and whether they are enabled.
pub fn enabled(node: &Node) -> String {
    node.value("SELECT subname, subenabled FROM pg_subscription ORDER BY subname")
}

/// A session that keeps everybody else from writing to `held` on this node.
fn hold(node: &Node) -> Session<'_> {
    let mut session = node.session();
    session.sql("BEGIN; LOCK TABLE held IN EXCLUSIVE MODE");
    session
}

const STANDS: &str =
    "SELECT pid FROM pg_stat_activity WHERE backend_type = 'spock_recovery rescue' AND wait_event_type = 'Lock'";

/// The rescue worker, which has come to what `hold` holds.
fn wait_held(node: &Node) -> i32 {
    wait_long(node, &format!("SELECT count(*) FROM ({STANDS}) stands"), "1");
    node.value(STANDS).parse().expect("a process id")
}

/// Both receive from each other.
pub fn assert_replicate(one: &Node, other: &Node) {
    for (from, to) in [(one, other), (other, one)] {
        let row = format!("{} {}", from.name(), from.value("SELECT clock_timestamp()"));
        from.sql(&format!("INSERT INTO first VALUES ('{row}')"));
        to.wait_until(&format!("SELECT count(*) FROM first WHERE node = '{row}'"), "1");
    }
}

/// Each has what the other wrote until now.
pub fn drain(one: &Node, other: &Node) {
    for (from, to) in [(one, other), (other, one)] {
        from.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
        wait_confirmed(from, &format!("sub_{}_{}", to.name(), from.name()));
    }
}

/// The query for every row of a table as text, with the node that committed it and when, to the microsecond.
pub fn stamped(table: &str) -> String {
    format!(
        "SELECT t::text || ' of ' || CASE x.roident WHEN 0 THEN l.node_name::text ELSE coalesce(o.node, 'nobody') END
                || ' at ' || coalesce(x.timestamp::text, 'no time') AS line
           FROM {table} t CROSS JOIN LATERAL pg_xact_commit_timestamp_origin(t.xmin) x
           CROSS JOIN (SELECT node_name FROM spock.node WHERE is_local) l
           LEFT JOIN (SELECT roident, split_part(subname, '_', 3) AS node
                        FROM pg_replication_origin JOIN pg_subscription s ON roname = 'pg_' || s.oid) o
                  ON o.roident = x.roident"
    )
}

fn tables(node: &Node) -> Vec<String> {
    let names = node.value(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname",
    );
    names.lines().map(str::to_owned).collect()
}

/// All tables of both hold the same rows, equally often, each committed by the same node at the same microsecond.
pub fn assert_identical(one: &Node, other: &Node) {
    let names = tables(one);
    assert_eq!(names, tables(other));
    for table in names {
        assert_same(one, other, &table);
    }
}

/// The same of one table, or of what is in parentheses.
fn assert_same(one: &Node, other: &Node, table: &str) {
    let digest = format!(
        "SELECT count(*), md5(string_agg(line, E'\\n' ORDER BY line COLLATE \"C\")) FROM ({}) x",
        stamped(table)
    );
    if one.value(&digest) != other.value(&digest) {
        panic!("{table} differs:\n{}", differences(one, other, table));
    }
}

/// The first rows that only one of the two has.
fn differences(one: &Node, other: &Node, table: &str) -> String {
    let [left, right]: [BTreeSet<String>; 2] =
        [one, other].map(|node| node.value(&stamped(table)).lines().map(str::to_owned).collect());
    let only = |node: &Node, rows: Vec<&String>| {
        let shown: Vec<String> = rows.iter().take(10).map(|row| format!("  {row}")).collect();
        format!("{} rows on {} alone:\n{}", rows.len(), node.name(), shown.join("\n"))
    };
    let mut text =
        [only(one, left.difference(&right).collect()), only(other, right.difference(&left).collect())].join("\n");
    if left == right {
        text.push_str("\nthe same rows, but not equally often");
    }
    text
}

/// How many rows of a table a node has that n1 committed.
fn rows_of_n1(node: &Node, table: &str) -> usize {
    let count = node.value(&format!("SELECT count(*) FROM ({}) x WHERE line LIKE '% of n1 at %'", stamped(table)));
    count.parse().expect("a count")
}

/// One transaction for each number.
pub fn insert_each(session: &mut Session<'_>, table: &str, from: u32, to: u32) {
    session.sql(&format!(
        "DO $$ BEGIN FOR n IN {from} .. {to} LOOP INSERT INTO {table} VALUES (n); COMMIT; END LOOP; END $$"
    ));
}

/// The end of n1's last transaction, as n3 has applied it.
pub fn wait_applied_lsn(n1: &Node, n3: &Node) -> String {
    wait_confirmed(n1, "sub_n3_n1");
    origin_position(n3)
}
