//! A clone streams what its target lacks, from where the target needs it.

use super::*;
use crate::cluster::Action;
use crate::failpoint_names as names;
use crate::plugin::{bytes, decode, inserted};

const ORIGIN: &str = "SELECT roident FROM pg_replication_origin o JOIN pg_subscription s ON o.roname = 'pg_' || s.oid
                       WHERE s.subname = 'sub_n3_n1'";

/// Which rows of t the clone streams of n1's transactions in (skip, stop].
fn streamed(n3: &Node, clone: &str, skip: &str, stop: &str) -> Vec<String> {
    let mut session = n3.session();
    let (origin, table) = (n3.value(ORIGIN), n3.value("SELECT 't'::regclass::oid"));
    session.sql(&format!(
        "SET spock.rescue_origin = '{origin}'; SET spock.rescue_skip_lsn = '{skip}';
         SET spock.rescue_stop_lsn = '{stop}'; SET spock.rescue_tables = '{table}'"
    ));
    let rows = session
        .rows(&format!("SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('{clone}', NULL, NULL)"));
    let messages: Vec<String> = rows.iter().map(|row| decode(&bytes(row[0].as_deref().expect("data")))).collect();
    inserted(&messages).into_iter().map(|row| row.split(',').next().unwrap_or_default().to_owned()).collect()
}

fn confirmed(n3: &Node, slot: &str) -> String {
    n3.value(&format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'"))
}

#[test]
fn a_clone_starts_where_the_horizon_allows_and_holds_every_transaction_that_its_target_lacks() {
    let cluster = mesh_of_three("rescue_clone_stream");
    let [n1, n2, n3] = cluster.all();
    // The slot stays behind: what a clone leaves out can be seen.
    n3.set(&[("spock.recovery_slot_advance_interval", "1h")]);
    wait_rounds(n3.db("postgres"), 3);
    let held = confirmed(n3, SLOT);
    let insert = |from: u32, to: u32| {
        for id in from..=to {
            n1.sql(&format!("INSERT INTO t VALUES ({id}, 'x')"));
        }
        n3.wait_until(
            &format!("SELECT count(*) FROM t WHERE id BETWEEN {from} AND {to}"),
            &(to - from + 1).to_string(),
        );
    };
    insert(101, 105);
    n2.wait_until("SELECT count(*) FROM t WHERE id > 100", "5");
    let pair = |column: &str| {
        format!("SELECT {column} FROM spock.recovery_horizon() WHERE origin_node = 'n1' AND peer_node = 'n2'")
    };
    n3.wait_until(&pair("blocked_reason IS NULL AND peer_lsn >= own_lsn"), "t");
    wait_rounds(n3.db("postgres"), 3);
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n1.wait_until("SELECT active FROM pg_replication_slots WHERE slot_name = 'sub_n2_n1'", "f");
    insert(106, 110);
    // What n2 has passed is what it has told last, and stays.
    let told = n1.value("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'sub_n2_n1'");
    let passed = n2
        .value(&format!("SELECT greatest(applied_lsn, '{told}') FROM spock.node_positions() WHERE origin_node = 'n1'"));
    n3.wait_until(&pair("blocked_reason, peer_lsn"), &format!("peer_lagging|{passed}"));
    wait_rounds(n3.db("postgres"), 3);
    n3.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    assert_eq!(confirmed(n3, SLOT), held, "the recovery slot was moved: the test shows nothing");

    let (skip, stop, local) = (n3.value(&pair("peer_lsn")), n3.value(&pair("own_lsn")), n3.value(&pair("local_lsn")));
    assert_eq!(n3.value(&format!("SELECT '{local}'::pg_lsn > '{held}' AND '{skip}'::pg_lsn < '{stop}'")), "t");
    let answer = clone_slot(n3.db("postgres"), "'n1', 'n2'");
    assert!(answer.success && answer.original == SLOT, "{answer:?}");
    assert!(answer.message.contains(&local) && answer.message.contains("\"n2\""), "{answer:?}");
    let clone = &answer.clone;
    assert!(clone.starts_with(&format!("{SLOT}_clone_")), "{clone}");
    assert_eq!(
        n3.value(&format!(
            "SELECT plugin, slot_type, temporary, active, failover, catalog_xmin IS NOT NULL, confirmed_flush_lsn,
                    restart_lsn = '{}' FROM pg_replication_slots WHERE slot_name = '{clone}'",
            answer.restart
        )),
        format!("spock_recovery|logical|f|f|f|t|{local}|t")
    );
    let ids = |from: u32, to: u32| (from..=to).map(|id| id.to_string()).collect::<Vec<_>>();
    assert_eq!(streamed(n3, clone, &skip, &stop), ids(106, 110));
    // What n2 has is left out by the clone itself.
    assert_eq!(streamed(n3, clone, "0/0", &stop), ids(106, 110));

    // For nobody in particular: all that the slot has.
    let whole = made(n3.db("postgres"), "");
    assert_ne!(&whole, clone);
    assert_eq!(confirmed(n3, &whole), held);
    let all = streamed(n3, &whole, "0/0", &stop);
    assert!(ids(101, 110).iter().all(|id| all.contains(id)), "{all:?}");
    assert_eq!(
        n3.value(
            "SELECT slot_name, failed_node, target_node, intent_id, active, usable, target_says,
                    created_at > now() - interval '1 minute' FROM spock.recovery_clones() ORDER BY created_at"
        ),
        format!("{clone}|n1|n2||f|t||t\n{whole}|||||f|t||t").replace("|||||", "||||")
    );
    assert_eq!(confirmed(n3, SLOT), held, "cloning moves the recovery slot itself");

    // n2 as the target and n1 as the failed node alone leave nothing out.
    for arguments in ["failed_node_name => 'n1'", "target_node_name => 'n2'"] {
        let answer = clone_slot(n3.db("postgres"), arguments);
        assert_eq!((answer.success, confirmed(n3, &answer.clone)), (true, held.clone()), "{arguments}: {answer:?}");
    }
}

#[test]
fn without_a_horizon_a_clone_starts_where_the_slot_does_and_two_calls_make_two() {
    let cluster = source("rescue_clone_plain");
    let [n3] = cluster.all();
    n3.set(&[("spock.recovery_slot_advance_interval", "1h")]);
    wait_rounds(n3.db("postgres"), 3);
    let mut session = n3.session();
    let first = answer(&session.rows(&call("'n1', 'n2'"))[0]);
    let second = answer(&session.rows(&call("'n1', 'n2'"))[0]);
    assert!(first.success && second.success && first.clone < second.clone, "{first:?}, {second:?}");
    assert_eq!(
        n3.value("SELECT count(*), count(DISTINCT confirmed_flush_lsn) FROM pg_replication_slots"),
        "3|1",
        "{first:?}, {second:?}"
    );
    assert_eq!(
        n3.value("SELECT slot_name FROM spock.recovery_clones() ORDER BY 1"),
        [first.clone, second.clone].join("\n")
    );
    assert!(first.message.contains("starts where the recovery slot does"), "{}", first.message);
    // Many at once: each has a name of its own, and is registered.
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(|| made(n3.db("postgres"), ""))).collect();
        for call in calls {
            call.join().expect("a clone");
        }
    });
    assert_eq!(n3.value(REGISTERED), "6");
    assert_eq!(n3.value(CLONES), "6");
}

#[test]
fn whatever_a_database_is_called_its_clones_have_legal_names_and_are_known() {
    let cluster = quick("rescue_clone_names").start();
    let [server] = cluster.all();
    for name in [&"x".repeat(63), "we\"ird 'n", "größe", "a_clone_20261120124300000000"] {
        server.sql(&format!("CREATE DATABASE {} STRATEGY file_copy", spock_recovery_cluster::client::identifier(name)));
        let database = server.db(name);
        make_node(database, "n3", "host=/nonexistent");
        wait_slot(database, 1);
        let clone = made(database, "");
        assert_eq!(database.value("SELECT slot_name, usable FROM spock.recovery_clones()"), format!("{clone}|t"));
    }
}

#[test]
fn a_recovery_that_asks_again_gets_the_same_clone_where_it_was() {
    let cluster = source("rescue_clone_again");
    let [n3] = cluster.all();
    let ask = |intent: &str| {
        format!("SELECT cloned_slot_name FROM spock_internal.clone_for_recovery('{intent}', 5, 'n1', 'n2')")
    };
    let clone = n3.value(&ask(INTENT));
    let position = confirmed(n3, &clone);
    assert_eq!(n3.value(&ask(INTENT)), clone);
    assert_eq!(confirmed(n3, &clone), position);
    // What goes wrong while it is found again does not cost it.
    n3.arm(names::CLONE_COPIED, Action::Error);
    refused(n3.db("postgres"), &ask(INTENT));
    assert_eq!(n3.value(&ask(INTENT)), clone);
    // Nor does one that was begun elsewhere in the same microsecond.
    let other = n3.value(&ask(OTHER_INTENT));
    assert_ne!(other, clone);
    assert_eq!(
        n3.value("SELECT slot_name, intent_id FROM spock.recovery_clones() ORDER BY 1"),
        format!("{clone}|{INTENT}\n{other}|{OTHER_INTENT}")
    );
    assert_eq!(n3.value(CLONES), "2");
}
