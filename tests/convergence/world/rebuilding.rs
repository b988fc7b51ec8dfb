//! Slots, rows and WAL that are lost, and nodes that are rebuilt while everybody writes and some are killed.

use super::super::course::{FAILED, Lag, SOURCE, Until};
use super::super::history::TABLES;
use super::super::rebuilds::{Loss, LostSlot};
use super::super::script::Script;
use super::{LIMIT, Play, World};
use crate::cluster::{Cluster, Node};
use crate::rescue::disable;
use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::deadline;
use std::thread;
use std::time::Duration;

/// What logs may hold where slots are lost and rebuilds are broken off.
pub(super) fn expect_log(cluster: &Cluster) {
    for text in [
        "replication slot \"sub_",
        "could not start WAL streaming",
        "could not receive data from WAL stream",
        "could not connect to the publisher",
        "terminating connection due to administrator command",
        // The snapshot of one who was killed.
        "\" does not exist",
        "rebuild of node",
        // A source that is being recovered or rebuilt itself.
        "cannot be recovered on node",
        "could not be dropped, and keeps WAL there",
    ] {
        cluster.expect_log(text);
    }
}

/// How a rebuild is disturbed, and after how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Killed(usize),
    CallerEnded,
    Aborted,
}

impl<'a> World<'a> {
    /// Sends a node its statements, again while a table of it is being copied.
    pub(super) fn send(&mut self, node: usize, statements: &str) {
        if self.rebuilds.is_empty() {
            return self.session(node).sql(statements);
        }
        let mut last = String::new();
        let sent = deadline::poll(LIMIT, || match self.session(node).try_sql(statements) {
            Ok(_) => Some(()),
            Err(error) if error.sqlstate == "55006" => {
                last = error.to_string();
                None
            }
            Err(error) => panic!("{error}\nSTATEMENT:  {statements}"),
        });
        assert!(sent.is_some(), "{}: {last}", self.node(node).name());
    }

    /// Whether the lag is a lost slot, which nothing but a rebuild ends.
    pub(super) fn is_lost(&self, lag: Lag) -> bool {
        self.rebuilds.lost.iter().any(|lost| lost.as_lag() == Some(lag))
    }

    /// Slots that are lost from this round on: nobody is told yet what was lost with those of disabled subscriptions.
    pub(super) fn begin_to_lose(&mut self, round: usize) {
        for lost in self.lost_from(round) {
            let name = self.subscription(lost.receiver, lost.provider);
            if let Some(lag) = lost.as_lag() {
                self.lagging.push(lag);
            }
            match lost.loss {
                Loss::AtOnce => self.lose(lost),
                Loss::Disabled if !self.is_twin() => disable(self.node(lost.receiver), &name),
                Loss::Disabled => (),
            }
        }
    }

    pub(super) fn lose_disabled(&mut self, round: usize) {
        for lost in self.lost_from(round) {
            if lost.loss == Loss::Disabled {
                self.lose(lost);
            }
        }
    }

    fn lost_from(&self, round: usize) -> Vec<LostSlot> {
        self.rebuilds.lost.iter().copied().filter(|lost| lost.from == round).collect()
    }

    /// The provider drops the slot by force, and the receiver's subscription fails loudly.
    fn lose(&mut self, lost: LostSlot) {
        let name = self.subscription(lost.receiver, lost.provider);
        self.script.say(&format!("-- slot {name} is lost"));
        if self.is_twin() {
            return;
        }
        let (receiver, provider) = (self.node(lost.receiver), self.node(lost.provider));
        let slot = literal(&name);
        let mut last = String::new();
        let dropped = deadline::poll(LIMIT, || {
            provider.sql(&format!(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = {slot} AND active"
            ));
            match provider.try_sql(&format!("SELECT pg_drop_replication_slot({slot})")) {
                Ok(_) => Some(()),
                Err(error) => {
                    last = error.to_string();
                    None
                }
            }
        });
        assert!(dropped.is_some(), "{name}: {last}");
        receiver.sql(&format!("ALTER SUBSCRIPTION {name} ENABLE"));
        receiver.wait_log(&format!("replication slot \"{name}\" does not exist"));
    }

    /// Those whose slot was lost and who are to be rebuilt now.
    pub(super) fn mend(&mut self, until: Until) {
        let due = self.rebuilds.lost.iter().copied().filter(|lost| lost.mended == Some(until)).collect::<Vec<_>>();
        for lost in due {
            self.rebuild(lost.receiver, None, true);
            self.lagging.retain(|lag| lost.as_lag() != Some(*lag));
            if lost.provider == FAILED {
                self.history.is_brought(lost.receiver, FAILED);
            }
            self.settle();
            self.history.has_all(lost.receiver);
        }
    }

    /// n1 is there again, but not the slot that it has lost.
    pub(super) fn mend_returned(&mut self) {
        if self.rebuilds.lost.iter().any(|lost| lost.provider == FAILED && lost.mended.is_none()) {
            self.rebuild(super::TARGET, None, false);
        }
    }

    /// Rows of one table are damaged on one node, which is then rebuilt as far as this table goes.
    pub(super) fn damage(&mut self, round: usize) {
        for damage in self.rebuilds.damages.clone().into_iter().filter(|damage| damage.round == round) {
            let name = TABLES[damage.table];
            let keys = self.history.damage(&mut self.random, damage.table, damage.target);
            self.script.say(&format!("-- n{} is damaged: {name} {keys:?}", damage.target + 1));
            if !self.is_twin() {
                let keys: Vec<String> = keys.iter().map(i64::to_string).collect();
                self.node(damage.target).session().sql(&format!(
                    "SELECT pg_replication_origin_create('damage') WHERE NOT EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'damage');
                     SELECT pg_replication_origin_session_setup('damage');
                     DELETE FROM {name} WHERE id = ANY ('{{{}}}');
                     INSERT INTO {name} SELECT -g, 0, 'damage' FROM generate_series(1, 3) g",
                    keys.join(",")
                ));
            }
            self.rebuild(damage.target, Some(damage.table), true);
            self.settle();
            self.history.has_all(damage.target);
        }
    }

    /// Those who have all of n1 keep none of its WAL.
    pub(super) fn lose_wal(&mut self) {
        if !self.rebuilds.wal_is_gone || self.is_twin() {
            return;
        }
        for node in self.survivors().into_iter().filter(|node| !self.history.is_held_back(*node, FAILED)) {
            let node = self.node(node);
            self.script.say(&format!("-- {} has kept no WAL", node.name()));
            node.sql("SELECT spock.drop_recovery_slot()");
            node.wait_until("SELECT active FROM spock.get_recovery_slot_status()", "t");
        }
    }

    /// Everybody who is behind n1, if that is not left to recover_failed_node().
    pub(super) fn rebuild_one_by_one(&mut self) {
        if !self.rebuilds.wal_is_gone || !self.rebuilds.one_by_one {
            return;
        }
        for node in self.survivors() {
            if self.history.is_held_back(node, FAILED) {
                self.rebuild(node, None, true);
            }
        }
    }

    /// How a dead node is recovered on every survivor. Nobody is recovered from one that was rebuilt since.
    pub(super) fn call_for(&self, failed: usize) -> String {
        let rebuild = if self.rebuilds.leave_no_wal() { ", rebuild := true" } else { "" };
        format!("CALL spock.recover_failed_node('{}'{rebuild})", self.node(failed).name())
    }

    /// Who has everything that any other node has, as far as they live.
    fn sources_for(&self, target: usize) -> Vec<usize> {
        let is_behind = |node: usize| {
            (self.history.is_behind(node) && !self.is_recovered) || self.lagging.iter().any(|lag| lag.receiver == node)
        };
        let mut sources: Vec<usize> =
            self.alive().into_iter().filter(|node| *node != target && !is_behind(*node)).collect();
        // Who was recovered may still have rows to compare, and does not pass for one who has all.
        if self.is_recovered && sources.contains(&SOURCE) {
            sources.retain(|node| *node == SOURCE);
        }
        sources
    }

    /// The plain lags of those that a rebuild might use end before it.
    fn end_lags(&mut self) {
        let (lost, ended): (Vec<Lag>, Vec<Lag>) = self.lagging.iter().partition(|lag| self.is_lost(**lag));
        self.lagging = lost;
        for lag in ended {
            let name = self.subscription(lag.receiver, lag.provider);
            self.script.say(&format!("-- {name} is enabled again, for a rebuild"));
            self.node(lag.receiver).sql(&format!("ALTER SUBSCRIPTION {name} ENABLE"));
        }
    }

    /// The target, or one table of it, is brought to what another node has, while everybody writes.
    fn rebuild(&mut self, target: usize, table: Option<usize>, with_writes: bool) {
        if self.sources_for(target).is_empty() {
            self.end_lags();
        }
        let sources = self.sources_for(target);
        let source = sources[self.random.usize(0..sources.len())];
        let alive = self.alive();
        let caller = alive[self.random.usize(0..alive.len())];
        let caller = self.node(caller);
        let method = ["auto", "auto", "compare", "copy"][self.random.usize(0..4)];
        let disturbances = self.disturbances(target, source);
        let writes = if with_writes { self.random.usize(0..25) } else { 0 };
        let only = table.map_or_else(String::new, |table| format!(", tables := ARRAY['{}'::regclass]", TABLES[table]));
        let failed = if self.dead.contains(&FAILED) { ", failed_node_name := 'n1'" } else { "" };
        let call = format!(
            "CALL spock.rebuild_run('{}', '{}', method := '{method}'{failed}{only})",
            self.node(target).name(),
            self.node(source).name()
        );
        self.script.say(&format!("-- {}: {call}", caller.name()));
        let (script, is_twin) = (self.script, self.is_twin());
        thread::scope(|scope| {
            let called = (!is_twin).then(|| scope.spawn(|| call_again(script, caller, &call)));
            self.write(writes / 2, false);
            for (disturbance, after) in &disturbances {
                self.write(writes / 4, false);
                if self.as_what == Play::Kills {
                    // The moment is what is tested: no condition stands for it.
                    thread::sleep(Duration::from_millis(*after));
                    self.disturb(*disturbance, caller, target);
                }
            }
            self.write(writes / 2, false);
            if let Some(Err(panic)) = called.map(thread::ScopedJoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        });
        self.script.say("-- it is rebuilt");
    }

    fn disturbances(&mut self, target: usize, source: usize) -> Vec<(Disturbance, u64)> {
        (0..[0, 1, 1, 2][self.random.usize(0..4)])
            .map(|_| {
                let what = match self.random.u32(0..6) {
                    0 | 1 => Disturbance::Killed(target),
                    2 | 3 => Disturbance::Killed(source),
                    4 => Disturbance::CallerEnded,
                    _ => Disturbance::Aborted,
                };
                (what, self.random.u64(0..800))
            })
            .collect()
    }

    fn disturb(&mut self, what: Disturbance, caller: &Node, target: usize) {
        self.script.say(&format!("-- {what:?}"));
        match what {
            Disturbance::Killed(victim) => {
                self.sessions.remove(&victim);
                self.node(victim).kill9();
                self.node(victim).start();
            }
            // Nobody may be there to be disturbed.
            Disturbance::CallerEnded => {
                let _ = caller.try_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL spock.rebuild_run%'",
                );
            }
            Disturbance::Aborted => {
                let _ = self.node(target).try_sql("CALL spock.rebuild_abort()");
            }
        }
    }

    /// Everybody receives from everybody who lives, and the health check has nothing that the dead do not explain.
    pub(super) fn assert_healthy(&mut self) {
        if self.is_twin() {
            return;
        }
        let alive = self.alive();
        for node in &alive {
            let providers: Vec<String> = alive
                .iter()
                .filter(|provider| *provider != node)
                .map(|provider| literal(&self.subscription(*node, *provider)))
                .collect();
            let running = format!(
                "SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL AND worker_type = 'apply' AND subname IN ({})",
                providers.join(", ")
            );
            self.node(*node).wait_until(&running, &providers.len().to_string());
            self.node(*node).wait_until(
                "SELECT count(*) FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = srsubid
                  WHERE srsubstate <> 'r' AND EXISTS (SELECT FROM pg_stat_subscription t WHERE t.subid = s.oid AND t.pid IS NOT NULL)",
                "0",
            );
            self.node(*node).wait_until("SELECT count(*) FROM spock_internal.pins()", "0");
            self.node(*node)
                .wait_until("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'spk_rebuild%'", "0");
            let dead: Vec<String> = self.dead.iter().map(|node| format!("n{}", node + 1)).collect();
            let unhealthy = format!(
                "SELECT coalesce(string_agg(check_name || ': ' || status || ': ' || details, '; '), '')
                   FROM spock.quick_health_check() WHERE status <> 'HEALTHY' AND concat(check_name, ' ', details) !~ '\\m({})\\M'",
                if dead.is_empty() { "nobody".into() } else { dead.join("|") }
            );
            self.node(*node).wait_until(&unhealthy, "");
        }
    }
}

/// Calls until it succeeds.
fn call_again(script: &Script, caller: &Node, call: &str) {
    let mut last = String::new();
    let done = deadline::poll(LIMIT, || match caller.try_sql(call) {
        Ok(_) => Some(()),
        Err(error) => {
            if last != error.to_string() {
                last = error.to_string();
                script.say(&format!("-- {last}"));
            }
            None
        }
    });
    assert!(done.is_some(), "{call}: {last}");
}
