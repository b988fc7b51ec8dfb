//! What the manager concludes from one round of observations (pure): how far each peer counts as having passed each
//! origin, how far the slot may advance, which transactions it may thereby release, and what the status functions show
//! of it.

use super::horizon::{Allowance, Hold, Progress, Samples};
use super::positions::Own;
use super::positions::SubscribedTable;
use super::record::{GoneTable, OriginRecord, PassedRecord, PeerRecord, RetentionRecord};
use super::retention::{self, OriginRetention};
use super::vouching::Reading;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::pg::clock::Timestamp;

/// What a peer last reported of itself, as its poller has heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub system_identifier: u64,
    pub timeline: u32,
    pub has_unknown_origin: bool,
    pub positions: Vec<PassedRecord>,
}

/// Whether a peer can be reached, as its poller has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    Answers,
    /// A server answers, but it is no node, or another node than the expected one.
    Useless,
    Silent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInput {
    pub name: String,
    pub contact: Contact,
    /// None: the peer has not reported since this server started.
    pub report: Option<Report>,
}

/// Why the slot, or one pair of an origin and a peer, does not advance. A number is the index of a peer among those
/// given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    NoSample,
    /// It is not known from which node a subscription of this node receives.
    OriginUnknown,
    PeerUnreachable(usize),
    PeerUnknown(usize),
    PeerLagging(usize),
    /// The subscriber of one of this node's own outgoing slots has not confirmed more (outgoing).
    OutgoingSlot,
}

/// An origin, and a peer that subscribes to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub peer: usize,
    /// Up to which position of the origin the peer counts as having passed it; None: unknown.
    pub passed: Option<OriginLsn>,
    /// How far this pair lets the slot advance; None: not at all.
    pub local: Option<LocalLsn>,
    pub block: Option<Block>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How far the slot may advance; None: not at all.
    pub target: Option<LocalLsn>,
    pub block: Option<Block>,
    /// One for each origin, in the order in which the origins were given.
    pub allowances: Vec<Allowance>,
    pub pairs: Vec<Vec<Pair>>,
    /// Indexes of the peers that this round gives up because of the retention budget.
    pub given_up: Vec<usize>,
    /// The slot would keep more WAL than the budget allows even without these peers.
    pub is_over_budget: bool,
    /// When the oldest transaction that some peer lacks was first seen on this node.
    pub unacknowledged_since: Option<Timestamp>,
}

impl Outcome {
    /// Holds the slot for a reason other than a peer: it may advance to `floor` at most, or not at all if that is None.
    pub fn hold(&mut self, block: Block, floor: Option<LocalLsn>) {
        self.target = self.target.zip(floor).map(|(target, floor)| target.min(floor));
        self.block = Some(block);
    }

    /// Keeps the slot from passing this node's slowest outgoing slot, which is at `slowest`. `found`: where the recovery
    /// slot is. The reason remains the peers' if the slot could not move without the outgoing slot either; or if a peer
    /// cannot be asked, because then the outgoing slot is usually that peer's, and it is the peer that needs attention.
    pub fn stay_behind(&mut self, slowest: LocalLsn, found: LocalLsn) {
        let Some(target) = self.target.filter(|target| *target > slowest) else { return };
        self.target = Some(slowest);
        let is_silent = matches!(self.block, Some(Block::PeerUnreachable(_) | Block::PeerUnknown(_)));
        if target > found && !is_silent {
            self.block = Some(Block::OutgoingSlot);
        }
    }
}

/// Whether the record `before` still describes the subscription: subscription and replication origin are the same, and
/// no table was added without copying its rows. A table that has left the subscription removes nothing from the WAL
/// that other nodes need. A table that was copied since then needs no check here: the proof compares the position up to
/// which its rows came with the copy.
pub fn is_recorded(before: &OriginRecord, subscription: u32, origin_id: u16, newest_table: u64, tables: i64) -> bool {
    before.subscription == subscription
        && before.origin_id == origin_id
        && match before.tables_before {
            // While a transaction that is older than the newest table stays open, that table is not below
            // `known_below`. The record then holds only if neither the newest table nor the digest has changed.
            Some(known_below) => {
                newest_table < known_below || (before.tables == tables && before.newest_table == Some(newest_table))
            }
            None => before.tables == tables,
        }
}

/// The next record of an origin. The bool is true if the origin's history starts anew, so that its samples must be
/// discarded.
///
/// `covered`: the slot stands at or before the position that the record covers. Otherwise the slot is new or was moved
/// by other means, and everything that this node has applied may have been released. `unbroken_from`: for an origin
/// that waits (`waits_beyond`), the position from which its stream has been found to be unbroken (vouching).
pub fn next_origin(
    own: &Own,
    before: Option<&OriginRecord>,
    covered: bool,
    unbroken_from: Option<OriginLsn>,
    now: Timestamp,
) -> (OriginRecord, bool) {
    let is_same_pair =
        |before: &&OriginRecord| (before.subscription, before.origin_id) == (own.subscription, own.origin_id);
    let pair = before.filter(is_same_pair);
    let record = |released| OriginRecord {
        node: own.node.clone(),
        subscription: own.subscription,
        origin_id: own.origin_id,
        tables: own.tables,
        tables_before: Some(own.settled_below),
        newest_table: (own.newest_table >= own.settled_below).then_some(own.newest_table),
        released,
        waits_beyond: None,
        waits_since: None,
        begins: pair.and_then(|pair| pair.begins),
        passed: pair.and_then(|pair| pair.passed),
        gone: pair.map(|pair| pair.gone.clone()).unwrap_or_default(),
    };
    let waiting =
        || OriginRecord { waits_beyond: Some(own.remote), waits_since: Some(now), ..record(OriginLsn::INFINITY) };
    let recorded =
        before.filter(|before| is_recorded(before, own.subscription, own.origin_id, own.newest_table, own.tables));
    match (recorded, own.applied) {
        (None, Some(applied)) if before.is_none() && !covered => (record(applied), true),
        (None, _) => (waiting(), true),
        (Some(before), _) if before.waits_beyond.is_some() => match unbroken_from {
            Some(from) => (record(from), false),
            None => (before.clone(), false),
        },
        (Some(_), Some(applied)) if !covered => (record(applied), true),
        (Some(_), None) if !covered => (waiting(), true),
        (Some(before), _) if before.tables == own.tables && before.tables_before.is_some() => (before.clone(), false),
        // This change of tables loses nothing that other nodes need: `released` stays.
        (Some(before), _) => (record(before.released), false),
    }
}

/// Most tables that are recorded for one subscription after they have left it. Changes of any further such table cannot
/// be recovered from this node.
const GONE_TABLES: usize = 1000;

/// Records the tables that are in `before` and not in `now`, as having left the subscription. `end`: how far this
/// server's WAL was flushed when that was seen.
pub fn note_gone(record: &mut OriginRecord, before: &[SubscribedTable], now: &[SubscribedTable], end: LocalLsn) {
    for table in before.iter().filter(|table| now.iter().all(|known| known.oid != table.oid)) {
        // A table whose initial copy was not finished has no complete contents to recover.
        if !table.is_ready || record.gone.len() == GONE_TABLES {
            continue;
        }
        record.gone.push(GoneTable {
            oid: table.oid,
            schema: table.schema.clone(),
            name: table.name.clone(),
            copied: table.copied,
            until: end,
        });
    }
}

/// Records, for a subscription that has applied nothing, where it begins (the confirmed position that was read first)
/// and how far it has passed its provider (the one read last).
pub fn note_beginning(record: &mut OriginRecord, own: &Own, reading: Option<Reading>) {
    let confirmed = reading.and_then(|reading| reading.confirmed.known());
    if let (None, Some(confirmed)) = (own.applied, confirmed) {
        record.begins.get_or_insert(confirmed);
        record.passed = record.passed.max(Some(confirmed));
    }
}

/// Whether a provider reports another server or timeline than the record knows: it was restored from a backup, or a
/// standby was promoted. Positions of its WAL that were read before may hold other transactions now, so what this node
/// has recorded of where it began and how far it had passed holds no longer.
pub fn has_another_history(provider: &PeerInput, before: &RetentionRecord) -> bool {
    let known = before.peer(&provider.name).map(|known| (known.system_identifier, known.timeline));
    let now = provider.report.as_ref().map(|report| (report.system_identifier, report.timeline));
    known.zip(now).is_some_and(|(known, now)| known != now)
}

/// Whether a subscription that has applied nothing has passed what a peer's recovery slot may have released of its
/// origin (`released`, one position for each peer), and has not recorded that yet. It must be recorded then: if both
/// the origin and this server are lost, nothing else proves that the peer holds all that is missing here. Most readings
/// are further on than the record and change nothing, so that an idle mesh writes nothing.
pub fn is_past_a_source(record: &OriginRecord, own: &Own, reading: Option<Reading>, released: &[OriginLsn]) -> bool {
    let (None, Some(reading)) = (own.applied, reading) else { return false };
    released.iter().any(|released| record.recorded_passed() < *released && *released <= reading.confirmed)
}

/// How far a peer counts as having passed an origin: as far as its report says, or further if it reported more before
/// and is still the same server, timeline, subscription and replication origin. Without a report, the recorded one
/// counts.
pub fn progress(peer: &PeerInput, origin: &str, record: &RetentionRecord) -> Progress {
    if peer.name == origin {
        return Progress::NotSubscribed;
    }
    let known = record.peer(&peer.name);
    let Some(report) = &peer.report else {
        return match known {
            None => Progress::Unknown,
            Some(known) if known.has_unknown_origin => Progress::Unknown,
            Some(known) => known.passed_of(origin).map_or(Progress::NotSubscribed, counted),
        };
    };
    if report.has_unknown_origin {
        return Progress::Unknown;
    }
    let Some(now) = report.positions.iter().find(|position| position.origin == origin) else {
        return Progress::NotSubscribed;
    };
    let earlier = known
        .filter(|known| known.system_identifier == report.system_identifier && known.timeline == report.timeline)
        .and_then(|known| known.passed_of(origin))
        .filter(|earlier| earlier.subscription == now.subscription && earlier.origin_id == now.origin_id)
        .map_or(OriginLsn::ZERO, |earlier| earlier.passed);
    counted(&PassedRecord { passed: now.passed.max(earlier), ..now.clone() })
}

fn counted(position: &PassedRecord) -> Progress {
    position.passed.known().map_or(Progress::Unknown, Progress::Passed)
}

/// The record of a peer for the next retention record; None: the peer has never reported.
pub fn next_peer(peer: &PeerInput, before: &RetentionRecord) -> Option<PeerRecord> {
    let Some(report) = &peer.report else {
        return before.peer(&peer.name).cloned();
    };
    let mut passed: Vec<PassedRecord> = report
        .positions
        .iter()
        .map(|position| match progress(peer, &position.origin, before) {
            Progress::Passed(passed) => PassedRecord { passed, ..position.clone() },
            Progress::Unknown | Progress::NotSubscribed => position.clone(),
        })
        .collect();
    passed.sort_by(|one, other| (&one.origin, one.subscription).cmp(&(&other.origin, other.subscription)));
    Some(PeerRecord {
        peer: peer.name.clone(),
        system_identifier: report.system_identifier,
        timeline: report.timeline,
        has_unknown_origin: report.has_unknown_origin,
        passed,
    })
}

/// The reports without their positions: they tell which subscriptions each peer has, and on which server.
pub fn histories(peers: &[PeerRecord]) -> Vec<PeerRecord> {
    let without_positions = |peer: &PeerRecord| {
        let mut peer = peer.clone();
        peer.passed.iter_mut().for_each(|passed| passed.passed = OriginLsn::ZERO);
        peer
    };
    peers.iter().map(without_positions).collect()
}

/// Decides how far the slot may advance. `end`: the end of this server's WAL. `floor`: if the retention budget is
/// exceeded, the position below which no WAL may be kept.
pub fn decide(
    origins: &[(&Own, &Samples)],
    peers: &[PeerInput],
    record: &RetentionRecord,
    end: LocalLsn,
    floor: Option<LocalLsn>,
) -> Outcome {
    let views: Vec<OriginRetention<'_>> = origins
        .iter()
        .map(|(own, samples)| OriginRetention {
            samples,
            peers: peers.iter().map(|peer| progress(peer, &own.node, record)).collect(),
        })
        .collect();
    let decision = retention::decide(&views, end, floor);
    let slowest = decision.allowances.iter().min_by_key(|allowance| allowance.local);
    let block = slowest.and_then(|allowance| allowance.hold).map(|hold| match hold {
        Hold::NoSample => Block::NoSample,
        Hold::Peer(peer) => {
            let is_unknown = views.iter().any(|view| view.peers[peer] == Progress::Unknown);
            block_of(peer, &peers[peer], is_unknown)
        }
    });
    let unacknowledged_since = views
        .iter()
        .flat_map(|view| view.peers.iter().filter_map(|progress| unacknowledged_since(view.samples, *progress)))
        .min();
    Outcome {
        is_over_budget: floor.is_some_and(|floor| decision.target.is_none_or(|target| target < floor)),
        target: decision.target,
        block,
        pairs: views.iter().map(|view| pairs(view, peers)).collect(),
        allowances: decision.allowances,
        given_up: decision.given_up,
        unacknowledged_since,
    }
}

fn block_of(index: usize, peer: &PeerInput, is_unknown: bool) -> Block {
    match peer.contact {
        Contact::Silent => Block::PeerUnreachable(index),
        Contact::Useless => Block::PeerUnknown(index),
        Contact::Answers if is_unknown => Block::PeerUnknown(index),
        Contact::Answers => Block::PeerLagging(index),
    }
}

fn unacknowledged_since(samples: &Samples, progress: Progress) -> Option<Timestamp> {
    let passed = match progress {
        Progress::NotSubscribed => return None,
        Progress::Unknown => OriginLsn::ZERO,
        Progress::Passed(passed) => passed,
    };
    samples.oldest_beyond(passed).map(|sample| sample.taken_at)
}

fn pairs(view: &OriginRetention<'_>, peers: &[PeerInput]) -> Vec<Pair> {
    view.peers
        .iter()
        .enumerate()
        .filter_map(|(index, progress)| {
            let passed = match progress {
                Progress::NotSubscribed => return None,
                Progress::Unknown => None,
                Progress::Passed(passed) => Some(*passed),
            };
            let newest = view.samples.newest();
            let is_behind = passed.is_none_or(|passed| newest.is_some_and(|newest| passed < newest.origin));
            Some(Pair {
                peer: index,
                passed,
                local: passed.and_then(|passed| view.samples.newest_within(passed)).map(|sample| sample.local),
                block: match newest {
                    None => Some(Block::NoSample),
                    Some(_) => is_behind.then(|| block_of(index, &peers[index], passed.is_none())),
                },
            })
        })
        .collect()
}

/// The names of the unprotected peers: those that this round gives up, and those given up earlier that have not yet
/// passed `released` of every origin.
pub fn unprotected(record: &RetentionRecord, outcome: &Outcome, peers: &[PeerInput]) -> Vec<String> {
    let lacks = |peer: &PeerInput| {
        record.origins.iter().any(|origin| match progress(peer, &origin.node, record) {
            Progress::NotSubscribed => false,
            Progress::Unknown => true,
            Progress::Passed(passed) => passed < origin.released,
        })
    };
    peers
        .iter()
        .enumerate()
        .filter(|(index, peer)| {
            outcome.given_up.contains(index) || (record.unprotected.contains(&peer.name) && lacks(peer))
        })
        .map(|(_, peer)| peer.name.clone())
        .collect()
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
