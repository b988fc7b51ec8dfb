//! What one node does at each step of a restore point. The worker that makes the point calls this for its own node, and
//! the pollers of its peers call it there, by the SQL function restore_point_step().
//!
//! Argument and answer are JSON, so that the function's signature stays when a step learns something new.

use super::error::RestorePointError;
use super::list::{Point, PointNode, Quality};
use super::list_storage;
use crate::barrier;
use crate::failpoint::{self, names};
use crate::lsn::{LocalLsn, OriginLsn};
use crate::node::native::NativeProvider;
use crate::node::provider::{Origin, ReplicationProvider};
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::{interrupts, origin, prepared, process, wal};
use crate::shmem;
use crate::shmem::gate::Holds;
use crate::slot::{positions, saved_storage};
use pgrx::Spi;
use pgrx::pg_sys::Oid;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long to sleep between two looks at what was applied.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The point is entered in the list, as loose.
#[derive(Serialize, Deserialize)]
pub struct Prepare {
    pub name: String,
    pub attempt: u64,
    pub created_at: Timestamp,
    pub is_automatic: bool,
    /// The nodes that take part.
    pub nodes: Vec<String>,
    /// Nodes that are known and do not take part.
    pub absent: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Prepared {
    pub node: String,
    /// A node that this one knows and the caller does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stranger: Option<String>,
    /// Some subscription here asks for what its provider has received from others: what is applied there goes on to
    /// here, so it must be held back too.
    #[serde(default)]
    pub is_forwarded_to: bool,
    /// Some subscription here is two-phase. Apply workers end prepared transactions without passing the gate.
    #[serde(default)]
    pub is_two_phase: bool,
    /// A provider whose tables are still being copied to here: the point is no proved cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_unsettled: Option<String>,
    /// A subscription of this node that cannot have passed its provider soon, so that nobody need wait for it: the name of
    /// the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_behind: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Close {
    pub number: u64,
    pub holds_all: bool,
    pub lease_ms: u32,
}

#[derive(Serialize, Deserialize)]
pub struct ClosedAt {
    /// The end of the node's own last commit.
    pub end: LocalLsn,
}

#[derive(Serialize, Deserialize)]
pub struct Mark {
    pub name: String,
    /// How long to wait until this node has passed the others; zero: not at all.
    pub wait_ms: u32,
    /// The end of each node's own last commit.
    pub ends: BTreeMap<String, OriginLsn>,
}

#[derive(Serialize, Deserialize)]
pub struct Marked {
    pub lsn: LocalLsn,
    pub timeline: u32,
    pub drained: bool,
    /// As of [`Prepared`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_unsettled: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Open {
    pub number: u64,
}

#[derive(Serialize, Deserialize)]
pub struct OpenedAfter {
    pub held: bool,
    pub held_us: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Record {
    pub point: Point,
    /// How many automatic points are kept.
    pub kept: u32,
}

#[derive(Serialize, Deserialize)]
pub struct Forget {
    pub name: String,
    /// The attempt whose entry is removed; None: whatever there is of that name, because a person drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// WAL may hold its record, so that its name stays used.
    pub was_written: bool,
}

/// The names of the steps.
pub const PREPARE: &str = "prepare";
pub const CLOSE: &str = "close";
pub const SAVE: &str = "save";
pub const MARK: &str = "mark";
pub const OPEN: &str = "open";
pub const RECORD: &str = "record";
pub const FORGET: &str = "forget";

/// Does the step of this name and returns the answer. Runs as a superuser.
pub fn run(step: &str, argument: &str) -> Result<String, RestorePointError> {
    fn read<'a, T: Deserialize<'a>>(step: &str, argument: &'a str) -> Result<T, RestorePointError> {
        serde_json::from_str(argument).map_err(|_| RestorePointError::BadStep { step: step.to_owned() })
    }
    failpoint::hit(names::RESTORE_POINT_STEP);
    let had_written = process::has_written();
    let answer = match step {
        PREPARE => to_value(&prepare(&read(step, argument)?)?),
        CLOSE => to_value(&close(&read(step, argument)?)?),
        SAVE => to_value(&save()?),
        MARK => to_value(&mark(&read(step, argument)?)?),
        OPEN => to_value(&open(&read(step, argument)?)),
        RECORD => to_value(&record(read(step, argument)?)?),
        FORGET => to_value(&forget(&read(step, argument)?)?),
        _ => return Err(RestorePointError::BadStep { step: step.to_owned() }),
    };
    if !had_written {
        // Whatever a step writes is written while commits may be held back.
        barrier::let_pass();
    }
    Ok(crate::document::to_text(&answer))
}

fn to_value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_default()
}

/// Checks the name and enters the point in the list.
pub fn prepare(asked: &Prepare) -> Result<Prepared, RestorePointError> {
    let local = NativeProvider.local_node()?.ok_or(RestorePointError::NoNode)?;
    barrier::wait_for_the_last();
    let is_known = |name: &str| asked.nodes.iter().chain(&asked.absent).any(|node| node == name);
    let peers = NativeProvider.peers()?;
    let stranger = peers.iter().map(|peer| peer.name.as_str()).find(|name| !is_known(name)).map(str::to_owned);
    if stranger.is_none() {
        // Here nobody waits for it, and when commits are held back there is little left to save.
        save()?;
        list_storage::update(|list| {
            list.require_unused(&asked.name)?;
            let node = |node: &String| PointNode { node: node.clone(), lsn: None, timeline: None, held_us: None };
            list.enter(Point {
                name: asked.name.clone(),
                attempt: asked.attempt,
                created_at: asked.created_at,
                is_automatic: asked.is_automatic,
                quality: Quality::Loose,
                nodes: asked.nodes.iter().map(node).collect(),
            });
            Ok(())
        })?;
    }
    let is_forwarded_to = is_forwarded_to()?;
    let (is_behind, is_unsettled) =
        (is_behind(&asked.nodes)?, is_unsettled(|node| asked.nodes.iter().any(|it| it == node))?);
    let (node, is_two_phase) = (local.name.to_string(), is_two_phase()?);
    Ok(Prepared { node, stranger, is_forwarded_to, is_two_phase, is_unsettled, is_behind })
}

fn is_two_phase() -> Result<bool, RestorePointError> {
    let question = "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription
                                    WHERE subdbid = $1 AND subenabled AND subtwophasestate <> 'd')";
    Ok(Spi::get_one_with_args(question, &[process::my_database().into()])?.unwrap_or(false))
}

/// About as much as an apply worker applies in the time for which commits may be held back.
const SOON_BYTES: u64 = 16 << 20;

/// One of these nodes from which a subscription here receives that is not running, or is far behind what that node's WAL
/// was when it was last asked.
fn is_behind(nodes: &[String]) -> Result<Option<String>, RestorePointError> {
    for position in positions::own_positions()? {
        let Some(origin) = position.origin.as_ref().filter(|origin| nodes.iter().any(|node| node == origin.as_str()))
        else {
            continue;
        };
        let kept_alive = kept_alive(position.subscription)?;
        let passed = origin::progress(position.origin_id).max(kept_alive.unwrap_or_default());
        let end = end_of(origin.as_str());
        if kept_alive.is_none() || end.0.saturating_sub(passed.0) > SOON_BYTES {
            return Ok(Some(origin.to_string()));
        }
    }
    Ok(None)
}

/// Where the WAL of a peer ended when it was last asked; 0/0: it was not.
fn end_of(node: &str) -> OriginLsn {
    let mut shared = shmem::lock();
    let Some(index) = shared.index_of(process::my_database()) else { return OriginLsn::ZERO };
    let ends = shared.peers(index).iter().filter(|peer| peer.node_name.as_str() == node).map(|peer| peer.wal_end);
    ends.max().unwrap_or_default()
}

fn is_forwarded_to() -> Result<bool, RestorePointError> {
    let question = "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription
                                    WHERE subdbid = $1 AND subenabled
                                      AND pg_catalog.lower(suborigin) OPERATOR(pg_catalog.<>) 'none')";
    Ok(Spi::get_one_with_args(question, &[process::my_database().into()])?.unwrap_or(false))
}

/// Closes the gate of the commit barrier.
pub fn close(asked: &Close) -> Result<ClosedAt, RestorePointError> {
    let holds = if asked.holds_all { Holds::All } else { Holds::Own };
    if asked.number == 0 {
        return Err(RestorePointError::BadStep { step: CLOSE.to_owned() });
    }
    let lease = Duration::from_millis(u64::from(asked.lease_ms));
    Ok(ClosedAt { end: barrier::close(asked.number, holds, lease)? })
}

/// Saves the recovery slot's files, which a restore needs and WAL does not have. It is committed before the restore point's
/// record is written. Where they have not changed since they were saved, nothing is written.
pub fn save() -> Result<(), RestorePointError> {
    saved_storage::save_now()?;
    Ok(())
}

/// Waits until this node has passed the others, and writes the restore point's record.
pub fn mark(asked: &Mark) -> Result<Marked, RestorePointError> {
    let drained = wait_until_passed(&asked.ends, Duration::from_millis(u64::from(asked.wait_ms)))?;
    let is_unsettled = is_unsettled(|node| asked.ends.contains_key(node))?;
    let lsn = wal::write_restore_point(&asked.name);
    Ok(Marked { lsn, timeline: wal::timeline(), drained, is_unsettled })
}

/// Opens the gate. It is no error if it is open already: then it has not held.
///
/// The record is flushed afterwards, when nobody waits for it: what is answered must survive a crash of this node.
pub fn open(asked: &Open) -> OpenedAfter {
    let opened = barrier::open(asked.number);
    wal::flush();
    match opened {
        Some(opened) => OpenedAfter { held: opened.held, held_us: opened.closed_for.as_micros() as u64 },
        None => OpenedAfter { held: false, held_us: 0 },
    }
}

/// Enters in the list what has come of the point.
pub fn record(asked: Record) -> Result<(), RestorePointError> {
    list_storage::update(|list| {
        list.enter(asked.point);
        list.prune(asked.kept as usize);
        Ok(())
    })
}

/// Removes the point from the list. Returns false if it is not there.
pub fn forget(asked: &Forget) -> Result<bool, RestorePointError> {
    list_storage::update(|list| {
        Ok(match asked.attempt {
            Some(attempt) => list.take_back(&asked.name, attempt, asked.was_written),
            None => list.remove(&asked.name),
        })
    })
}

/// A subscription, and how far it has to come.
struct Wanted {
    subscription: Oid,
    origin_id: u16,
    end: OriginLsn,
}

/// Waits until every subscription that comes from one of these nodes is past the end of that node's last commit. False:
/// one is not within `limit`.
fn wait_until_passed(ends: &BTreeMap<String, OriginLsn>, limit: Duration) -> Result<bool, RestorePointError> {
    let began_at = Monotonic::now();
    if has_unknown_origin()? {
        return Ok(false);
    }
    let positions = positions::own_positions()?.into_iter();
    let mut wanted: Vec<Wanted> = positions
        .filter_map(|position| {
            let end = *ends.get(position.origin.as_ref()?.as_str())?;
            Some(Wanted { subscription: position.subscription, origin_id: position.origin_id, end })
        })
        .collect();
    loop {
        let mut left = Vec::new();
        for one in wanted {
            if !has_passed(&one)? {
                left.push(one);
            }
        }
        if left.is_empty() {
            return Ok(true);
        }
        wanted = left;
        if Monotonic::now().since(began_at) >= limit {
            return Ok(false);
        }
        interrupts::check();
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether some enabled subscription may come from any node: nothing can be said of what it still has to receive.
fn has_unknown_origin() -> Result<bool, RestorePointError> {
    let subscriptions = NativeProvider.subscriptions()?;
    let is_known = |origin: &Origin| matches!(origin, Origin::Node(..) | Origin::Foreign);
    Ok(subscriptions.iter().any(|subscription| subscription.is_enabled && !is_known(&subscription.origin)))
}

/// A node that takes part from which a table is still being copied. Its synchronisation worker commits at positions of
/// its own, which the main apply worker's position says nothing of.
fn is_unsettled(takes_part: impl Fn(&str) -> bool) -> Result<Option<String>, RestorePointError> {
    for position in positions::own_positions()? {
        let Some(origin) = position.origin.as_ref().filter(|origin| takes_part(origin.as_str())) else { continue };
        if !position.is_ready {
            return Ok(Some(origin.to_string()));
        }
    }
    Ok(None)
}

/// Whether the subscription has applied up to the end, or its worker has processed a keepalive from beyond it: what its
/// provider had sent before that is applied then (worker.c, LogicalRepApplyLoop). What was merely received does not
/// count, nor do commits that publish nothing move the origin.
fn has_passed(wanted: &Wanted) -> Result<bool, RestorePointError> {
    if origin::progress(wanted.origin_id) >= wanted.end {
        return Ok(true);
    }
    Ok(kept_alive(wanted.subscription)?.is_some_and(|position| position >= wanted.end))
}

/// The position of the last keepalive that the subscription's apply worker has processed; 0/0: none yet. None: no worker
/// runs.
fn kept_alive(subscription: Oid) -> Result<Option<OriginLsn>, RestorePointError> {
    let question = "SELECT coalesce(latest_end_lsn, '0/0') FROM pg_catalog.pg_stat_subscription
                     WHERE subid = $1 AND relid IS NULL AND leader_pid IS NULL AND pid IS NOT NULL";
    Ok(Spi::connect(|client| {
        let rows = prepared::select(client, question, Some(1), &[subscription.into()])?;
        match rows.into_iter().next() {
            Some(row) => row.get::<OriginLsn>(1),
            None => Ok(None),
        }
    })?)
}
