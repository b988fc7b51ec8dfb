//! Points under load are cuts.

use super::*;
use std::env;

/// How many points; `RESTORE_POINTS` asks for more.
fn count() -> usize {
    env::var("RESTORE_POINTS").ok().and_then(|count| count.parse().ok()).unwrap_or(25)
}

#[test]
fn no_node_holds_more_of_another_than_that_one_has_at_any_point_under_load() {
    let cluster = mesh_of("restore_points_consistent", 3);
    let begin = judge::ends(&cluster);
    let count = count();
    let mut told = Vec::new();
    under_load(&cluster, || {
        for number in 0..count {
            let node = &cluster.nodes()[number % 3];
            let statement =
                format!("SELECT max(quality), max(held_ms), count(lsn) FROM spock.create_restore_point('p{number}')");
            let row = node.rows(&statement).remove(0);
            let value = |at: usize| row[at].clone().unwrap_or_default();
            assert_eq!(value(2), "3", "p{number}: {row:?}");
            told.push((format!("p{number}"), value(0), value(1).parse::<f64>().expect("milliseconds")));
        }
    });
    let judged = judge::judge(&cluster, &begin);
    let points = &judged.points;
    assert_eq!(points.len(), count);
    let bad: Vec<_> = points.iter().map(|(name, point)| (name, judge::inconsistent(point))).collect();
    let bad: Vec<_> = bad.into_iter().filter(|(_, found)| !found.is_empty()).collect();
    assert!(bad.is_empty(), "{bad:?}");
    // Nobody may have applied anything of another yet at the first ones.
    let last = &points[&format!("p{}", count - 1)];
    assert!(points.values().all(|point| point.len() == 3) && last.values().all(|seen| seen.applied.len() == 2));
    let is_drained = |name: &str| told.iter().any(|(told, quality, _)| told == name && quality == "drained");
    let lies: Vec<_> = points
        .iter()
        .filter(|(name, _)| is_drained(name))
        .flat_map(|(name, point)| judged.undrained(point).into_iter().map(move |found| format!("{name}: {found}")))
        .collect();
    assert!(lies.is_empty(), "{lies:?}");
    let mut held: Vec<f64> = told.iter().map(|(_, _, held)| *held).collect();
    held.sort_by(f64::total_cmp);
    let drained = told.iter().filter(|(_, quality, _)| quality == "drained").count();
    let loose = told.iter().filter(|(_, quality, _)| quality == "loose").count();
    println!(
        "restore points: {count}, drained {drained}, loose {loose}, held p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        held[count / 2],
        held[(count * 99 / 100).min(count - 1)],
        held[count - 1]
    );
    assert!(drained > 0, "{told:?}");
    // Every list knows every point, and says the same of it.
    let list = "SELECT string_agg(restore_point || quality || nodes::text || lsns::text, ';' ORDER BY created_at) FROM spock.restore_points()";
    let first = cluster.nodes()[0].value(list);
    for node in cluster.nodes() {
        assert_eq!(node.value(list), first, "{}", node.name());
    }
}

/// Without the barrier, positions that are taken one after the other are no cut: so the judge can find one that is none.
#[test]
fn positions_taken_without_the_barrier_are_found_to_be_no_cut() {
    let cluster = mesh_of("restore_points_without", 3);
    let begin = judge::ends(&cluster);
    under_load(&cluster, || {
        for number in 0..40 {
            for node in cluster.nodes() {
                node.sql(&format!("SELECT pg_create_restore_point('q{number}')"));
            }
        }
    });
    let judged = judge::judge(&cluster, &begin);
    assert!(judged.points.values().any(|point| !judge::inconsistent(point).is_empty()));
    assert!(judged.points.values().any(|point| !judged.undrained(point).is_empty()));
}
