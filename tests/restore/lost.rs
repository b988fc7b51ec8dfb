//! All nodes are lost at once, one of them with its disk; and every node is restored by a command of its own, as on hosts of their own.

use std::fs;

use spockctl::restore::journal::Step;
use spockctl::restore::{Error, Moment, finish, start};

use super::{Restores, done, ended, settled, step_of};
use crate::restore_points::mesh_of;

#[test]
fn nodes_that_are_all_lost_come_back_host_by_host() {
    let cluster = mesh_of("all_lost", 3);
    let [n1, n2, n3] = cluster.all();
    let restores = Restores::of(&cluster);
    for node in cluster.nodes() {
        node.sql(&format!("INSERT INTO t (node, v) SELECT '{}', n FROM generate_series(1, 10) n", node.name()));
    }
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "30");
    // Nobody who is left knows of it: its record in WAL must do.
    restores.drained("unknown");
    n1.sql("DELETE FROM t");
    for node in cluster.nodes() {
        let segment = node.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
        node.sql("SELECT pg_switch_wal()");
        node.wait_until(&format!("SELECT left(last_archived_wal, 24) >= '{segment}' FROM pg_stat_archiver"), "t");
    }
    cluster.nodes().iter().for_each(crate::cluster::Node::kill9);
    let moved = n2.data().with_extension("disk");
    fs::rename(n2.data(), &moved).expect("it is there");

    let point = || Some(Moment::Point("unknown".into()));
    match restores.check(Moment::Point("unknwon".into())).1 {
        Err(Error::UnknownPoint { .. }) => {}
        other => panic!("{other:?}"),
    }
    let (text, result) = restores.start(Moment::Point("unknown".into()));
    assert!(matches!(result, Err(Error::Findings(1))) && text.contains("is not on this machine"), "{result:?} {text}");
    for node in [n1, n2, n3] {
        let shown = done(ended(|screen| start::run(&restores.on_host_of(node, point()), screen)));
        assert_eq!(shown.contains("all nodes are paused"), node.name() == "n3", "{shown}");
    }
    for node in [n1, n2] {
        let shown = done(ended(|screen| finish::run(&restores.on_host_of(node, None), screen)));
        assert!(shown.contains("once the others are ready as well"), "{shown}");
        assert_eq!(step_of(&restores, node), Step::Ready);
    }
    for node in [n3, n1, n2, n1, n3] {
        done(ended(|screen| finish::run(&restores.on_host_of(node, None), screen)));
    }
    for node in cluster.nodes() {
        assert_eq!(step_of(&restores, node), Step::Done, "{}", node.name());
    }
    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), "30");
    for node in cluster.nodes() {
        node.sql(&format!("INSERT INTO t (node, v) VALUES ('{}', -7)", node.name()));
    }
    for node in cluster.nodes() {
        node.wait_until("SELECT count(*) FROM t WHERE v = -7", "3");
    }
}
