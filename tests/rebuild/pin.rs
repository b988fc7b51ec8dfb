//! A pin's snapshot and positions fit together under load.

use super::{Pin, intent, no_polls, release};
use crate::cluster::{Node, wait_for};
use crate::restore_points::{mesh_of, under_load};
use std::collections::BTreeMap;

/// The rows of each node in a snapshot, and where each node was in it.
struct Seen {
    rows: BTreeMap<String, u64>,
    positions: BTreeMap<String, String>,
}

/// None: the pin has ended meanwhile, because the target knows no such intent.
fn look(source: &Node, pin: &Pin) -> Option<Seen> {
    let mut session = source.session();
    pin.import(source, &mut session).ok()?;
    let counted = session.rows("SELECT node, count(*) FROM t GROUP BY node");
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let rows = counted.iter().map(|row| (text(&row[0]), text(&row[1]).parse().expect("a number"))).collect();
    let positions = ["n1", "n2", "n3"].map(|node| {
        let path = if node == source.name() { "end".to_owned() } else { format!("vector,{node}") };
        (node.to_owned(), pin.get(source, &path))
    });
    Some(Seen { rows, positions: positions.into_iter().collect() })
}

/// How many rows of its own a node had committed up to a position, by what its WAL says.
fn committed(node: &Node, position: &str) -> u64 {
    let question = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_changes('judge', '{position}', NULL, 'only-local', 'true',
                                                           'skip-empty-xacts', 'true')
          WHERE data LIKE 'table public.t: INSERT%'"
    );
    node.value(&question).parse().expect("a number")
}

#[test]
fn the_snapshot_has_of_every_node_exactly_what_the_positions_say_under_load() {
    let cluster = mesh_of("rebuild_pin_fits", 3);
    let n3 = cluster.node("n3");
    no_polls(n3);
    for node in cluster.nodes() {
        node.sql("SELECT pg_create_logical_replication_slot('judge', 'test_decoding')");
    }
    let mut seen = Vec::new();
    under_load(&cluster, || {
        for number in 0..20 {
            let intent = intent(number);
            wait_for("a pin that is held", || {
                let found = look(n3, &Pin::take(n3, &intent, "'public.t'"));
                let is_found = found.is_some();
                seen.extend(found);
                is_found
            });
            release(n3, &intent);
        }
    });
    let mut compared = 0;
    for (number, seen) in seen.iter().enumerate() {
        for node in cluster.nodes() {
            let rows = seen.rows.get(node.name()).copied().unwrap_or(0);
            let position = &seen.positions[node.name()];
            assert_eq!(rows, committed(node, position), "pin {number}, rows of {} up to {position}", node.name());
            compared += rows;
        }
    }
    assert!(compared > 0, "there was no load");
}
