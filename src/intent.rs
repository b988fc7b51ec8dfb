//! Intents: the durable record of each recovery on its target, and of the clones on their source, in one journal.
//!
//! The modules document, journal and fault are pure. The journal is stored in the security label on the extension's
//! schema (storage): it is WAL-logged and carried to physical standbys, no publication publishes it, and it is inert in
//! a copy elsewhere.

pub mod document;
mod error;
pub mod fault;
pub mod journal;
#[cfg(test)]
pub mod journal_tests;
pub mod rebuild;
mod rebuilding;
pub mod storage;
pub mod unfinished;

pub use error::IntentError;
