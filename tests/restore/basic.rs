//! From a mistake back to before it, on three nodes under load.

use spockctl::restore::Moment;
use spockctl::restore::journal::Step;

use super::{Restores, done, settled, step_of, written};
use crate::restore_points::{mesh_of, under_load};

#[test]
fn a_mesh_under_load_comes_back_to_a_drained_point_and_goes_on() {
    let cluster = mesh_of("a_mesh_comes_back", 3);
    let [n1, n2, n3] = cluster.all();
    let restores = Restores::of(&cluster);
    let point = Moment::Point("before-the-mistake".into());

    under_load(&cluster, || {
        written(n1, 300);
        restores.drained("before-the-mistake");
        written(n1, 100);
    });
    let far = settled(&cluster, "SELECT count(*) FROM t");
    let said =
        "SELECT string_agg(restore_point || quality || nodes::text || lsns::text, ';') FROM spock.restore_points()";
    let said_before = n1.value(said);
    cluster.sql("DROP TABLE t");

    done(restores.check(point.clone()));
    done(restores.start(point.clone()));
    let there = restores.paused(n1, "SELECT count(*) FROM t");
    assert!(there.parse::<u64>().expect("a number") < far.parse().expect("a number"), "{there} {far}");
    for node in [n2, n3] {
        assert_eq!(restores.paused(node, "SELECT count(*) FROM t"), there, "{}", node.name());
    }
    assert!(restores.status().contains("paused at its target"));
    done(restores.finish());
    assert_eq!(step_of(&restores, n2), Step::Done);
    // At that moment the lists did not say yet what had come of the point.
    for node in [n1, n2, n3] {
        assert_eq!(node.value(said), said_before, "{}", node.name());
    }

    assert_eq!(settled(&cluster, "SELECT count(*) FROM t"), there);
    for node in [n1, n2, n3] {
        node.sql(&format!("INSERT INTO t (node, v) VALUES ('{}', -1)", node.name()));
    }
    let more = (there.parse::<u64>().expect("a number") + 3).to_string();
    node_counts(&cluster, &more);
}

fn node_counts(cluster: &crate::cluster::Cluster, expected: &str) {
    for node in cluster.nodes() {
        node.wait_until("SELECT count(*) FROM t", expected);
    }
}
