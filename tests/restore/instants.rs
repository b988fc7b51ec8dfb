//! Moments without a name: an instant, the end, and a point of which nobody has proved that the nodes fit together.

use std::thread;

use spockctl::restore::{Error, Moment};

use super::{Restores, done, settled, written};
use crate::cluster::Cluster;
use crate::restore_points::{StopAtEnd, mesh_of, under_load};

/// What every node has of every node: numbers without a gap, for a node's transactions arrive in order.
const PREFIXES: &str = "SELECT string_agg(node || ' ' || high || ' ' || many, ', ' ORDER BY node) FROM (SELECT node, max(v) high, count(*) many FROM t GROUP BY node) x";

/// One writer for each node, whose rows have the numbers from 1 without a gap.
fn numbered(cluster: &Cluster, while_they_write: impl FnOnce()) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for node in cluster.nodes() {
            let stop = &stop;
            scope.spawn(move || {
                let mut session = node.session();
                let from: u32 = session
                    .value(&format!("SELECT coalesce(max(v), 0) FROM t WHERE node = '{}'", node.name()))
                    .parse()
                    .expect("a number");
                for number in from + 1.. {
                    if stop.load(std::sync::atomic::Ordering::SeqCst) {
                        break;
                    }
                    session.sql(&format!("INSERT INTO t (node, v) VALUES ('{}', {number})", node.name()));
                }
            });
        }
        let guard = StopAtEnd(&stop);
        while_they_write();
        drop(guard);
    });
}

/// Nothing is missing in between and nothing is there twice, on every node.
fn judge(cluster: &Cluster) -> u64 {
    let text = settled(cluster, PREFIXES);
    let mut total = 0;
    for part in text.split(", ") {
        let fields: Vec<&str> = part.split(' ').collect();
        assert_eq!(fields[1], fields[2], "{text}");
        total += fields[2].parse::<u64>().expect("a number");
    }
    total
}

/// How many instants are tried; a soak tries more.
fn count() -> u32 {
    std::env::var("RESTORE_INSTANTS").ok().and_then(|count| count.parse().ok()).unwrap_or(2)
}

#[test]
fn a_point_at_which_the_nodes_do_not_fit_together_is_moved_to_the_last_cut_before_it() {
    let cluster = mesh_of("no_cut", 3);
    let [n1, n2, n3] = cluster.all();
    let restores = Restores::of(&cluster);
    restores.drained("proved");
    numbered(&cluster, || {
        written(n1, 100);
        // One after the other, without the barrier: those that come later have more of those that came before.
        for node in [n2, n1, n3] {
            node.sql("SELECT pg_create_restore_point('ragged')");
            written(n1, 100);
        }
    });
    let all = judge(&cluster);
    let shown = done(restores.start(Moment::Point("ragged".into())));
    assert!(shown.contains("a cut computed from WAL in") && shown.contains("is what a peer will not have"), "{shown}");
    done(restores.finish());
    let there = judge(&cluster);
    assert!(there > 0 && there < all, "{there} {all}");
}

#[test]
fn any_instant_is_restored_exactly_or_refused_with_its_reason() {
    let cluster = mesh_of("any_instant", 3);
    let n1 = cluster.node("n1");
    let restores = Restores::of(&cluster);
    let mut instants = Vec::new();
    numbered(&cluster, || {
        for _ in 0..count() {
            written(n1, 100);
            instants.push(n1.value("SELECT clock_timestamp()"));
        }
        written(n1, 100);
    });
    let all = judge(&cluster);
    cluster.sql("SELECT pg_switch_wal()");

    let future = n1.value("SELECT clock_timestamp() + interval '1 h'");
    assert!(matches!(restores.check(Moment::Time(future)).1, Err(Error::Future { .. })));
    assert!(matches!(restores.check(Moment::Time("2001-01-01 00:00".into())).1, Err(Error::NoBase { .. })));
    let unknown = restores.check(Moment::Point("nowhere".into())).1;
    assert!(matches!(unknown, Err(Error::UnknownPoint { .. })), "{unknown:?}");

    // The last first: each later restore goes back on an older timeline.
    done(restores.start(Moment::Latest));
    done(restores.finish());
    assert_eq!(judge(&cluster), all);
    let mut before = all;
    for instant in instants.into_iter().rev() {
        done(restores.start(Moment::Time(instant)));
        done(restores.finish());
        restores.remove_former();
        let there = judge(&cluster);
        assert!(there < before && there > 0, "{there} {before}");
        before = there;
    }
    under_load(&cluster, || written(n1, 100));
    settled(&cluster, "SELECT count(*) FROM t");
}
