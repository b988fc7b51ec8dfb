//! What is left when a history is over: the same rows on all nodes, nothing lost, nothing back again.

use super::{LIMIT, World};
use crate::convergence::history::TABLES;
use spock_recovery_cluster::deadline;
use std::collections::{BTreeMap, BTreeSet};

impl World<'_> {
    /// What could not be judged by then is kept, and judged when everything has arrived.
    pub(super) fn wait_judged(&mut self) {
        if self.is_twin() {
            return;
        }
        let question = "SELECT coalesce(string_agg(format('%s %s %s', u.relation, u.key, u.reason), ', '), '')
                          FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u";
        for node in self.survivors() {
            let mut last = String::new();
            let judged = deadline::poll(LIMIT, || {
                last = self.session(node).value(question);
                last.is_empty().then_some(())
            });
            assert!(judged.is_some(), "not judged on {}: {last}", self.node(node).name());
        }
    }

    fn reconciled(&self) -> String {
        let question = "SELECT string_agg(format('%s %s from %s: %s', phase, failed_node, source_node,
                                 coalesce(summary->>'reconciled', 'nothing')), ', ' ORDER BY begun_at)
                          FROM spock.recovery_intents()";
        let of = |node: usize| {
            Some(self.node(node).value(question)).filter(|said| !said.is_empty()).map(|said| (node, said))
        };
        let said: Vec<String> =
            self.alive().into_iter().filter_map(of).map(|(node, said)| format!("n{}: {said}", node + 1)).collect();
        said.join("\n")
    }

    pub(super) fn assert_converged(&mut self, seed: u64) {
        let reconciled = self.reconciled();
        self.script.say(&format!("-- recovered\n{reconciled}"));
        let alive = if self.is_twin() { (0..self.course.nodes).collect() } else { self.alive() };
        let mut wrong = Vec::new();
        let mut places = BTreeSet::new();
        for (table, name) in TABLES.iter().enumerate() {
            let mut found: BTreeMap<usize, BTreeMap<i64, String>> = BTreeMap::new();
            for node in &alive {
                let rows = self.session(*node).value(&format!("SELECT id, rev, w FROM {name}"));
                let of_key =
                    |line: &str| (line.split('|').next().and_then(|id| id.parse().ok()).expect("a key"), line.into());
                found.insert(*node, rows.lines().map(of_key).collect());
            }
            let keys: BTreeSet<i64> = found.values().flat_map(BTreeMap::keys).copied().collect();
            let versions = |key: i64| -> Vec<String> {
                let shown = |node: &usize| {
                    found[node]
                        .get(&key)
                        .map_or_else(|| "nothing".into(), |line| line.chars().take(60).collect::<String>())
                };
                alive.iter().map(|node| format!("n{}: {}", node + 1, shown(node))).collect()
            };
            for key in &keys {
                let first = found[&alive[0]].get(key);
                if alive.iter().any(|node| found[node].get(key) != first) {
                    wrong.push(format!("{name} {key} differs: {}", versions(*key).join(", ")));
                    places.insert((table, *key));
                }
            }
            let (there, gone) = self.history.expected(table, &self.dead);
            for (key, rev) in there.into_iter().filter(|(key, _)| !places.contains(&(table, *key))) {
                let is_there =
                    found[&alive[0]].get(&key).is_some_and(|line| line.starts_with(&format!("{key}|{rev}|")));
                if !is_there {
                    wrong.push(format!("{name} has lost {key} of revision {rev}: {}", versions(key).join(", ")));
                }
            }
            for key in gone.into_iter().filter(|key| keys.contains(key) && !places.contains(&(table, *key))) {
                wrong.push(format!("{name} has {key} again: {}", versions(key).join(", ")));
            }
        }
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}\n{reconciled}");
        eprintln!("seed {seed}: {}{}; {:.1} s", self.course, self.rebuilds, self.script.begun.elapsed().as_secs_f64());
    }
}
