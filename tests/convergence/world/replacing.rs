//! What happens when all is recovered: a new n1 takes the lost one's place, and one more survivor dies.

use super::super::course::{FAILED, HoldBack};
use super::World;
use crate::node_create::{create_node, move_away, options};
use crate::shown::done;
use std::thread;

impl<'a> World<'a> {
    pub(super) fn go_on(&mut self) {
        if self.rebuilds.is_replaced && self.course.second.is_none() {
            self.replace();
        }
        if self.rebuilds.next_loss && self.alive().len() > 2 && self.survivors().len() > 1 {
            self.lose_one_more();
        }
    }

    /// spockctl makes a new n1 from a survivor, while all write.
    fn replace(&mut self) {
        let survivors = self.survivors();
        let from = survivors[self.random.usize(0..survivors.len())];
        let from = self.node(from);
        let writes = self.random.usize(5..40);
        self.history.begin_anew();
        self.history.forget_of(FAILED);
        self.script.say(&format!("-- n1 is replaced, from {}", from.name()));
        if self.is_twin() {
            self.write(writes, false);
        } else {
            let n1 = self.node(FAILED);
            move_away(n1);
            let mut given = options(self.cluster, from, n1);
            given.replaces = Some("n1".into());
            thread::scope(|scope| {
                let made = scope.spawn(|| done(create_node(&given)));
                self.write(writes, false);
                if let Err(panic) = made.join() {
                    std::panic::resume_unwind(panic);
                }
            });
        }
        self.script.say("-- n1 is there");
        self.dead.remove(&FAILED);
        self.settle();
        self.write(writes, false);
        self.settle();
    }

    /// A survivor dies with another one behind it.
    fn lose_one_more(&mut self) {
        let survivors = self.survivors();
        let lost = survivors[self.random.usize(0..survivors.len())];
        let others: Vec<usize> = self.alive().into_iter().filter(|node| *node != lost).collect();
        let receiver = others[self.random.usize(0..others.len())];
        self.history.begin_anew();
        let name = self.subscription(receiver, lost);
        self.script.say(&format!("-- {name} is disabled"));
        if !self.is_twin() {
            crate::rescue::disable(self.node(receiver), &name);
        }
        self.course.held_back.push(HoldBack { receiver, provider: lost, from: 0 });
        self.history.hold_back(receiver, lost);
        for _ in 0..2 {
            let writes = self.random.usize(5..30);
            self.write(writes, false);
            self.settle();
        }
        let writes = self.random.usize(0..10);
        self.write(writes, false);
        self.fail(lost);
        // What was rebuilt has received from all since then, and serves as a source like any other.
        (self.rebuilds.wal_is_gone, self.rebuilds.damages, self.rebuilds.lost) = (false, Vec::new(), Vec::new());
        self.recover(lost, false);
        self.recover_the_rest(lost);
        self.settle();
        self.wait_judged();
    }
}
