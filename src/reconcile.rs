//! Reconciling: after a replay, with subscriptions running again, the rows that it has touched are compared with the
//! source's, and brought to the later version where they differ.
//!
//! The failed node's transactions came late. What others had changed of its rows meanwhile was skipped on the target for
//! lack of the row, and does not come again.
//!
//! Its parts, each of which can be understood alone:
//!
//! | what | where |
//! |---|---|
//! | pure: verdicts, and which of them must wait; values, answers, how many rows are asked for at once | judge, standing, value, answer, pieces |
//! | the two nodes, how they are asked, how far each is | pair, ask, absent, views |
//! | who must still pass what | waits |
//! | what has become of rows, and those that are kept for another time | ledger, kept |
//! | writing a row, and rows that were taken away and may have to be put back | bring, write, removed |
//! | a first look at many rows, a closer one at those that differ, all of them | compare, closer, run |
//! | changes of keys that others have made since | moves |

mod absent;
mod answer;
mod ask;
mod bring;
mod closer;
mod compare;
mod difference;
pub mod judge;
pub mod kept;
mod ledger;
pub mod moves;
mod pair;
mod pieces;
pub mod reach;
mod refused;
mod removed;
pub mod rows;
pub mod run;
mod standing;
mod value;
mod waits;
pub mod write;
