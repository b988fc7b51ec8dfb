//! A rebuild on its target: how it begins, what the target knows of itself for it, and how its tables and replication
//! origins are set to where core's own apply is to go on.
//!
//! A table that has been brought to the source's snapshot gets the state SYNCDONE with the snapshot's position of each
//! subscription (catalog/pg_subscription_rel.h). Core's apply worker leaves out what lies below that position and
//! applies what lies above it, so that nothing is missing and nothing comes twice.

use super::error::RecoverError;
use super::rebuild_error::RebuildError;
use super::source::{Source, from_ascii, in_ascii};
use crate::intent::rebuild::{Pinned, Table, TablePhase, Wanted};
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::incomplete;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::pg::catalog;
use crate::pg::clock::Timestamp;
use crate::remote::argument;
use crate::remote::error::RemoteError;
use crate::slot::positions::{self, OwnPosition};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use pgrx::spi::{quote_literal, quote_qualified_identifier};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

/// How long the source may take to pin a snapshot: it waits for its locks and for a moment without commits.
const PIN_LIMIT: Duration = Duration::from_secs(120);

/// The state of a table whose initial copy is done up to a position (`SUBREL_STATE_SYNCDONE`).
pub(super) const DONE_UP_TO: &str = "s";
/// `SUBREL_STATE_READY`.
const READY: &str = "r";

/// What this node, the target, receives from another node.
#[derive(Clone, Debug)]
pub struct Stream {
    pub node: String,
    pub position: OwnPosition,
}

/// The subscriptions of this node whose provider is known, with their positions. Needs a transaction with a snapshot.
pub fn streams() -> Result<Vec<Stream>, RecoverError> {
    let known = |position: OwnPosition| {
        let node = position.origin.as_ref()?.to_string();
        Some(Stream { node, position })
    };
    Ok(positions::own_positions()?.into_iter().filter_map(known).collect())
}

/// How far this node has applied each node. A node of which nothing was applied is left out.
pub fn applied(streams: &[Stream]) -> BTreeMap<String, OriginLsn> {
    let mut applied = BTreeMap::new();
    for stream in streams {
        if let Some(at) = stream.position.applied() {
            raise(&mut applied, stream.node.clone(), at);
        }
    }
    applied
}

/// Raises a node's position, if it lies lower.
pub fn raise(positions: &mut BTreeMap<String, OriginLsn>, node: String, at: OriginLsn) {
    let known = positions.entry(node).or_insert(at);
    *known = at.max(*known);
}

/// The tables that this node receives from `source`, or those of them that are wanted. Needs a transaction with a
/// snapshot.
///
/// # Errors
/// If this node receives nothing from `source`, or not one of the wanted tables.
pub fn tables(source: &str, wanted: &Wanted) -> Result<Vec<Table>, RecoverError> {
    let streams = streams()?;
    let mut from_source = streams.iter().filter(|stream| stream.node == source).peekable();
    if from_source.peek().is_none() {
        return Err(RecoverError::NoSubscription { failed: source.to_owned() });
    }
    let mut tables: BTreeMap<u32, Table> = BTreeMap::new();
    for stream in from_source {
        for table in positions::tables_of(stream.position.subscription.to_u32())? {
            let (oid, schema, name) = (table.oid, table.schema, table.name);
            let phase = TablePhase::Waiting;
            let table =
                Table { oid, schema, name, phase, method: None, parked_under: None, rows: 0, differing: 0, bytes: 0 };
            tables.insert(oid, table);
        }
    }
    let all: BTreeSet<(String, String)> =
        tables.values().map(|table| (table.schema.clone(), table.name.clone())).collect();
    if let Some((schema, name)) = wanted.tables.iter().find(|table| !all.contains(*table)) {
        return Err(
            RebuildError::NotReceived { table: format!("{schema}.{name}"), source_node: source.to_owned() }.into()
        );
    }
    let is_wanted =
        |table: &Table| wanted.tables.is_empty() || wanted.tables.contains(&(table.schema.clone(), table.name.clone()));
    Ok(tables.into_values().filter(is_wanted).collect())
}

/// Makes sure that the table still has its name. It was found by the name, and is locked by the caller's transaction if
/// anything was written: so nothing was written to another one.
///
/// # Errors
/// If it has not.
pub fn require_same(table: &Table) -> Result<(), RecoverError> {
    if catalog::is_named(table.oid, &table.schema, &table.name) {
        return Ok(());
    }
    let reason = "it was renamed or dropped, or another table has taken its name".to_owned();
    Err(RebuildError::NotRebuilt { table: table.shown(), reason }.into())
}

/// Has core's apply leave a table alone in every subscription, and go on with the others. Needs a transaction with a
/// snapshot.
pub fn set_aside(table: u32) -> Result<(), RecoverError> {
    streams()?.iter().try_for_each(|stream| set_aside_in(stream.position.subscription.to_u32(), table))
}

/// Like [`set_aside`], in one subscription.
pub fn set_aside_in(subscription: u32, table: u32) -> Result<(), RecoverError> {
    set_state(&Oid::from_u32(subscription), Some(table), DONE_UP_TO, OriginLsn::INFINITY)
}

/// Which of these tables have no rows, or no key by which rows could be compared.
pub fn to_copy(tables: &[Table]) -> Result<BTreeSet<u32>, RecoverError> {
    let mut found = BTreeSet::new();
    for table in tables {
        let oid = table.oid;
        let question = format!(
            "SELECT pg_catalog.pg_relation_size(c.oid) = 0 AND c.relkind = 'r'
                    OR NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid
                                      AND (i.indisprimary AND c.relreplident <> 'f' OR i.indisreplident))
                       AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
               FROM pg_catalog.pg_class c WHERE c.oid = {oid}"
        );
        if Spi::get_one::<bool>(&question)?.unwrap_or(false) {
            found.insert(oid);
        }
    }
    Ok(found)
}

pub(super) fn set_state(
    subscription: &Oid,
    table: Option<u32>,
    state: &str,
    at: OriginLsn,
) -> Result<(), RecoverError> {
    let which = match table {
        Some(table) => format!("srrelid = {table}::pg_catalog.oid"),
        // A table that is incomplete stays so.
        None => format!(
            "srsubstate = {} AND srsublsn < {}",
            quote_literal(DONE_UP_TO),
            argument::lsn(Some(OriginLsn::INFINITY))
        ),
    };
    Spi::run(&format!(
        "UPDATE pg_catalog.pg_subscription_rel SET srsubstate = {}, srsublsn = '{at}'::pg_catalog.pg_lsn
          WHERE srsubid = {}::pg_catalog.oid AND {which}",
        quote_literal(state),
        subscription.to_u32()
    ))?;
    Ok(())
}

/// Sets the position from which this node receives the failed node, which sends nothing any more: every table has its
/// transactions up to there. Needs a transaction with a snapshot. What is set is durable when WAL has been flushed.
pub fn advance_failed(failed: &str, at: OriginLsn) -> Result<(), RecoverError> {
    for stream in streams()?.iter().filter(|stream| stream.node == failed) {
        advance(stream, at)?;
        // No apply worker comes by that would find them ready.
        set_state(&stream.position.subscription, None, READY, at)?;
    }
    Ok(())
}

/// Sets the position from which this node receives a node that does not answer to where all tables are, as core's apply
/// would if that node sent something. Otherwise the tables would count as being copied for as long as it is gone, and
/// this node could be nobody's source. Where a table was not rebuilt, and may lack something below that, nothing is
/// set. Needs a transaction with a snapshot.
pub fn advance_silent(node: &str) -> Result<(), RecoverError> {
    for stream in streams()?.iter().filter(|stream| stream.node == node) {
        let subscription = stream.position.subscription.to_u32();
        let least = Spi::get_one::<String>(&format!(
            "SELECT pg_catalog.min(srsublsn)::pg_catalog.text FROM pg_catalog.pg_subscription_rel
              WHERE srsubid = {subscription}::pg_catalog.oid HAVING bool_and(srsubstate = {})",
            quote_literal(DONE_UP_TO)
        ))?;
        let Some(at) = least.and_then(|at| at.parse().ok()) else { continue };
        advance(stream, at)?;
        set_state(&stream.position.subscription, None, READY, at)?;
    }
    Ok(())
}

/// Moves the replication origin of a subscription forward.
pub fn advance(stream: &Stream, at: OriginLsn) -> Result<(), RecoverError> {
    if stream.position.remote >= at {
        return Ok(());
    }
    set_origin(&format!("pg_{}", stream.position.subscription.to_u32()), at)
}

/// Sets how far a replication origin has been applied, also backwards. It is in WAL, and does not roll back.
pub(super) fn set_origin(name: &str, at: OriginLsn) -> Result<(), RecoverError> {
    let name = quote_literal(name);
    Spi::run(&format!("SELECT pg_catalog.pg_replication_origin_advance({name}, '{at}'::pg_catalog.pg_lsn)"))?;
    Ok(())
}

/// The subscriptions of this node that are or were enabled and that have a slot on a node that answers.
pub fn to_look_at(suspended: &BTreeSet<u32>) -> Result<Vec<(Stream, Subscription)>, RecoverError> {
    let subscriptions = NativeProvider.subscriptions()?;
    let streams = streams()?;
    Ok(streams
        .into_iter()
        .filter_map(|stream| {
            let known = subscriptions.iter().find(|one| one.id == stream.position.subscription)?.clone();
            (known.is_enabled || suspended.contains(&known.id.to_u32())).then_some((stream, known))
        })
        .collect())
}

/// How far the source is past each node's WAL, by its own account. A node may be named more than once there; the least
/// counts.
pub fn passed_by(source: &mut Source) -> Result<BTreeMap<String, OriginLsn>, RecoverError> {
    let rows = source.rows(
        "SELECT origin_node, coalesce(greatest(applied_lsn, passed_lsn), '0/0') FROM spock.node_positions(true::pg_catalog.bool)
          WHERE origin_node IS NOT NULL",
        2,
    )?;
    let mut passed: BTreeMap<String, OriginLsn> = BTreeMap::new();
    for row in &rows {
        let (node, at): (String, OriginLsn) = (source.read(row.value(0))?, source.read(row.value(1))?);
        if at == OriginLsn::INFINITY {
            return Err(source.unexpected("an infinite position"));
        }
        let known = passed.entry(node).or_insert(at);
        *known = at.min(*known);
    }
    Ok(passed)
}

/// Has the source pin a snapshot of these tables for the intent, which its own transactions and those that it applies
/// stand still for. A snapshot that is pinned already for the intent is returned again.
///
/// # Errors
/// If the source cannot pin one, or answers with something else.
pub fn pin(source: &mut Source, id: IntentId, target: &str, tables: &[Table]) -> Result<Pinned, RecoverError> {
    #[derive(serde::Deserialize)]
    struct Answer {
        snapshot: String,
        vector: BTreeMap<String, OriginLsn>,
        end: OriginLsn,
        pin: String,
        since: Timestamp,
    }
    let names: Vec<String> =
        tables.iter().map(|table| quote_literal(quote_qualified_identifier(&table.schema, &table.name))).collect();
    let question = format!(
        "{}.pin_tables({}, {}, ARRAY[{}]::pg_catalog.text[])",
        source.internal_schema(),
        argument::uuid(Some(id)),
        argument::name(target),
        names.join(", ")
    );
    let answer = source.write_one_within(PIN_LIMIT, &in_ascii(&question))?;
    let answer = answer.and_then(|digits| from_ascii(&digits));
    let answer = answer.and_then(|text| serde_json::from_str::<Answer>(&text).ok());
    let Some(mut answer) = answer else { return Err(source.unexpected("no pin")) };
    answer.vector.insert(source.name().to_owned(), answer.end);
    let (snapshot, vector, pin, at) = (answer.snapshot, answer.vector, answer.pin, Some(answer.since));
    let pinned = Pinned { snapshot, vector, pin, at, horizon: None };
    if pinned.is_sound() { Ok(pinned) } else { Err(source.unexpected("no sound pin")) }
}

/// Has this node hold its own snapshot for the intent, and returns its name. The caller holds this node's commits back.
pub fn hold_here(id: IntentId, local: &str) -> Result<String, RecoverError> {
    let question = format!(
        "SELECT spock_internal.pin_tables({}, {}, '{{}}'::pg_catalog.text[]) ->> 'snapshot'",
        argument::uuid(Some(id)),
        argument::name(local)
    );
    Ok(Spi::get_one::<String>(&question)?.unwrap_or_default())
}

/// Whether this node still holds that snapshot.
pub fn is_held_here(id: IntentId) -> Result<bool, RecoverError> {
    let question =
        format!("SELECT EXISTS (SELECT FROM spock_internal.pins() p WHERE p.intent_id = {})", argument::uuid(Some(id)));
    Ok(Spi::get_one::<bool>(&question)?.unwrap_or(false))
}

/// Lets go of the snapshot that this node holds for the intent.
pub fn let_go_here(id: IntentId) -> Result<(), RecoverError> {
    Spi::run(&format!("SELECT spock_internal.release_pin({})", argument::uuid(Some(id))))?;
    Ok(())
}

/// The publications by which this node receives from another one.
pub fn publications_from(node: &str) -> Result<Vec<String>, RecoverError> {
    let known = NativeProvider.subscriptions()?;
    let from = known.into_iter().filter(|one| one.origin.node().is_some_and(|origin| origin.as_str() == node));
    Ok(from.flat_map(|one| one.publications).collect())
}

/// The subscription by which this node receives a node's changes of a table, or any other from that node.
pub fn subscription_from(node: &str) -> Result<Option<Oid>, RecoverError> {
    Ok(streams()?.into_iter().find(|stream| stream.node == node).map(|stream| stream.position.subscription))
}

/// The replication origins of this node's subscriptions that have a place in the shared memory, by the nodes that they come
/// from. Needs a transaction with a snapshot.
pub fn origins_by_node() -> Result<HashMap<String, u16>, RecoverError> {
    let question =
        "SELECT pg_catalog.array_agg(local_id::pg_catalog.int4) FROM pg_catalog.pg_show_replication_origin_status()";
    let placed = Spi::get_one::<Vec<i32>>(question)?.unwrap_or_default();
    let origins = streams()?.into_iter().map(|stream| (stream.node, stream.position.origin_id));
    Ok(origins.filter(|(_, id)| placed.contains(&i32::from(*id))).collect())
}

/// Whether the source still holds the intent's pin.
pub fn has_pin(source: &mut Source, id: IntentId, pinned: &Pinned) -> Result<bool, RecoverError> {
    let question = format!(
        "SELECT EXISTS (SELECT FROM {}.pins() p WHERE p.intent_id = {} AND p.since = {})::pg_catalog.text",
        source.internal_schema(),
        argument::uuid(Some(id)),
        argument::timestamp(pinned.at)
    );
    Ok(source.read_one(&question)?.as_deref() == Some("true"))
}

/// Makes sure that the source has the tables whole. It is asked again when it pins them; but then nothing is changed here
/// yet.
///
/// # Errors
/// If a table of the source is incomplete, or if it cannot be asked.
pub fn require_complete(source: &mut Source, tables: &[Table]) -> Result<(), RecoverError> {
    let rows: Vec<String> = tables
        .iter()
        .enumerate()
        .map(|(place, table)| format!("({}, {}, {place})", quote_literal(&table.schema), quote_literal(&table.name)))
        .collect();
    let question = format!(
        "SELECT pg_catalog.min(w.place)::pg_catalog.text FROM (VALUES {}) w(s, t, place)
           JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
             ON n.nspname = w.s AND c.relname = w.t
          WHERE {}",
        rows.join(", "),
        incomplete::any_of("ARRAY[c.oid]")
    );
    let place = source.read_one(&question)?.and_then(|place| place.parse::<usize>().ok());
    let Some(table) = place.and_then(|place| tables.get(place)) else { return Ok(()) };
    let (source_node, table) = (source.name().to_owned(), quote_qualified_identifier(&table.schema, &table.name));
    Err(RebuildError::SourceIncomplete { source_node, table }.into())
}

/// Ends the intent's pin, if there is one.
pub fn release_pin(source: &mut Source, id: IntentId) -> Result<(), RecoverError> {
    let call =
        format!("SELECT {}.release_pin({})::pg_catalog.text", source.internal_schema(), argument::uuid(Some(id)));
    source.write_one(&call).map(drop)
}

/// Makes the connection read the pinned snapshot until it is closed.
///
/// # Errors
/// If the source does not hold that snapshot any more.
pub fn take_snapshot(source: &mut Source, snapshot: &str) -> Result<(), RecoverError> {
    source.command("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    match source.command(&format!("SET TRANSACTION SNAPSHOT {}", quote_literal(snapshot))) {
        Err(RecoverError::Remote { error: RemoteError::Peer { .. }, .. }) => {
            Err(RebuildError::PinLost { source_node: source.name().to_owned() }.into())
        }
        outcome => outcome,
    }
}

/// What the source has not passed yet of what it must have: the node, how far it is, and how far it must be.
pub fn first_lag(
    passed: &BTreeMap<String, OriginLsn>,
    needed: &BTreeMap<String, OriginLsn>,
    source: &str,
) -> Option<(String, OriginLsn, OriginLsn)> {
    needed.iter().filter(|(node, _)| *node != source).find_map(|(node, must)| {
        let is_at = passed.get(node).copied().unwrap_or(OriginLsn::ZERO);
        (is_at < *must).then(|| (node.clone(), is_at, *must))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(entries: &[(&str, u64)]) -> BTreeMap<String, OriginLsn> {
        entries.iter().map(|(node, at)| ((*node).to_owned(), OriginLsn(*at))).collect()
    }

    #[test]
    fn the_source_must_have_passed_everything_but_itself() {
        let needed = vector(&[("n1", 10), ("n2", 20), ("n3", 30)]);
        assert_eq!(first_lag(&vector(&[("n1", 10), ("n2", 25)]), &needed, "n3"), None);
        let lag = first_lag(&vector(&[("n1", 10), ("n2", 19)]), &needed, "n3");
        assert_eq!(lag, Some(("n2".to_owned(), OriginLsn(19), OriginLsn(20))));
        let lag = first_lag(&vector(&[("n2", 20)]), &needed, "n3");
        assert_eq!(lag, Some(("n1".to_owned(), OriginLsn(0), OriginLsn(10))));
    }
}
