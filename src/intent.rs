//! Intents: the durable record of each recovery on its target, and of the clones on their source, in one journal.
//!
//! Pure: document, journal, fault. The journal stands in the security label on the extension's schema (storage): WAL-logged,
//! carried to physical standbys, published by no publication, and inert in a copy elsewhere.

pub mod document;
mod error;
pub mod fault;
pub mod journal;
#[cfg(test)]
pub mod journal_tests;
pub mod storage;
pub mod unfinished;

pub use error::IntentError;
