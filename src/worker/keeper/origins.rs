//! What a round of the manager sees of the slot and of this node's own origins: their positions, samples and tables, and
//! from which position on this node can prove what it has of an origin, as long as that is not known yet.

use super::Keeper;
use super::heard::readings;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::error::RegistryError;
use crate::node::provider::Peer;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::slot::Slot;
use crate::pg::{origin, wal};
use crate::shmem;
use crate::slot::decision::{self, PeerInput};
use crate::slot::horizon::Sample;
use crate::slot::positions::{self, Own, OwnPosition, SubscribedTable};
use crate::slot::record::{OriginRecord, RetentionRecord};
use crate::slot::vouching::{Reading, Watch};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a round waits for commits in progress. A commit takes microseconds from its WAL record to its origin's
/// progress; if one hangs in between (a stalled disk), the round only has no sample.
const COMMIT_LIMIT: Duration = Duration::from_millis(500);

/// What a round has seen before it decides.
pub(super) struct Seen<'a> {
    pub(super) found: &'a Slot,
    /// The retention record before this round.
    pub(super) before: RetentionRecord,
    positions: Vec<OwnPosition>,
    /// The origins whose node is known.
    pub(super) own: Vec<Own>,
    /// The local position of this round's samples. None: a commit hung meanwhile, so there are none, and nothing may be
    /// concluded.
    pub(super) sampled_at: Option<LocalLsn>,
    /// By subscription, what the pollers have read of its slot at its provider.
    readings: HashMap<u32, Reading>,
}

impl Seen<'_> {
    pub(super) fn reading(&self, own: &Own) -> Option<Reading> {
        self.readings.get(&own.subscription).copied()
    }

    /// Whether some subscription may come from any node, because it is not known from which.
    pub(super) fn has_unknown_origin(&self) -> bool {
        self.positions.iter().any(|position| position.origin.is_none())
    }

    /// Returns the records before this round of the subscriptions whose node is unknown now, for example because its
    /// label cannot be read. These keep their record of what was released.
    pub(super) fn nameless(&self) -> impl Iterator<Item = &OriginRecord> {
        self.before.origins.iter().filter(|known| {
            self.positions.iter().any(|position| {
                position.origin.is_none()
                    && (position.subscription.to_u32(), position.origin_id) == (known.subscription, known.origin_id)
            })
        })
    }
}

impl Keeper {
    /// Looks at this node's origins, and takes a sample of each.
    pub(super) fn see<'a>(
        &mut self,
        found: &'a Slot,
        before: RetentionRecord,
        peers: &[Peer],
    ) -> Result<Seen<'a>, RegistryError> {
        let (positions, sampled_at) = self.sample()?;
        let own: Vec<Own> = positions.iter().filter_map(own_of).collect();
        let readings = readings(self.index, peers, &own);
        Ok(Seen { found, before, positions, own, sampled_at, readings })
    }

    /// Takes a sample of each origin. Returns the origins' positions, and the local position of the samples. The latter
    /// is None if a commit hung meanwhile: then there are no samples, and nothing may be concluded.
    fn sample(&mut self) -> Result<(Vec<OwnPosition>, Option<LocalLsn>), RegistryError> {
        let local = wal::flushed();
        let is_settled = wal::wait_for_commits_in_progress(COMMIT_LIMIT);
        let positions = positions::own_positions()?;
        if let Some((id, at)) = origin::latest_commit() {
            self.committed_at.insert(id, at);
        }
        if is_settled {
            let taken_at = Timestamp::now();
            for own in positions.iter().filter_map(own_of) {
                let origin = own.applied.unwrap_or(OriginLsn::ZERO);
                self.samples.entry(own.subscription).or_default().push(Sample { origin, local, taken_at });
            }
        }
        self.samples
            .retain(|subscription, _| positions.iter().any(|position| position.subscription.to_u32() == *subscription));
        Ok((positions, is_settled.then_some(local)))
    }

    /// Returns the next record of each origin. Begins and ends the watches of the origins that this node cannot vouch
    /// for yet.
    pub(super) fn next_origins(
        &mut self,
        seen: &Seen<'_>,
        inputs: &[PeerInput],
        covered: bool,
    ) -> Result<Vec<OriginRecord>, RegistryError> {
        let now = Timestamp::now();
        let mut origins = Vec::new();
        for own in &seen.own {
            let known = seen.before.origin(&own.node, own.subscription);
            let reading = seen.reading(own);
            let unbroken_from = match known {
                Some(known) if known.waits_beyond.is_some() && seen.sampled_at.is_some() => self.watch(own, reading)?,
                _ => None,
            };
            let (mut next, starts_anew) = decision::next_origin(own, known, covered, unbroken_from, now);
            if starts_anew {
                self.samples_since = Instant::now();
                self.samples.remove(&own.subscription);
                let watch = Watch::begin(Monotonic::now(), positions::transactions_of_workers(own.subscription)?);
                self.watches.insert(own.subscription, watch);
            }
            if next.waits_beyond.is_none() {
                self.watches.remove(&own.subscription);
            }
            let provider = inputs.iter().find(|peer| peer.name == own.node);
            if provider.is_some_and(|provider| decision::has_another_history(provider, &seen.before)) {
                (next.begins, next.passed) = (None, None);
            }
            if next.begins.is_none() {
                decision::note_beginning(&mut next, own, reading);
            }
            origins.push(next);
        }
        self.watches.retain(|subscription, _| seen.own.iter().any(|own| own.subscription == *subscription));
        Ok(origins)
    }

    /// Records the tables that have left a subscription. Returns the tables that had to be looked up, by subscription,
    /// with their digest.
    pub(super) fn note_tables(
        &mut self,
        origins: &mut [OriginRecord],
        seen: &Seen<'_>,
    ) -> Result<HashMap<u32, (i64, Vec<SubscribedTable>)>, RegistryError> {
        self.tables.retain(|subscription, _| seen.own.iter().any(|own| own.subscription == *subscription));
        let is_in_recovery = shmem::lock().databases()[self.index].slot.in_recovery;
        let mut looked_up = HashMap::new();
        for (origin, own) in origins.iter_mut().zip(&seen.own) {
            // While a clone exists these tables stay recorded, because a clone that was copied before the last move is
            // asked for them.
            origin.gone.retain(|gone| gone.until > seen.found.confirmed || is_in_recovery);
            let known = self.tables.get(&own.subscription);
            if known.is_some_and(|(digest, _)| *digest == own.tables) {
                continue;
            }
            let now = positions::tables_of(own.subscription)?;
            let before = known.map(|(_, tables)| tables.as_slice()).unwrap_or_default();
            decision::note_gone(origin, before, &now, wal::flushed());
            looked_up.insert(own.subscription, (own.tables, now));
        }
        Ok(looked_up)
    }

    /// Looks from which position on this node can prove what it has by a watched subscription; None: not yet.
    fn watch(&mut self, own: &Own, reading: Option<Reading>) -> Result<Option<OriginLsn>, RegistryError> {
        let running = match self.watches.get(&own.subscription) {
            Some(watch) if !watch.waits_for_transactions() => Vec::new(),
            _ => positions::transactions_of_workers(own.subscription)?,
        };
        let now = Monotonic::now();
        Ok(match self.watches.get_mut(&own.subscription) {
            Some(watch) => watch.look(now, &running, own, reading),
            // The watch ended with the previous manager, and begins anew.
            None => {
                self.watches.insert(own.subscription, Watch::begin(now, running));
                None
            }
        })
    }
}

fn own_of(position: &OwnPosition) -> Option<Own> {
    Some(Own {
        node: position.origin.as_ref()?.to_string(),
        subscription: position.subscription.to_u32(),
        origin_id: position.origin_id,
        tables: position.tables,
        newest_table: position.newest_table,
        settled_below: position.settled_below,
        remote: position.remote,
        applied: position.applied(),
    })
}
