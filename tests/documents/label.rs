//! The registry's label on a subscription.

use super::*;
use crate::slot_life::mesh_of_three;
use crate::slot_life::wait_blocked;

#[test]
fn a_subscription_with_an_unreadable_label_is_nobodys_and_is_not_labelled_anew() {
    let cluster = mesh_of_three("documents_label");
    let [n1, _, n3] = cluster.all();
    cluster.expect_log("cannot be read");
    let label = Label::subscription(n3);
    let name = n3.value("SELECT subname FROM pg_subscription WHERE oid = (SELECT min(oid) FROM pg_subscription)");
    let origin = format!("SELECT spock.subscription_origin(oid) FROM pg_subscription WHERE subname = '{name}'");
    let known = n3.value(&origin);
    assert_eq!(known, "n1");
    let vouched =
        "SELECT bool_and(released_lsn < 'FFFFFFFF/FFFFFFFF') FROM spock.recovery_horizon() WHERE origin_node = 'n1'";
    n3.wait_until(vouched, "t");
    let unreadable = label.edit(LATER);
    let document = format!("label of SUBSCRIPTION {name}");
    assert_critical(n3.db("postgres"), &document, &["version 2", "Install the version"]);
    assert_eq!(n3.value(&origin), "");
    let refused = assert_refused(n3, &format!("SELECT spock.sub_set_origin('{name}', 'n1')"));
    assert!(refused.message.contains(&format!("the label of SUBSCRIPTION {name}")), "{refused}");
    assert_refused(n3, "CALL spock.recover_run(failed_node_name := 'n2', source_node_name := 'n1')");
    wait_blocked(n3.db("postgres"), "peer_unknown");
    // The provider is there, and would say who it is; but nobody asks it, and nothing is written.
    rounds(n3);
    n3.restart();
    n3.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "connected");
    rounds(n3);
    assert_eq!(label.text(), unreadable);
    // Its changes still come.
    n1.sql("INSERT INTO t VALUES (50, 'of n1')");
    n3.wait_until("SELECT v FROM t WHERE id = 50", "of n1");

    label.replace((LATER.1, LATER.0));
    assert_eq!(n3.value(&origin), known);
    // What was let go before is known still.
    rounds(n3);
    assert_eq!(n3.value(vouched), "t");
    // One that is damaged is removed as the health check says, and written anew.
    label.edit((r#""set_by":"discovery""#, r#""set_by":"wreck""#));
    let removal = format!("SECURITY LABEL FOR spock_recovery ON SUBSCRIPTION {name} IS NULL;");
    assert_critical(n3.db("postgres"), &document, &["does not validate", &removal]);
    n3.sql(&removal);
    n3.wait_until(&origin, &known);
    assert_eq!(verdict(n3.db("postgres"), &document), "");
    // A newer library's field stays when the label is written again.
    label.edit(NEWER);
    n3.sql(&format!("SELECT spock.sub_set_origin('{name}', 'n1')"));
    assert!(label.text().contains(NEWER_FIELD) && label.text().contains("user"), "{}", label.text());
}
