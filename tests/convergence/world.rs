//! The nodes on which a history is played.

use super::history::{FAILED, History, TABLES, TARGET};
use crate::cluster::{Cluster, Node};
use crate::slot_keeps::{quick, start_mesh, wait_confirmed};
use spockctl::deadline;
use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

/// Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(180);

struct World<'a> {
    cluster: &'a Cluster,
    random: fastrand::Rng,
    history: History,
    is_failed_dead: bool,
    with_kills: bool,
}

/// Plays the history of a seed, with kills at random moments or without, and looks at what is left.
pub fn play(seed: u64, with_kills: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.usize(3..=4 + usize::from(seed.is_multiple_of(7)));
    let columns = "(id bigint PRIMARY KEY, rev bigint, w text)";
    let mut tables: String = TABLES.iter().map(|table| format!("CREATE TABLE {table} {columns};")).collect();
    tables += "ALTER TABLE wide ALTER w SET STORAGE EXTERNAL; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;";
    let cluster = start_mesh(quick(&format!("converge_{seed}"), count), &tables);
    // A survivor that is killed within a question.
    cluster.expect_log("recovery of node \"n1\" waits");
    // A row comes again while n1's late one stands in its way, in the words of 17 and of 18.
    cluster.expect_log("duplicate key value violates unique constraint");
    cluster.expect_log("conflict=insert_exists");
    let mut world = World { cluster: &cluster, random, history: History::default(), is_failed_dead: false, with_kills };
    world.write(40, false);
    world.settle();
    world.hold_back();
    for _ in 0..world.random.usize(2..6) {
        let writes = world.random.usize(5..30);
        world.write(writes, false);
        world.settle();
        if world.random.bool() {
            world.write(1, true);
            world.settle();
        }
    }
    // What n1 writes last may reach some, all, or nobody.
    let may_return = world.random.bool();
    if !may_return {
        let writes = world.random.usize(0..20);
        world.write(writes, false);
    }
    world.fail();
    let writes = world.random.usize(0..10);
    world.write(writes, false);
    world.recover();
    if may_return && world.random.bool() {
        cluster.node("n1").start();
        world.is_failed_dead = false;
        cluster.node("n2").wait_until("SELECT count(*) FROM spock.subscription WHERE sub_rescue_suspended", "0");
    }
    world.settle();
    world.assert_converged(seed);
}

impl World<'_> {
    fn alive(&self) -> Vec<usize> {
        (0..self.cluster.nodes().len()).filter(|node| *node != FAILED || !self.is_failed_dead).collect()
    }

    /// So many transactions of one write or a few, each of some node.
    fn write(&mut self, transactions: usize, alone: bool) {
        for _ in 0..transactions {
            let alive = self.alive();
            let node = alive[self.random.usize(0..alive.len())];
            let statements: Vec<String> =
                (0..self.random.usize(1..4)).filter_map(|_| self.history.next(&mut self.random, node, alone)).collect();
            if !statements.is_empty() {
                eprintln!("{}: {}", self.cluster.nodes()[node].name(), statements.join("; "));
                self.cluster.nodes()[node].sql(&statements.join("; "));
            }
        }
    }

    /// Waits until everything that is written has arrived everywhere, but for n1's at n2 while that is held back.
    fn settle(&mut self) {
        eprintln!("-- all arrives");
        let nodes = self.cluster.nodes();
        let alive = self.alive();
        for from in &alive {
            nodes[*from].sql("SELECT pg_logical_emit_message(true, 'flush', '')");
            for to in &alive {
                let is_cut = self.history.is_held_back && *from == FAILED && *to == TARGET;
                if from != to && !is_cut {
                    wait_confirmed(&nodes[*from], &format!("sub_{}_{}", nodes[*to].name(), nodes[*from].name()));
                }
            }
        }
        self.history.arrived(self.is_failed_dead);
    }

    fn target(&self) -> &Node {
        &self.cluster.nodes()[TARGET]
    }

    fn hold_back(&mut self) {
        crate::rescue::hold_back(self.target());
        self.history.is_held_back = true;
    }

    fn fail(&mut self) {
        eprintln!("-- n1 dies");
        self.cluster.nodes()[FAILED].kill9();
        self.is_failed_dead = true;
        self.target().sql("ALTER SUBSCRIPTION sub_n2_n1 ENABLE");
    }

    /// Recovers every survivor from a session of any of them, while others write and some are killed.
    fn recover(&mut self) {
        let alive = self.alive();
        let coordinator = &self.cluster.nodes()[alive[self.random.usize(0..alive.len())]];
        let with_kills = self.with_kills;
        let kills: Vec<(usize, u64)> = (0..self.random.usize(0..3))
            .map(|_| (alive[self.random.usize(0..alive.len())], self.random.u64(0..1_500)))
            .collect();
        let writes = self.random.usize(0..25);
        thread::scope(|scope| {
            let called = scope.spawn(|| {
                let mut last = String::new();
                let done =
                    deadline::poll(LIMIT, || match coordinator.try_sql("CALL spock.recover_failed_node('n1')") {
                        // One that does not answer, for it was killed just now, is left out, which is no failure.
                        Ok(rows) => {
                            last = rows[0][0].clone().unwrap_or_default();
                            (!last.contains("\"outcome\": null")).then_some(())
                        }
                        Err(error) => {
                            last = error.to_string();
                            None
                        }
                    });
                assert!(done.is_some(), "not recovered: {last}");
            });
            for (victim, after) in kills.into_iter().filter(|_| with_kills) {
                let node = &self.cluster.nodes()[victim];
                self.write(writes / 2, false);
                // The moment is what is tested: no condition stands for it.
                thread::sleep(Duration::from_millis(after));
                eprintln!("-- {} is killed", node.name());
                node.kill9();
                node.start();
            }
            self.write(writes, false);
            called.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        // A survivor that was just being killed did not answer, which is a warning and no error: now all answer.
        coordinator.sql("CALL spock.recover_failed_node('n1')");
        for node in alive {
            self.cluster.nodes()[node].wait_until("SELECT count(*) FROM spock.recovery_progress", "0");
        }
        self.history.is_held_back = false;
    }

    fn assert_converged(&self, seed: u64) {
        let nodes = self.cluster.nodes();
        let unjudged = nodes[TARGET].value(
            "SELECT string_agg(phase || ' ' || coalesce(summary->>'reconciled', 'nothing'), ', ' ORDER BY begun_at)
               FROM spock.recovery_intents()",
        );
        eprintln!("seed {seed}: {} nodes, reconciled {unjudged}", nodes.len());
        for (table, name) in TABLES.iter().enumerate() {
            let lines = |node: &Node| -> BTreeSet<String> {
                node.value(&format!("SELECT id, rev, w FROM {name}")).lines().map(str::to_owned).collect()
            };
            let alive = self.alive();
            let [first, others @ ..] = alive.as_slice() else { panic!("nobody is alive") };
            let expected = lines(&nodes[*first]);
            for other in others {
                let found = lines(&nodes[*other]);
                let differing: Vec<String> =
                    expected.symmetric_difference(&found).map(|line| shortened(line)).collect();
                assert!(
                    differing.is_empty(),
                    "seed {seed}: {name} differs between {} and {}: {differing:#?}\nreconciled: {unjudged}",
                    nodes[*first].name(),
                    nodes[*other].name()
                );
            }
            let (there, gone) = self.history.expected(table);
            let found: BTreeSet<(i64, u64)> = expected
                .iter()
                .map(|line| {
                    let mut fields = line.split('|').map(|field| field.parse::<u64>().expect("a number"));
                    (fields.next().expect("a key") as i64, fields.next().expect("a revision"))
                })
                .collect();
            for row in there {
                assert!(found.contains(&row), "seed {seed}: {name} has lost {row:?}\nreconciled: {unjudged}");
            }
            for key in gone {
                assert!(
                    !found.iter().any(|(id, _)| *id == key),
                    "seed {seed}: {name} has {key} again\nreconciled: {unjudged}"
                );
            }
        }
    }
}

fn shortened(line: &str) -> String {
    line.chars().take(60).collect()
}
