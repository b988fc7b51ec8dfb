//! The functions that report on the slot. Their CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::OrRaise;
use crate::intent::document::{Intent, Journal};
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::servers::{self, NodeServer};
use crate::pg::clock::Timestamp;
use crate::pg::name::Name;
use crate::pg::{latch, process, slot, wal};
use crate::shmem::{self, BlockedReason, PeerKey};
use crate::slot::positions::OwnPosition;
use crate::slot::snapshot::{budget_bytes, require_reader, retained_bytes, snapshot, unprotected_peers};
use crate::slot::{positions, record_storage, vouching};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

fn name_of(servers: &[NodeServer], node: Oid) -> Option<Name> {
    servers.iter().find(|server| server.id == node).map(|server| Name(server.name.to_string()))
}

fn at(timestamp: Timestamp) -> Option<TimestampWithTimeZone> {
    (!timestamp.is_never()).then(|| timestamp.into())
}

/// The positions of this node, for which peers ask; they are durable when the function returns. If `held` is not false,
/// they do not go beyond the positions before a recovery that may still need the WAL of peers.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn node_positions(
    held: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(origin_node, Option<Name>),
        name!(applied_lsn, Option<OriginLsn>),
        name!(passed_lsn, Option<OriginLsn>),
        name!(commit_timestamp, Option<TimestampWithTimeZone>),
        name!(ready, bool),
        name!(system_identifier, i64),
        name!(timeline, i32),
        name!(subscription, Oid),
        name!(origin_id, Oid),
        name!(slot_name, Option<Name>),
    ),
> {
    require_reader("node_positions");
    if wal::is_in_recovery() || NativeProvider.local_node().or_raise().is_none() {
        return TableIterator::new(Vec::new());
    }
    // The position that a poller has seen confirmed on the provider. It is read before everything else, so that the
    // flush below covers it.
    let seen = snapshot();
    let confirmed = |subscription: Oid| seen.as_ref().map_or(OriginLsn::ZERO, |seen| seen.confirmed_of(subscription));
    let committed = |subscription: Oid| seen.as_ref().map_or(Timestamp::NEVER, |seen| seen.committed_of(subscription));
    let positions = positions::own_positions().or_raise();
    let record = record_storage::read().or_raise();
    wal::flush();
    let (system_identifier, timeline) = (process::system_identifier() as i64, wal::timeline() as i32);
    let journal = crate::intent::storage::read().or_raise();
    let rows: Vec<_> = positions
        .into_iter()
        .map(|position| {
            let mut applied = position.applied();
            let confirmed = confirmed(position.subscription);
            let written = vouching::written_passed(record.as_ref(), &position);
            let mut passed = applied.unwrap_or(OriginLsn::ZERO).max(confirmed).max(written);
            for intent in held_for(&journal, &position).filter(|_| held != Some(false)) {
                applied = applied.map(|applied| applied.min(intent.applied_before));
                passed = passed.min(intent.passed_before);
            }
            (
                position.origin.as_ref().map(|origin| Name(origin.to_string())),
                applied,
                passed.known(),
                at(committed(position.subscription)),
                position.is_ready,
                system_identifier,
                timeline,
                position.subscription,
                Oid::from_u32(u32::from(position.origin_id)),
                position.slot.map(Name),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// Has the pollers of this database ask their peers now. Returns at once.
#[pg_extern(sql = false)]
fn ask_pollers() {
    require_reader("ask_pollers");
    let pollers = {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database());
        index.map(|index| shared.pollers_to_wake(index)).unwrap_or_default()
    };
    pollers.into_iter().for_each(latch::wake);
}

/// The recoveries of the position's origin that may still need the WAL of peers, which these must not release.
fn held_for<'a>(journal: &'a Journal, position: &OwnPosition) -> impl Iterator<Item = &'a Intent> {
    let origin = position.origin.clone();
    let is_of = move |failed: &str| origin.as_ref().is_some_and(|origin| origin.as_str() == failed);
    journal.intents.iter().filter(move |intent| intent.holds_wal() && is_of(&intent.request.failed))
}

/// The state of the slot: one row if this database is a node, otherwise none.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn get_recovery_slot_status() -> TableIterator<
    'static,
    (
        name!(slot_name, Option<String>),
        name!(restart_lsn, Option<LocalLsn>),
        name!(confirmed_flush_lsn, Option<LocalLsn>),
        name!(min_unacknowledged_ts, Option<TimestampWithTimeZone>),
        name!(active, bool),
        name!(in_recovery, bool),
        name!(recovery_generation, i64),
        name!(retained_bytes, Option<i64>),
        name!(retention_rate_bytes_per_s, f64),
        name!(time_left, Option<Interval>),
        name!(blocked_reason, Option<String>),
        name!(unprotected_peers, Vec<Option<Name>>),
    ),
> {
    require_reader("get_recovery_slot_status");
    let servers = servers::servers().or_raise();
    let Some(snapshot) = snapshot().filter(|_| servers.iter().any(|server| server.role == servers::Role::Local)) else {
        return TableIterator::new(Vec::new());
    };
    let slot = &snapshot.slot;
    // The slot itself is examined instead of the manager's last result, because it may have been dropped since.
    let found = slot::find_here(slot.name.as_str()).or_raise();
    let retained = found.as_ref().map(retained_bytes);
    let budget = budget_bytes();
    let left = match (budget, retained) {
        (Some(budget), Some(kept)) if slot.wal_bytes_per_s >= 1.0 => {
            interval(budget.saturating_sub(kept) as f64 / slot.wal_bytes_per_s)
        }
        _ => None,
    };
    let unprotected = unprotected_peers(&snapshot, &servers).into_iter().map(|name| Some(Name(name))).collect();
    // A slot protects nothing before the manager has seen it and recorded that it exists.
    let usable = slot.exists && found.as_ref().is_some_and(|found| !found.is_invalid);
    let blocked = if usable || matches!(slot.blocked, BlockedReason::Disabled | BlockedReason::RecordUnreadable) {
        slot.blocked
    } else {
        BlockedReason::SlotCreationPending
    };
    let shown = (!slot.name.as_str().is_empty()).then(|| slot.name.as_str().to_owned());
    let row = (
        shown,
        found.as_ref().and_then(|found| found.restart.known()),
        found.as_ref().and_then(|found| found.confirmed.known()),
        at(slot.min_unacknowledged_at),
        usable,
        slot.in_recovery,
        slot.generation as i64,
        retained.map(|bytes| bytes as i64),
        slot.wal_bytes_per_s,
        left,
        blocked.as_str().map(str::to_owned),
        unprotected,
    );
    TableIterator::new(vec![row])
}

fn interval(seconds: f64) -> Option<Interval> {
    Interval::from_seconds(seconds.min(3.2e9)).into()
}

/// How far each peer has passed each origin, and how far that allows the slot to move.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recovery_horizon() -> TableIterator<
    'static,
    (
        name!(origin_node, Option<Name>),
        name!(peer_node, Option<Name>),
        name!(peer_lsn, Option<OriginLsn>),
        name!(own_lsn, Option<OriginLsn>),
        name!(released_lsn, Option<OriginLsn>),
        name!(local_lsn, Option<LocalLsn>),
        name!(reported_at, Option<TimestampWithTimeZone>),
        name!(blocked_reason, Option<String>),
    ),
> {
    require_reader("recovery_horizon");
    let servers = servers::servers().or_raise();
    let mut rows = Vec::new();
    if let Some(snapshot) = snapshot() {
        for origin in &snapshot.origins {
            let origin_name = || name_of(&servers, origin.node);
            let mut found = false;
            for (peer, positions) in &snapshot.peers {
                let PeerKey::Node(node) = peer.key else { continue };
                let Some(position) = positions.iter().find(|position| position.origin == origin.node) else {
                    continue;
                };
                found = true;
                rows.push((
                    origin_name(),
                    name_of(&servers, node),
                    position.counted.known(),
                    origin.own.known(),
                    Some(origin.released),
                    position.local.known(),
                    at(peer.reported_at),
                    position.blocked.as_str().map(str::to_owned),
                ));
            }
            if !found {
                let blocked = origin.blocked.as_str().map(str::to_owned);
                rows.push((origin_name(), None, None, origin.own.known(), Some(origin.released), None, None, blocked));
            }
        }
    }
    TableIterator::new(rows)
}

/// This node's lag behind each origin, followed by the lag of each peer as it has reported it.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn lag_positions() -> TableIterator<
    'static,
    (
        name!(origin_name, Option<Name>),
        name!(receiver_name, Option<Name>),
        name!(commit_timestamp, Option<TimestampWithTimeZone>),
        name!(commit_lsn, Option<OriginLsn>),
        name!(remote_insert_lsn, Option<OriginLsn>),
        name!(received_lsn, Option<OriginLsn>),
        name!(passed_lsn, Option<OriginLsn>),
    ),
> {
    require_reader("lag_positions");
    let servers = servers::servers().or_raise();
    let Some(snapshot) = snapshot() else {
        return TableIterator::new(Vec::new());
    };
    let end_of = |node: Oid| {
        snapshot
            .peers
            .iter()
            .find(|(peer, _)| peer.key == PeerKey::Node(node))
            .and_then(|(peer, _)| peer.wal_end.known())
    };
    let local = servers.iter().find(|server| server.role == servers::Role::Local).map(|server| server.id);
    let mut rows = Vec::new();
    for origin in &snapshot.origins {
        rows.push((
            name_of(&servers, origin.node),
            local.and_then(|local| name_of(&servers, local)),
            at(origin.committed_at),
            origin.own.known(),
            end_of(origin.node),
            slot::received_by(origin.subscription).or_raise(),
            origin.own.max(snapshot.confirmed_of(origin.subscription)).known(),
        ));
    }
    for (peer, positions) in &snapshot.peers {
        let PeerKey::Node(node) = peer.key else { continue };
        for position in positions.iter().filter(|position| position.applied != OriginLsn::ZERO || position.is_ready) {
            let end = if Some(position.origin) == local {
                wal::flushed().as_origin().known()
            } else {
                end_of(position.origin)
            };
            rows.push((
                name_of(&servers, position.origin),
                name_of(&servers, node),
                at(position.committed_at),
                position.applied.known(),
                end,
                None,
                position.passed.known(),
            ));
        }
    }
    TableIterator::new(rows)
}
