//! The recovery slot: one inactive logical slot per node that keeps the WAL which a lagging peer may need one day.
//!
//! Pure: name, horizon, retention, pace, record, vouching, clone_name, clone_fate. The manager keeps the slot (keeper) and lets a worker of its own do what
//! may wait: create, advance, touch, drop (job). A rescue streams from a copy (clone), which the manager looks after (clones).

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
pub mod pace;
pub mod plugin_list;
pub mod positions;
pub mod record;
pub mod record_storage;
pub mod retention;
pub mod snapshot;
pub mod view;
pub mod vouching;
