//! What every backup program must be able to do.

use std::path::Path;

use spock_recovery_cluster::ServerUser;

use super::base::BaseBackup;
use super::dir::Dir;
use super::error::Result;
use super::repository::{DriverName, MeshNode, Repository};
use super::wal::Archive;

/// Told of the bytes that are there so far.
pub type Progress<'a> = &'a dyn Fn(u64);

/// The programs run as `user`, who owns the data directory.
pub trait Driver: Send + Sync {
    /// The complete ones, the oldest first.
    fn backups(&self, node: &MeshNode) -> Result<Vec<BaseBackup>>;

    /// Segments and timelines that can be fetched at this moment.
    fn archive(&self, node: &MeshNode) -> Result<Archive>;

    /// Writes a backup, with all that it refers to, into `data`, which must be empty or absent; flushed when it returns. Its
    /// pg_wal holds what the backup needs to become consistent.
    fn fetch_base(
        &self,
        node: &MeshNode,
        label: &str,
        data: &Path,
        user: &ServerUser,
        progress: Progress<'_>,
    ) -> Result<()>;

    /// Writes one file of the archive (a segment or a history) into a folder, under its own name; flushed when it returns. One that is
    /// there already is replaced.
    fn fetch_wal(&self, node: &MeshNode, file: &str, folder: &Path, user: &ServerUser) -> Result<()>;

    /// The setting's value, not quoted for a configuration file.
    fn restore_command(&self, node: &MeshNode) -> Result<String>;
}

/// The driver that the repository was set up for.
pub fn open(repository: &Repository) -> Result<Box<dyn Driver>> {
    match repository.mesh.driver {
        DriverName::Dir => Ok(Box::new(Dir::new(repository.clone()))),
        DriverName::Barman | DriverName::Command => unimplemented!(),
    }
}
