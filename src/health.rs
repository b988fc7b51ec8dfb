//! quick_health_check(): one row for each thing that a rescue will need, judged before it is needed.
//!
//! The facts are gathered in one place (src/sql/health.rs). The judgement is pure.

pub mod capacity;
pub mod documents;
pub mod judge;
pub mod kept;
pub mod version;
