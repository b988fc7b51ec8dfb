//! The SQL entry points. They check the arguments of a call, let lower layers do the work, and turn the result into
//! rows.
//!
//! Their CREATE FUNCTION, grants and comments are in the folder sql/ beside src/. This is the highest layer: no module
//! imports it.

mod clone;
mod clone_recovery;
mod compare;
mod coordinate;
mod copy;
mod health;
mod intent;
mod manager;
pub mod node;
mod pin;
mod plan;
mod progress;
mod rebuild_run;
mod reconcile;
mod recover;
mod restore_point;
mod slot;
mod slot_by_hand;
mod slot_files;
