//! The nodes on which a history is played.

mod judging;
mod rebuilding;
mod replacing;

use super::course::{Course, FAILED, Lag, Moment, SECOND, TARGET, Until};
use super::history::{History, TABLES};
use super::rebuilds::Rebuilds;
use super::script::Script;
use crate::cluster::{Cluster, Node, Session};
use crate::node_create::Made;
use crate::rescue::disable;
use crate::slot_keeps::{quick, start, start_mesh};
use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::deadline;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

/// How long a recovery, and what is on its way, may take. Only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(180);
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Play {
    /// With kills at random moments.
    Kills,
    Calm,
    /// The same statements and lag while nobody dies, is held back, or is recovered: what native replication makes of it.
    Twin,
}

struct World<'a> {
    cluster: &'a Cluster,
    /// One for each node that was written to, and was not killed since.
    sessions: BTreeMap<usize, Session<'a>>,
    random: fastrand::Rng,
    course: Course,
    rebuilds: Rebuilds,
    history: History,
    dead: BTreeSet<usize>,
    /// Subscriptions of survivors to others that are disabled now.
    lagging: Vec<Lag>,
    /// Nobody is behind a dead node any more.
    is_recovered: bool,
    as_what: Play,
    script: &'a Script,
}

/// Which histories are played.
#[derive(Clone, Copy, Debug, Default)]
pub struct Family {
    /// Nothing has moved in the mesh before.
    pub is_young: bool,
    /// Slots and WAL are lost, and nodes are rebuilt and replaced.
    pub with_rebuilds: bool,
}

/// Plays the history of a seed, and looks at what is left.
pub fn play(seed: u64, as_what: Play, family: Family, script: &Script) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut course = Course::draw(&mut random);
    let rebuilds =
        if family.with_rebuilds { Rebuilds::draw(seed, &mut course, TABLES.len()) } else { Rebuilds::default() };
    let is_young = family.is_young;
    let columns = "(id bigint PRIMARY KEY, rev bigint, w text)";
    let mut tables: String = TABLES.iter().map(|table| format!("CREATE TABLE {table} {columns};")).collect();
    tables += "ALTER TABLE wide ALTER w SET STORAGE EXTERNAL; ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;";
    // Progress is confirmed when it is on disk, which takes up to three rounds of the WAL writer; a kill loses what it has not
    // written, so that some seeds leave it as it is.
    let delay = if seed.is_multiple_of(4) { "200ms" } else { "10ms" };
    // A reconcile waits twice this time for each node that does not answer.
    let builder = quick(&format!("converge_{seed}_{as_what:?}"), course.nodes)
        .setting("wal_writer_delay", delay)
        .setting("spock.peer_timeout", "2s");
    let cluster = if is_young {
        let cluster = start(builder);
        cluster.sql(&tables);
        cluster.mesh();
        // A node of which nobody knows yet that it is in the mesh can be no part of a recovery.
        for node in cluster.nodes() {
            let known = "SELECT count(*) FROM spock.subscription WHERE sub_origin IS NOT NULL";
            node.wait_until(known, &(course.nodes - 1).to_string());
            // What comes before that, in the first second, the others are told that nobody can have from here.
            let vouches = "SELECT status FROM spock.quick_health_check() WHERE check_name = 'vouching'";
            node.wait_until(vouches, "HEALTHY");
        }
        cluster
    } else {
        start_mesh(builder, &tables)
    };
    // A survivor that is killed within a question, and who had asked it for another who was killed.
    cluster.expect_log("could not connect: connection to server");
    cluster.expect_log("recovery of node \"n1\" waits");
    cluster.expect_log("recovery of node \"n4\" waits");
    // A row comes again while n1's late one stands in its way, in the words of 17 and of 18.
    cluster.expect_log("duplicate key value violates unique constraint");
    cluster.expect_log("conflict=insert_exists");
    if family.with_rebuilds {
        rebuilding::expect_log(&cluster);
    }
    script.say(&format!("seed {seed}: {course}{rebuilds}"));
    let history = History::new(course.is_crossed());
    let play = |cluster: &Cluster| {
        let mut world = World {
            cluster,
            sessions: BTreeMap::new(),
            random,
            course,
            rebuilds,
            history,
            dead: BTreeSet::new(),
            lagging: Vec::new(),
            is_recovered: false,
            as_what,
            script,
        };
        world.play(is_young);
        world.assert_converged(seed);
        if family.with_rebuilds {
            world.assert_healthy();
        }
    };
    // What spockctl has started is ended, too.
    if family.with_rebuilds { play(&Made::of(cluster)) } else { play(&cluster) }
}

impl<'a> World<'a> {
    fn play(&mut self, is_young: bool) {
        if !is_young {
            self.write(40, false);
            self.settle();
        }
        for round in 0..self.course.rounds {
            self.round(round);
        }
        self.fail_all();
        self.recover_all();
        self.come_back();
        self.settle();
        self.wait_judged();
        self.go_on();
    }

    fn node(&self, node: usize) -> &'a Node {
        &self.cluster.nodes()[node]
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.cluster.nodes().len()).filter(|node| !self.dead.contains(node)).collect()
    }

    /// Those that do not fail.
    fn survivors(&self) -> Vec<usize> {
        let second = self.course.second.map(|_| SECOND);
        let is_one = |node: &usize| Some(*node) != second && !self.dead.contains(node);
        (TARGET..self.course.nodes).filter(is_one).collect()
    }

    fn is_twin(&self) -> bool {
        self.as_what == Play::Twin
    }

    fn session(&mut self, node: usize) -> &mut Session<'a> {
        let opened = self.node(node);
        self.sessions.entry(node).or_insert_with(|| opened.session())
    }

    fn subscription(&self, receiver: usize, provider: usize) -> String {
        format!("sub_{}_{}", self.node(receiver).name(), self.node(provider).name())
    }

    /// So many transactions of one write or a few, each of some node.
    fn write(&mut self, transactions: usize, alone: bool) {
        for _ in 0..transactions {
            let alive = self.alive();
            let node = alive[self.random.usize(0..alive.len())];
            let statements: Vec<String> =
                (0..self.random.usize(1..4)).filter_map(|_| self.history.next(&mut self.random, node, alone)).collect();
            if !statements.is_empty() {
                let statements = statements.join("; ");
                self.script.say(&format!("{}: {statements}", self.node(node).name()));
                self.send(node, &statements);
            }
        }
    }

    /// Waits until everything that is written has arrived everywhere, but for what is held back.
    fn settle(&mut self) {
        self.script.say("-- all arrives");
        let twin = self.is_twin();
        let alive = if twin { (0..self.course.nodes).collect() } else { self.alive() };
        let mut open = Vec::new();
        for from in &alive {
            let slots: Vec<String> = alive
                .iter()
                .filter(|to| *to != from && (twin || !self.history.is_held_back(**to, *from)))
                .filter(|to| !self.lagging.iter().any(|lag| (lag.receiver, lag.provider) == (**to, *from)))
                .map(|to| literal(&self.subscription(*to, *from)))
                .collect();
            let end = self.session(*from).value("SELECT pg_logical_emit_message(false, 'settle', '', true)");
            open.push((
                *from,
                format!(
                    "SELECT coalesce(string_agg(slot_name, ', '), '') FROM pg_replication_slots
                      WHERE slot_name IN ({}) AND confirmed_flush_lsn < '{end}'",
                    slots.join(", ")
                ),
            ));
        }
        for (from, question) in open {
            let mut last = String::new();
            let arrived = deadline::poll(ARRIVAL_LIMIT, || {
                last = self.session(from).value(&question);
                last.is_empty().then_some(())
            });
            assert!(arrived.is_some(), "what {} has written has not come by {last}", self.node(from).name());
        }
        // What a node has written last may have died with it, and what goes to one that lags is still to come.
        let mut but_of = self.dead.clone();
        but_of.extend(self.lagging.iter().map(|lag| lag.provider));
        // Who returns receives from each of the others what they have written meanwhile, in no order among them.
        if !(self.course.returns && self.dead.contains(&FAILED)) {
            self.history.arrived(&but_of);
        }
    }

    fn round(&mut self, round: usize) {
        for held in self.course.held_back.clone().iter().filter(|held| held.from == round) {
            let name = self.subscription(held.receiver, held.provider);
            self.script.say(&format!("-- {name} is disabled"));
            if !self.is_twin() {
                disable(self.node(held.receiver), &name);
            }
            self.history.hold_back(held.receiver, held.provider);
        }
        for lag in self.course.lags.clone().iter().filter(|lag| lag.from == round) {
            let name = self.subscription(lag.receiver, lag.provider);
            self.script.say(&format!("-- {name} is disabled for a while"));
            disable(self.node(lag.receiver), &name);
            self.lagging.push(*lag);
        }
        self.begin_to_lose(round);
        let writes = self.random.usize(5..30);
        self.write(writes, false);
        self.lose_disabled(round);
        self.catch_up(Until::Round(round));
        self.settle();
        self.damage(round);
        if self.lagging.is_empty() && self.random.bool() {
            self.write(1, true);
            self.settle();
        }
    }

    /// What was disabled until now is enabled again.
    fn catch_up(&mut self, until: Until) {
        let (done, still) = self.lagging.iter().partition::<Vec<Lag>, _>(|lag| lag.until == until);
        self.lagging = still;
        for lag in done {
            if self.is_lost(lag) {
                self.lagging.push(lag);
                continue;
            }
            let name = self.subscription(lag.receiver, lag.provider);
            self.script.say(&format!("-- {name} is enabled again"));
            self.node(lag.receiver).sql(&format!("ALTER SUBSCRIPTION {name} ENABLE"));
        }
        self.mend(until);
    }

    /// Whoever dies before a recovery. What they write last may reach some, all, or nobody.
    fn fail_all(&mut self) {
        let dying = match self.course.second {
            Some((_, Moment::BeforeFirst)) => vec![SECOND, FAILED],
            Some((_, Moment::AfterFirst)) => vec![FAILED, SECOND],
            _ => vec![FAILED],
        };
        for node in dying {
            let writes = self.random.usize(0..20);
            self.write(writes, false);
            if self.rebuilds.wal_is_gone && self.course.second.is_some() {
                // Else each survivor might have the last of another one, and nobody the WAL of both.
                self.settle();
            }
            self.fail(node);
        }
        let writes = self.random.usize(0..10);
        self.write(writes, false);
        self.catch_up(Until::Death);
    }

    /// Those behind it wait for it in vain.
    fn fail(&mut self, node: usize) {
        self.script.say(&format!("-- {} dies", self.node(node).name()));
        self.dead.insert(node);
        if self.is_twin() {
            return;
        }
        self.sessions.remove(&node);
        self.node(node).kill9();
        for held in self.course.held_back.clone().iter().filter(|held| held.provider == node) {
            if !self.dead.contains(&held.receiver) {
                let name = self.subscription(held.receiver, node);
                self.node(held.receiver).sql(&format!("ALTER SUBSCRIPTION {name} ENABLE"));
            }
        }
    }

    /// Every dead node on every survivor, while others write and some are killed.
    fn recover_all(&mut self) {
        let meanwhile = matches!(self.course.second, Some((_, Moment::Meanwhile)));
        let mut order = vec![FAILED];
        if self.course.second.is_some() {
            order.insert(usize::from(!self.course.second_is_first || meanwhile), SECOND);
        }
        self.lose_wal();
        if let Some(percent) = self.course.partial_percent {
            self.recover_a_part(percent);
        }
        self.rebuild_one_by_one();
        for (place, failed) in order.iter().enumerate() {
            self.recover(*failed, meanwhile && place == 0);
        }
        // Who was just being killed did not answer, which is a warning and no error; now all answer.
        for failed in order {
            self.recover_the_rest(failed);
        }
        if !self.is_twin() {
            for node in self.survivors() {
                self.node(node).wait_until("SELECT count(*) FROM spock.recovery_progress", "0");
            }
        }
        self.script.say("-- all is recovered");
        self.is_recovered = true;
        self.catch_up(Until::Recovered);
    }

    /// n2, up to so much of what it lacks.
    fn recover_a_part(&mut self, percent: u32) {
        let writes = self.random.usize(0..10);
        if !self.is_twin() {
            let target = self.node(TARGET);
            let question = format!(
                "SELECT outcome, target_lsn + (gap_bytes * {percent} / 100)::numeric FROM spock.recover_plan('n1', 'n2')"
            );
            let mut last = String::new();
            let planned = deadline::poll(LIMIT, || {
                last = target.value(&question);
                (!last.starts_with('|')).then(|| last.clone())
            });
            let planned = planned.unwrap_or_else(|| panic!("there is no plan for n2: {last}"));
            // There may be nothing that it lacks.
            if let Some(stop) = planned.strip_prefix("catch_up|") {
                self.script.say(&format!("-- n2 is recovered up to {stop}"));
                target.sql(&format!("CALL spock.recover_run('n1', target_node_name => 'n2', stop_lsn => '{stop}')"));
            }
        }
        self.write(writes, false);
    }

    fn recover(&mut self, failed: usize, second_dies: bool) {
        let survivors = self.survivors();
        let coordinator = survivors[self.random.usize(0..survivors.len())];
        let coordinator = self.node(coordinator);
        let twin = self.is_twin();
        let kills: Vec<(usize, u64)> = (0..self.random.usize(0..3))
            .map(|_| (survivors[self.random.usize(0..survivors.len())], self.random.u64(0..1_500)))
            .collect();
        let writes = self.random.usize(0..25);
        let name = self.node(failed).name();
        self.script.say(&format!("-- {name} is recovered from {}", coordinator.name()));
        let (script, must_answer, call) = (self.script, self.names(&survivors), self.call_for(failed));
        thread::scope(|scope| {
            let called =
                (!twin).then(|| scope.spawn(|| call_until_done(script, coordinator, &call, name, &must_answer)));
            if second_dies {
                self.write(writes / 2, false);
                self.fail(SECOND);
            }
            for (victim, after) in kills {
                self.write(writes / 2, false);
                if self.as_what != Play::Kills {
                    continue;
                }
                // The moment is what is tested: no condition stands for it.
                thread::sleep(Duration::from_millis(after));
                self.script.say(&format!("-- {} is killed", self.node(victim).name()));
                self.sessions.remove(&victim);
                self.node(victim).kill9();
                self.node(victim).start();
            }
            self.write(writes, false);
            if let Some(Err(panic)) = called.map(thread::ScopedJoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn names(&self, nodes: &[usize]) -> BTreeSet<String> {
        nodes.iter().map(|node| self.node(*node).name().to_owned()).collect()
    }

    fn recover_the_rest(&mut self, failed: usize) {
        if self.is_twin() {
            return;
        }
        let alive: Vec<usize> = self.alive();
        let coordinator = self.node(self.survivors()[0]);
        let call = self.call_for(failed);
        call_until_done(self.script, coordinator, &call, self.node(failed).name(), &self.names(&alive));
    }

    /// n1, with all that it had. What the other dead node wrote after n1's death it has to be brought as well.
    fn come_back(&mut self) {
        if !self.course.returns {
            return;
        }
        self.script.say("-- n1 returns");
        self.dead.remove(&FAILED);
        if self.is_twin() {
            return;
        }
        self.node(FAILED).start();
        for node in self.survivors() {
            let enabled =
                format!("SELECT subenabled FROM pg_subscription WHERE subname = '{}'", self.subscription(node, FAILED));
            self.node(node).wait_until(&enabled, "t");
        }
        // Nothing is held back any more.
        self.history.all_is_brought();
        if self.course.second.is_some() {
            self.recover_the_rest(SECOND);
        }
        self.mend_returned();
    }
}

/// Calls until every survivor that must answer is recovered.
fn call_until_done(script: &Script, coordinator: &Node, call: &str, failed: &str, must_answer: &BTreeSet<String>) {
    let mut last = String::new();
    let done = deadline::poll(LIMIT, || {
        let called = coordinator.try_sql(call).and_then(|rows| {
            last = rows[0][0].clone().unwrap_or_default();
            coordinator.try_sql(&format!(
                "SELECT s->>'target_node' FROM jsonb_array_elements(({}::jsonb)->'survivors') s WHERE s->>'outcome' IS NULL",
                literal(&last)
            ))
        });
        match called {
            // One that does not answer, for it was killed just now, is left out, which is no failure.
            Ok(silent) => {
                let is_missing = |name: &Option<String>| name.as_ref().is_none_or(|name| must_answer.contains(name));
                (!silent.iter().any(|row| is_missing(&row[0]))).then_some(())
            }
            Err(error) => {
                if last != error.to_string() {
                    last = error.to_string();
                    script.say(&format!("-- {last}"));
                }
                None
            }
        }
    });
    assert!(done.is_some(), "{failed} is not recovered: {last}");
}
