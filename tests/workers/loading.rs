//! With and without shared_preload_libraries, and in a server of pg_upgrade.

use std::fs::File;
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use spock_recovery_cluster::{client, process, spawn};

use super::*;
use crate::cluster::{SqlError, wait_for};

fn assert_names_the_setting(error: &SqlError) {
    assert_eq!(error.sqlstate, "55000", "{error}");
    assert_eq!(error.message, "spock_recovery must be loaded by shared_preload_libraries");
    assert!(
        error.hint.as_deref().is_some_and(|hint| hint.contains("ALTER SYSTEM SET shared_preload_libraries")),
        "{error}"
    );
}

#[test]
fn without_preloading_create_extension_names_the_setting() {
    let cluster = Cluster::new("workers_plain").plain().start();
    let [server] = cluster.all();
    let mut session = server.session();
    // Also the second time, when the library is half loaded.
    for _ in 0..2 {
        assert_names_the_setting(&session.try_sql("CREATE EXTENSION spock_recovery").expect_err("not preloaded"));
    }
    assert_eq!(session.value("SELECT count(*) FROM pg_extension WHERE extname = 'spock_recovery'"), "0");
}

#[test]
fn without_preloading_every_function_of_an_existing_extension_names_the_setting() {
    let cluster = without_naps("workers_plain_later").start();
    let [server] = cluster.all();
    two_nodes_in_one_server(server);
    // ALTER SYSTEM makes an empty name of an empty list: another library, then.
    server.set(&[("shared_preload_libraries", "pgoutput")]);
    server.restart();
    // But for one that is an error already, and one that sets settings: they ask nobody.
    let functions = server.db("a").rows(
        "SELECT CASE p.prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT * FROM ' END || p.oid::regproc, string_agg('NULL::' || format_type(a.type, NULL), ', ' ORDER BY a.place)
           FROM pg_proc p LEFT JOIN unnest(p.proargtypes) WITH ORDINALITY a (type, place) ON true
          WHERE p.pronamespace = 'spock'::regnamespace AND NOT p.proisstrict AND p.proname NOT IN ('refuse_recovery', 'begin_step') GROUP BY p.oid",
    );
    assert!(functions.len() >= 8, "{functions:?}");
    for row in functions {
        let [Some(verb), arguments] = row.as_slice() else { panic!("{row:?}") };
        let call = format!("{verb}({})", arguments.as_deref().unwrap_or_default());
        assert_names_the_setting(&server.db("a").try_sql(&call).expect_err(&call));
    }
    for view in ["node", "local_node"] {
        let query = format!("SELECT * FROM spock.{view}");
        assert_names_the_setting(&server.db("a").try_sql(&query).expect_err(view));
    }
    assert_eq!(super::names(&workers(server)), [""; 0]);
}

/// A postmaster of our own, ended with its test.
struct Upgrading(Child);

impl Drop for Upgrading {
    fn drop(&mut self) {
        let _ = process::send(self.0.id().cast_signed(), Signal::SIGQUIT);
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_in_binary_upgrade_mode_starts_no_worker() {
    let cluster = without_naps("workers_upgrade").start();
    let [server] = cluster.all();
    server.sql("CREATE EXTENSION spock_recovery");
    wait_worker(server, "manager", "postgres");
    server.stop_fast();
    let log = File::create(cluster.folder().join("upgrade.log")).expect("a log");
    let mut command = cluster.user().command(&cluster.installation().bindir.join("postgres"));
    command
        .arg("-b")
        .arg("-D")
        .arg(server.data())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log);
    let child = Upgrading(spawn::tethered(command).expect("started"));
    let config = client::config(cluster.folder(), 5432, "postgres");
    let mut session = None;
    wait_for("the server", || {
        session = config.connect(postgres::NoTls).ok();
        session.is_some()
    });
    let mut session = session.expect("connected");
    // The time for a launcher to come up, and what would wake it.
    client::rows(&mut session, "CHECKPOINT").expect("done");
    client::rows(&mut session, "DROP EXTENSION spock_recovery").expect("done");
    let rows = client::rows(
        &mut session,
        "SELECT backend_type FROM pg_stat_activity WHERE backend_type LIKE 'spock_recovery %'",
    );
    assert_eq!(rows.expect("rows"), Vec::<Vec<Option<String>>>::new());
    let titles: Vec<String> =
        process::children(child.0.id().cast_signed()).into_iter().map(|child| child.title).collect();
    assert!(!titles.iter().any(|title| title.contains("spock_recovery")), "{titles:?}");
}
