//! Targets that fit together (pure): no node keeps a transaction of another one that the other one will not have.
//!
//! Without that, the peer would write other transactions at those positions after the restore, and the node would take them for
//! what it has already.

use std::collections::BTreeMap;

use crate::lsn::Lsn;

/// A record in a node's WAL that brings it forward on an origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Where the record begins.
    pub at: Lsn,
    /// The node whose transaction it is.
    pub of: String,
    /// Where that transaction ends there.
    pub end: Lsn,
}

/// What was done to the targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// For each node the position up to which it is replayed.
    pub positions: BTreeMap<String, Lsn>,
    /// How often all nodes were looked at until nothing changed.
    pub rounds: u32,
}

/// Why there is no cut: the node would have to stop before the position from which it can be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooEarly {
    pub node: String,
    pub position: Lsn,
}

/// Starts with the wanted positions. While a node has an arrival before its position that ends beyond the position of the node it
/// is from, the node is stopped just before it. Positions only fall, so that this ends; what it ends with is the latest cut that
/// is not beyond what was wanted.
///
/// `floors`: the earliest position of each node that can be restored. Arrivals of a node are in the order of its WAL. A node without
/// a position is no part of the restore, and what arrived from it does not count.
pub fn settle(
    wanted: &BTreeMap<String, Lsn>,
    arrivals: &BTreeMap<String, Vec<Arrival>>,
    floors: &BTreeMap<String, Lsn>,
) -> Result<Settled, TooEarly> {
    let mut positions = wanted.clone();
    let mut rounds = 0;
    loop {
        rounds += 1;
        let mut changed = false;
        for (node, found) in arrivals {
            let Some(&position) = positions.get(node) else { continue };
            let beyond = |arrival: &&Arrival| positions.get(&arrival.of).is_some_and(|&of| arrival.end > of);
            let Some(first) = found.iter().take_while(|arrival| arrival.at < position).find(beyond) else { continue };
            if floors.get(node).is_some_and(|&floor| first.at < floor) {
                return Err(TooEarly { node: node.clone(), position: first.at });
            }
            positions.insert(node.clone(), first.at);
            changed = true;
        }
        if !changed {
            return Ok(Settled { positions, rounds });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a record begins, whose transaction it is, where that ends there.
    type Found<'a> = &'a [(u64, &'a str, u64)];

    fn at(positions: &[(&str, u64)]) -> BTreeMap<String, Lsn> {
        positions.iter().map(|&(node, lsn)| (node.to_owned(), Lsn(lsn))).collect()
    }

    fn arrivals(all: &[(&str, Found<'_>)]) -> BTreeMap<String, Vec<Arrival>> {
        let of = |&(at, of, end): &(u64, &str, u64)| Arrival { at: Lsn(at), of: of.into(), end: Lsn(end) };
        all.iter().map(|(node, found)| ((*node).to_owned(), found.iter().map(of).collect())).collect()
    }

    fn settled(wanted: &[(&str, u64)], all: &[(&str, Found<'_>)]) -> (BTreeMap<String, Lsn>, u32) {
        let settled = settle(&at(wanted), &arrivals(all), &BTreeMap::new()).expect("there is one");
        (settled.positions, settled.rounds)
    }

    #[test]
    fn targets_that_fit_stay() {
        let wanted = [("n1", 100), ("n2", 200)];
        assert_eq!(settled(&wanted, &[]), (at(&wanted), 1));
        // Up to the other one's position, exactly: it will have it.
        let all: [(&str, Found<'_>); 2] = [("n1", &[(50, "n2", 200)]), ("n2", &[(150, "n1", 100), (200, "n1", 300)])];
        assert_eq!(settled(&wanted, &all), (at(&wanted), 1));
    }

    #[test]
    fn a_node_that_has_more_stops_just_before_it() {
        let wanted = [("n1", 100), ("n2", 200)];
        let all: [(&str, Found<'_>); 1] = [("n2", &[(150, "n1", 99), (160, "n1", 101), (170, "n1", 120)])];
        assert_eq!(settled(&wanted, &all), (at(&[("n1", 100), ("n2", 160)]), 2));
    }

    #[test]
    fn one_that_falls_takes_others_with_it() {
        let wanted = [("n1", 100), ("n2", 200), ("n3", 300)];
        let all: [(&str, Found<'_>); 3] = [
            ("n1", &[(40, "n3", 290), (60, "n3", 299)]),
            ("n2", &[(160, "n1", 101)]),
            ("n3", &[(250, "n2", 155), (280, "n2", 190)]),
        ];
        // n2 stops at 160, so that n3 must not have what ended at 190, so that n1 must not have what ended at 290.
        let (positions, rounds) = settled(&wanted, &all);
        assert_eq!(positions, at(&[("n1", 40), ("n2", 160), ("n3", 280)]));
        assert!(rounds <= 4);
        // And in whatever order the nodes come.
        let renamed = |name: &str| {
            match name {
                "n1" => "z",
                "n2" => "b",
                _ => "m",
            }
            .to_owned()
        };
        let other: BTreeMap<String, Vec<Arrival>> = arrivals(&all)
            .into_iter()
            .map(|(node, found)| {
                let found = found.into_iter().map(|arrival| Arrival { of: renamed(&arrival.of), ..arrival });
                (renamed(&node), found.collect())
            })
            .collect();
        let found = settle(&at(&[("z", 100), ("b", 200), ("m", 300)]), &other, &BTreeMap::new()).expect("there is one");
        assert_eq!(found.positions, at(&[("z", 40), ("b", 160), ("m", 280)]));
    }

    #[test]
    fn an_arrival_behind_its_own_target_does_not_count() {
        let all: [(&str, Found<'_>); 1] = [("n2", &[(200, "n1", 500), (201, "n1", 600)])];
        assert_eq!(settled(&[("n1", 100), ("n2", 200)], &all), (at(&[("n1", 100), ("n2", 200)]), 1));
    }

    #[test]
    fn what_is_from_elsewhere_does_not_count() {
        let all: [(&str, Found<'_>); 2] = [("n2", &[(150, "other", 500)]), ("n9", &[(1, "n2", 500)])];
        assert_eq!(settled(&[("n1", 100), ("n2", 200)], &all), (at(&[("n1", 100), ("n2", 200)]), 1));
    }

    #[test]
    fn a_bookkeeping_commit_without_position_does_not_count() {
        let all: [(&str, Found<'_>); 1] = [("n2", &[(150, "n1", 0)])];
        assert_eq!(settled(&[("n1", 100), ("n2", 200)], &all).1, 1);
    }

    #[test]
    fn a_cut_that_no_backup_reaches_is_refused_with_its_place() {
        let all = arrivals(&[("n2", &[(150, "n1", 101)])]);
        let refused = settle(&at(&[("n1", 100), ("n2", 200)]), &all, &at(&[("n2", 151)]));
        assert_eq!(refused, Err(TooEarly { node: "n2".into(), position: Lsn(150) }));
        assert!(settle(&at(&[("n1", 100), ("n2", 200)]), &all, &at(&[("n2", 150)])).is_ok());
    }

    /// Random histories: every cut that is found holds, and no node could go one arrival further.
    #[test]
    fn a_settled_cut_holds_and_is_the_latest() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..500 {
            let names = ["n1", "n2", "n3", "n4"];
            let wanted: BTreeMap<String, Lsn> =
                names.iter().map(|name| ((*name).into(), Lsn(100 + next(900)))).collect();
            let mut all = BTreeMap::new();
            for node in names {
                let (mut at, mut ends) = (0, BTreeMap::from(names.map(|name| (name, 0))));
                let mut found = Vec::new();
                for _ in 0..40 {
                    at += 1 + next(30);
                    let of = names[next(4) as usize];
                    if of != node {
                        // Of one origin in order.
                        let end = ends[of] + 1 + next(60);
                        ends.insert(of, end);
                        found.push(Arrival { at: Lsn(at), of: of.into(), end: Lsn(end) });
                    }
                }
                all.insert(node.to_owned(), found);
            }
            let cut = settle(&wanted, &all, &BTreeMap::new()).expect("no floors").positions;
            let fits = |cut: &BTreeMap<String, Lsn>| {
                all.iter().all(|(node, found)| {
                    found.iter().filter(|arrival| arrival.at < cut[node]).all(|arrival| arrival.end <= cut[&arrival.of])
                })
            };
            assert!(fits(&cut), "{wanted:?} {cut:?}");
            // The union of two cuts is a cut: what can be raised alone or together would be found by trying every node's next stop.
            for node in names {
                let next_stop =
                    all[node].iter().map(|arrival| arrival.at).chain([wanted[node]]).find(|&at| at > cut[node]);
                if let Some(stop) = next_stop.filter(|&stop| stop <= wanted[node]) {
                    let mut raised = cut.clone();
                    raised.insert(node.into(), stop);
                    assert!(!fits(&raised), "{node} could go on to {stop}: {wanted:?} {cut:?}");
                }
            }
        }
    }
}
