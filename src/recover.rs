//! Recovering a node from a peer: what the SQL functions ask for, and what is known about the target and the source.
//!
//! The functions only record an intent. src/worker/rescue.rs carries it out, and nothing depends on the session that
//! called.

pub mod begin;
pub mod begin_rebuild;
pub mod blockers;
pub mod error;
pub mod facts;
pub mod gather;
pub mod horizon;
pub mod plan_error;
pub mod prove;
pub mod readiness;
pub mod rebuild;
pub mod rebuild_apart;
pub mod rebuild_error;
pub mod rebuild_slots;
pub mod rebuild_state;
pub mod said;
pub mod source;
pub mod state;
pub mod strangers;
pub mod suspend;
pub mod target;
pub mod watching;
