//! Reconciling: after a replay, with subscriptions running again, the rows that it has touched are compared with the
//! source's, and brought to the later version where they differ.
//!
//! The failed node's transactions came late. What others had changed of its rows meanwhile was skipped on the target for
//! lack of the row, and does not come again.
//!
//! Pure: judge and counts. The rows that were touched are collected in touched, and in moves those that others have
//! given another key since; they are asked for in ask, looked at in compare, judged and written in run. What cannot be
//! judged now is kept.

mod ask;
mod compare;
pub mod counts;
pub mod judge;
pub mod kept;
pub mod moves;
mod rows;
pub mod run;
mod sql;
pub mod touched;
mod views;
mod waits;
pub mod write;
