//! What stands in the way of a recovery has its own reason, shown to whoever asks; and nothing is changed by asking.

use super::{fail, make_gap, plan, plan_query, start, state};
use crate::cluster::Node;

/// What n2 and n3 both plan for n2 is this; planning has changed nothing.
fn assert_reason(nodes: [&Node; 2], reason: &str) {
    let before = nodes.map(state);
    for node in nodes {
        let seen = plan(node, "n2");
        let expected = match reason {
            "gap_covered" => "catch_up|gap_covered|n3".to_owned(),
            reason => format!("needs_rebuild|{reason}|n3"),
        };
        assert_eq!(seen, expected, "asked on {}: {}", node.name(), failing(node));
    }
    assert_eq!(before, nodes.map(state), "{reason}");
}

fn failing(node: &Node) -> String {
    node.value(
        "SELECT string_agg(c::text, ' ') FROM spock.recover_plan('n1', 'n2'),
                jsonb_array_elements((plan->'proof') || (plan->'pins')) c
          WHERE NOT coalesce(c->>'holds', c->>'is_free')::boolean",
    )
}

/// The prepared transaction of a subscription's, as its worker names it.
fn prepare(node: &Node, subscription: &str) -> String {
    let gid =
        node.value(&format!("SELECT 'pg_gid_' || oid || '_7' FROM pg_subscription WHERE subname = '{subscription}'"));
    node.sql(&format!("BEGIN; INSERT INTO t VALUES (100000); PREPARE TRANSACTION '{gid}'"));
    gid
}

#[test]
fn each_thing_that_stands_in_the_way_has_its_own_reason() {
    let cluster = start("plan_violations", 3);
    let [_, n2, n3] = cluster.all();
    let both = [n2, n3];
    make_gap(&cluster);
    fail(&cluster);
    assert_reason(both, "gap_covered");

    n3.sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
    );
    assert_reason(both, "gap_covered");
    for kind in ["REPLICA", "ALWAYS"] {
        n3.sql(&format!("ALTER TABLE t ENABLE {kind} TRIGGER note"));
        assert_reason(both, "source_replica_trigger");
    }
    n3.sql("DROP TRIGGER note ON t");

    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET PUBLICATION mesh, other WITH (refresh = false)");
    assert_reason(both, "publications_differ");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 SET PUBLICATION mesh WITH (refresh = false)");

    let set_state = |state| {
        n2.sql(&format!(
            "UPDATE pg_subscription_rel SET srsubstate = '{state}' WHERE srrelid = 't'::regclass
                AND srsubid = (SELECT oid FROM pg_subscription WHERE subname = 'sub_n2_n1')"
        ));
    };
    set_state("d");
    assert_reason(both, "target_table_not_ready");
    set_state("r");

    for (node, subscription, reason) in
        [(n2, "sub_n2_n1", "target_prepared_transaction"), (n3, "sub_n3_n1", "source_prepared_transaction")]
    {
        let gid = prepare(node, subscription);
        assert_reason(both, reason);
        node.sql(&format!("ROLLBACK PREPARED '{gid}'"));
    }

    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 SKIP (lsn = 'FF/1')");
    assert_reason(both, "source_skipped_transaction");
    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 SKIP (lsn = NONE)");

    let n1 = cluster.node("n1").dsn("postgres");
    n2.sql(&format!(
        "CREATE SUBSCRIPTION second CONNECTION '{n1}' PUBLICATION mesh WITH (connect = false, slot_name = NONE, enabled = false)"
    ));
    // It has never been connected: nobody waits for it. This one knows a table.
    assert_reason(both, "gap_covered");
    n2.sql(
        "INSERT INTO pg_subscription_rel SELECT oid, 't'::regclass, 'r' FROM pg_subscription WHERE subname = 'second'",
    );
    assert_reason(both, "target_origin_unknown");
    n2.sql("SELECT spock.sub_set_origin('second', NULL)");
    assert_reason(both, "gap_covered");
    n2.sql("SELECT spock.sub_set_origin('second', 'n1')");
    assert_reason(both, "target_subscribes_twice");
    n2.sql("DROP SUBSCRIPTION second");

    if n3.value("SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'") == "1" {
        let listed = n3.value("SHOW output_plugin_libraries").replace('"', "");
        n3.set(&[("output_plugin_libraries", "pgoutput, test_decoding")]);
        assert_reason(both, "plugin_not_listed");
        n3.set(&[("output_plugin_libraries", &listed)]);
    }

    n3.sql(
        "SELECT pg_create_physical_replication_slot('fill_' || n)
           FROM generate_series(1, current_setting('max_replication_slots')::int
                                   - (SELECT count(*)::int FROM pg_replication_slots)) n",
    );
    assert_reason(both, "no_free_slot");
    n3.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'fill_%'");
    assert_reason(both, "gap_covered");

    // What the slot has let go by itself cannot be had from the next generation.
    n3.sql("SELECT spock.drop_recovery_slot()");
    n2.wait_until(&plan_query("n2"), "needs_rebuild|released_beyond_target|n3");
    assert_reason(both, "released_beyond_target");

    n3.sql("ALTER SUBSCRIPTION sub_n3_n1 DISABLE; ALTER SUBSCRIPTION sub_n3_n1 SET (slot_name = NONE)");
    n3.sql("DROP SUBSCRIPTION sub_n3_n1");
    assert_eq!(plan(n2, "n2"), "|no_source|");
    n3.sql(&format!(
        "CREATE SUBSCRIPTION sub_n3_n1 CONNECTION '{n1}' PUBLICATION mesh WITH (connect = false, slot_name = NONE, enabled = false)"
    ));
    n3.sql("SELECT spock.sub_set_origin('sub_n3_n1', 'n1')");
    assert_reason(both, "source_progress_unknown");
}

#[test]
fn a_source_whose_subscription_was_made_anew_and_has_copied_rows_is_none() {
    let cluster = start("plan_recreated", 3);
    let [n1, n2, n3] = cluster.all();
    make_gap(&cluster);
    n3.sql("DROP SUBSCRIPTION sub_n3_n1");
    // Under an origin, so that the mesh does not replicate it.
    n3.sql(
        "SELECT pg_replication_origin_create('hand'), pg_replication_origin_session_setup('hand'); TRUNCATE first, t, held",
    );
    n3.sql(&format!(
        "CREATE SUBSCRIPTION sub_n3_n1 CONNECTION '{}' PUBLICATION mesh WITH (origin = any)",
        n1.dsn("postgres")
    ));
    n3.wait_until("SELECT count(*) FROM t", "70");
    n3.wait_until("SELECT bool_and(ready) FROM spock.node_positions() WHERE origin_node = 'n1'", "t");
    // Before that it can say nothing of its new subscription.
    n3.wait_until("SELECT status FROM spock.quick_health_check() WHERE check_name = 'vouching'", "HEALTHY");
    n1.kill9();
    // Its rows came with the copy: they are in nobody's WAL as n1's.
    n2.wait_until(&plan_query("n2"), "needs_rebuild|released_beyond_target|n3");
    let failing = "SELECT count(*) FROM spock.recover_plan('n1', 'n2'), jsonb_array_elements(plan->'proof') c
                    WHERE c->>'name' = 'source_tables_were_copied_before' AND NOT (c->>'holds')::boolean";
    assert_eq!(n2.value(failing), "1");
}

#[test]
fn a_source_that_has_skipped_a_transaction_is_none() {
    let cluster = start("plan_skipped", 3);
    let [n1, n2, n3] = cluster.all();
    n3.expect_log("no thanks");
    n3.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF NEW.id = 7 THEN RAISE 'no thanks'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse();
         ALTER TABLE t ENABLE REPLICA TRIGGER refuse",
    );
    n1.sql("INSERT INTO t VALUES (7)");
    n3.wait_log("in transaction ");
    let log = n3.log();
    let finished = log.split("finished at ").nth(1).expect("the position of what fails");
    let lsn: String = finished.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '/').collect();
    n3.sql(&format!("ALTER SUBSCRIPTION sub_n3_n1 SKIP (lsn = '{lsn}')"));
    n3.sql("DROP TRIGGER refuse ON t");
    n3.wait_until("SELECT subskiplsn FROM pg_subscription WHERE subname = 'sub_n3_n1'", "0/0");
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");
    n1.sql("INSERT INTO held VALUES (2)");
    n3.wait_until("SELECT count(*) FROM held", "1");
    n1.sql("SELECT pg_logical_emit_message(true, 'flush', '')");
    n1.kill9();
    n2.wait_until(&plan_query("n2"), "needs_rebuild|source_skipped_transaction|n3");
}
