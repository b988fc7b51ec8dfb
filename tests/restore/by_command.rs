//! A mesh comes back by a backup program of the user's own, which knows its own commands alone.

use std::fs;

use spockctl::backup::command::Templates;
use spockctl::restore::Moment;
use spockctl::restore::journal::Step;

use super::{Restores, done, settled, step_of};
use crate::backup::PROGRAM;
use crate::restore_points::mesh_of;

#[test]
fn a_mesh_comes_back_by_the_commands_of_another_backup_program() {
    let cluster = mesh_of("back_by_command", 2);
    let [n1, n2] = cluster.all();
    for node in cluster.nodes() {
        let folder = cluster.folder().join("own program").join(node.name());
        cluster.user().make_folder(folder.parent().expect("it has one")).ok();
        cluster.user().make_folder(&folder).expect("it is free");
        fs::write(folder.join("program"), PROGRAM).expect("it can be written");
    }
    let command =
        |rest: &str| format!("sh '{}'/{{node}}/program {rest}", cluster.folder().join("own program").display());
    let restores = Restores::with(
        &cluster,
        Some(Templates {
            archive: command("push {path} {file}"),
            take: command("take {node} {dsn} {bin_folder}"),
            list: command("list"),
            list_wal: command("wal"),
            fetch_base: command("base {label} {target}"),
            fetch_wal: command("get {file} {target}"),
            verify: None,
            remove: None,
        }),
    );
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 1)");
    n2.sql("INSERT INTO t (node, v) VALUES ('n2', 1)");
    restores.drained("before");
    n1.sql("INSERT INTO t (node, v) VALUES ('n1', 2)");
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "3");
    // Its WAL comes from the program, not from the renamed folder.
    for node in cluster.nodes() {
        let segment = node.value("SELECT pg_walfile_name(pg_switch_wal())");
        node.wait_until(&format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"), "t");
    }
    let point = Moment::Point("before".into());
    done(restores.check(point.clone()));
    done(restores.start(point));
    assert_eq!(restores.paused(n1, "SELECT count(*) FROM t"), "2");
    done(restores.finish());
    assert_eq!(step_of(&restores, n2), Step::Done);
    n2.sql("INSERT INTO t (node, v) VALUES ('n2', 3)");
    for node in cluster.nodes() {
        node.wait_until("SELECT string_agg(node || v, ' ' ORDER BY node, v) FROM t", "n11 n21 n23");
    }
}
