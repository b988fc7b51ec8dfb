//! The recovery slot: one inactive logical slot per node that keeps the WAL which a lagging peer may need one day.
//!
//! Pure: name, horizon, retention, pace, record, vouching, clone_name, clone_fate. The manager keeps the slot (keeper) and lets a worker of its own do what
//! may wait: create, advance, touch, drop (job). A rescue streams from a copy (clone), which the manager looks after (clones).

mod budget;
mod by_hand;
pub mod clone;
mod clone_error;
mod clone_fate;
mod clone_name;
mod clone_recovery;
mod clone_sql;
pub mod clones;
pub mod decision;
pub mod documents;
mod error;
pub mod horizon;
pub mod job;
pub mod keeper;
pub mod name;
pub mod pace;
pub mod positions;
pub mod record;
pub mod record_storage;
pub mod retention;
pub mod snapshot;
mod sql;
pub mod view;
pub mod vouching;
