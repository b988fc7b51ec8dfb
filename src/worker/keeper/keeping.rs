//! How a round of the manager keeps a slot that exists: it decides how far the slot may move and whether it moves now,
//! and records what the move will release.

use super::heard::{peer_inputs, released_by_peers};
use super::origins::Seen;
use super::{Keeper, KeeperRound, TOUCH_FRACTION};
use crate::guc;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::error::RegistryError;
use crate::node::provider::Peer;
use crate::pg::clock::Timestamp;
use crate::pg::slot::{self, Slot};
use crate::pg::{compat, wal};
use crate::shmem::{self, BlockedReason, SlotJob};
use crate::slot::budget;
use crate::slot::decision::{self, Block, Outcome, PeerInput};
use crate::slot::horizon::Samples;
use crate::slot::outgoing::{self, Outgoing};
use crate::slot::positions::Own;
use crate::slot::record::{OriginRecord, RetentionRecord};
use crate::slot::record_storage::write;
use std::time::{Duration, Instant};

/// Number of polls after which every healthy peer has passed the first sample and has reported that.
const POLLS_TO_TELL: u32 = 5;

/// A move of the slot.
struct Move {
    /// How far the slot may move; None: no further than where it is.
    target: Option<LocalLsn>,
    /// The least time between the beginning of the last move and that of this one.
    wait: Duration,
    /// A transaction that was open before the last move keeps restart_lsn where it is.
    is_pinned: bool,
}

/// A young node records at most this often that it is past what a peer may have released: the peer's word causes it, and
/// each time is a write.
const NOTE_INTERVAL: Duration = Duration::from_secs(10);

impl Keeper {
    /// Keeps a slot that exists: takes samples, decides, and writes the record.
    pub(super) fn keep(
        &mut self,
        round: &mut KeeperRound,
        found: &Slot,
        peers: &[Peer],
        may_act: bool,
    ) -> Result<(), RegistryError> {
        let Some(before) = self.record.clone() else {
            return Ok(());
        };
        self.note_finished_move(found, may_act);
        let mut record = before.clone();
        let seen = self.see(found, before, peers)?;
        let covered = record.position.is_some_and(|position| found.confirmed <= position);
        if !covered && seen.sampled_at.is_none() {
            // A commit hangs between its WAL record and its origin's progress, and that progress is what would be
            // recorded now.
            return Ok(());
        }
        if !covered {
            log_uncovered(found, record.position);
            record.position = Some(found.confirmed);
        }
        let inputs = peer_inputs(self.index, peers);
        record.origins = self.next_origins(&seen, &inputs, covered)?;
        round.tables = self.note_tables(&mut record.origins, &seen)?;
        record.origins.extend(seen.nameless().cloned());
        record.peers = inputs.iter().filter_map(|peer| decision::next_peer(peer, &seen.before)).collect();
        let now = Timestamp::now();
        let end = wal::flushed();
        self.rate.observe(end, now);
        let outgoing = outgoing::beside(&found.name)?;
        let outcome = self.decide(round, &seen, &inputs, &record, &outgoing, end);
        record.unprotected = decision::unprotected(&record, &outcome, &inputs);
        let wanted = self.wanted_move(found, &outcome)?;
        if may_act {
            self.choose_job(round, &mut record, &seen, &wanted, now);
        }
        self.budget.tell_outgoing(found, outgoing::given_up(&outgoing, found.confirmed, budget::lowest(end)));
        self.budget.tell(&seen.before, &record, found, end, &self.rate, &outcome, &inputs);
        round.view.fill(found, &seen.own, &inputs, &outcome, &record, wanted.is_pinned, &self.committed_at);
        self.limit_nap(round, &wanted);
        self.write_if_due(round, record, &seen, peers)
    }

    /// Decides how far the slot may move. `end`: the end of this server's WAL.
    fn decide(
        &self,
        round: &mut KeeperRound,
        seen: &Seen<'_>,
        inputs: &[PeerInput],
        record: &RetentionRecord,
        outgoing: &[Outgoing],
        end: LocalLsn,
    ) -> Outcome {
        let floor = self.budget.floor(end, seen.found).filter(|_| self.can_tell_who_lags());
        let nothing = Samples::default();
        let samples_of = |own: &Own| self.samples.get(&own.subscription).unwrap_or(&nothing);
        let origins: Vec<(&Own, &Samples)> = seen.own.iter().map(|own| (own, samples_of(own))).collect();
        let mut outcome = decision::decide(&origins, inputs, record, end, floor);
        if shmem::lock().databases()[self.index].slot.in_recovery {
            outcome.target = None;
            round.view.blocked = BlockedReason::RescueInProgress;
        } else if seen.sampled_at.is_none() {
            outcome.hold(Block::NoSample, None);
        } else if seen.has_unknown_origin() {
            // The subscription may come from any node: until that is known, nothing is released except for the budget.
            outcome.hold(Block::OriginUnknown, floor);
        }
        if let Some(slowest) = outgoing::slowest(outgoing, floor) {
            outcome.stay_behind(slowest.confirmed, seen.found.confirmed);
        }
        outcome
    }

    fn wanted_move(&self, found: &Slot, outcome: &Outcome) -> Result<Move, RegistryError> {
        let target = outcome.target.filter(|target| *target > found.confirmed);
        let is_pinned = self.is_pinned()?;
        let frees = target.map_or(0, |target| target.bytes_since(found.restart));
        let wait = self.pace.wait(guc::recovery_slot_advance_interval(), frees, is_pinned);
        Ok(Move { target, wait, is_pinned })
    }

    /// Chooses the slot worker's job: a move, if one is wanted and due, whose release is then part of the record; or to
    /// touch a slot that was idle for too long.
    fn choose_job(
        &self,
        round: &mut KeeperRound,
        record: &mut RetentionRecord,
        seen: &Seen<'_>,
        wanted: &Move,
        now: Timestamp,
    ) {
        let is_requested = {
            let slot = shmem::lock().databases()[self.index].slot;
            slot.requested != slot.answered
        };
        let is_due = is_requested || self.last_move.is_none_or(|(begun, _)| begun.elapsed() >= wanted.wait);
        if let Some(target) = wanted.target
            && is_due
        {
            let stop = if is_requested { target } else { self.pace.next_stop(seen.found.confirmed, target) };
            for origin in &mut record.origins {
                origin.released = origin.released.max(self.let_go(origin, stop, &seen.own));
            }
            record.position = Some(stop);
            round.job = SlotJob::Advance(stop);
        } else if is_idle_too_long(seen.found, now) {
            round.job = SlotJob::Touch;
        }
    }

    /// Makes the next round begin in time for the wanted move, and before an idle slot is invalidated.
    fn limit_nap(&self, round: &mut KeeperRound, wanted: &Move) {
        if let (Some(_), Some((begun, _))) = (wanted.target, self.last_move) {
            round.nap = round.nap.min(wanted.wait.saturating_sub(begun.elapsed()).max(Duration::from_millis(10)));
        }
        if let Some(limit) = compat::idle_slot_timeout() {
            round.nap = round.nap.min(limit / TOUCH_FRACTION);
        }
    }

    /// Writes the retention record if it has to be durable now. How far the peers are is written only when the slot
    /// moves, because it proves nothing before. What they subscribe to is written at once: after a restart of this
    /// server, a peer that has not reported yet would otherwise count as one that needs nothing.
    fn write_if_due(
        &mut self,
        round: &mut KeeperRound,
        mut record: RetentionRecord,
        seen: &Seen<'_>,
        peers: &[Peer],
    ) -> Result<(), RegistryError> {
        let before = &seen.before;
        let is_note_due = self.noted_at.is_none_or(|noted_at| noted_at.elapsed() >= NOTE_INTERVAL);
        let is_past_a_source = |(origin, own): (&OriginRecord, &Own)| {
            let released = released_by_peers(self.index, peers, &own.node);
            decision::is_past_a_source(origin, own, seen.reading(own), &released)
        };
        let must_write = round.job != SlotJob::Nothing && !matches!(round.job, SlotJob::Touch)
            || record.position != before.position
            || record.origins != before.origins
            || record.unprotected != before.unprotected
            || decision::histories(&record.peers) != decision::histories(&before.peers);
        // What peers may have released is looked up only for an origin of which nothing was applied.
        let mut young = record.origins.iter().zip(&seen.own).filter(|(_, own)| own.applied.is_none());
        let is_noted = is_note_due && young.any(is_past_a_source);
        if is_noted {
            self.noted_at = Some(Instant::now());
        }
        if must_write || is_noted {
            for (origin, own) in record.origins.iter_mut().zip(&seen.own) {
                decision::note_beginning(origin, own, seen.reading(own));
            }
        }
        if (must_write || is_noted) && record != *before {
            write(&record)?;
            round.record = Some(record);
        }
        Ok(())
    }

    /// Whether the samples are old enough to tell which peers lag. With samples of a moment ago alone, a peer that is a
    /// second behind looks like one that is behind all of them. So no peer is given up for the budget before every peer
    /// has had time to pass the first sample and to report that.
    fn can_tell_who_lags(&self) -> bool {
        self.samples_since.elapsed() >= guc::recovery_poll_interval() * POLLS_TO_TELL + guc::peer_timeout()
    }

    /// Returns up to which position the slot releases an origin when it moves to `stop`: that of the next sample at or
    /// beyond `stop`, or else all that was applied.
    fn let_go(&self, origin: &OriginRecord, stop: LocalLsn, own: &[Own]) -> OriginLsn {
        let sample = self.samples.get(&origin.subscription).and_then(|samples| samples.oldest_at_or_beyond(stop));
        match sample {
            Some(sample) => sample.origin,
            None => own
                .iter()
                .find(|own| own.subscription == origin.subscription)
                .and_then(|own| own.applied)
                .unwrap_or(OriginLsn::INFINITY),
        }
    }

    /// Adapts the pace to a move that has ended, and drops the samples that the slot has passed.
    fn note_finished_move(&mut self, found: &Slot, may_act: bool) {
        if let (true, true, Some((begun, restart))) = (self.is_moving, may_act, self.last_move) {
            self.is_moving = false;
            let has_moved = found.restart > restart;
            self.pace.moved(begun.elapsed(), has_moved, found.confirmed.bytes_since(restart));
            self.is_stuck = !has_moved;
            for samples in self.samples.values_mut() {
                samples.forget_before(found.confirmed);
            }
        }
    }

    /// Whether a transaction that was open before the last move keeps restart_lsn where it is.
    fn is_pinned(&self) -> Result<bool, RegistryError> {
        match (self.is_stuck, self.last_move) {
            (true, Some((begun, _))) => {
                Ok(slot::oldest_writer()?
                    .is_some_and(|since| Timestamp::now().by_the_wall_since(since) > begun.elapsed()))
            }
            _ => Ok(false),
        }
    }
}

fn log_uncovered(found: &Slot, recorded: Option<LocalLsn>) {
    if let Some(position) = recorded {
        pgrx::log!(
            "recovery slot \"{}\" is at {}, beyond {position}, which the retention record covers: it may have released \
             everything that this node has applied",
            found.name,
            found.confirmed
        );
    }
}

fn is_idle_too_long(found: &Slot, now: Timestamp) -> bool {
    match (compat::idle_slot_timeout(), found.inactive_since) {
        (Some(limit), Some(since)) => !found.is_active && now.by_the_wall_since(since) >= limit / TOUCH_FRACTION,
        _ => false,
    }
}
