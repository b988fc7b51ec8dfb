//! The manager's part when a node is back: it judges the node (src/older_copy.rs), and the subscription from the node
//! is enabled or stays disabled.
//!
//! A subscription that a recovery has suspended waits for that judgement. A subscription that runs is suspended if its
//! provider was restarted from less than what was applied here; every survivor judges by itself.

use super::skips::Skips;
use crate::intent::document::{Journal, Suspension, Until};
use crate::intent::{IntentError, storage};
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::{Peer, ReplicationProvider};
use crate::older_copy::{KnownRun, Now, ReturnVerdict, first_of, judge};
use crate::pg::clock::Monotonic;
use crate::pg::process;
use crate::shmem::{self, PeerEntry, PeerKey, PeerState};
use crate::slot::positions::{self, OwnPosition};
use pgrx::pg_sys::Oid;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Returns {
    /// Since when this manager knows that a subscription waits for its node. Only later answers count: earlier ones may
    /// date from before the node failed.
    waiting_since: HashMap<u32, Monotonic>,
}

impl Returns {
    /// Judges the nodes that are back. Runs in the manager's transaction.
    pub fn look(&mut self, journal: &Journal, peers: &[PeerEntry], skips: &mut Skips) {
        // While a recovery runs, the replication origins belong to its worker.
        if journal.unfinished().next().is_some() {
            return;
        }
        let restarted: Vec<&PeerEntry> =
            peers.iter().filter(|peer| peer.state == PeerState::Connected && peer.to_judge.is_some()).collect();
        let is_waiting = |entry: &&Suspension| entry.until == Until::Returned;
        let waiting: Vec<&Suspension> = journal.suspensions.iter().filter(is_waiting).collect();
        self.waiting_since.retain(|id, _| waiting.iter().any(|entry| entry.subscription == *id));
        if restarted.is_empty() && waiting.is_empty() {
            return;
        }
        let known = skips.each(
            || "nodes that are back".to_owned(),
            || Ok::<_, IntentError>((NativeProvider.peers()?, positions::own_positions()?)),
        );
        let Some((nodes, positions)) = known else { return };
        for peer in restarted {
            let what = || format!("peer \"{}\", which was restarted", peer.node_name.as_str());
            skips.each(what, || judge_restarted(journal, peer, &nodes, &positions));
        }
        for suspension in waiting {
            let since = *self.waiting_since.entry(suspension.subscription).or_insert_with(Monotonic::now);
            let what = || {
                format!(
                    "the subscription (oid {}) from node \"{}\", which is back: enable or drop it by hand",
                    suspension.subscription, suspension.origin
                )
            };
            skips.each(what, || judge_suspended(suspension, since, peers, &nodes, &positions));
        }
    }
}

/// Judges the provider of a running subscription after a restart, and suspends the subscription if the provider has
/// less than was applied here.
fn judge_restarted(
    journal: &Journal,
    peer: &PeerEntry,
    nodes: &[Peer],
    positions: &[OwnPosition],
) -> Result<(), IntentError> {
    let Some(node) = nodes.iter().find(|node| peer.key == PeerKey::Node(node.id)) else { return Ok(()) };
    let verdict = peer.to_judge.map_or(ReturnVerdict::GoesOn, |known| judge(known, &now(peer)));
    let is_of = |position: &&OwnPosition| {
        position.origin.as_ref() == Some(&node.name)
            && peer.to_judge.is_some_and(|known| known.concerns(position.subscription.to_u32()))
    };
    let mut has_written = false;
    if let Some(reason) = verdict.reason(node.name.as_str()) {
        for position in positions.iter().filter(is_of) {
            let subscription = position.subscription.to_u32();
            if journal.suspensions.iter().any(|known| known.subscription == subscription) {
                continue;
            }
            let is_enabled = NativeProvider
                .subscriptions()?
                .iter()
                .any(|known| known.id == position.subscription && known.is_enabled);
            if is_enabled && NativeProvider.suspend(position.subscription) {
                let suspension = Suspension {
                    system_identifier: peer.to_judge.and_then(|known| known.system_identifier),
                    timeline: peer.to_judge.and_then(|known| known.timeline),
                    verdict: Some(reason.clone()),
                    ..Suspension::new(subscription, node.name.to_string(), Until::Returned)
                };
                storage::update(|journal| {
                    journal.suspensions.push(suspension);
                    Ok::<_, IntentError>(())
                })?;
                tell(node.name.as_str(), &reason);
                has_written = true;
            }
        }
    }
    // If something was written, that may still be rolled back, and the next round judges the node again.
    if !has_written {
        forget(peer);
    }
    Ok(())
}

/// Decides about a suspended subscription: enables it if its node is back and may go on, records the reason if the node
/// may not, and removes the suspension if others have settled the matter.
fn judge_suspended(
    suspension: &Suspension,
    since: Monotonic,
    peers: &[PeerEntry],
    nodes: &[Peer],
    positions: &[OwnPosition],
) -> Result<(), IntentError> {
    let id = Oid::from_u32(suspension.subscription);
    let Some(subscription) = NativeProvider.subscriptions()?.into_iter().find(|known| known.id == id) else {
        // The subscription was dropped in the meantime.
        return change(suspension, None);
    };
    if subscription.is_enabled {
        // Somebody has enabled the subscription by hand, and that decision stands.
        return change(suspension, None);
    }
    if !subscription.counts() {
        // The subscription does not belong to the mesh any more.
        NativeProvider.resume(id);
        return change(suspension, None);
    }
    let Some(position) = positions.iter().find(|position| position.subscription == id) else { return Ok(()) };
    if suspension.verdict.is_some() {
        // A later start of the same copy looks sound; only a person can tell that the node is another one now.
        return Ok(());
    }
    if suspension.origin.is_empty() {
        // The subscription waits for no node: it could not be enabled when a recovery ended.
        NativeProvider.resume(id);
        return change(suspension, None);
    }
    let node = nodes.iter().find(|node| node.name.as_str() == suspension.origin).map(|node| node.id);
    let answering = peers.iter().find(|peer| {
        node.is_some_and(|node| peer.key == PeerKey::Node(node))
            && peer.state == PeerState::Connected
            && peer.heard_at > since
            && peer.start != OriginLsn::ZERO
    });
    let Some(peer) = answering else { return Ok(()) };
    let known = KnownRun {
        subscriptions: first_of([suspension.subscription]),
        applied: position.applied().unwrap_or(OriginLsn::ZERO),
        system_identifier: suspension.system_identifier,
        timeline: suspension.timeline,
        run: suspension.run,
    };
    match judge(known, &now(peer)).reason(&suspension.origin) {
        None => {
            change(suspension, None)?;
            if NativeProvider.resume(id) {
                pgrx::log!("node \"{}\" is back: its subscription is enabled again", suspension.origin);
            }
            Ok(())
        }
        Some(reason) => {
            tell(&suspension.origin, &reason);
            change(suspension, Some(Suspension { verdict: Some(reason), ..suspension.clone() }))
        }
    }
}

fn now(peer: &PeerEntry) -> Now {
    Now {
        system_identifier: peer.system_identifier,
        run: peer.server_started_at,
        start: peer.start,
        forks: peer.forks.iter().filter(|(timeline, _)| *timeline != 0).copied().collect(),
    }
}

/// Removes a suspension from the journal, or replaces it by another one.
fn change(suspension: &Suspension, other: Option<Suspension>) -> Result<(), IntentError> {
    storage::update(|journal| {
        journal.suspensions.retain(|known| known != suspension);
        journal.suspensions.extend(other);
        Ok(())
    })
}

fn tell(node: &str, reason: &str) {
    pgrx::warning!(
        "{reason}: its subscription stays disabled, because its new transactions would be skipped; rebuild node \
         \"{node}\" from a survivor (if it is a complete copy after all, ALTER SUBSCRIPTION … ENABLE)"
    );
}

/// Notes that the peer's last restart was judged.
fn forget(peer: &PeerEntry) {
    let mut shared = shmem::lock();
    let Some(index) = shared.index_of(process::my_database()) else { return };
    if let Some(entry) = shared.peers(index).iter_mut().find(|entry| {
        entry.key == peer.key && (entry.start, entry.server_started_at) == (peer.start, peer.server_started_at)
    }) {
        entry.to_judge = None;
    }
}
