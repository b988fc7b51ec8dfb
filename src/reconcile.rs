//! Reconciling: after a replay, with subscriptions running again, the rows that it has touched are compared with the
//! source's, and brought to the later version where they differ.
//!
//! The failed node's transactions came late. What others had changed of its rows meanwhile was skipped on the target for
//! lack of the row, and does not come again.
//!
//! Pure: judge, counts, value, answer and pieces. The rows that were touched are collected in touched, and in moves those that
//! others have given another key since; they are asked for in ask, as many at once as pieces says, looked at in compare, judged in
//! run, where absent says when the absence of a row proves nothing, and brought in bring. What cannot be judged now is kept.

mod absent;
mod answer;
mod ask;
mod bring;
mod compare;
pub mod judge;
pub mod kept;
pub mod moves;
mod pieces;
pub mod rows;
pub mod run;
mod value;
mod views;
mod waits;
pub mod write;
