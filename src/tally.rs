//! What is counted of a recovery, in memory and in its intent (pure): replayed transactions and rows, conflicts, and
//! compared rows.

pub mod compared;
pub mod conflict;
pub mod replayed;
