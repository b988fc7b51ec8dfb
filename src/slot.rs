//! The recovery slot: one inactive logical slot per node that keeps the WAL which a peer may still need.
//!
//! The modules that decide are pure: name, horizon, decision, retention, pace, record, on_disk, saved,
//! vouching, plugin_list, clone_name, clone_fate, and but for the reading of slots outgoing. The manager keeps the slot (src/worker/keeper.rs) and starts a slot worker for the
//! operations that may have to wait: create, advance, touch and drop (job). A rescue streams from a copy of the slot,
//! its clone (clone); the manager drops clones that are no longer needed (src/worker/clone_upkeep.rs).

pub mod budget;
pub mod clone;
pub mod clone_error;
pub mod clone_fate;
pub mod clone_name;
pub mod decision;
pub mod documents;
pub mod error;
pub mod horizon;
pub mod job;
pub mod name;
pub mod on_disk;
pub mod outgoing;
pub mod pace;
pub mod plugin_list;
pub mod positions;
pub mod record;
pub mod record_storage;
pub mod retention;
pub mod saved;
pub mod saved_storage;
pub mod snapshot;
pub mod view;
pub mod vouching;
