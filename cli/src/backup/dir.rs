//! The driver `dir`: core's own programs, and a folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use spock_recovery_cluster::{ServerUser, deadline};

use super::archiving::{self, Archiving};
use super::base::{self, BaseBackup, Kind};
use super::driver::{Driver, Order, Progress};
use super::error::{Error, Result};
use super::program;
use super::repository::{self, MeshNode, Repository};
use super::segment_file;
use super::setup;
use super::shell;
use super::wal::{Archive, History, Segment};
use crate::lsn::Lsn;

/// No server is busy with one segment for so long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// How long what was killed may go on writing.
const REMOVAL: Duration = Duration::from_secs(5);

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
                // The label becomes the name of a folder, which expire removes.
                if name.strip_suffix(".json") != Some(&backup.label) {
                    let reason = format!("it describes a backup \"{}\"", backup.label);
                    return Err(Error::Document { path, reason });
                }
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
            } else {
                note_history(&name, &path, &mut archive)?;
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
        prepare_target(data, user)?;
        let folders: Vec<PathBuf> = chain.iter().map(|backup| self.base(node, &backup.label)).collect();
        let command = match folders.as_slice() {
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
        program::run(command, || progress(folder_bytes(data)))?;
        sync_data(node, data, user)?;
        progress(folder_bytes(data));
        Ok(())
    }

    fn fetch_wal(&self, node: &MeshNode, file: &str, folder: &Path, user: &ServerUser) -> Result<()> {
        let source = self.repository.wal_folder(&node.name).join(file);
        if !source.is_file() {
            return Err(Error::NoWal { node: node.name.clone(), file: file.into() });
        }
        let (partial, target) = (folder.join(format!("{file}.partial")), folder.join(file));
        copy(&source, &partial, user)?;
        File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io("flush", &partial))?;
        fs::rename(&partial, &target).map_err(Error::io("rename to", &target))?;
        repository::sync_folder(folder)
    }

    fn wal_path(&self, node: &MeshNode, file: &str) -> Option<PathBuf> {
        Some(self.repository.wal_folder(&node.name).join(file)).filter(|path| path.is_file())
    }

    fn restore_command(&self, node: &MeshNode) -> Result<String> {
        let folder = self.repository.wal_folder(&node.name);
        Ok(format!("cp -- {}/%f \"%p\"", shell::setting_word(&folder)))
    }

    fn archiving(&self, node: &MeshNode, has_module: bool) -> Result<Archiving> {
        let folder = self.repository.wal_folder(&node.name);
        Ok(if has_module { Archiving::Module(folder) } else { Archiving::Command(archiving::command(&folder)) })
    }

    fn prepare(&self, node: &MeshNode, user: &ServerUser) -> Result<()> {
        let (wal, base) = (self.repository.wal_folder(&node.name), self.repository.base_folder(&node.name));
        for folder in [&wal, &base] {
            repository::make_folder(folder, user)?;
            setup::require_writable(&node.name, folder, user)?;
        }
        Ok(())
    }

    fn sweep(&self, node: &MeshNode) -> Result<()> {
        let found = entries(&self.repository.base_folder(&node.name))?;
        let complete = |label: &str| found.iter().any(|(name, _)| name.strip_suffix(".json") == Some(label));
        for (name, path) in &found {
            if path.is_dir() && !complete(name) {
                remove_folder(path)?;
            } else if name.ends_with(".partial") {
                fs::remove_file(path).map_err(Error::io("remove", path))?;
            }
        }
        self.sweep_archive(node)
    }

    fn decides_kind(&self) -> bool {
        false
    }

    fn restores_tablespaces(&self) -> bool {
        false
    }

    fn take(
        &self,
        order: &Order<'_>,
        ended_at: &mut dyn FnMut() -> Result<String>,
        progress: Progress<'_>,
    ) -> Result<BaseBackup> {
        let folder = self.base(order.node, order.label);
        // What is there is another backup, and must outlive the failure of this one.
        if folder.exists() {
            return Err(Error::LabelTaken(order.label.into()));
        }
        let taken = self.take_into(&folder, order, ended_at, progress);
        if taken.is_err() {
            // The first error is the one to be told; the next take removes what stays.
            let _ = remove_folder(&folder);
        }
        taken
    }

    fn verify(&self, node: &MeshNode, chain: &[&BaseBackup], user: &ServerUser) -> Result<()> {
        let Some(last) = chain.last() else { return Ok(()) };
        let base = self.repository.base_folder(&node.name);
        // By names that begin in the folder: pg_verifybackup hands its path to pg_waldump through a shell, with " and $ as they are.
        let mut command = user.command(&node.bin_folder.join("pg_verifybackup"));
        command.args(["--quiet", "--exit-on-error"]).arg(&last.label).current_dir(&base);
        program::run(command, || ())?;
        if chain.len() > 1 {
            let mut command = user.command(&node.bin_folder.join("pg_combinebackup"));
            command.args(["--dry-run", "--output"]).arg(format!("{}.combined", last.label)).current_dir(&base);
            command.args(chain.iter().map(|backup| &backup.label));
            program::run(command, || ())?;
        }
        Ok(())
    }

    fn verify_segment(&self, node: &MeshNode, file: &str, closely: bool, user: &ServerUser) -> Result<()> {
        let path = self.repository.wal_folder(&node.name).join(file);
        verify_segment_file(node, &path, file, closely, user)
    }

    fn remove_backup(&self, node: &MeshNode, label: &str, _: &ServerUser) -> Result<()> {
        let (folder, base) = (self.base(node, label), self.repository.base_folder(&node.name));
        let document = base.join(format!("{label}.json"));
        // First, so that what is half removed is no backup any more.
        fs::remove_file(&document).map_err(Error::io("remove", &document))?;
        repository::sync_folder(&base)?;
        remove_folder(&folder)
    }

    fn remove_wal_before(
        &self,
        node: &MeshNode,
        number: u64,
        _: &ServerUser,
        dry_run: bool,
    ) -> Result<Option<(u64, u64)>> {
        let (mut files, mut bytes) = (0, 0);
        for (name, path) in entries(&self.repository.wal_folder(&node.name))? {
            // `<segment>`, `<segment>.partial`, `<segment>.<offset>.backup`
            let segment = name.get(..24).and_then(|name| Segment::parse(name, node.wal_segment_bytes));
            if segment.is_some_and(|segment| segment.number < number) {
                bytes += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                files += 1;
                if !dry_run {
                    fs::remove_file(&path).map_err(Error::io("remove", &path))?;
                }
            }
        }
        Ok(Some((files, bytes)))
    }
}

impl Dir {
    /// What archiving has begun and not finished: basic_archive leaves a file of another name with each try.
    fn sweep_archive(&self, node: &MeshNode) -> Result<()> {
        for (name, path) in entries(&self.repository.wal_folder(&node.name))? {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            let is_old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED));
            if is_old && (name.starts_with("archtemp.") || name.ends_with(".tmp")) {
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn take_into(
        &self,
        folder: &Path,
        order: &Order<'_>,
        ended_at: &mut dyn FnMut() -> Result<String>,
        progress: Progress<'_>,
    ) -> Result<BaseBackup> {
        let Order { node, user, label, .. } = *order;
        let parent = order.chain.last();
        let mut command = user.command(&node.bin_folder.join("pg_basebackup"));
        command.arg("--pgdata").arg(folder).arg("--dbname").arg(order.conninfo.without_password().to_string());
        command
            .args(["--checkpoint=fast", "--wal-method=stream", "--no-password", "--label"])
            .arg(format!("spockctl {label}"));
        if let Some(parent) = parent {
            command.arg("--incremental").arg(self.base(node, &parent.label).join(MANIFEST));
        }
        program::with_password(&mut command, order.conninfo);
        program::run(command, || progress(folder_bytes(folder)))?;
        let manifest: Manifest = repository::read_document(&folder.join(MANIFEST))?;
        let ended_at = ended_at()?;
        let range = manifest
            .ranges
            .last()
            .ok_or_else(|| Error::Document { path: folder.join(MANIFEST), reason: "it names no WAL".into() })?;
        let backup = BaseBackup {
            version: base::VERSION,
            label: label.into(),
            kind: if parent.is_some() { Kind::Incremental } else { Kind::Full },
            parent: parent.map(|parent| parent.label.clone()),
            timeline: range.timeline,
            start_lsn: range.start,
            stop_lsn: range.end,
            begun_at: order.begun_at.into(),
            verified_at: Some(ended_at.clone()),
            ended_at,
            bytes: folder_bytes(folder),
        };
        let chain: Vec<&BaseBackup> = order.chain.iter().copied().chain([&backup]).collect();
        self.verify(node, &chain, user)?;
        repository::write_document(
            &self.repository.base_folder(&node.name).join(format!("{label}.json")),
            &backup,
            user,
        )?;
        Ok(backup)
    }
}

const MANIFEST: &str = "backup_manifest";

/// What is needed of it; protocol and file list are pg_verifybackup's business.
#[derive(serde::Deserialize)]
struct Manifest {
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<ManifestRange>,
}

#[derive(serde::Deserialize)]
struct ManifestRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

/// A program that was killed with its starter may be writing its last file.
pub fn remove_folder(path: &Path) -> Result<()> {
    let mut last = Ok(());
    let removed = deadline::poll(REMOVAL, || {
        last = match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        last.is_ok().then_some(())
    });
    removed.map_or_else(|| last.map_err(Error::io("remove the folder", path)), Ok)
}

/// Where a backup is to go: an empty folder of the user's.
pub fn prepare_target(data: &Path, user: &ServerUser) -> Result<()> {
    if !entries(data)?.is_empty() {
        return Err(Error::NotEmpty(data.into()));
    }
    repository::make_folder(data, user)
}

/// Flushes a whole data directory.
pub fn sync_data(node: &MeshNode, data: &Path, user: &ServerUser) -> Result<()> {
    let mut command = user.command(&node.bin_folder.join("initdb"));
    command.arg("--sync-only").arg("--pgdata").arg(data);
    program::run(command, || ()).map(drop)
}

/// Copies a file by the account that owns both folders: what that account may not read, root must not read for it.
pub fn copy(from: &Path, to: &Path, user: &ServerUser) -> Result<()> {
    let mut command = user.command(Path::new("/bin/cp"));
    command.args(["--remove-destination", "--"]).arg(from).arg(to);
    program::run(command, || ()).map(drop)
}

/// What is wrong with an uncompressed file that has the name of a segment.
pub fn verify_segment_file(node: &MeshNode, path: &Path, name: &str, closely: bool, user: &ServerUser) -> Result<()> {
    let mut header = [0; segment_file::HEADER_BYTES];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).map_err(Error::io("read", path))?;
    let size = node.wal_segment_bytes;
    let segment = Segment::parse(name, size);
    let complaint =
        segment.and_then(|segment| segment_file::complaint(&header, segment, size, &node.system_identifier));
    if let Some(reason) = complaint {
        return Err(Error::Segment { path: path.into(), reason });
    }
    if !closely {
        return Ok(());
    }
    look_into_segment(node, path, user)
}

/// Takes over a history, if the file is one.
pub fn note_history(name: &str, path: &Path, archive: &mut Archive) -> Result<()> {
    if let Some(timeline) = History::timeline_of(name) {
        let text = fs::read(path).map_err(Error::io("read", path))?;
        let history = History::parse(timeline, &String::from_utf8_lossy(&text));
        let broken = || Error::Document { path: path.into(), reason: "it is no history".into() };
        archive.histories.insert(timeline, history.ok_or_else(broken)?);
    }
    Ok(())
}

/// Its first record is enough to tell a file that can be read: its last one may go on in the next segment.
pub fn look_into_segment(node: &MeshNode, path: &Path, user: &ServerUser) -> Result<()> {
    let mut command = user.command(&node.bin_folder.join("pg_waldump"));
    command.args(["--limit=1", "--quiet"]).arg(path);
    match program::run(command, || ()) {
        // It is the middle of one long record.
        Err(error) if error.to_string().contains("could not find a valid record") => Ok(()),
        ended => ended.map(drop),
    }
}

/// Names and paths; none where the folder is not there. A name that is no UTF-8 is nothing of ours.
pub fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
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
