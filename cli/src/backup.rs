//! Backups of every node of a mesh, from which `spockctl restore` brings all of them to one moment.
//!
//! No backup tool of our own: a driver (`driver`) has another program do the work. What decides is pure: `wal` (which segments are
//! needed, which are missing, how far a backup reaches), `archiving` (what a server must be told), `kind`, and the plans in `check` and
//! `expire`. `repository` is the layout on the disk.

pub mod archiving;
pub mod arguments;
pub mod barman;
pub mod base;
pub mod check;
pub mod command;
pub mod conninfo;
pub mod dir;
pub mod driver;
pub mod error;
pub mod expire;
mod kind;
pub mod list;
pub mod nodes;
pub mod program;
pub mod repository;
mod say;
mod segment_file;
pub mod setup;
pub mod shell;
pub mod take;
pub mod wal;

pub use base::{BaseBackup, Kind};
pub use driver::Driver;
pub use error::{Error, Result};
pub use repository::{DriverName, MeshNode, Repository};

use crate::screen::Screen;

/// Shows a line for each finding; any is a failure.
fn judge(findings: &[String], screen: &Screen) -> Result<()> {
    findings.iter().for_each(|finding| screen.line(say::one_line(finding)));
    match findings.len() {
        0 => Ok(()),
        count => Err(Error::Findings(count)),
    }
}
