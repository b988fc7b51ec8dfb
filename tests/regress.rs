//! Runs the installation's own pg_regress over pg_regress/ against one node, as the servers' user.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use spock_recovery_cluster::ServerUser;

use crate::cluster::Cluster;

#[test]
fn the_sql_surface_is_as_pg_regress_expects_it() {
    let cluster = Cluster::new("regress").start();
    let [node] = cluster.all();
    // Statements that fail on purpose are part of the expected output, and pg_regress compares it.
    node.expect_log("client backend");
    // The servers' user may not be able to enter the clone: inputs are copied to where it can.
    let input = cluster.folder().join("regress");
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../pg_regress"), &input, cluster.user());
    let output = cluster.folder().join("regress-out");
    cluster.user().make_folder(&output).unwrap_or_else(|error| panic!("{error}"));

    let installation = cluster.installation();
    let program = installation.pkglibdir.join("pgxs/src/test/regress/pg_regress");
    let ran = cluster
        .user()
        .command(&program)
        .arg(format!("--bindir={}", installation.bindir.display()))
        .arg(format!("--inputdir={}", input.display()))
        .arg(format!("--expecteddir={}", input.display()))
        .arg(format!("--outputdir={}", output.display()))
        .arg(format!("--schedule={}", input.join("schedule").display()))
        .arg(format!("--host={}", cluster.folder().display()))
        .args(["--port=5432", "--user=postgres", "--dbname=regress"])
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let report = String::from_utf8_lossy(&ran.stdout);
    println!("{report}{}", String::from_utf8_lossy(&ran.stderr));
    let (passed, failed) = counts(&report);
    // Past libtest's capture: scripts/test.sh adds these to its sum.
    let _ = writeln!(io::stdout(), "pg_regress: {passed} passed, {failed} failed");
    if !ran.status.success() {
        println!("{}", fs::read_to_string(output.join("regression.diffs")).unwrap_or_default());
    }
    assert!(ran.status.success(), "pg_regress failed ({})", ran.status);
    assert!(passed > 0, "pg_regress ran no test");
}

/// pg_regress reports in TAP since PostgreSQL 16.
fn counts(report: &str) -> (usize, usize) {
    let count = |start: &str| report.lines().filter(|line| line.starts_with(start)).count();
    (count("ok "), count("not ok "))
}

/// The copy belongs to the servers' user, whatever the modes in the clone are.
fn copy_folder(from: &Path, to: &Path, user: &ServerUser) {
    user.make_folder(to).unwrap_or_else(|error| panic!("{error}"));
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())).flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target, user);
        } else {
            fs::copy(&source, &target).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
            user.own(&target).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn passed_and_failed_tests_are_counted_from_tap() {
    let report = "# using postmaster\nok 1         - nodes   40 ms\nnot ok 2     - errors  12 ms\nok 3         + more    1 ms\n1..3\n";
    assert_eq!(counts(report), (2, 1));
}
