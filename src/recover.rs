//! Recovering a node from a peer: what the SQL functions ask for, and what is known of target and source.
//!
//! The functions only write an intent down; src/worker/rescue.rs carries it, and nothing depends on the session that called.

pub mod begin;
pub mod blockers;
pub mod error;
pub mod facts;
pub mod gather;
pub mod plan_error;
pub mod progress;
pub mod prove;
pub mod readiness;
pub mod said;
pub mod source;
pub mod strangers;
pub mod suspend;
pub mod target;
pub mod watching;
