//! The functions for restore points. Their CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::manager::entry_with_manager;
use crate::error::{OrRaise, raise};
use crate::lsn::LocalLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Timestamp;
use crate::pg::latch::{self, WaitEvent};
use crate::pg::name::Name;
use crate::pg::role;
use crate::pg::text::Text;
use crate::pg::{catalog, interrupts, process, transaction};
use crate::recover::error::RecoverError;
use crate::recover::source::{self, Source};
use crate::remote::argument;
use crate::restore_point::error::RestorePointError;
use crate::restore_point::list::{Backup, Point, PointNode, Quality, RestorePoints};
use crate::restore_point::list_storage;
use crate::restore_point::step::{self, Forget};
use crate::shmem::{self, JobState, PointJob};
use crate::slot::snapshot::require_reader;
use crate::worker::start;
use pgrx::prelude::*;
use std::time::{Duration, Instant};

/// The limits of a lease, in milliseconds. Below ten, commits under way would rarely end in time.
const LEASE_MS: std::ops::RangeInclusive<f64> = 10.0..=60_000.0;

/// The longest name, in bytes: as that of a node, so that a name that was cut to 63 bytes is not taken for a whole one.
const MAX_NAME: usize = crate::node_name::MAX_BYTES;

type Row = (Name, Name, Option<LocalLsn>, Option<i32>, Option<f64>, String);

/// Makes a restore point on all nodes, and returns a row for each.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn create_restore_point(
    restore_point: Option<Name>,
    lease: Option<pgrx::datum::Interval>,
    drain: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(restore_point, Name),
        name!(node_name, Name),
        name!(lsn, Option<LocalLsn>),
        name!(timeline, Option<i32>),
        name!(held_ms, Option<f64>),
        name!(quality, String),
    ),
> {
    let name = checked_name(restore_point).or_raise();
    let lease_ms = lease_ms(lease).or_raise();
    let drain = drain.ok_or(RestorePointError::NullArgument { argument: "drain" }).or_raise();
    let made = make(&name, lease_ms, drain).or_raise();
    let mut rows: Vec<Row> = made.nodes.iter().map(|node| row(&made, node)).collect();
    for peer in NativeProvider.peers().or_raise() {
        let name = peer.name.to_string();
        if made.nodes.iter().all(|node| node.node != name) {
            ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("node \"{name}\" has no part in restore point \"{}\"", made.name),
                "It does not answer. The restore point is one of the other nodes."
            );
            rows.push((Name(made.name.clone()), Name(name), None, None, None, "absent".to_owned()));
        }
    }
    TableIterator::new(rows)
}

fn row(point: &Point, node: &PointNode) -> Row {
    let held = node.held_us.map(|held| held as f64 / 1000.0);
    let timeline = node.timeline.map(u32::cast_signed);
    let quality = point.quality.as_str().to_owned();
    (Name(point.name.clone()), Name(node.node.clone()), node.lsn, timeline, held, quality)
}

fn checked_name(name: Option<Name>) -> Result<String, RestorePointError> {
    let Name(name) = name.ok_or(RestorePointError::NullArgument { argument: "restore_point" })?;
    let wrong = if name.trim().is_empty() {
        Some("must not be empty")
    } else if name.len() > MAX_NAME {
        Some("is too long")
    } else if name.chars().any(char::is_control) {
        Some("must not contain control characters")
    } else if name.contains(char::REPLACEMENT_CHARACTER) {
        Some("is not valid in UTF-8")
    } else {
        None
    };
    wrong.map_or(Ok(name), |wrong| Err(RestorePointError::BadName(wrong)))
}

fn lease_ms(lease: Option<pgrx::datum::Interval>) -> Result<u32, RestorePointError> {
    let lease = lease.ok_or(RestorePointError::NullArgument { argument: "lease" })?;
    let whole_days = f64::from(lease.months()) * 30.0 + f64::from(lease.days());
    let milliseconds = whole_days * 86_400_000.0 + lease.micros() as f64 / 1000.0;
    if LEASE_MS.contains(&milliseconds) { Ok(milliseconds.round() as u32) } else { Err(RestorePointError::BadLease) }
}

/// Has a worker make the restore point and waits for it. If the statement ends first (statement_timeout, a cancel), the
/// worker goes on.
fn make(name: &str, lease_ms: u32, drain: bool) -> Result<Point, RestorePointError> {
    process::require_writable("create_restore_point");
    if NativeProvider.local_node()?.is_none() {
        return Err(RestorePointError::NoNode);
    }
    list_storage::read()?.require_unused(name)?;
    let index = entry_with_manager(WaitEvent::RestorePoint).ok_or(RestorePointError::NoManager)?;
    let wanted = PointJob { asked_by: process::my_pid(), lease_ms, drain, ..PointJob::FREE };
    let number = shmem::lock().ask_for_point(index, name, wanted).ok_or(RestorePointError::Busy)?;
    if start::start_restore_point_worker(index, &catalog::my_database_name()).is_err() {
        shmem::lock().give_up_point(index, number);
        return Err(RestorePointError::NoWorker);
    }
    let note = wait_for(index, number)?;
    let point = list_storage::read()?.point(name).cloned().ok_or(RestorePointError::WorkerEnded)?;
    if drain && point.quality != Quality::Drained && !note.is_empty() {
        let quality = point.quality.as_str();
        ereport!(
            PgLogLevel::NOTICE,
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            format!("restore point \"{name}\" is {quality}, not drained: {note}"),
            "It can be restored to; what is on its way then arrives afterwards."
        );
    }
    Ok(point)
}

fn pause() {
    interrupts::check();
    latch::wait(Some(Duration::from_millis(20)), WaitEvent::RestorePoint);
}

/// A worker that has not begun within this time never will: its start was refused after it was registered.
const START_PATIENCE: Duration = Duration::from_secs(30);

fn wait_for(index: usize, number: u64) -> Result<String, RestorePointError> {
    let begun = Instant::now();
    loop {
        let job = *shmem::lock().point_job(index);
        let error = job.error;
        match job.state {
            _ if job.number != number => return Err(RestorePointError::WorkerEnded),
            JobState::Done => return Ok(job.note.as_str().to_owned()),
            JobState::Asked if begun.elapsed() > START_PATIENCE => {
                if shmem::lock().give_up_point(index, number) {
                    return Err(RestorePointError::NoWorker);
                }
            }
            JobState::Asked | JobState::Running => pause(),
            JobState::Failed if !error.message.as_str().is_empty() => {
                return Err(RestorePointError::Reported {
                    sqlstate: String::from_utf8_lossy(&error.sqlstate).into_owned(),
                    message: error.message.as_str().to_owned(),
                    detail: error.detail.as_str().to_owned(),
                    hint: error.hint.as_str().to_owned(),
                });
            }
            JobState::None | JobState::Failed => return Err(RestorePointError::WorkerEnded),
        }
    }
}

/// The restore points that this node knows, the oldest first.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn restore_points() -> TableIterator<
    'static,
    (
        name!(restore_point, Name),
        name!(created_at, TimestampWithTimeZone),
        name!(quality, String),
        name!(nodes, Vec<Name>),
        name!(lsns, Vec<Option<LocalLsn>>),
        name!(base_backup_before, Option<TimestampWithTimeZone>),
    ),
> {
    require_reader("restore_points");
    let list = list_storage::read().or_raise();
    let row = |point: &Point| {
        (
            Name(point.name.clone()),
            point.created_at.into(),
            point.quality.as_str().to_owned(),
            point.nodes.iter().map(|node| Name(node.node.clone())).collect(),
            point.nodes.iter().map(|node| node.lsn).collect(),
            list.backup_before(point).map(Into::into),
        )
    };
    TableIterator::new(list.points.iter().map(row).collect::<Vec<_>>())
}

/// What spockctl must know of a restore point, with the timelines: the list as it is stored.
#[pg_extern(sql = false)]
fn restore_point_list() -> Text {
    require_reader("restore_point_list");
    let list: RestorePoints = list_storage::read().or_raise();
    Text::of_message(&crate::document::to_text(&list))
}

/// Removes a restore point from the lists of all nodes that answer. Its record in WAL stays, and so its name stays used.
/// Refused where what this node does may still be rolled back by a later statement.
#[pg_extern(sql = false)]
fn drop_restore_point(restore_point: Option<Name>) {
    let name = checked_name(restore_point).or_raise();
    process::require_writable("drop_restore_point");
    if transaction::is_block() || transaction::is_sub() {
        raise(&RestorePointError::WithinBlock);
    }
    let forget = Forget { name: name.clone(), attempt: None, was_written: true };
    let mut is_known = step::forget(&forget).or_raise();
    let argument = crate::document::to_text(&forget);
    for peer in NativeProvider.peers().or_raise() {
        let peer = peer.name.to_string();
        match forget_at(&peer, &argument) {
            Ok(was_there) => is_known |= was_there,
            Err(error) => ereport!(
                PgLogLevel::WARNING,
                PgSqlErrorCode::ERRCODE_WARNING,
                format!("node \"{peer}\" still lists the restore point, if it knew it"),
                format!("{error}.")
            ),
        }
    }
    if !is_known {
        raise(&RestorePointError::Unknown { name });
    }
}

/// Removes the point there. Returns whether it was in the list.
fn forget_at(peer: &str, argument: &str) -> Result<bool, RecoverError> {
    let mut node = Source::open(peer, &source::route_to(peer)?)?;
    let step = argument::text(Some(step::FORGET));
    let call = format!("SELECT spock_internal.restore_point_step({step}, {})", argument::text(Some(argument)));
    Ok(node.write_one(&call)?.as_deref() == Some("true"))
}

/// Notes a base backup of a node, so that restore_points() can tell from which one a point can be restored.
#[pg_extern(sql = false)]
fn note_base_backup(node_name: Option<Name>, begun_at: Option<TimestampWithTimeZone>, stop_lsn: Option<LocalLsn>) {
    let null = |argument| RestorePointError::NullArgument { argument };
    let Name(node) = node_name.ok_or(null("node_name")).or_raise();
    let begun_at = Timestamp::from(begun_at.ok_or(null("begun_at")).or_raise());
    let stop_lsn = stop_lsn.ok_or(null("stop_lsn")).or_raise();
    list_storage::update(|list| {
        list.note_backup(Backup { node, begun_at, stop_lsn });
        Ok(())
    })
    .or_raise();
}

/// Does one step of a restore point on this node (src/restore_point/step.rs). A superuser may let the role call it with
/// which peers connect; it works as a superuser.
#[pg_extern(sql = false)]
fn restore_point_step(step: Option<Text>, argument: Option<Text>) -> Text {
    let null = |argument| RestorePointError::NullArgument { argument };
    let step = step.ok_or(null("step")).or_raise().to_utf8();
    let argument = argument.ok_or(null("argument")).or_raise().to_utf8();
    let answer = role::as_superuser(|| step::run(&step, &argument)).or_raise();
    Text::of_message(&answer)
}
