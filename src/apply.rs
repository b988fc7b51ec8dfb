//! Applying the failed node's transactions on the target of a rescue.
//!
//! Pure: conflict, conflict_report. What touches tables does so through src/pg/executor.rs; the receiving end of the stream is in stream.

pub mod change;
pub mod conflict;
pub mod conflict_report;
pub mod stream;
pub mod touched;
pub mod transaction;
