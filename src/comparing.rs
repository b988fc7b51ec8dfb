//! Comparing the tables of this node with those of another one: which tables, how far each has got, and what was found,
//! so that a comparison that was broken off goes on where it stood. The worker that carries it is in
//! src/worker/comparing.rs.
//!
//! | what | where |
//! |---|---|
//! | pure: the tables of a comparison, and the keys that differ | list, difference |
//! | how both are kept | storage |
//! | beginning a comparison, or going on with one | begin |
//! | what may be wrong | error |

pub mod begin;
pub mod difference;
pub mod error;
pub mod list;
pub mod storage;
