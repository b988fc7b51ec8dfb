//! A recovery shown from crash to verified, and clusters that stay to try things with.
//!
//! The library is what the binary `spockctl` does, for the tests of it, and what it shows on the screen, for the benchmark.

pub mod backup;
pub mod cluster;
pub mod demo;
pub mod error;
pub mod lsn;
pub mod node;
pub mod record;
pub mod restore;
pub mod screen;
pub mod status;
pub mod table;

pub use error::{Error, Result};
pub use screen::Screen;
