//! Reconciling: after a replay, with the subscriptions running again, the rows that the replay has touched are compared
//! with those of the source, and brought to the later version where they differ.
//!
//! The failed node's transactions arrived late. Changes that other nodes had made to its rows meanwhile were skipped by
//! the target's apply workers, because the row was missing, and are not sent again.
//!
//! Each part can be understood alone:
//!
//! | what | where |
//! |---|---|
//! | pure: what is to be done about a row, and which of these verdicts must wait | judge, standing |
//! | pure: values, answers, and how many rows are asked for at once | value, answer, pieces |
//! | the question about rows, rows that differ, and what a node refuses | rows, difference, src/refused.rs |
//! | the two nodes, how they are asked, and how far each has got | pair, ask, absent, reach |
//! | what each of the two nodes must pass before rows are judged | waits |
//! | rows for the rebuild of a table | fetch |
//! | what has become of the rows, and those that are kept to be compared later | ledger, kept |
//! | writing a row, and rows that were deleted to make room and may have to be restored | bring, write, removed |
//! | a first look at many rows, a closer look at those that differ, and the run over all | compare, closer, run |
//! | changes of keys that other nodes have made since | moves |
//! | the closer look at keys that a comparison of tables has found to differ | comparing |

mod absent;
mod answer;
mod ask;
mod bring;
mod closer;
mod compare;
pub mod comparing;
mod difference;
pub mod fetch;
pub mod judge;
pub mod kept;
mod ledger;
pub mod moves;
mod pair;
mod pieces;
pub mod reach;
mod removed;
pub mod rows;
pub mod run;
mod standing;
mod value;
mod waits;
pub mod write;
