//! The background workers: one launcher per server, and in each database with the extension one manager, one poller per
//! peer, and at times a slot worker, a rescue worker, and workers for a restore point and for a comparison.
//!
//! All are crash-only: an unexpected ERROR ends the process, and the process that had started it starts it again, after
//! a delay that grows. They communicate through shared memory; none of them waits for another.

mod blockers;
pub mod clone_upkeep;
mod comparing;
mod comparisons;
pub mod copy;
mod cut_short;
mod discovery;
mod ending;
pub mod entry;
pub mod error;
mod judging_again;
pub mod keeper;
pub mod launcher;
pub mod manager;
pub mod pin;
pub mod poller;
pub mod polling;
mod rebuilding;
pub mod reconciling;
pub mod recoveries;
mod replaying;
pub mod rescue;
pub mod restore_point;
mod returns;
mod schedule;
mod skips;
pub mod slot_worker;
pub mod start;
pub mod trouble;
pub mod utility;
