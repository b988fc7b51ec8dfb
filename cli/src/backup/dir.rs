//! The driver `dir`: core's own programs, and a folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use spock_recovery_cluster::ServerUser;

use super::base::{self, BaseBackup};
use super::driver::{Driver, Progress};
use super::error::{Error, Result};
use super::program;
use super::repository::{self, MeshNode, Repository};
use super::shell;
use super::wal::{Archive, History, Segment};

#[derive(Debug)]
pub struct Dir {
    repository: Repository,
}

impl Dir {
    pub fn new(repository: Repository) -> Dir {
        Dir { repository }
    }

    fn base(&self, node: &MeshNode, label: &str) -> PathBuf {
        self.repository.base_folder(&node.name).join(label)
    }
}

impl Driver for Dir {
    fn backups(&self, node: &MeshNode) -> Result<Vec<BaseBackup>> {
        let mut backups = Vec::new();
        for (name, path) in entries(&self.repository.base_folder(&node.name))? {
            if name.ends_with(".json") {
                let backup: BaseBackup = repository::read_document(&path)?;
                if backup.version > base::VERSION {
                    let reason = format!("it has version {}", backup.version);
                    return Err(Error::Document { path, reason });
                }
                backups.push(backup);
            }
        }
        backups.sort_by(|a, b| a.ended_at.cmp(&b.ended_at));
        Ok(backups)
    }

    fn archive(&self, node: &MeshNode) -> Result<Archive> {
        let mut archive = Archive::new(node.wal_segment_bytes);
        for (name, path) in entries(&self.repository.wal_folder(&node.name))? {
            if let Some(segment) = Segment::parse(&name, archive.segment_size) {
                // Renamed or removed between the two looks: it is not there.
                if let Ok(metadata) = fs::metadata(&path) {
                    archive.segments.insert(segment, Some(metadata.len()));
                }
            } else if let Some(timeline) = History::timeline_of(&name) {
                let text = fs::read(&path).map_err(Error::io("read", &path))?;
                let history = History::parse(timeline, &String::from_utf8_lossy(&text));
                let history = history.ok_or_else(|| Error::Document { path, reason: "it is no history".into() })?;
                archive.histories.insert(timeline, history);
            }
        }
        Ok(archive)
    }

    fn fetch_base(
        &self,
        node: &MeshNode,
        label: &str,
        data: &Path,
        user: &ServerUser,
        progress: Progress<'_>,
    ) -> Result<()> {
        let backups = self.backups(node)?;
        if !backups.iter().any(|backup| backup.label == label) {
            return Err(Error::UnknownBackup { node: node.name.clone(), label: label.into() });
        }
        let chain = base::chain(&backups, label)
            .ok_or_else(|| Error::BrokenChain { node: node.name.clone(), label: label.into() })?;
        if !entries(data)?.is_empty() {
            return Err(Error::NotEmpty(data.into()));
        }
        repository::make_folder(data, user)?;
        let folders: Vec<PathBuf> = chain.iter().map(|backup| self.base(node, &backup.label)).collect();
        let mut command = match folders.as_slice() {
            [full] => {
                let mut command = user.command(Path::new("/bin/cp"));
                command.args(["-a", "--reflink=auto", "--"]).arg(full.join(".")).arg(data);
                command
            }
            chain => {
                let mut command = user.command(&node.bin_folder.join("pg_combinebackup"));
                command.arg("--no-sync").arg("--output").arg(data).args(chain);
                command
            }
        };
        command.env("LC_ALL", "C");
        program::run(command, || progress(folder_bytes(data)))?;
        let mut command = user.command(&node.bin_folder.join("initdb"));
        command.arg("--sync-only").arg("--pgdata").arg(data);
        program::run(command, || ())?;
        progress(folder_bytes(data));
        Ok(())
    }

    fn fetch_wal(&self, node: &MeshNode, file: &str, folder: &Path, user: &ServerUser) -> Result<()> {
        let source = self.repository.wal_folder(&node.name).join(file);
        if !source.is_file() {
            return Err(Error::NoWal { node: node.name.clone(), file: file.into() });
        }
        let (partial, target) = (folder.join(format!("{file}.partial")), folder.join(file));
        fs::copy(&source, &partial).map_err(Error::io("copy to", &partial))?;
        user.own(&partial)?;
        File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io("flush", &partial))?;
        fs::rename(&partial, &target).map_err(Error::io("rename to", &target))?;
        repository::sync_folder(folder)
    }

    fn restore_command(&self, node: &MeshNode) -> Result<String> {
        let folder = self.repository.wal_folder(&node.name);
        Ok(format!("cp -- {}/%f \"%p\"", shell::setting_word(&folder)))
    }
}

/// Names and paths; none where the folder is not there. A name that is no UTF-8 is nothing of ours.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let failed = || Error::io("read the folder", folder);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if let Some(name) = entry.file_name().to_str() {
            found.push((name.to_owned(), entry.path()));
        }
    }
    Ok(found)
}

/// What the files of a folder hold. What vanishes meanwhile counts nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
