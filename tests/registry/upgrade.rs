//! pg_upgrade of a node from 17 to 18, by the steps that the documentation gives.
//!
//! In the run of 18: by then scripts/test.sh has installed the extension into both.

use super::{ORIGINS, make_nodes, refused, start, wait_round};
use crate::cluster::Cluster;
use spock_recovery_cluster::{Installation, mesh};

const OLD: u32 = 17;
const NEW: u32 = 18;

/// The server of the older major with the extension in it. scripts/test.sh leaves the test out where there is none.
fn old_installation(cluster: &Cluster) -> Installation {
    assert_eq!(cluster.major(), NEW, "the upgrade to {NEW} is tested in the run of {NEW}");
    let old = Installation::find_major(OLD, cluster.user()).unwrap_or_else(|error| panic!("{error}"));
    assert!(
        old.sharedir.join("extension/spock_recovery.control").is_file(),
        "PostgreSQL {OLD} does not have the extension: run make test for both majors"
    );
    old
}

#[test]
fn a_node_survives_pg_upgrade_and_is_adopted_under_its_name() {
    // Preloaded before pg_upgrade: it checks every library of the old cluster by loading it.
    let new = start(Cluster::new("registry_upgrade_new"));
    let installation = old_installation(&new);
    let old_bindir = installation.bindir.clone();
    let old = start(Cluster::new("registry_upgrade_old").nodes(2).installation(installation));
    let [n1, n2] = old.all();
    old.sql("CREATE TABLE t (id int PRIMARY KEY)");
    old.mesh();
    make_nodes(&old);
    n1.wait_until(ORIGINS, "sub_n1_n2|n2");
    // Comes from a node that nobody can ask any more.
    n1.sql("SELECT spock.peer_create('dead', 'host=/nonexistent dbname=x')");
    n1.sql("CREATE SUBSCRIPTION sub_dead CONNECTION 'host=/nonexistent dbname=x' PUBLICATION p WITH (connect = false)");
    n1.sql("SELECT spock.sub_set_origin('sub_dead', 'dead')");
    n1.sql("INSERT INTO t VALUES (1)");
    n2.sql("INSERT INTO t VALUES (2)");
    for node in [n1, n2] {
        node.wait_until("SELECT id FROM t ORDER BY 1", "1\n2");
    }
    n1.sql("ALTER SUBSCRIPTION sub_n1_n2 DISABLE");
    // pg_upgrade refuses a logical slot that still has WAL to decode.
    n1.set(&[("spock.enable_recovery_slots", "off")]);
    n1.wait_until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_recovery%'", "0");
    n1.stop_fast();
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 DISABLE");

    let [upgraded] = new.all();
    upgraded.stop_fast();
    let command = |program: std::path::PathBuf, arguments: &[&str]| {
        let work = new.folder().join("work");
        if !work.is_dir() {
            new.user().make_folder(&work).unwrap_or_else(|error| panic!("{error}"));
        }
        let output = new
            .user()
            .command(&program)
            .current_dir(work)
            .args(arguments)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}", program.display());
    };
    let old_data = n1.data().display().to_string();
    let new_data = upgraded.data().display().to_string();
    // initdb of 18 turns checksums on, that of 17 does not.
    command(old_bindir.join("pg_checksums"), &["--enable", "--no-sync", "-D", &old_data]);
    command(
        new.installation().bindir.join("pg_upgrade"),
        &[
            "--old-bindir",
            &old_bindir.display().to_string(),
            "--old-datadir",
            &old_data,
            "--new-datadir",
            &new_data,
            "--username=postgres",
            "--no-sync",
            "--socketdir",
            &new.folder().display().to_string(),
        ],
    );
    upgraded.start();

    // Another server now, by its system identifier: it does nothing until it is told that it takes the node's place.
    upgraded.wait_log("this database is a copy of node \"n1\"");
    assert_eq!(upgraded.value("SELECT count(*) FROM spock_internal.node_identity()"), "0");
    assert_eq!(upgraded.value(ORIGINS), "sub_dead|\nsub_n1_n2|");
    refused(
        upgraded.db("postgres"),
        "SELECT spock.node_create('n3', 'dbname=postgres')",
        "55000",
        "spock.node_create('n1'",
    );
    upgraded.sql(&format!("SELECT spock.node_create('n1', '{}')", upgraded.dsn("postgres")));
    assert_eq!(upgraded.value(ORIGINS), "sub_dead|dead\nsub_n1_n2|n2");
    assert_eq!(upgraded.value("SELECT node_name, is_local FROM spock.node ORDER BY 1"), "dead|f\nn1|t\nn2|f");

    // Replication goes on, both ways.
    n2.sql(&format!(
        "ALTER SUBSCRIPTION {} CONNECTION '{}'",
        mesh::subscription_name("n2", "n1"),
        upgraded.dsn("postgres")
    ));
    n2.sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    upgraded.sql("ALTER SUBSCRIPTION sub_n1_n2 ENABLE");
    upgraded.sql("INSERT INTO t VALUES (3)");
    n2.sql("INSERT INTO t VALUES (4)");
    for node in [upgraded, n2] {
        node.wait_until("SELECT id FROM t ORDER BY 1", "1\n2\n3\n4");
    }
    upgraded.wait_until("SELECT state FROM spock.peer_status() WHERE node_name = 'n2'", "connected");
    wait_round(n2.db("postgres"));
    assert_eq!(n2.value(ORIGINS), "sub_n2_n1|n1");
}
