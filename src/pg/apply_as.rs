//! The user as whom a subscription's changes are applied.

use pgrx::pg_sys::Oid;

/// The properties of a subscription that determine that user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyAs {
    pub owner: Oid,
    pub run_as_owner: bool,
}
