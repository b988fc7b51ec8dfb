//! quick_health_check(): one row per thing that a rescue will need, judged before it is needed.
//!
//! What is judged is gathered in one place (sql); judging is pure.

pub mod capacity;
pub mod documents;
pub mod judge;
pub mod kept;
pub mod version;
