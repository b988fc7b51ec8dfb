//! All nodes back to one moment: `spockctl restore`.
//!
//! The steps of each node are in a journal beside its data directory (`journal`), so that the same command goes on after whatever
//! has died. `start` brings each node to its target, paused and closed to everybody; `finish` puts the recovery slot back, promotes,
//! makes the subscriptions' slots from it, and opens; `cancel` puts the old data directories back.
//!
//! What decides is pure: `target` (where a node stops), `points` (the list), `cut` (targets that fit together), `pairs` (whether they
//! do), `settings`, `waldump` (what pg_waldump prints).

pub mod arguments;
pub mod cancel;
pub mod check;
pub mod cut;
pub mod error;
pub mod finish;
pub mod instant;
pub mod intents;
pub mod journal;
pub mod look;
pub mod pairs;
pub mod paths;
pub mod plan;
pub mod points;
pub mod scan;
pub mod server;
pub mod settings;
pub mod site;
pub mod sources;
pub mod start;
pub mod status;
pub mod target;
pub mod verify;
pub mod waldump;

pub use error::{Error, Result};
pub use target::Moment;
