//! The recovery slot's SQL functions. Their CREATE FUNCTION, grants and comments stand in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::positions;
use crate::error::{OrRaise, SqlError, raise};
use crate::guc;
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::registry::{self, NodeServer};
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::name::Name;
use crate::pg::role;
use crate::pg::slot::{self, Slot};
use crate::pg::{interrupts, process, wal};
use crate::shmem::{self, BlockedReason, OriginEntry, PeerEntry, PeerKey, PositionEntry, SlotEntry, SlotJob};
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::{self, Oid};
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// How long a manager may take to come up: far longer than a fork, and what a person waits at a prompt.
const MANAGER_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    #[error("permission denied for {function}")]
    NotPrivileged { function: &'static str },
    #[error("permission denied for {function}")]
    NotSuperuser { function: &'static str },
    #[error("database is not a node")]
    NoNode,
    #[error("recovery slots are switched off")]
    Disabled,
    #[error("{function} cannot run in a transaction that has performed writes")]
    HasWritten { function: &'static str },
    #[error("no manager of spock_recovery runs for this database")]
    NoManager,
    #[error("could not {action} the recovery slot: {reason}")]
    Failed { action: &'static str, reason: String },
}

impl SqlError for SlotError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            SlotError::NotPrivileged { .. } | SlotError::NotSuperuser { .. } => {
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            SlotError::NoNode | SlotError::Disabled | SlotError::NoManager => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            SlotError::HasWritten { .. } => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            SlotError::Failed { .. } => PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            SlotError::NotPrivileged { .. } => {
                Some("It is for superusers, roles with REPLICATION and members of pg_monitor.".to_owned())
            }
            SlotError::HasWritten { .. } => Some(
                "Its creation would wait for this very transaction, and what is done to a slot is not undone with one."
                    .to_owned(),
            ),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            SlotError::NotSuperuser { .. } => "Call it as a superuser.".to_owned(),
            SlotError::NotPrivileged { .. } => "GRANT pg_monitor TO …, or ALTER ROLE … REPLICATION.".to_owned(),
            SlotError::NoNode => {
                "Make it one with SELECT spock.node_create('n1', 'host=… port=5432 dbname=…');".to_owned()
            }
            SlotError::Disabled => {
                "ALTER SYSTEM SET spock.enable_recovery_slots = on; SELECT pg_reload_conf();".to_owned()
            }
            SlotError::HasWritten { .. } => "End the transaction first.".to_owned(),
            SlotError::NoManager => {
                "Raise max_worker_processes, or see the server's log for what ends the manager.".to_owned()
            }
            SlotError::Failed { .. } => "SELECT * FROM spock.quick_health_check();".to_owned(),
        })
    }
}

/// What the manager and the pollers have in shared memory, copied out.
pub struct Snapshot {
    pub slot: SlotEntry,
    pub peers: Vec<(PeerEntry, Vec<PositionEntry>)>,
    pub origins: Vec<OriginEntry>,
}

pub fn snapshot() -> Option<Snapshot> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    let entries: Vec<PeerEntry> = shared.peers(index).to_vec();
    let peers = entries
        .into_iter()
        .enumerate()
        .filter(|(_, peer)| peer.key != PeerKey::None)
        .map(|(place, peer)| {
            let positions = shared.positions(index, place).iter();
            (peer, positions.filter(|position| position.origin != pg_sys::InvalidOid).copied().collect())
        })
        .collect();
    let origins = shared.origins(index).iter().filter(|origin| origin.node != pg_sys::InvalidOid).copied().collect();
    Some(Snapshot { slot: shared.databases()[index].slot, peers, origins })
}

/// Ends the statement if the caller may not read positions.
pub fn require_reader(function: &'static str) {
    if !role::may_read_positions() {
        raise(&SlotError::NotPrivileged { function });
    }
}

/// The peer that holds the slot, by name.
pub fn blocking_peer(snapshot: &Snapshot, servers: &[NodeServer]) -> Option<String> {
    let node = snapshot.slot.blocked_by;
    servers.iter().find(|server| server.id == node).map(|server| server.name.to_string())
}

/// The peers that were given up for the retention budget, by name.
pub fn unprotected_peers(snapshot: &Snapshot, servers: &[NodeServer]) -> Vec<String> {
    let is_given_up = |server: &&NodeServer| {
        snapshot.peers.iter().any(|(peer, _)| peer.is_unprotected && peer.key == PeerKey::Node(server.id))
    };
    servers.iter().filter(is_given_up).map(|server| server.name.to_string()).collect()
}

fn name_of(servers: &[NodeServer], node: Oid) -> Option<Name> {
    servers.iter().find(|server| server.id == node).map(|server| Name(server.name.to_string()))
}

fn lsn(value: u64) -> Option<i64> {
    (value != 0).then_some(value as i64)
}

fn at(timestamp: Timestamp) -> Option<TimestampWithTimeZone> {
    (!timestamp.is_never()).then(|| timestamp.into())
}

/// The positions of this node, durable when they are returned: what peers ask.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn node_positions() -> TableIterator<
    'static,
    (
        name!(origin_node, Option<Name>),
        name!(applied_lsn, Option<i64>),
        name!(passed_lsn, Option<i64>),
        name!(commit_timestamp, Option<TimestampWithTimeZone>),
        name!(ready, bool),
        name!(system_identifier, i64),
        name!(timeline, i32),
        name!(subscription, Oid),
        name!(origin_id, Oid),
    ),
> {
    require_reader("node_positions");
    if wal::is_in_recovery() || NativeProvider.local_node().or_raise().is_none() {
        return TableIterator::new(Vec::new());
    }
    // What a poller has read as confirmed at the provider, before anything else is read: the flush below covers it.
    let seen = snapshot();
    let confirmed = |subscription: Oid| {
        seen.iter()
            .flat_map(|snapshot| &snapshot.peers)
            .find(|(peer, _)| peer.own_subscription == subscription)
            .map_or(OriginLsn::ZERO, |(peer, _)| peer.own_confirmed)
    };
    let committed = |subscription: Oid| {
        seen.iter()
            .flat_map(|snapshot| &snapshot.origins)
            .find(|origin| origin.subscription == subscription)
            .map_or(Timestamp::NEVER, |origin| origin.committed_at)
    };
    let positions = positions::own_positions().or_raise();
    wal::flush();
    let (system_identifier, timeline) = (process::system_identifier() as i64, wal::timeline() as i32);
    let rows: Vec<_> = positions
        .into_iter()
        .map(|position| {
            let applied = position.applied();
            let passed = applied.unwrap_or(OriginLsn::ZERO).max(confirmed(position.subscription));
            (
                position.origin.as_ref().map(|origin| Name(origin.to_string())),
                applied.map(|applied| applied.0 as i64),
                lsn(passed.0),
                at(committed(position.subscription)),
                position.is_ready,
                system_identifier,
                timeline,
                position.subscription,
                Oid::from_u32(u32::from(position.origin_id)),
            )
        })
        .collect();
    TableIterator::new(rows)
}

/// The slot's state: one row for a node, none elsewhere.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn get_recovery_slot_status() -> TableIterator<
    'static,
    (
        name!(slot_name, Option<String>),
        name!(restart_lsn, Option<i64>),
        name!(confirmed_flush_lsn, Option<i64>),
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
    let servers = registry::servers().or_raise();
    let Some(snapshot) = snapshot().filter(|_| servers.iter().any(|server| server.role == registry::Role::Local))
    else {
        return TableIterator::new(Vec::new());
    };
    let slot = &snapshot.slot;
    // The slot itself is asked, not the manager's last look: it may have been dropped a moment ago.
    let found = slot::find_here(slot.name.as_str()).or_raise();
    let retained = found.as_ref().map(retained_bytes);
    let budget = guc::recovery_slot_max_wal().or_else(slot::max_slot_wal_keep_bytes);
    let left = match (budget, retained) {
        (Some(budget), Some(kept)) if slot.wal_bytes_per_s >= 1.0 => {
            interval(budget.saturating_sub(kept) as f64 / slot.wal_bytes_per_s)
        }
        _ => None,
    };
    let unprotected = unprotected_peers(&snapshot, &servers).into_iter().map(|name| Some(Name(name))).collect();
    let usable = found.as_ref().is_some_and(|found| !found.is_invalid);
    let blocked = if usable || slot.blocked == BlockedReason::Disabled {
        slot.blocked
    } else {
        BlockedReason::SlotCreationPending
    };
    let shown = (!slot.name.as_str().is_empty()).then(|| slot.name.as_str().to_owned());
    let row = (
        shown,
        found.as_ref().and_then(|found| lsn(found.restart.0)),
        found.as_ref().and_then(|found| lsn(found.confirmed.0)),
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

/// WAL that the slot keeps, in bytes.
pub fn retained_bytes(found: &Slot) -> u64 {
    wal::flushed().bytes_since(found.restart)
}

fn interval(seconds: f64) -> Option<Interval> {
    Interval::from_seconds(seconds.min(3.2e9)).into()
}

/// How far each peer has passed each origin, and how far that lets the slot go.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn recovery_horizon() -> TableIterator<
    'static,
    (
        name!(origin_node, Option<Name>),
        name!(peer_node, Option<Name>),
        name!(peer_lsn, Option<i64>),
        name!(own_lsn, Option<i64>),
        name!(released_lsn, Option<i64>),
        name!(local_lsn, Option<i64>),
        name!(reported_at, Option<TimestampWithTimeZone>),
        name!(blocked_reason, Option<String>),
    ),
> {
    require_reader("recovery_horizon");
    let servers = registry::servers().or_raise();
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
                    lsn(position.counted.0),
                    lsn(origin.own.0),
                    Some(origin.released.0 as i64),
                    lsn(position.local.0),
                    at(peer.reported_at),
                    position.blocked.as_str().map(str::to_owned),
                ));
            }
            if !found {
                let blocked = origin.blocked.as_str().map(str::to_owned);
                rows.push((
                    origin_name(),
                    None,
                    None,
                    lsn(origin.own.0),
                    Some(origin.released.0 as i64),
                    None,
                    None,
                    blocked,
                ));
            }
        }
    }
    TableIterator::new(rows)
}

/// This node's lag behind each origin first, then the peers' as they have reported it.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn lag_positions() -> TableIterator<
    'static,
    (
        name!(origin_name, Option<Name>),
        name!(receiver_name, Option<Name>),
        name!(commit_timestamp, Option<TimestampWithTimeZone>),
        name!(commit_lsn, Option<i64>),
        name!(remote_insert_lsn, Option<i64>),
        name!(received_lsn, Option<i64>),
        name!(passed_lsn, Option<i64>),
    ),
> {
    require_reader("lag_positions");
    let servers = registry::servers().or_raise();
    let Some(snapshot) = snapshot() else {
        return TableIterator::new(Vec::new());
    };
    let end_of = |node: Oid| {
        snapshot
            .peers
            .iter()
            .find(|(peer, _)| peer.key == PeerKey::Node(node))
            .and_then(|(peer, _)| lsn(peer.wal_end.0))
    };
    let local = servers.iter().find(|server| server.role == registry::Role::Local).map(|server| server.id);
    let confirmed_of = |node: Oid| {
        let found = snapshot.peers.iter().find(|(peer, _)| peer.key == PeerKey::Node(node));
        found.map_or(OriginLsn::ZERO, |(peer, _)| peer.own_confirmed)
    };
    let mut rows = Vec::new();
    for origin in &snapshot.origins {
        rows.push((
            name_of(&servers, origin.node),
            local.and_then(|local| name_of(&servers, local)),
            at(origin.committed_at),
            lsn(origin.own.0),
            end_of(origin.node),
            slot::received_by(origin.subscription).or_raise().map(|received| received.0 as i64),
            lsn(origin.own.max(confirmed_of(origin.node)).0),
        ));
    }
    for (peer, positions) in &snapshot.peers {
        let PeerKey::Node(node) = peer.key else { continue };
        for position in positions.iter().filter(|position| position.applied != OriginLsn::ZERO || position.is_ready) {
            let end = if Some(position.origin) == local { lsn(wal::flushed().0) } else { end_of(position.origin) };
            rows.push((
                name_of(&servers, position.origin),
                name_of(&servers, node),
                at(position.committed_at),
                lsn(position.applied.0),
                end,
                None,
                lsn(position.passed.0),
            ));
        }
    }
    TableIterator::new(rows)
}

/// Creates the slot, if there is none; waits until it is there.
#[pg_extern(sql = false)]
fn create_recovery_slot() -> Name {
    require_ready("create_recovery_slot", true);
    ask(SlotRequest::Create, "create");
    Name(slot_entry().map(|slot| slot.name.as_str().to_owned()).unwrap_or_default())
}

/// Drops the slot; false if there was none.
#[pg_extern(sql = false)]
fn drop_recovery_slot() -> bool {
    require_ready("drop_recovery_slot", false);
    let Some(entry) = slot_entry() else { raise(&SlotError::NoManager) };
    let name = entry.name.as_str();
    if slot::find_here(name).or_raise().is_none() {
        return false;
    }
    wait_for_worker();
    slot::drop(name).or_raise();
    if guc::enable_recovery_slots() {
        ereport!(
            NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("recovery slot \"{name}\" will be created anew"),
            "spock.enable_recovery_slots is on."
        );
    }
    wake_manager();
    true
}

/// Advances the slot as far as the horizon allows now; its position, and a NOTICE that says why it is not further.
#[pg_extern(sql = false)]
fn advance_recovery_slot() -> i64 {
    require_ready("advance_recovery_slot", true);
    ask(SlotRequest::Advance, "advance");
    let Some(slot) = slot_entry() else { raise(&SlotError::NoManager) };
    let found = slot::find_here(slot.name.as_str()).or_raise();
    if let Some(reason) = slot.blocked.as_str() {
        let servers = registry::servers().or_raise();
        let peer = snapshot().and_then(|snapshot| blocking_peer(&snapshot, &servers));
        let detail = match peer {
            Some(peer) => format!("Node \"{peer}\" holds it. See spock.recovery_horizon()."),
            None => "See spock.recovery_horizon().".to_owned(),
        };
        ereport!(
            NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("the recovery slot does not advance further: {reason}"),
            detail
        );
    }
    found.map_or(0, |found: Slot| found.confirmed.0 as i64)
}

/// What is asked of the manager.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotRequest {
    Create,
    Advance,
}

/// What the functions that change the slot need.
fn require_ready(function: &'static str, needs_enabled: bool) {
    if !process::is_superuser() {
        raise(&SlotError::NotSuperuser { function });
    }
    if NativeProvider.local_node().or_raise().is_none() {
        raise(&SlotError::NoNode);
    }
    if needs_enabled && !guc::enable_recovery_slots() {
        raise(&SlotError::Disabled);
    }
    if process::has_written() {
        raise(&SlotError::HasWritten { function });
    }
    wait_for_manager();
}

/// Right after node_create, and after a crash, the manager is only just coming up.
fn wait_for_manager() {
    let deadline = Instant::now() + MANAGER_PATIENCE;
    let is_up = || {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database());
        index.is_some_and(|index| shared.databases()[index].manager_pid != 0)
    };
    while !is_up() && Instant::now() < deadline {
        interrupts::check();
        latch::wait(Some(Duration::from_millis(20)), WaitEvent::SlotRequest);
    }
}

fn slot_entry() -> Option<SlotEntry> {
    let mut shared = shmem::lock();
    let index = shared.index_of(process::my_database())?;
    Some(shared.databases()[index].slot)
}

/// Waits until no worker has the slot in its hands: it would be refused, or would fail.
fn wait_for_worker() {
    while slot_entry().is_some_and(|slot| slot.job != SlotJob::Nothing || slot.worker_pid != 0) {
        interrupts::check();
        latch::wait(Some(Duration::from_millis(20)), WaitEvent::SlotRequest);
    }
}

fn wake_manager() -> bool {
    let manager = {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database());
        index.map_or(0, |index| shared.call_manager(index))
    };
    latch::wake(manager);
    manager != 0
}

/// Asks the manager, and waits until it has done what could be done. The wait ends with the statement (statement_timeout,
/// a cancel); the manager goes on.
fn ask(request: SlotRequest, action: &'static str) {
    let number = {
        let mut shared = shmem::lock();
        shared.index_of(process::my_database()).map(|index| {
            let slot = &mut shared.databases()[index].slot;
            slot.requested = slot.requested.wrapping_add(1);
            (slot.requested, slot.failures)
        })
    };
    let Some((number, failures)) = number else { raise(&SlotError::NoManager) };
    if !wake_manager() {
        raise(&SlotError::NoManager);
    }
    loop {
        let Some(slot) = slot_entry() else { raise(&SlotError::NoManager) };
        if slot.failures > failures {
            raise(&SlotError::Failed { action, reason: slot.error.as_str().to_owned() });
        }
        let is_answered = slot.answered.wrapping_sub(number) < u32::MAX / 2;
        if is_answered && (slot.exists || request != SlotRequest::Create) {
            return;
        }
        interrupts::check();
        latch::wait(Some(Duration::from_millis(20)), WaitEvent::SlotRequest);
    }
}
