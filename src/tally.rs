//! What is counted of a recovery, in memory and in its intent (pure): transactions and rows that were replayed, conflicts that were
//! met, rows that were compared.

pub mod compared;
pub mod conflict;
pub mod replayed;
