//! What lies around the base backup: what the living node has not applied yet, what it has prepared, and what is its alone.

use std::fs;
use std::thread;

use spockctl::node::journal::Step;
use spockctl::node::{Error, Options};

use super::{Made, TABLES, assert_equal, assert_healthy, assert_replicates, builder, create_node, done, options};
use crate::cluster::wait_for;
use crate::slot_keeps::start_mesh;

#[test]
fn what_the_living_node_has_not_applied_is_waited_for_and_what_it_has_prepared_comes_once() {
    let builder = builder("node_around", 2).setting("max_prepared_transactions", "10");
    let mut cluster = start_mesh(builder, TABLES);
    cluster.add_place();
    let cluster = Made::of(cluster);
    let [n1, n2, n3] = cluster.all();
    let given = options(&cluster, n2, n3);
    let until = |step| Options { end_after: Some(step), ..given.clone() };

    // n2 cannot apply what n1 has committed before the new node's slot is there.
    let mut lock = n2.session();
    lock.sql("SET idle_in_transaction_session_timeout = 0; BEGIN; LOCK TABLE plain IN EXCLUSIVE MODE");
    n1.sql("DO $$ BEGIN FOR i IN 1 .. 30 LOOP INSERT INTO plain VALUES ('early', i); COMMIT; END LOOP; END $$");
    thread::scope(|scope| {
        // Another transaction's lock must not hold up a slot of n2: it has no xid.
        let command = scope.spawn(|| create_node(&until(Step::Passed)));
        let question = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = ''sub_n2_n1''";
        let waits = format!("SELECT count(*) > 0 FROM pg_stat_activity WHERE query = '{question}'");
        wait_for("the command to wait for n2", || command.is_finished() || n1.value(&waits) == "t");
        lock.sql("COMMIT");
        let (_, result) = command.join().expect("it does not panic");
        assert!(matches!(result, Err(Error::Ended(_))), "{result:?}");
    });
    assert_eq!(n2.value("SELECT count(*) FROM plain WHERE writer = 'early'"), "30", "the backup begins with all of it");

    n2.sql("BEGIN; INSERT INTO keyed VALUES ('prepared', 1); INSERT INTO plain VALUES ('prepared', 1); PREPARE TRANSACTION 'p'");
    done(create_node(&given));
    assert_eq!(n3.value("SELECT count(*) FROM pg_prepared_xacts"), "0");
    n2.sql("COMMIT PREPARED 'p'");
    for node in [n1, n2, n3] {
        node.wait_until("SELECT count(*) FROM keyed WHERE writer = 'prepared'", "1");
    }
    let early = vec![("prepared".to_owned(), 1)];
    assert_equal(&cluster, &["n1", "n2", "n3"], &[&early]);
    assert_eq!(n3.value("SELECT count(*), count(DISTINCT seq) FROM plain WHERE writer = 'early'"), "30|30");
    assert_healthy(&cluster, &["n1", "n2", "n3"]);
}

#[test]
fn what_is_the_living_nodes_alone_does_not_come_along() {
    let mut cluster = start_mesh(builder("node_alone", 2), TABLES);
    cluster.add_place();
    let cluster = Made::of(cluster);
    let [n1, n2, n3] = cluster.all();
    let mut given = options(&cluster, n1, n3);
    let [there, here] = ["space", "copied space=5"].map(|name| cluster.folder().join(name));
    cluster.user().make_folder(&there).expect("a folder");
    n1.sql(&format!("CREATE TABLESPACE space LOCATION '{}'", there.display()));
    n2.sql("CREATE TABLE own (id int)");
    n1.sql("CREATE TABLE own TABLESPACE space AS SELECT 7 AS id");
    n1.sql("CREATE SUBSCRIPTION foreigner CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false, slot_name = 'theirs')");
    n1.sql("SELECT spock.sub_set_origin('foreigner', NULL)");
    n1.set(&[("archive_command", "false")]);
    // The names that a mesh has chosen for itself.
    given.slot_names = Some("{source}_feeds_{target}".into());

    let (text, result) = create_node(&given);
    assert!(matches!(result, Err(Error::Findings(1))), "{result:?}");
    assert!(text.contains(&format!("--tablespace '{}=FOLDER'", there.display())), "{text}");
    given.tablespaces = vec![(there.display().to_string(), here.clone())];
    given.settings = vec![("work_mem".into(), "7MB".into())];
    done(create_node(&given));

    assert_eq!(n3.value("SELECT id FROM own"), "7");
    assert_eq!(
        n3.value("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'"),
        here.display().to_string()
    );
    assert!(fs::read_dir(&here).is_ok_and(|mut entries| entries.next().is_some()));
    assert_eq!(
        n3.value("SELECT string_agg(subname, ',' ORDER BY subname) FROM pg_subscription"),
        "sub_n3_n1,sub_n3_n2"
    );
    assert_eq!(n1.value("SELECT subslotname FROM pg_subscription WHERE subname = 'foreigner'"), "theirs");
    assert_eq!(
        n3.value("SELECT current_setting('archive_command') || '|' || current_setting('work_mem')"),
        "(disabled)|7MB"
    );
    assert_eq!(n1.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'n1_feeds_n3' AND active"), "1");
    assert_replicates(&cluster, &["n1", "n2", "n3"], "after");
}
