//! What a poller does with a peer's answer: it compares what the peer says it is with what it should be, stores the
//! answer in shared memory, and has the manager judge another run of the peer than the one that was watched.

use super::{PollAnswer, PollQuestion, Poller, Position, own_entry};
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::older_copy::{Former, KnownRun, Life, MAX_FORKS, applied_of_former_runs};
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::latch;
use crate::plan::readiness::{self, Lack, Readiness};
use crate::shmem::{
    self, CloneEntry, PeerEntry, PeerKey, PeerState, PinState, PositionEntry, Shared, ShortName, TargetSays,
};
use crate::slot::view;
use pgrx::pg_sys::Oid;

impl Poller {
    /// Compares what the peer says it is with what it should be, and stores what it has answered.
    pub(super) fn judge(&self, question: &PollQuestion, answer: &PollAnswer) {
        let doubt = doubt(question, answer);
        if !self.store(question, answer, doubt.is_none()) {
            return;
        }
        match doubt {
            Some((state, why)) => self.note(state, &why),
            None => {
                self.keep_verdicts(&answer.clones);
                self.tell_pins(&answer.pins);
                self.note(PeerState::Connected, "");
            }
        }
    }

    /// Stores who has answered and, if it is believed to be the peer, what it has answered. Returns false if this
    /// process's entry was given to another one.
    fn store(&self, question: &PollQuestion, answer: &PollAnswer, is_believed: bool) -> bool {
        let readiness = told_readiness(question, answer);
        let mut shared = shmem::lock();
        let lives = lives_of_former(&mut shared, self.index, self.peer, question);
        let origins = question.former.origins;
        let mut of_peer = origins.iter().flat_map(|origin| shared.lives_of(*origin));
        let has_begun = of_peer.any(|life| life.number > question.former.lives);
        let Some(entry) = own_entry(&mut shared, self.index, self.peer) else {
            return false;
        };
        (entry.last_contact_at, entry.heard_at) = (Timestamp::now(), Monotonic::now());
        entry.node_name.set(&answer.node_name);
        entry.said = Some(answer.identity);
        if !is_believed {
            return true;
        }
        let before = entry.former;
        store_run(entry, question.former, answer, &lives);
        entry.lost_at = Monotonic::NEVER;
        // An apply worker that has begun since the question was prepared has requested another one.
        entry.is_called &= has_begun;
        entry.protocol = answer.protocol;
        entry.wal_end = answer.wal_end;
        entry.has_unknown_origin = answer.positions.iter().any(|position| position.origin.is_none());
        entry.own_confirmed = answer.own;
        entry.own_asked_at = answer.asked_at;
        entry.reported_at = Timestamp::now();
        if let Some((readiness, lacks)) = &readiness {
            entry.readiness.said_at = Monotonic::now();
            entry.readiness.knows_this_node = readiness.knows_asker;
            entry.readiness.set_lacks(lacks);
        }
        let former = entry.former;
        keep_positions(shared.positions(self.index, self.peer), question, answer);
        if former.origins != before.origins {
            shared.claim_places(self.index, self.peer);
        }
        true
    }

    /// Stores what the peer says of the clones, and wakes the manager if one of them can be dropped.
    fn keep_verdicts(&self, verdicts: &[(CloneEntry, TargetSays)]) {
        let manager = {
            let mut shared = shmem::lock();
            let clones = &mut shared.databases()[self.index].clones;
            let mut can_go = false;
            for (asked, says) in verdicts {
                let known = clones.iter_mut().find(|known| known.is_of(asked.slot.as_str(), asked.intent));
                if let Some(known) = known.filter(|known| known.says != TargetSays::Ended) {
                    known.says = *says;
                    can_go |= *says == TargetSays::Ended;
                }
            }
            if can_go { shared.call_manager(self.index) } else { 0 }
        };
        latch::wake(manager);
    }
}

impl Poller {
    /// Stores what the peer says of its intents, and wakes the workers whose snapshots are not needed any more.
    fn tell_pins(&self, said: &[(IntentId, TargetSays)]) {
        let PeerKey::Node(node) = self.key else { return };
        let now = Monotonic::now();
        let mut over = Vec::new();
        for pin in &mut shmem::lock().databases()[self.index].pins {
            let says = said.iter().find(|(intent, _)| pin.target == node && pin.intent == *intent);
            let Some((_, says)) = says.filter(|_| pin.state == PinState::Held) else { continue };
            (pin.says, pin.heard_at) = (*says, now);
            if *says == TargetSays::Ended {
                over.push(pin.worker_pid);
            }
        }
        over.into_iter().for_each(latch::wake);
    }
}

/// Stores which run of the peer has answered. If another run answers than the one that was watched, the manager judges
/// whether the peer may go on. What is known of a run that waits for this judgement is kept until then, whatever later
/// run answers meanwhile: the next answer after the judgement is then again one of another run.
fn store_run(entry: &mut PeerEntry, former: Former, answer: &PollAnswer, lives: &[Life]) {
    if entry.to_judge.is_some() {
        return;
    }
    let is_new_run = entry.start != OriginLsn::ZERO
        && ((entry.start, entry.server_started_at) != (answer.start, answer.started_at)
            || entry.system_identifier != answer.identity.system_identifier);
    if is_new_run && answer.start != OriginLsn::ZERO {
        let applied = applied_of_former_runs(&entry.former, lives.iter().copied(), answer.started_at);
        if applied != OriginLsn::ZERO {
            entry.to_judge = Some(KnownRun {
                applied,
                subscriptions: entry.former.subscriptions,
                system_identifier: Some(entry.system_identifier),
                timeline: Some(entry.timeline),
                run: Some(entry.server_started_at),
            });
        }
    }
    entry.system_identifier = answer.identity.system_identifier;
    entry.former = former;
    (entry.start, entry.server_started_at) = (answer.start, answer.started_at);
    entry.forks = [(0, OriginLsn::ZERO); MAX_FORKS];
    for (place, fork) in entry.forks.iter_mut().zip(&answer.forks) {
        *place = *fork;
    }
    entry.timeline = answer.timeline;
}

/// Returns what the peer says of its readiness, and what it lacks to be the source of a recovery, a line for each lack.
fn told_readiness<'a>(question: &PollQuestion, answer: &'a PollAnswer) -> Option<(&'a Readiness, Vec<String>)> {
    let ((local, _), said) = question.local.as_ref().zip(answer.readiness.as_ref())?;
    // Users are shown what the peer says, which must not look like this node's own words.
    let node = question.expected.clone().unwrap_or_default();
    let lacks = readiness::lacks(local, env!("CARGO_PKG_VERSION"), &Readiness { node, ..said.clone() });
    let told = |lack: &Lack| in_one_line(&format!("{}: {}", lack.finding, lack.advice.trim_end_matches('.')));
    Some((said, lacks.iter().map(told).collect()))
}

fn in_one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// Returns why the database that has answered is not believed to be the peer: by its name, or by its server and
/// database. None if it is believed.
fn doubt(question: &PollQuestion, answer: &PollAnswer) -> Option<(PeerState, String)> {
    if question.expected.as_ref().is_some_and(|expected| *expected != answer.node_name) {
        let mut name = ShortName::EMPTY;
        name.set(&answer.node_name);
        return Some((PeerState::OtherNode, format!("it says that it is node \"{}\"", name.shown())));
    }
    let bound = question.bound.filter(|bound| *bound != answer.identity)?;
    Some((PeerState::OtherServer, format!("it was known with {bound}, and answers with {}", answer.identity)))
}

/// Returns the workers that have applied the peer, for those of its subscriptions that existed when it last answered
/// and still exist. The subscription is compared as well, because ids of replication origins are reused.
fn lives_of_former(shared: &mut Shared, index: usize, peer: usize, question: &PollQuestion) -> Vec<Life> {
    let PeerEntry { former, lost_at, .. } = shared.peers(index)[peer];
    let pairs = |of: Former| of.subscriptions.into_iter().zip(of.origins);
    let mut lives = Vec::new();
    for (_, origin) in pairs(former).filter(|pair| pairs(question.former).any(|now| now == *pair)) {
        lives.extend(shared.lives_of(origin).into_iter().map(|life| Life {
            number: life.number,
            began_before_loss: lost_at.is_never() || life.began_at < lost_at,
            applied: life.applied,
            committed_at: life.committed_at,
        }));
    }
    lives
}

/// Stores what the peer has said of each origin in place of its previous answer; what the manager has written stays.
fn keep_positions(places: &mut [PositionEntry], question: &PollQuestion, answer: &PollAnswer) {
    let node_of = |name: &str| question.nodes.iter().find(|node| node.name.as_str() == name).map(|node| node.id);
    let mut named: Vec<(Oid, &Position)> = answer
        .positions
        .iter()
        .filter_map(|position| Some((node_of(position.origin.as_deref()?)?, position)))
        .collect();
    // If the peer has two subscriptions that come from one node, the one that is behind counts: it is written last.
    named.sort_by_key(|(_, position)| std::cmp::Reverse(position.passed));
    for place in places.iter_mut() {
        if !named.iter().any(|(node, _)| *node == place.origin) {
            *place = PositionEntry::FREE;
        }
    }
    for (node, position) in named {
        if let Some(place) = view::position_of(places, node) {
            place.subscription = position.subscription;
            place.origin_id = position.origin_id;
            place.is_ready = position.is_ready;
            place.applied = position.applied;
            place.passed = position.passed;
            if let Some(released) = &answer.released {
                let of_origin = released.iter().find(|(origin, _)| Some(origin) == position.origin.as_ref());
                place.released = of_origin.map_or(OriginLsn::ZERO, |(_, released)| *released);
            }
            place.committed_at = position.committed_at;
        }
    }
}
