//! Applying the failed node's transactions on the target of a recovery.
//!
//! conflict and conflict_report are pure. Tables are changed through src/pg/executor.rs alone; stream is the receiving
//! end of the rescue's stream.

pub mod change;
pub mod conflict;
pub mod conflict_report;
pub mod stream;
pub mod touched;
pub mod transaction;
