//! Begins a comparison, or goes on with the last one if that was broken off.

use super::error::ComparisonError;
use super::list::ComparisonList;
use super::storage;
use crate::intent;
use crate::intent_id::IntentId;
use crate::node::native::NativeProvider;
use crate::node::provider::{ReplicationProvider, Subscription};
use crate::pg::clock::Timestamp;
use crate::pg::{random, role, spi_text};
use std::time::Duration;

/// A comparison that was broken off longer ago is not gone on with: what was compared then tells nothing any more.
const GOES_ON_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// A comparison that was begun, or that is gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    pub id: IntentId,
    pub goes_on: bool,
}

/// What is to be compared.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    pub other: &'w str,
    /// The oids of the tables; None: all that are replicated from the other node.
    pub tables: Option<&'w [u32]>,
    pub repair: bool,
    pub is_automatic: bool,
}

/// Begins a comparison. Takes effect with the commit. Needs a transaction with a snapshot.
///
/// # Errors
/// The other node is not known or is this one, no subscription leads to it, a table is not replicated from it, or the
/// journal cannot be read.
pub fn begin(wanted: Wanted<'_>) -> Result<Begun, ComparisonError> {
    let subscription = subscription_to(wanted.other)?;
    let replicated = tables_of(&subscription);
    let selected = wanted.tables.map(|tables| select(&replicated, tables, wanted.other)).transpose()?;
    role::as_superuser(|| {
        if let Some(id) = unfinished(wanted, selected.as_deref())? {
            return Ok(Begun { id, goes_on: true });
        }
        let all = || replicated.iter().map(|(_, schema, name)| (schema.clone(), name.clone())).collect();
        let is_selected = selected.is_some();
        let bytes = random::bytes();
        let seed = bytes[..8].iter().fold(0_i64, |seed, byte| seed << 8 | i64::from(*byte));
        let id = intent::storage::new_id();
        let tables = selected.unwrap_or_else(all);
        let mut list =
            ComparisonList::new((id, Timestamp::now()), wanted.other, wanted.repair, is_selected, tables, seed);
        let peers = NativeProvider.peers()?.into_iter().map(|peer| peer.name.to_string());
        storage::create(&mut list, wanted.is_automatic, &peers.collect::<Vec<_>>())?;
        Ok(Begun { id, goes_on: false })
    })
}

/// The subscription of this node that comes from a node.
///
/// # Errors
/// The node is not known or is this one, or no subscription leads to it.
pub fn subscription_to(other: &str) -> Result<Subscription, ComparisonError> {
    let local = NativeProvider.local_node()?.ok_or(ComparisonError::NoNode)?;
    if local.name.as_str() == other {
        return Err(ComparisonError::ThisNode { node: other.to_owned() });
    }
    if !NativeProvider.peers()?.iter().any(|peer| peer.name.as_str() == other) {
        return Err(ComparisonError::UnknownNode { node: other.to_owned() });
    }
    let is_from = |known: &Subscription| known.origin.node().is_some_and(|node| node.as_str() == other);
    let found = NativeProvider.subscriptions()?.into_iter().find(is_from);
    found.ok_or_else(|| ComparisonError::NoSubscription { node: other.to_owned() })
}

/// The tables that a subscription replicates: oid, schema and name.
fn tables_of(subscription: &Subscription) -> Vec<(u32, String, String)> {
    let question = format!(
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_subscription_rel r
           JOIN pg_catalog.pg_class c ON c.oid = r.srrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE r.srsubid = {} AND c.relkind IN ('r', 'p') ORDER BY n.nspname, c.relname",
        subscription.id.to_u32()
    );
    let table = |row: Vec<Option<String>>| {
        let mut values = row.into_iter().flatten();
        Some((values.next()?.parse().ok()?, values.next()?, values.next()?))
    };
    role::as_superuser(|| spi_text::rows(&question)).into_iter().filter_map(table).collect()
}

fn select(
    replicated: &[(u32, String, String)],
    tables: &[u32],
    other: &str,
) -> Result<Vec<(String, String)>, ComparisonError> {
    let mut selected = Vec::new();
    for table in tables {
        let Some((_, schema, name)) = replicated.iter().find(|(oid, ..)| oid == table) else {
            let table = name_of(*table);
            return Err(ComparisonError::NotReplicated { table, node: other.to_owned() });
        };
        selected.push((schema.clone(), name.clone()));
    }
    selected.sort();
    selected.dedup();
    Ok(selected)
}

fn name_of(table: u32) -> String {
    let name = spi_text::rows(&format!("SELECT {table}::pg_catalog.oid::pg_catalog.regclass"));
    name.into_iter().flatten().flatten().next().unwrap_or_else(|| table.to_string())
}

/// The last comparison with that node, if it was broken off, and is of the same tables for the same purpose.
fn unfinished(wanted: Wanted<'_>, selected: Option<&[(String, String)]>) -> Result<Option<IntentId>, ComparisonError> {
    let journal = intent::storage::read_by_snapshot()?;
    let is_it = |record: &&intent::document::ComparisonRecord| {
        record.other == wanted.other && record.is_automatic == wanted.is_automatic && record.ended_at.is_none()
    };
    let Some(record) = journal.comparisons.iter().find(is_it) else { return Ok(None) };
    // If the list was lost, there is nothing to go on with.
    let Ok(list) = storage::list(record) else { return Ok(None) };
    let stood_for = Timestamp::now().by_the_wall_since(list.written_at);
    Ok((list.is_of(wanted.repair, selected) && stood_for < GOES_ON_WITHIN).then_some(record.id))
}
