//! Recovering a node from a peer: what the SQL functions ask for, and what is known of target and source.
//!
//! The functions only write an intent down; src/worker/rescue.rs carries it, and nothing depends on the session that called.

mod begin;
pub mod blockers;
mod coordinate;
pub mod error;
pub mod facts;
pub mod gather;
mod plan_error;
mod plan_sql;
pub mod progress;
pub mod prove;
pub mod readiness;
pub mod returned;
pub mod said;
pub mod source;
mod sql;
pub mod suspend;
pub mod target;
