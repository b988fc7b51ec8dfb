//! The background workers: one launcher per server, one manager per database with the extension, one poller per peer.
//!
//! All are crash-only: an unexpected ERROR ends the process, and whoever started it starts it again, later each time.
//! What they tell each other is in shared memory; none of them waits for another.

mod blockers;
pub mod clones;
mod cut_short;
mod discovery;
pub mod entry;
pub mod error;
mod judging_again;
pub mod keeper;
pub mod launcher;
pub mod manager;
pub mod poller;
pub mod pollers;
pub mod reconciling;
pub mod rescue;
pub mod rescues;
mod returns;
mod skips;
pub mod slot_worker;
pub mod start;
pub mod utility;
