//! What users see of a round of the manager. It is put together from what was decided and written to shared memory,
//! where the status functions read it, whatever the manager is doing.

use super::decision::{Block, Outcome, PeerInput};
use super::positions::Own;
use super::record::RetentionRecord;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;
use crate::pg::slot::Slot;
use crate::shmem::{BlockedReason, OriginEntry, PeerKey, PositionEntry, Shared};
use pgrx::pg_sys::{self, Oid};
use std::collections::HashMap;

/// What the status functions will show of the slot and of each origin.
#[derive(Debug)]
pub struct View {
    pub slot: Option<Slot>,
    pub generation: u64,
    pub blocked: BlockedReason,
    blocked_by: Option<String>,
    unacknowledged_since: Timestamp,
    origins: Vec<OriginView>,
    unprotected: Vec<String>,
}

#[derive(Debug)]
struct OriginView {
    node: String,
    subscription: u32,
    own: OriginLsn,
    released: OriginLsn,
    waits_since: Timestamp,
    committed_at: Timestamp,
    blocked: BlockedReason,
    pairs: Vec<PairView>,
}

#[derive(Debug)]
struct PairView {
    peer: String,
    passed: OriginLsn,
    local: LocalLsn,
    blocked: BlockedReason,
}

impl View {
    /// What is known before the round has looked at the slot.
    pub fn of(record: Option<&RetentionRecord>) -> View {
        View {
            slot: None,
            generation: record.map_or(0, |record| record.generation),
            blocked: BlockedReason::None,
            blocked_by: None,
            unacknowledged_since: Timestamp::NEVER,
            origins: Vec::new(),
            unprotected: record.map(|record| record.unprotected.clone()).unwrap_or_default(),
        }
    }

    #[allow(clippy::too_many_arguments)] // what there is to see
    pub fn fill(
        &mut self,
        found: &Slot,
        own: &[Own],
        peers: &[PeerInput],
        outcome: &Outcome,
        record: &RetentionRecord,
        is_pinned: bool,
        committed_at: &HashMap<u16, Timestamp>,
    ) {
        self.generation = record.generation;
        self.unprotected = record.unprotected.clone();
        self.unacknowledged_since = outcome.unacknowledged_since.unwrap_or(Timestamp::NEVER);
        let can_move = outcome.target.is_some_and(|target| target > found.confirmed);
        (self.blocked, self.blocked_by) = match outcome.block {
            _ if self.blocked != BlockedReason::None => (self.blocked, None),
            _ if outcome.is_over_budget => (BlockedReason::BudgetExceeded, None),
            _ if is_pinned => (BlockedReason::OpenTransaction, None),
            Some(block) if !can_move => told(block, peers),
            _ => (BlockedReason::None, None),
        };
        self.origins = own
            .iter()
            .zip(&outcome.pairs)
            .zip(&outcome.allowances)
            .map(|((own, pairs), allowance)| OriginView {
                node: own.node.clone(),
                subscription: own.subscription,
                own: own.applied.unwrap_or(OriginLsn::ZERO),
                released: record
                    .origin(&own.node, own.subscription)
                    .map_or(OriginLsn::INFINITY, |origin| origin.released),
                waits_since: record
                    .origin(&own.node, own.subscription)
                    .and_then(|origin| origin.waits_since)
                    .unwrap_or(Timestamp::NEVER),
                committed_at: committed_at.get(&own.origin_id).copied().unwrap_or(Timestamp::NEVER),
                blocked: match allowance.hold {
                    Some(super::horizon::Hold::NoSample) => BlockedReason::NoSample,
                    _ => BlockedReason::None,
                },
                pairs: pairs
                    .iter()
                    .map(|pair| PairView {
                        peer: peers[pair.peer].name.clone(),
                        passed: pair.passed.unwrap_or(OriginLsn::ZERO),
                        local: pair.local.unwrap_or(LocalLsn::ZERO),
                        blocked: pair.block.map_or(BlockedReason::None, |block| told(block, peers).0),
                    })
                    .collect(),
            })
            .collect();
    }
}

/// The reason as users see it, and the name of the peer that blocks.
fn told(block: Block, peers: &[PeerInput]) -> (BlockedReason, Option<String>) {
    let by = |peer: usize| Some(peers[peer].name.clone());
    match block {
        Block::NoSample => (BlockedReason::NoSample, None),
        Block::OriginUnknown => (BlockedReason::PeerUnknown, None),
        Block::OutgoingSlot => (BlockedReason::OutgoingSlot, None),
        Block::PeerUnreachable(peer) => (BlockedReason::PeerUnreachable, by(peer)),
        Block::PeerUnknown(peer) => (BlockedReason::PeerUnknown, by(peer)),
        Block::PeerLagging(peer) => (BlockedReason::PeerLagging, by(peer)),
    }
}

/// Writes the view to shared memory. `index`: the database's entry; `nodes`: the peers' foreign servers by name.
pub fn publish(shared: &mut Shared, index: usize, view: &View, nodes: &HashMap<String, Oid>, wal_bytes_per_s: f64) {
    let place_of = |shared: &mut Shared, name: &str| {
        let node = *nodes.get(name)?;
        shared.peers(index).iter().position(|peer| peer.key == PeerKey::Node(node))
    };
    let blocked_by = view.blocked_by.as_ref().and_then(|name| nodes.get(name).copied());
    let slot = &mut shared.databases()[index].slot;
    if let Some(found) = &view.slot {
        slot.name.set(&found.name);
    }
    slot.exists = view.slot.is_some();
    slot.is_usable = view.slot.as_ref().is_some_and(|found| !found.is_invalid);
    slot.generation = view.generation;
    slot.blocked = view.blocked;
    slot.blocked_by = blocked_by.unwrap_or(pg_sys::InvalidOid);
    slot.min_unacknowledged_at = view.unacknowledged_since;
    slot.wal_bytes_per_s = wal_bytes_per_s;
    for peer in shared.peers(index) {
        let PeerKey::Node(node) = peer.key else { continue };
        peer.is_unprotected = view.unprotected.iter().any(|name| nodes.get(name) == Some(&node));
    }
    let mut entries = view.origins.iter().map(|origin| OriginEntry {
        node: nodes.get(&origin.node).copied().unwrap_or(pg_sys::InvalidOid),
        subscription: Oid::from_u32(origin.subscription),
        own: origin.own,
        released: origin.released,
        waits_since: origin.waits_since,
        committed_at: origin.committed_at,
        blocked: origin.blocked,
    });
    shared.origins(index).fill_with(|| entries.next().unwrap_or(OriginEntry::FREE));
    for origin in &view.origins {
        let Some(node) = nodes.get(&origin.node).copied() else {
            continue;
        };
        for pair in &origin.pairs {
            let Some(place) = place_of(shared, &pair.peer) else {
                continue;
            };
            if let Some(position) = position_of(shared.positions(index, place), node) {
                position.counted = pair.passed;
                position.local = pair.local;
                position.blocked = pair.blocked;
            }
        }
    }
}

/// The entry for an origin among a peer's positions: the one that it has, else a free one, which it then takes. None if
/// no entry is free.
pub fn position_of(positions: &mut [PositionEntry], origin: Oid) -> Option<&mut PositionEntry> {
    let place = positions
        .iter()
        .position(|position| position.origin == origin)
        .or_else(|| positions.iter().position(|position| position.origin == pg_sys::InvalidOid))?;
    let position = &mut positions[place];
    if position.origin != origin {
        *position = PositionEntry { origin, ..PositionEntry::FREE };
    }
    Some(position)
}
