//! A rebuild that is aborted in the middle of a copy leaves an incomplete table: everybody is told, nobody takes it for a
//! source, and a rebuild mends it.

use super::kills::call_again;
use super::run::{TABLES, fill};
use super::{intent, pin_call};
use crate::cluster::{Action, Cluster, Node};
use crate::failpoint_names as names;
use crate::rescue::drain;
use crate::slot_keeps::{quick, start_mesh};
use std::thread;

const HEALTH: &str = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'incomplete_tables'";

/// Two tables of n2 are being copied from n3, they are empty, and no row has been committed, when the rebuild is aborted.
fn abort_in_the_middle_of_a_copy(n2: &Node) {
    n2.arm(names::COPY_BEFORE_COMMIT, Action::Wait);
    let mut session = n2.session();
    thread::scope(|scope| {
        let call = scope.spawn(move || {
            session.try_sql(
                "CALL spock.rebuild_run('n2', 'n3', tables := ARRAY['other'::regclass, 'odd.\"T $ ''\"'], method := 'copy')",
            )
        });
        n2.wait_hit(names::COPY_BEFORE_COMMIT);
        assert_eq!(n2.value(HEALTH), "", "a rebuild that is under way has a line of its own");
        let abort = scope.spawn(|| n2.try_sql("CALL spock.rebuild_abort()"));
        n2.wait_until("SELECT must_abort FROM (SELECT (i ->> 'must_abort')::bool AS must_abort FROM pg_seclabel l, jsonb_array_elements(l.label::jsonb -> 'intents') i WHERE provider = 'spock_recovery' AND objoid = 'spock'::regnamespace AND i -> 'end' IS NULL) x", "t");
        // The worker that waits is ended.
        abort.join().expect("it ends").expect("it is aborted");
        call.join().expect("it ends").expect_err("it was aborted");
        n2.disarm(names::COPY_BEFORE_COMMIT);
    });
    assert_eq!(n2.value("SELECT count(*) FROM other"), "0");
}

fn cluster(name: &str) -> Cluster {
    let tables = format!("{TABLES}; CREATE SCHEMA odd; CREATE TABLE odd.\"T $ '\" (id int PRIMARY KEY, v text)");
    let cluster = start_mesh(quick(name, 3), &tables);
    let [n1, n2, n3] = cluster.all();
    n1.sql("INSERT INTO odd.\"T $ '\" SELECT g, 'odd' FROM generate_series(1, 50) g");
    fill(n1, n2, n3);
    cluster
}

#[test]
fn an_incomplete_table_is_told_and_no_source_until_it_is_rebuilt() {
    let cluster = cluster("rebuild_incomplete");
    let [n1, n2, n3] = cluster.all();
    cluster.expect_log("could not connect to the publisher");
    abort_in_the_middle_of_a_copy(n2);
    n2.wait_until("SELECT count(*) FROM pg_subscription WHERE NOT subenabled", "0");
    // Whatever is restarted, it stays so.
    n2.restart();
    n2.wait_until(HEALTH, "CRITICAL");
    for node in [n1, n3] {
        assert_eq!(node.value(HEALTH), "", "{}", node.name());
    }
    let refused = n2.try_sql("INSERT INTO other VALUES (-1, 'lost')").expect_err("it would be lost");
    let hint = refused.hint.clone().unwrap_or_default();
    assert_eq!((refused.sqlstate.as_str(), hint.contains("CALL spock.rebuild_run(")), ("55006", true), "{refused}");
    // The other tables replicate, in both directions.
    n3.sql("INSERT INTO t (node, v) VALUES ('n3', 'meanwhile'); UPDATE other SET v = 'meanwhile' WHERE id = 7");
    n2.sql("INSERT INTO t (node, v) VALUES ('n2', 'meanwhile')");
    drain(n2, n3);
    drain(n1, n2);
    assert_eq!(n2.value("SELECT count(*) FROM t WHERE v = 'meanwhile'"), "2");
    it_is_no_source(n1, n2, n3);
    it_is_not_compared(n2, n3);
    // What the health check says is typed.
    let details = n2.value("SELECT details FROM spock.quick_health_check() WHERE check_name = 'incomplete_tables'");
    let (_, rest) = details.split_once("CALL ").expect("a command");
    let (command, _) = rest.split_once(';').expect("its end");
    assert!(command.contains("public.other") && command.contains("odd.\"T $ ''\""), "{command}");
    call_again(n2, &format!("CALL {command}"));
    for (one, other) in [(n1, n2), (n1, n3), (n2, n3)] {
        drain(one, other);
    }
    for table in ["other", "t", "u", "odd.\"T $ '\""] {
        let digest = format!("SELECT count(*), sum(hashtextextended(x::text, 0)) FROM {table} x");
        assert_eq!(n2.value(&digest), n3.value(&digest), "{table}");
    }
    assert_eq!(n2.value("SELECT count(*) FROM other"), "300");
    assert_eq!(n2.value(HEALTH), "");
    assert_eq!(n2.value("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'spock_parked%'"), "0");
    n2.sql("INSERT INTO other VALUES (-1, 'kept')");
    n2.wait_until("SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'", "0");
    n3.sql("CALL spock.rebuild_run('n3', 'n2', tables := ARRAY['other'::regclass])");
    assert_eq!(n3.value("SELECT v FROM other WHERE id = -1"), "kept");
}

/// n2's tables are not what others get, and its other ones are.
fn it_is_no_source(n1: &Node, n2: &Node, n3: &Node) {
    for call in [
        "CALL spock.rebuild_run('n3', 'n2')",
        "CALL spock.rebuild_run('n3', 'n2', tables := ARRAY['t'::regclass, 'other'::regclass], method := 'copy')",
    ] {
        let refused = n3.try_sql(call).expect_err(call);
        let hint = refused.hint.clone().unwrap_or_default();
        assert_eq!(refused.sqlstate, "55000", "{refused}");
        assert!(
            refused.message.contains("of source node \"n2\" is incomplete") && refused.detail.is_some(),
            "{refused}"
        );
        assert!(hint.contains("CALL spock.rebuild_run('n2', tables := ARRAY['"), "{hint}");
    }
    assert_eq!(n3.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    assert_eq!(n3.value("SELECT count(*) FROM other"), "300");
    let pinned = n2.try_sql(&pin_call(&intent(1), "'public.t', 'public.other'", "").replace("'n2'", "'n3'")).err();
    let pinned = pinned.expect("it is incomplete");
    assert_eq!(pinned.sqlstate, "55000", "{pinned}");
    assert!(pinned.message.contains("table public.other of node \"n2\" is incomplete"), "{pinned}");
    n2.wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
    call_again(n3, "CALL spock.rebuild_run('n3', 'n2', tables := ARRAY['t'::regclass])");
    // n1 is lost: n2 needs a rebuild although it has passed everything.
    drain(n1, n2);
    drain(n1, n3);
    n1.stop_fast();
    n3.wait_until("SELECT outcome, reason FROM spock.recover_plan('n1', 'n2')", "needs_rebuild|target_table_not_ready");
    let refused = n2.try_sql("CALL spock.recover_run('n1', 'n3')").expect_err("it lacks rows");
    assert!(refused.hint.clone().unwrap_or_default().contains("spock.rebuild_run("), "{refused}");
    n1.start();
}

fn it_is_not_compared(n2: &Node, n3: &Node) {
    for (node, other) in [(n2, "n3"), (n3, "n2")] {
        let report = node.value(&format!("CALL spock.compare('{other}', repair := true)"));
        let report: serde_json::Value = serde_json::from_str(&report).expect("a report");
        let table = crate::compare::of_table(&report, "public.other");
        assert_eq!(table["outcome"], "not_comparable", "{report}");
        assert_eq!(table["reason"], "a copy of it on node \"n2\" is not complete", "{report}");
        assert_eq!(report["not_comparable"], 2, "{report}");
    }
}
