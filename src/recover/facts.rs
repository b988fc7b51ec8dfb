//! What this node reports about itself and a failed node, for a plan.
//!
//! What is reported is durable: positions are read first, then WAL is flushed, then they are reported. The slot is read
//! before the retention record, and the record is written before the slot moves. So the slot has never released more
//! than is reported.

use super::error::RecoverError;
use super::source;
use super::strangers;
use crate::guc;
use crate::health::capacity;
use crate::health::judge;
use crate::intent::document::{Intent, Journal};
use crate::intent::storage;
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::node::servers::{self, NodeServer, Role};
use crate::pg::clock::Monotonic;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{process, relation_files, role, setting, slot, wal};
use crate::plan::facts::{
    AskerFacts, CapacityFacts, GoneFacts, Limit, NodeFacts, OtherFacts, PeerFacts, RecoveryFacts, ReleasedFacts,
    SettingsFacts, SlotFacts, SlotState, SubscriptionFacts, TableFacts, VERSION,
};
use crate::protocol;
use crate::shmem::{PeerEntry, PeerKey, PeerState};
use crate::slot::decision::is_recorded;
use crate::slot::positions::{self, OwnPosition};
use crate::slot::record::RetentionRecord;
use crate::slot::record_storage;
use crate::slot::snapshot::{Snapshot, snapshot};
use crate::slot::vouching;
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use std::collections::BTreeMap;
use std::time::Duration;

/// A question to a peer counts as unanswered when it has been open for this fraction of spock.peer_timeout (1/5). A
/// healthy peer answers in a small part of the limit, and a node that hangs is noticed before its poller gives up.
const OVERDUE_FRACTION: u32 = 5;

/// The facts of this node. Needs a transaction with a snapshot.
///
/// # Errors
///
/// If this server is a standby, or the database is not a node.
pub fn gather(failed: &str) -> Result<NodeFacts, RecoverError> {
    if wal::is_in_recovery() {
        return Err(RecoverError::Standby);
    }
    let asked_by = AskerFacts {
        role: role::current_name(),
        is_superuser: process::is_superuser(),
        may_replicate: role::may_use_slots(),
    };
    // PostgreSQL hides from other roles what processes do.
    role::as_superuser(|| look(failed, asked_by))
}

fn look(failed: &str, asked_by: AskerFacts) -> Result<NodeFacts, RecoverError> {
    let servers = servers::servers()?;
    let local = servers.iter().find(|server| server.role == Role::Local).ok_or(RecoverError::NoLocalNode)?;
    // The snapshot is taken before anything else is read, so that the flush below covers what a poller has read as
    // confirmed.
    let seen = snapshot();
    let slot_found = slot_facts()?;
    let positions = positions::own_positions()?;
    let written = record_storage::read()?;
    let received = received(failed, &asked_by.role, &positions, seen.as_ref(), written.as_ref())?;
    let capacity = capacity()?;
    let journal = storage::read()?;
    let peers = peers(&servers, seen.as_ref());
    wal::flush();
    // The poller may have asked the failed node seconds ago, and a server that was killed may have answered just
    // before. So the node is asked again.
    let has_answered = entry_of(&servers, seen.as_ref(), failed).is_some_and(|entry| answers(entry, Monotonic::now()));
    let failed_answers = has_answered && source::answers(failed);
    Ok(NodeFacts {
        version: VERSION,
        node: local.name.to_string(),
        extension: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: protocol::OURS,
        subscriptions: received.of_failed,
        others: received.others,
        unknown_origins: received.unknown_origins,
        slot: slot_found.with_record(&positions)?,
        failed_answers,
        peers,
        askers: strangers::strangers(&servers).iter().map(|asker| asker.name.shown()).collect(),
        settings: settings(),
        capacity,
        recoveries: recoveries(&journal),
        recovered: journal.recovered_of(),
        table_bytes: table_bytes()?,
        asked_by,
    })
}

/// The size of the tables that this node receives, with what is stored out of line. A partitioned table counts with its
/// partitions. No lock is taken: who has locked a table must not hold up a plan or the beginning of a recovery.
fn table_bytes() -> Result<Option<u64>, RecoverError> {
    let paths: Vec<String> = Spi::connect(|client| {
        let found = client.select(
            "WITH RECURSIVE received(oid) AS (
                SELECT r.srrelid FROM pg_catalog.pg_subscription_rel r
                UNION
                SELECT i.inhrelid FROM received t
                  JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
                  JOIN pg_catalog.pg_class p ON p.oid = i.inhrelid AND p.relispartition)
             SELECT pg_catalog.pg_relation_filepath(f.oid)
               FROM received t JOIN pg_catalog.pg_class c USING (oid)
              CROSS JOIN LATERAL (VALUES (c.oid), (c.reltoastrelid)) f(oid)
              WHERE pg_catalog.pg_relation_filepath(f.oid) IS NOT NULL",
            None,
            &[],
        )?;
        found.map(|row| Ok(row.get::<String>(1)?.unwrap_or_default())).collect::<Result<_, RecoverError>>()
    })?;
    if paths.is_empty() {
        return Ok(None);
    }
    // Who cannot look at the files knows no size, which is an estimate and holds nothing up.
    Ok(paths.iter().map(|path| relation_files::bytes(path).ok()).sum())
}

/// What this node receives from other nodes.
#[derive(Default)]
struct ReceivedFacts {
    /// The subscriptions to the failed node.
    of_failed: Vec<SubscriptionFacts>,
    /// The subscriptions of which it is not known from which node they receive.
    unknown_origins: Vec<String>,
    /// How far each other node was applied.
    others: BTreeMap<String, OtherFacts>,
}

/// Looks at each subscription. `asker`: the role that asks. `seen`, `written`: what is known in shared memory and in the
/// retention record.
fn received(
    failed: &str,
    asker: &str,
    positions: &[OwnPosition],
    seen: Option<&Snapshot>,
    written: Option<&RetentionRecord>,
) -> Result<ReceivedFacts, RecoverError> {
    let mut received = ReceivedFacts::default();
    let known = NativeProvider.subscriptions()?;
    for position in positions {
        let Some(subscription) = known.iter().find(|known| known.id == position.subscription) else { continue };
        match &position.origin {
            None => received.unknown_origins.push(subscription.name.clone()),
            Some(origin) if origin.as_str() == failed => {
                let mut facts = SubscriptionFacts {
                    name: subscription.name.clone(),
                    publications: subscription.publications.clone(),
                    ..of_position(position, seen, written)
                };
                look_closer(&mut facts, asker)?;
                facts.gone = Spi::connect(|client| gone_of(client, written, &facts))?;
                received.of_failed.push(facts);
            }
            Some(origin) => {
                let facts = of_position(position, seen, written);
                if let Some((applied, passed)) = facts.applied.zip(facts.passed()) {
                    let other = OtherFacts { applied, passed, is_enabled: subscription.is_enabled };
                    received.others.insert(origin.to_string(), other);
                }
            }
        }
    }
    Ok(received)
}

fn recoveries(journal: &Journal) -> Vec<RecoveryFacts> {
    let facts = |intent: &Intent| RecoveryFacts {
        intent: intent.id.to_string(),
        failed: intent.request.failed.clone(),
        source: intent.request.source.clone(),
        phase: intent.phase_name().to_owned(),
    };
    journal.unfinished().map(facts).collect()
}

/// The settings that a recovery needs. They are visible to every role that asks.
pub fn settings() -> SettingsFacts {
    SettingsFacts {
        wal_level: setting::value(c"wal_level").unwrap_or_default(),
        track_commit_timestamp: setting::value(c"track_commit_timestamp").as_deref() == Some("on"),
        output_plugin_libraries: setting::value(c"output_plugin_libraries"),
    }
}

/// The server's limits and how much of each is used. Needs a snapshot, and a role that sees other roles' processes.
pub fn capacity() -> Result<CapacityFacts, spi::Error> {
    let server = capacity::of_server()?;
    Ok(CapacityFacts {
        slots: limit(&server.slots),
        walsenders: limit(&server.walsenders),
        workers: limit(&server.workers),
        origins: limit(&server.origins),
    })
}

fn limit(capacity: &judge::Capacity) -> Limit {
    Limit { setting: capacity.setting.to_owned(), used: capacity.used, limit: capacity.limit }
}

fn of_position(
    position: &OwnPosition,
    seen: Option<&Snapshot>,
    written: Option<&RetentionRecord>,
) -> SubscriptionFacts {
    let confirmed = seen.map_or(OriginLsn::ZERO, |seen| seen.confirmed_of(position.subscription));
    let beginning = vouching::beginning(written, position, confirmed);
    let confirmed = confirmed.max(vouching::written_passed(written, position)).known();
    let committed_at = seen.map(|seen| seen.committed_of(position.subscription)).filter(|at| !at.is_never());
    SubscriptionFacts {
        subscription: position.subscription.to_u32(),
        origin_id: position.origin_id,
        // A subscription that has no progress has no entry in shared memory yet.
        origin_is_active: position.remote != OriginLsn::ZERO,
        applied: position.applied(),
        begins: beginning,
        confirmed,
        committed_at,
        tables_digest: position.tables,
        ..SubscriptionFacts::default()
    }
}

/// The tables that have left a subscription and whose changes the slot still keeps. A table does not count if another
/// table has its name now, because the target's rows would be compared with that other table's.
fn gone_of(
    client: &SpiClient<'_>,
    record: Option<&RetentionRecord>,
    subscription: &SubscriptionFacts,
) -> Result<Vec<GoneFacts>, spi::Error> {
    let origin = record.and_then(|record| record.of_pair(subscription.subscription, subscription.origin_id));
    let mut tables = Vec::new();
    for gone in origin.map(|origin| origin.gone.as_slice()).unwrap_or_default() {
        let rows = client.select(
            "SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = $1 AND c.relname = $2",
            Some(1),
            &[Name(gone.schema.clone()).into(), Name(gone.name.clone()).into()],
        )?;
        if rows.is_empty() {
            tables.push(GoneFacts {
                oid: gone.oid,
                schema: gone.schema.clone(),
                name: gone.name.clone(),
                copied: gone.copied,
            });
        }
    }
    Ok(tables)
}

/// What is known of the slot before the retention record is read.
struct SlotFound {
    facts: SlotFacts,
    name: Option<String>,
    confirmed: LocalLsn,
}

fn slot_facts() -> Result<SlotFound, RecoverError> {
    let name = record_storage::read()?.map(|record| record.slot);
    let found = match &name {
        Some(name) => slot::find(name)?.filter(|found| found.database == Some(process::my_database())),
        None => None,
    };
    let state = match &found {
        None => SlotState::Missing,
        Some(found) if found.is_invalid => SlotState::Invalid,
        Some(found) if found.is_unfinished => SlotState::BeingCreated,
        Some(_) => SlotState::Usable,
    };
    let facts = SlotFacts {
        is_enabled: guc::enable_recovery_slots(),
        name: name.clone(),
        state,
        is_covered: false,
        generation: 0,
        released: Vec::new(),
        unprotected: Vec::new(),
    };
    Ok(SlotFound { facts, name, confirmed: found.map_or(LocalLsn::ZERO, |found| found.confirmed) })
}

impl SlotFound {
    /// The slot, with what its retention record says. A record that is missing, or belongs to another slot, is certain
    /// of nothing.
    fn with_record(self, positions: &[OwnPosition]) -> Result<SlotFacts, RecoverError> {
        let mut facts = self.facts;
        let record = record_storage::read()?.filter(|record| Some(&record.slot) == self.name.as_ref());
        let Some(record) = record else { return Ok(facts) };
        match record.position {
            None if facts.state == SlotState::Usable => facts.state = SlotState::NotInUse,
            None => (),
            Some(position) => facts.is_covered = self.confirmed <= position,
        }
        facts.generation = record.generation;
        facts.unprotected = record.unprotected;
        facts.released = record
            .origins
            .into_iter()
            .map(|origin| {
                // What was recorded for an earlier set of tables may hold for the present one as well.
                let holds_for = |position: &&OwnPosition| {
                    let subscription = position.subscription.to_u32();
                    is_recorded(&origin, subscription, position.origin_id, position.newest_table, position.tables)
                };
                ReleasedFacts {
                    subscription: origin.subscription,
                    origin_id: origin.origin_id,
                    tables_digest: positions.iter().find(holds_for).map_or(origin.tables, |position| position.tables),
                    released: origin.released,
                }
            })
            .collect();
        Ok(facts)
    }
}

fn entry_of<'a>(servers: &[NodeServer], seen: Option<&'a Snapshot>, name: &str) -> Option<&'a PeerEntry> {
    let server = servers.iter().find(|server| server.name.as_str() == name)?;
    seen?.peers.iter().map(|(peer, _)| peer).find(|peer| peer.key == PeerKey::Node(server.id))
}

/// Whether the peer answers its poller, and no question to it has been open for too long.
fn answers(entry: &PeerEntry, now: Monotonic) -> bool {
    let open_for = if entry.asked_at.0 > entry.answered_at.0 { now.since(entry.asked_at) } else { Duration::ZERO };
    entry.state == PeerState::Connected && open_for < guc::peer_timeout() / OVERDUE_FRACTION
}

fn peers(servers: &[NodeServer], seen: Option<&Snapshot>) -> Vec<PeerFacts> {
    let state_of = |server: &NodeServer| {
        entry_of(servers, seen, server.name.as_str()).map_or(PeerState::Unknown, |entry| entry.state)
    };
    let peers = servers.iter().filter(|server| server.role == Role::Peer);
    peers
        .map(|server| {
            let state = state_of(server);
            PeerFacts {
                node: server.name.to_string(),
                state: state.as_str().to_owned(),
                is_unreachable: matches!(
                    state,
                    PeerState::Unreachable | PeerState::NotANode | PeerState::OtherNode | PeerState::OtherServer
                ),
            }
        })
        .collect()
}

/// Why the poller of a node has asked in vain, if it has: a caller need not wait for that node again.
pub fn known_to_be_silent(name: &str) -> Result<Option<String>, RecoverError> {
    let (servers, seen) = (servers::servers()?, snapshot());
    let entry = entry_of(&servers, seen.as_ref(), name);
    Ok(entry.filter(|entry| entry.state == PeerState::Unreachable).map(|entry| entry.error.as_str().to_owned()))
}

fn look_closer(facts: &mut SubscriptionFacts, asker: &str) -> Result<(), RecoverError> {
    let subscription = pg_sys::Oid::from_u32(facts.subscription);
    let tracks = setting::value(c"track_commit_timestamp").as_deref() == Some("on");
    Spi::connect(|client| {
        // Attached: the leader has received something, so it is connected, or was a moment ago. Applying: a worker is
        // busy with a change.
        let rows = client.select(
            "SELECT coalesce(bool_or(s.relid IS NULL AND s.leader_pid IS NULL AND s.received_lsn IS NOT NULL), false),
                    coalesce(bool_or(a.state = 'active'), false)
               FROM pg_catalog.pg_stat_get_subscription($1) s
               LEFT JOIN pg_catalog.pg_stat_get_activity(NULL) a ON a.pid = s.pid
              WHERE s.pid IS NOT NULL",
            Some(1),
            &[subscription.into()],
        )?;
        if let Some(row) = rows.into_iter().next() {
            facts.is_attached = row.get::<bool>(1)?.unwrap_or(false);
            facts.is_applying = row.get::<bool>(2)?.unwrap_or(false);
        }
        let rows = client.select(
            "SELECT s.subskiplsn, c.apply_error_count
               FROM pg_catalog.pg_subscription s
               LEFT JOIN LATERAL pg_catalog.pg_stat_get_subscription_stats(s.oid) c ON true
              WHERE s.oid = $1",
            Some(1),
            &[subscription.into()],
        )?;
        if let Some(row) = rows.into_iter().next() {
            facts.pending_skip = row.get::<OriginLsn>(1)?.and_then(OriginLsn::known);
            facts.apply_errors = row.get::<i64>(2)?.unwrap_or(0);
        }
        if tracks {
            facts.has_skipped = has_skipped(client, facts)?;
        }
        let rows = client.select(
            "SELECT p.gid FROM pg_catalog.pg_prepared_xact() p
              WHERE p.dbid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
                AND pg_catalog.starts_with(p.gid, 'pg_gid_' || $1::pg_catalog.text || '_')
              ORDER BY p.gid",
            None,
            &[subscription.into()],
        )?;
        for row in rows {
            facts.prepared.extend(row.get::<Text>(1)?.map(|gid| gid.to_utf8()));
        }
        facts.tables = tables(client, subscription, asker)?;
        Ok(())
    })
}

/// Whether a transaction was skipped. When core's worker has skipped one, it clears the subscription's subskiplsn in a
/// commit with the failed node's origin (worker.c, clear_subscription_skip_lsn). Two other updates of the row have that
/// origin: disabling the subscription after an error, and enabling two_phase. Any later ALTER SUBSCRIPTION hides the
/// skip.
fn has_skipped(client: &SpiClient<'_>, facts: &SubscriptionFacts) -> Result<bool, spi::Error> {
    let rows = client.select(
        "SELECT x.roident = $2::pg_catalog.oid AND s.subenabled AND s.subtwophasestate <> 'e'
           FROM pg_catalog.pg_subscription s, pg_catalog.pg_xact_commit_timestamp_origin(s.xmin) x
          WHERE s.oid = $1 AND s.xmin::pg_catalog.text::pg_catalog.int8 >= 3",
        Some(1),
        &[pg_sys::Oid::from_u32(facts.subscription).into(), i32::from(facts.origin_id).into()],
    )?;
    match rows.into_iter().next() {
        Some(row) => Ok(facts.origin_id != 0 && row.get::<bool>(1)?.unwrap_or(false)),
        None => Ok(false),
    }
}

fn tables(client: &SpiClient<'_>, subscription: pg_sys::Oid, asker: &str) -> Result<Vec<TableFacts>, spi::Error> {
    let rows = client.select(
        "SELECT c.oid, n.nspname, c.relname, r.srsubstate::pg_catalog.text, r.srsublsn,
                pg_catalog.has_schema_privilege($2, n.oid, 'USAGE')
                AND pg_catalog.has_table_privilege($2, c.oid, 'SELECT')
           FROM pg_catalog.pg_subscription_rel r
           JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE r.srsubid = $1
          ORDER BY n.nspname, c.relname",
        None,
        &[subscription.into(), Name(asker.to_owned()).into()],
    )?;
    let mut tables = Vec::new();
    for row in rows {
        let (Some(oid), Some(schema), Some(name)) =
            (row.get::<pg_sys::Oid>(1)?, row.get::<Name>(2)?, row.get::<Name>(3)?)
        else {
            continue;
        };
        let table = TableFacts {
            schema: schema.0,
            name: name.0,
            state: row.get::<String>(4)?.unwrap_or_default(),
            copied: row.get::<OriginLsn>(5)?.and_then(OriginLsn::known),
            triggers: Vec::new(),
            is_readable: row.get::<bool>(6)?.unwrap_or(false),
        };
        tables.push((oid, table));
    }
    // Triggers of this kind are rare. So they are looked up first, and then assigned to their table, or to the table
    // that theirs is a partition of.
    let rows = client.select(
        "SELECT a.relid, t.tgname
           FROM pg_catalog.pg_trigger t
           CROSS JOIN LATERAL (SELECT t.tgrelid AS relid
                               UNION SELECT p.relid::pg_catalog.oid
                                 FROM pg_catalog.pg_partition_ancestors(t.tgrelid) p(relid)) a
          WHERE t.tgenabled IN ('R', 'A')
          ORDER BY t.tgname",
        None,
        &[],
    )?;
    for row in rows {
        let (Some(relation), Some(trigger)) = (row.get::<pg_sys::Oid>(1)?, row.get::<Name>(2)?) else { continue };
        if let Some((_, table)) = tables.iter_mut().find(|(oid, _)| *oid == relation) {
            table.triggers.push(trigger.0);
        }
    }
    Ok(tables.into_iter().map(|(_, table)| table).collect())
}
