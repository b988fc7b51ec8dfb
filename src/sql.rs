//! The SQL entry points: what a call says is checked here, what it asks for is done elsewhere, and rows are made of the answer.
//!
//! Their CREATE FUNCTION, grants and comments stand in the folder sql/ beside src/. This is the highest layer: nothing imports it.

mod clone;
mod clone_recovery;
mod coordinate;
mod health;
mod intent;
pub mod node;
mod plan;
mod reconcile;
mod recover;
mod slot;
mod slot_by_hand;
