//! The journal in the label on the schema: whose word it is, and what is told of it.

use super::*;

#[test]
fn nobody_but_a_superuser_writes_the_journal_and_only_what_is_one() {
    let cluster = source("rescue_clone_label");
    let [n3] = cluster.all();
    let database = n3.db("postgres");
    n3.sql("CREATE ROLE owner LOGIN REPLICATION; ALTER SCHEMA spock OWNER TO owner");
    let document = journal_of(database, None, &[intent(INTENT, "n1", "")]);
    let set = |text: &str| format!("SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS {text}");
    for text in [format!("'{document}'"), "NULL".to_owned()] {
        let error = refused(database.role("owner"), &set(&text));
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("42501", "only a superuser can set a spock_recovery label")
        );
    }
    for wrong in [
        "x".to_owned(),
        "{}".to_owned(),
        document.replace("\"version\":1", "\"version\":2"),
        document.replace("n1", "ü"),
        document.replace("\"suspensions\"", "\"suspended\""),
        document.replace(INTENT, "7"),
    ] {
        assert_ne!(wrong, document);
        assert_eq!(refused(database, &set(&format!("'{wrong}'"))).sqlstate, "22023", "{wrong}");
    }
    assert_eq!(n3.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    set_journal(database, &document);
    assert_eq!(n3.value("SELECT intent_id, phase FROM spock.recovery_intents()"), format!("{INTENT}|begun"));
    assert_eq!(n3.value(&format!("SELECT spock_internal.recovery_is_open('{INTENT}')")), "t");
}

#[test]
fn a_journal_from_elsewhere_is_inert() {
    let cluster = source("rescue_clone_foreign");
    let [n3] = cluster.all();
    let database = n3.db("postgres");
    let clone = made(database, "'n1', 'n2'");
    n3.sql(&claim(&clone, INTENT));
    // What n3's own journal says, in another server's name.
    let own = n3.value("SELECT label FROM pg_seclabel WHERE provider = 'spock_recovery'");
    let identifier = n3.value("SELECT system_identifier FROM pg_control_system()");
    assert!(own.contains(&identifier) && own.contains(&clone), "{own}");
    set_journal(database, &journal_of(database, Some(7), &[intent(OTHER_INTENT, "n1", "")]));
    assert_eq!(n3.value("SELECT count(*) FROM spock.recovery_intents()"), "0");
    assert_eq!(n3.value(&format!("SELECT spock_internal.recovery_is_open('{OTHER_INTENT}')")), "f");
    assert_eq!(n3.value(REGISTERED), "0");
    assert!(health(database, "recovery").starts_with("HEALTHY|"));
    restart_manager(n3);
    // n3 finds its own clone again, and begins a journal of its own.
    n3.wait_until("SELECT slot_name, intent_id FROM spock.recovery_clones()", &format!("{clone}|"));
    assert_eq!(log_count(n3, "is unfinished, at phase"), 0);
}

#[test]
fn a_copy_of_a_database_leaves_the_clones_of_its_original_alone() {
    let cluster = quick("rescue_clone_copy").start();
    let [server] = cluster.all();
    server.sql("CREATE DATABASE original STRATEGY file_copy");
    let original = server.db("original");
    make_node(original, "n3", &server.dsn("original"));
    wait_slot(original, 1);
    let clone = made(original, "");
    server.sql("CREATE DATABASE copy TEMPLATE original STRATEGY file_copy");
    let copy = server.db("copy");
    server.wait_log("this database is a copy of node \"n3\" made elsewhere");
    server.set(&[("spock.rescue_clone_ttl", "2147483647")]);
    wait_rounds(copy, 5);
    assert_eq!(copy.value(SCHEMA_LABELS), "1");
    assert_eq!(copy.value(REGISTERED), "0");
    copy.sql("SELECT spock.node_drop('n3')");
    wait_rounds(copy, 5);
    assert_eq!(original.value("SELECT slot_name, usable FROM spock.recovery_clones()"), format!("{clone}|t"));
    assert_eq!(copy.value(SCHEMA_LABELS), "1", "a journal that is not its own was removed");
}

#[test]
fn unfinished_recoveries_are_told_at_the_start_and_by_the_health_check() {
    let cluster = source("rescue_clone_unfinished");
    let [n3] = cluster.all();
    let database = n3.db("postgres");
    let verdict = || health(database, "recovery");
    assert_eq!(verdict(), "HEALTHY|none is unfinished");
    let line = |id: &str, phase: &str| format!("recovery of node \"n1\" (intent {id}) is unfinished, at phase {phase}");
    let failed = r#","checkpoint":{"number":2,"phase":"replaying","at":2,"skip":"0/1","stop":"0/9","totals":{"transactions":1,"rows":1,"bytes":1,"conflicts":0,"skipped":0}},"failure":{"sqlstate":"23505","reason":"duplicate key","relation":"public.t","origin_lsn":"0/5","at":3}"#;
    let open = intent(INTENT, "n1", "");
    let waiting = intent(OTHER_INTENT, "n1", failed);

    // It cannot go on, for n3 does not receive from n1.
    set_journal(database, &journal_of(database, None, std::slice::from_ref(&open)));
    n3.wait_until("SELECT status FROM spock.quick_health_check() WHERE check_name = 'recovery'", "WARNING");
    for part in ["recovery of node \"n1\"", INTENT, "at phase begun", "SQLSTATE", "CALL spock.recover_abort('n1')"] {
        assert!(verdict().contains(part), "{part}: {}", verdict());
    }
    restart_manager(n3);
    n3.wait_log(&line(INTENT, "begun"));
    assert_eq!(log_count(n3, "recoveries are unfinished"), 0);

    set_journal(
        database,
        &journal_of(database, None, &[open, waiting, intent("33333333-3333-4333-8333-333333333333", "n1", ENDED)]),
    );
    restart_manager(n3);
    n3.wait_log("WARNING:  2 recoveries are unfinished on this node where one is expected, and none is resumed");
    n3.wait_log(&line(OTHER_INTENT, "replaying"));
    assert!(verdict().starts_with("CRITICAL|2 are unfinished"), "{}", verdict());
    // Told once for each start.
    wait_rounds(database, 3);
    assert_eq!(log_count(n3, &line(INTENT, "begun")), 2);
}
