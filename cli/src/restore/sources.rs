//! Where a node's WAL is: in the archive, and what was not archived yet in the pg_wal of its data directory.

use std::fs;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::ServerUser;

use super::error::{Error, Result};
use crate::backup::Driver;
use crate::backup::repository::MeshNode;
use crate::backup::wal::{Archive, History, Segment};
use crate::lsn::Lsn;

pub struct Sources<'a> {
    driver: &'a dyn Driver,
    node: &'a MeshNode,
    /// Archive and folders together.
    pub all: Archive,
    archived: Archive,
    folders: Vec<PathBuf>,
}

impl<'a> Sources<'a> {
    /// `folders`: pg_wal of data directories of this node, which need not be there.
    pub fn of(driver: &'a dyn Driver, node: &'a MeshNode, folders: Vec<PathBuf>) -> Result<Sources<'a>> {
        let archived = driver.archive(node)?;
        let mut all = archived.clone();
        for folder in &folders {
            add_folder(&mut all, folder);
        }
        Ok(Sources { driver, node, all, archived, folders })
    }

    pub fn segment_size(&self) -> u64 {
        self.all.segment_size
    }

    /// The history of a timeline that was asked for.
    pub fn history(&self, timeline: u32) -> Option<&History> {
        self.all.histories.get(&timeline)
    }

    pub fn newest_timeline(&self) -> u32 {
        let of_segments = self.all.segments.keys().map(|segment| segment.timeline).max();
        let of_histories = self.all.histories.keys().max().copied();
        of_segments.max(of_histories).unwrap_or(1)
    }

    /// Where a segment can be read, fetched into `scratch` where the archive is not a folder.
    pub fn file(&self, segment: Segment, scratch: &Path, user: &ServerUser) -> Result<PathBuf> {
        let name = segment.file_name(self.segment_size());
        if self.archived.has(segment) {
            if let Some(path) = self.driver.wal_path(self.node, &name) {
                return Ok(path);
            }
            self.driver.fetch_wal(self.node, &name, scratch, user)?;
            return Ok(scratch.join(name));
        }
        let local = self.folders.iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
        local.ok_or_else(|| crate::backup::Error::NoWal { node: self.node.name.clone(), file: name }.into())
    }

    /// Puts a segment into a folder, under its name.
    pub fn fetch(&self, segment: Segment, folder: &Path, user: &ServerUser) -> Result<()> {
        let name = segment.file_name(self.segment_size());
        if self.archived.has(segment) {
            return Ok(self.driver.fetch_wal(self.node, &name, folder, user)?);
        }
        let from = self.file(segment, folder, user)?;
        let (partial, to) = (folder.join(format!("{name}.partial")), folder.join(&name));
        crate::backup::dir::copy(&from, &partial, user)?;
        fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io("flush", &partial))?;
        fs::rename(&partial, &to).map_err(Error::io("rename to", &to))?;
        Ok(crate::backup::repository::sync_folder(folder)?)
    }

    /// What is wrong with archived segments of a replay along a history, as far as their first pages tell.
    pub fn unsound(&self, history: &History, from: Lsn, to: Lsn, user: &ServerUser) -> Vec<String> {
        let size = self.segment_size();
        let archived = history.segments(from, to, size).into_iter().filter(|segment| self.archived.has(*segment));
        let look = |segment: Segment| {
            let name = segment.file_name(size);
            let error = self.driver.verify_segment(self.node, &name, false, user).err()?;
            Some(format!("segment {name} cannot be read: {error}"))
        };
        archived.filter_map(look).collect()
    }

    /// What lacks for a replay along a history, by name.
    pub fn missing(&self, history: &History, from: Lsn, to: Lsn) -> Vec<String> {
        let missing = self.all.missing(history, from, to);
        missing.into_iter().map(|segment| segment.file_name(self.segment_size())).collect()
    }
}

/// What cannot be read is not there.
fn add_folder(archive: &mut Archive, folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(segment) = Segment::parse(name, archive.segment_size) {
            let bytes = entry.metadata().ok().map(|metadata| metadata.len());
            if !archive.has(segment) {
                archive.segments.insert(segment, bytes);
            }
        } else if let Some(timeline) = History::timeline_of(name)
            && let Ok(text) = fs::read(entry.path())
            && let Some(history) = History::parse(timeline, &String::from_utf8_lossy(&text))
        {
            archive.histories.entry(timeline).or_insert(history);
        }
    }
}
