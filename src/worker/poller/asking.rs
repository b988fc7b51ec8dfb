//! The questions to a peer: who it is, how far it has applied each origin, and what else this node needs to know.

use super::{PollAnswer, PollQuestion, Position};
use crate::identity::DatabaseIdentity;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::older_copy::forks_from_text;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::plan::readiness::Readiness;
use crate::protocol;
use crate::recover::source::{from_ascii, in_ascii};
use crate::remote::argument;
use crate::remote::connection::Connection;
use crate::remote::error::RemoteError;
use crate::shmem::{CloneEntry, NONE_CONFIRMED, OwnConfirmed, TargetSays};

const IDENTITY: &str = "SELECT node_name, system_identifier, database, timeline, wal_end, \
                        started_at_lsn, timeline_forks, \
                        (extract(epoch FROM started_at - '2000-01-01 00:00:00+00') * 1000000)::pg_catalog.int8, \
                        pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.->>) 'protocol_version' FROM";

/// What it costs the peer to list what its slot may have released is spent only where that matters (`asks_released`).
const RELEASED: &str = "SELECT origin_node, max(released_lsn) FROM spock.recovery_horizon() GROUP BY origin_node";

const POSITIONS: &str = "SELECT origin_node, applied_lsn, passed_lsn, \
                         (extract(epoch FROM commit_timestamp - '2000-01-01 00:00:00+00') * 1000000)::pg_catalog.int8, ready, \
                         subscription, origin_id FROM spock.node_positions(true::pg_catalog.bool)";

/// Asks all of it, in one transaction here.
pub(super) fn ask_all(connection: &mut Connection, question: &PollQuestion) -> Result<PollAnswer, RemoteError> {
    let asked_at = Monotonic::now();
    connection.require_extension()?;
    let rows = connection.query(&format!("{IDENTITY} {}.node_identity() i", connection.internal_schema()), 9)?;
    let Some(row) = rows.first() else {
        return Err(RemoteError::Unexpected("it is not a node (spock.node_create was not called there)".to_owned()));
    };
    let wal_end: OriginLsn = row.optional(4)?.unwrap_or_default();
    let own = ask_own_confirmed(connection, question, wal_end)?;
    let positions = ask_positions(connection)?;
    let released = question.asks_released.then(|| ask_released(connection)).transpose()?;
    let clones = ask_clones(connection, question)?;
    let pins = ask_pins(connection, question)?;
    Ok(PollAnswer {
        readiness: ask_readiness(connection, question)?,
        node_name: row.value(0)?,
        identity: DatabaseIdentity { system_identifier: row.value(1)?, database: row.value(2)? },
        timeline: row.value(3)?,
        wal_end,
        start: row.optional(5)?.unwrap_or_default(),
        forks: forks_from_text(&row.value::<String>(6)?)
            .ok_or_else(|| RemoteError::Unexpected("timelines in another form".to_owned()))?,
        started_at: Timestamp(row.value(7)?),
        // Version 0.1.0 does not have this column.
        protocol: row.optional(8)?.unwrap_or(protocol::UNTOLD),
        positions,
        released,
        own,
        clones,
        pins,
        asked_at,
    })
}

/// Returns how far this node's slots are confirmed at the peer, but no further than `wal_end`, the end of WAL that it has
/// reported before. What that covers was applied here before, and is durable by the time the reading is used, because
/// this node's WAL is flushed in between.
fn ask_own_confirmed(
    connection: &mut Connection,
    question: &PollQuestion,
    wal_end: OriginLsn,
) -> Result<OwnConfirmed, RemoteError> {
    let mut own = NONE_CONFIRMED;
    for (place, (subscription, slot)) in own.iter_mut().zip(&question.own) {
        let slot = pgrx::spi::quote_literal(slot);
        let confirmed = connection.query(
            &format!(
                "SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = {slot} AND confirmed_flush_lsn IS NOT NULL"
            ),
            1,
        )?;
        if let Some(row) = confirmed.first() {
            *place = (*subscription, row.value::<OriginLsn>(0)?.min(wal_end));
        }
    }
    Ok(own)
}

fn ask_positions(connection: &mut Connection) -> Result<Vec<Position>, RemoteError> {
    let mut positions = Vec::new();
    for row in connection.query(POSITIONS, 7)? {
        positions.push(Position {
            origin: row.optional(0)?,
            applied: row.optional(1)?.unwrap_or_default(),
            passed: row.optional(2)?.unwrap_or_default(),
            committed_at: Timestamp(row.optional(3)?.unwrap_or(0)),
            is_ready: row.value::<String>(4)? == "t",
            subscription: row.value(5)?,
            origin_id: row.value(6)?,
        });
    }
    Ok(positions)
}

fn ask_released(connection: &mut Connection) -> Result<Vec<(String, OriginLsn)>, RemoteError> {
    let rows = match connection.query(RELEASED, 2) {
        Ok(rows) => rows,
        // The peer does not tell; the rest of its answer counts all the same.
        Err(RemoteError::Peer { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let released = rows.iter().filter_map(|row| row.optional::<String>(0).ok()?.zip(row.optional(1).ok()?));
    Ok(released.collect())
}

/// Asks of each clone that was made for the peer whether its recovery is unfinished. A clone of which the peer cannot
/// tell is left out.
fn ask_clones(
    connection: &mut Connection,
    question: &PollQuestion,
) -> Result<Vec<(CloneEntry, TargetSays)>, RemoteError> {
    let mut clones = Vec::new();
    for clone in &question.clones {
        clones.extend(ask_intent(connection, clone.intent)?.map(|says| (*clone, says)));
    }
    Ok(clones)
}

/// The same of each intent for which a snapshot is held here.
fn ask_pins(connection: &mut Connection, question: &PollQuestion) -> Result<Vec<(IntentId, TargetSays)>, RemoteError> {
    let mut pins = Vec::new();
    for intent in &question.pins {
        pins.extend(ask_intent(connection, *intent)?.map(|says| (*intent, says)));
    }
    Ok(pins)
}

fn ask_intent(connection: &mut Connection, intent: IntentId) -> Result<Option<TargetSays>, RemoteError> {
    let schema = connection.internal_schema();
    match connection.query(&format!("SELECT {schema}.recovery_is_open({})", argument::uuid(Some(intent))), 1) {
        Ok(rows) => {
            let is_open: Option<String> = rows.first().map(|row| row.value(0)).transpose()?;
            Ok(match is_open.as_deref() {
                Some("t") => Some(TargetSays::Unfinished),
                Some("f") => Some(TargetSays::Ended),
                _ => None,
            })
        }
        // The peer cannot tell whether that recovery is open. That is no verdict, and the rest of its answer counts
        // all the same.
        Err(RemoteError::Peer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns None if the peer is not to be asked, or if its version of the extension cannot tell.
fn ask_readiness(connection: &mut Connection, question: &PollQuestion) -> Result<Option<Readiness>, RemoteError> {
    let Some((name, identity)) = &question.local else { return Ok(None) };
    // The function is looked up first: a call of one that does not exist would be an ERROR in the peer's log.
    let schema = connection.internal_schema();
    let is_there = format!(
        "SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
         WHERE n.nspname = '{schema}' AND p.proname = 'peer_readiness'"
    );
    if connection.query(&is_there, 0)?.is_empty() {
        return Ok(None);
    }
    let asked = format!(
        "{schema}.peer_readiness({}, {}, {}::pg_catalog.oid)",
        argument::name(name),
        argument::text(Some(&identity.system_identifier.to_string())),
        identity.database
    );
    let text: Option<String> = match connection.query(&in_ascii(&asked), 1) {
        Ok(rows) => rows.first().map(|row| row.optional(0)).transpose()?.flatten(),
        // The peer cannot tell; the rest of its answer counts all the same.
        Err(RemoteError::Peer { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(text.and_then(|text| serde_json::from_str(&from_ascii(&text)?).ok()))
}
