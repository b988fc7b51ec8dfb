//! The functions that save the recovery slot's files and read them back, for a restore from a backup. Their CREATE
//! FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, raise};
use crate::lsn::LocalLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::name::Name;
use crate::pg::process;
use crate::slot::error::SlotError;
use crate::slot::saved::Saved;
use crate::slot::saved_storage;
use pgrx::prelude::*;

/// Saves the files of the recovery slot, so that they are in WAL and in every backup with the commit of the caller.
/// Returns what is saved. `saved` is false, and the positions are null, if there is no slot, or only an invalidated one:
/// then there is nothing to save. Whatever else prevents it is an error.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn save_recovery_slot() -> TableIterator<
    'static,
    (
        name!(slot_name, Option<Name>),
        name!(restart_lsn, Option<LocalLsn>),
        name!(confirmed_flush_lsn, Option<LocalLsn>),
        name!(saved, bool),
    ),
> {
    require_superuser("save_recovery_slot");
    process::require_writable("save_recovery_slot");
    if NativeProvider.local_node().or_raise().is_none() {
        raise(&SlotError::NoNode);
    }
    let row = match saved_storage::save_now().or_raise() {
        (name, Some(Saved { head, .. })) => (name.map(Name), Some(head.restart), Some(head.confirmed), true),
        (name, None) => (name.map(Name), None, None, false),
    };
    TableIterator::once(row)
}

/// The saved files: one row, or none if nothing is saved. It works on a server that is in recovery, too.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn saved_recovery_slot() -> TableIterator<
    'static,
    (
        name!(slot_name, Name),
        name!(generation, i64),
        name!(restart_lsn, LocalLsn),
        name!(confirmed_flush_lsn, LocalLsn),
        name!(state, Vec<u8>),
        name!(snap_name, Option<String>),
        name!(snap, Option<Vec<u8>>),
    ),
> {
    require_superuser("saved_recovery_slot");
    TableIterator::new(saved_storage::saved().or_raise().map(|Saved { head, state, snap }| {
        let snap_name = head.snap.map(|snap| snap.name);
        (Name(head.slot), head.generation as i64, head.restart, head.confirmed, state, snap_name, snap)
    }))
}

fn require_superuser(function: &'static str) {
    if !process::is_superuser() {
        raise(&SlotError::NotSuperuser { function });
    }
}
