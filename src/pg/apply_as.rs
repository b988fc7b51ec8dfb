//! As whom a subscription's changes are applied.

use pgrx::pg_sys::Oid;

/// What of a subscription says how its changes are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyAs {
    pub owner: Oid,
    pub run_as_owner: bool,
}
