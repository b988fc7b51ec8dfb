//! Backups of every node of a mesh, from which `spockctl restore` brings all of them to one moment.
//!
//! No backup tool of our own: a driver (`driver`) has another program do the work. What decides is pure: `wal` (which segments
//! are needed, which are missing, how far a backup reaches), `expire`. `repository` is the layout on the disk.

pub mod base;
pub mod dir;
pub mod driver;
pub mod error;
pub mod program;
pub mod repository;
mod shell;
pub mod wal;

pub use base::{BaseBackup, Kind};
pub use driver::Driver;
pub use error::{Error, Result};
pub use repository::{MeshNode, Repository};
