//! The recovery slot: one inactive logical slot per node that keeps the WAL which a lagging peer may need one day.
//!
//! Pure: name, horizon, retention, pace, record. The manager keeps the slot (keeper) and lets a worker of its own do what
//! may wait: create, advance, touch, drop (job).

mod budget;
mod by_hand;
pub mod decision;
mod error;
pub mod horizon;
pub mod job;
pub mod keeper;
pub mod name;
pub mod pace;
pub mod positions;
pub mod record;
pub mod retention;
pub mod snapshot;
mod sql;
pub mod view;
