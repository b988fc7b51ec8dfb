//! What every backup program must be able to do.

use std::fs;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::ServerUser;

use super::archiving::Archiving;
use super::barman::Barman;
use super::base::{BaseBackup, Kind};
use super::command::Commands;
use super::conninfo::Conninfo;
use super::dir::Dir;
use super::error::{Error, Result};
use super::repository::{DriverName, MeshNode, Repository};
use super::wal::{Archive, History};

/// Told of the bytes that are there so far.
pub type Progress<'a> = &'a dyn Fn(u64);

/// A backup that is to be taken.
pub struct Order<'a> {
    pub node: &'a MeshNode,
    pub conninfo: &'a Conninfo,
    pub user: &'a ServerUser,
    pub label: &'a str,
    /// With its parents, the full one first. Empty: a full backup is to be taken.
    pub chain: &'a [&'a BaseBackup],
    pub begun_at: &'a str,
    /// What the user has named, for a driver that decides itself.
    pub asked: Option<Kind>,
}

/// The programs run as `user`, who owns the data directory.
pub trait Driver: Send + Sync {
    /// The complete ones, the oldest first.
    fn backups(&self, node: &MeshNode) -> Result<Vec<BaseBackup>>;

    /// Segments and timelines that can be fetched at this moment.
    fn archive(&self, node: &MeshNode) -> Result<Archive>;

    /// The complete backup with this label.
    fn backup(&self, node: &MeshNode, label: &str) -> Result<BaseBackup> {
        let unknown = || Error::UnknownBackup { node: node.name.clone(), label: label.into() };
        self.backups(node)?.into_iter().find(|backup| backup.label == label).ok_or_else(unknown)
    }

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

    /// Where a file of the archive can be read without being fetched. None: it must be fetched.
    fn wal_path(&self, _node: &MeshNode, _file: &str) -> Option<PathBuf> {
        None
    }

    /// The setting's value; `shell::configuration_line` writes it, for it may hold quotes and backslashes.
    fn restore_command(&self, node: &MeshNode) -> Result<String>;

    /// How the server is to archive; `has_module`: it may load basic_archive.
    fn archiving(&self, node: &MeshNode, has_module: bool) -> Result<Archiving>;

    /// What must be there before the server archives.
    fn prepare(&self, node: &MeshNode, user: &ServerUser) -> Result<()>;

    /// Removes what killed backups have left; the caller holds the node's lock.
    fn sweep(&self, node: &MeshNode) -> Result<()>;

    /// The program decides itself what an incremental backup refers to, what it is called, and whether there is room.
    fn decides_kind(&self) -> bool;

    /// Whether what lies outside the data directory comes back.
    fn restores_tablespaces(&self) -> bool;

    /// Takes a backup, verifies it as far as the program can, and only then makes it one that `backups` shows. What failed leaves
    /// nothing behind.
    fn take(
        &self,
        order: &Order<'_>,
        now: &mut dyn FnMut() -> Result<String>,
        progress: Progress<'_>,
    ) -> Result<BaseBackup>;

    /// Reads a whole backup; its chain begins with the full one and ends with itself. What is wrong is the error.
    fn verify(&self, node: &MeshNode, chain: &[&BaseBackup], user: &ServerUser) -> Result<()>;

    /// What is wrong with one segment of the archive, which is there; `closely`: its records are looked at as well.
    fn verify_segment(&self, node: &MeshNode, file: &str, closely: bool, user: &ServerUser) -> Result<()>;

    /// What the program itself finds wrong.
    fn complaints(&self, _node: &MeshNode, _user: &ServerUser) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Removes a backup that no other one refers to.
    fn remove_backup(&self, node: &MeshNode, label: &str, user: &ServerUser) -> Result<()>;

    /// Removes the archived files of segments before this number, of every timeline; histories stay. Returns files and bytes; with
    /// `dry_run` those that it would remove. None: removing backups does that.
    fn remove_wal_before(
        &self,
        node: &MeshNode,
        number: u64,
        user: &ServerUser,
        dry_run: bool,
    ) -> Result<Option<(u64, u64)>>;
}

/// The driver that the repository was set up for.
pub fn open(repository: &Repository) -> Result<Box<dyn Driver>> {
    match repository.mesh.driver {
        DriverName::Dir => Ok(Box::new(Dir::new(repository.clone()))),
        DriverName::Barman => Ok(Box::new(Barman::new(repository.clone()))),
        DriverName::Command => {
            let templates = repository.mesh.command.clone().ok_or(Error::NoTemplates)?;
            Ok(Box::new(Commands::new(repository.clone(), templates)))
        }
    }
}

/// What a program leaves to its own recovery, and this one expects in the data directory: the WAL from the backup's start to its stop.
/// A signal file for that other recovery goes.
pub fn complete(
    driver: &dyn Driver,
    node: &MeshNode,
    backup: &BaseBackup,
    data: &Path,
    user: &ServerUser,
) -> Result<()> {
    for signal in ["recovery.signal", "standby.signal"].map(|name| data.join(name)).iter().filter(|path| path.exists())
    {
        fs::remove_file(signal).map_err(Error::io("remove", signal))?;
    }
    // The backup lies on one timeline, as its own history begins.
    let history = History { timeline: backup.timeline, ancestors: Vec::new() };
    let size = node.wal_segment_bytes;
    for segment in history.segments(backup.start_lsn, backup.stop_lsn, size) {
        let (file, folder) = (segment.file_name(size), data.join("pg_wal"));
        if !folder.join(&file).exists() {
            driver.fetch_wal(node, &file, &folder, user)?;
        }
    }
    Ok(())
}
