//! What the pollers have left in shared memory, as the manager decides about the slot with it.

use crate::lsn::OriginLsn;
use crate::node::provider::Peer;
use crate::shmem::{self, PeerEntry, PeerKey, PeerState};
use crate::slot::decision::{Contact, PeerInput, Report};
use crate::slot::positions::Own;
use crate::slot::record::PassedRecord;
use crate::slot::vouching::Reading;
use std::collections::HashMap;

/// Returns, by subscription, what the pollers have read of the subscriptions' slots at their providers. A reading counts
/// only if it is of the node that the subscription comes from now: another node's positions mean something else.
pub(super) fn readings(index: usize, peers: &[Peer], own: &[Own]) -> HashMap<u32, Reading> {
    let mut shared = shmem::lock();
    let entries = shared.peers(index);
    let of_own = |own: &Own| {
        let node = peers.iter().find(|peer| peer.name.as_str() == own.node)?.id;
        let entry = entries.iter().find(|entry| entry.key == PeerKey::Node(node))?;
        let read = entry.own_confirmed.iter().find(|(subscription, _)| subscription.to_u32() == own.subscription)?;
        let confirmed = read.1.known()?;
        Some((own.subscription, Reading { asked_at: entry.own_asked_at, wal_end: entry.wal_end, confirmed }))
    };
    own.iter().filter_map(of_own).collect()
}

/// Returns what the recovery slots of peers may have released of an origin, as far as the pollers have asked.
pub(super) fn released_by_peers(index: usize, peers: &[Peer], origin: &str) -> Vec<OriginLsn> {
    let Some(origin) = peers.iter().find(|peer| peer.name.as_str() == origin) else { return Vec::new() };
    let mut shared = shmem::lock();
    (0..shared.peers(index).len())
        .flat_map(|peer| {
            let of_origin = shared.positions(index, peer).iter().find(|position| position.origin == origin.id);
            of_origin.and_then(|position| position.released.known())
        })
        .collect()
}

/// Returns what the pollers know of each peer.
pub(super) fn peer_inputs(index: usize, peers: &[Peer]) -> Vec<PeerInput> {
    let mut shared = shmem::lock();
    let entries: Vec<PeerEntry> = shared.peers(index).to_vec();
    peers
        .iter()
        .map(|peer| {
            let place = entries.iter().position(|entry| entry.key == PeerKey::Node(peer.id));
            let report = place.filter(|place| !entries[*place].reported_at.is_never()).map(|place| Report {
                system_identifier: entries[place].system_identifier,
                timeline: entries[place].timeline,
                has_unknown_origin: entries[place].has_unknown_origin,
                positions: shared
                    .positions(index, place)
                    .iter()
                    .filter_map(|position| {
                        let origin = peers.iter().find(|candidate| candidate.id == position.origin)?;
                        Some(PassedRecord {
                            origin: origin.name.to_string(),
                            subscription: position.subscription,
                            origin_id: position.origin_id,
                            passed: position.passed,
                        })
                    })
                    .collect(),
            });
            let contact = match place.map(|place| entries[place].state) {
                Some(PeerState::Connected) => Contact::Answers,
                Some(PeerState::NotANode | PeerState::OtherNode | PeerState::OtherServer) => Contact::Useless,
                _ => Contact::Silent,
            };
            PeerInput { name: peer.name.to_string(), contact, report }
        })
        .collect()
}
