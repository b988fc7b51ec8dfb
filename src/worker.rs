//! The background workers: one launcher per server, one manager per database with the extension, one poller per peer.
//!
//! All are crash-only: an unexpected ERROR ends the process, and whoever started it starts it again, later each time.
//! What they tell each other is in shared memory; none of them waits for another.

mod blockers;
pub mod clone_upkeep;
mod cut_short;
mod discovery;
mod ending;
pub mod entry;
pub mod error;
mod judging_again;
pub mod keeper;
pub mod launcher;
pub mod manager;
pub mod poller;
pub mod polling;
pub mod reconciling;
pub mod recoveries;
mod replaying;
pub mod rescue;
mod returns;
mod skips;
pub mod slot_worker;
pub mod start;
pub mod trouble;
pub mod utility;
