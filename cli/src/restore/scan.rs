//! Reads a node's WAL by pg_waldump, record by record.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use spock_recovery_cluster::{ServerUser, run_folder, spawn};

use super::error::{Error, Result};
use super::pairs::{Seeker, Window};
use super::sources::Sources;
use super::waldump::Record;
use crate::backup::repository::MeshNode;
use crate::backup::wal::{History, Segment};
use crate::lsn::Lsn;

/// Kinds of records that pg_waldump is asked for.
pub const ARRIVALS: [&str; 2] = ["Transaction", "ReplicationOrigin"];
pub const CHANGES: [&str; 3] = ["Heap", "Heap2", "Transaction"];
pub const RESTORE_POINTS: [&str; 1] = ["XLOG"];

/// What is read.
pub struct Range<'a> {
    pub history: &'a History,
    pub from: Lsn,
    /// None: to the end of what is there.
    pub to: Option<Lsn>,
    pub kinds: &'a [&'a str],
}

/// Tells each record, until `told` returns false. pg_waldump knows one timeline alone: it gets the segments that a replay would read,
/// all under the name of the last timeline.
pub fn scan(
    node: &MeshNode,
    sources: &Sources<'_>,
    user: &ServerUser,
    range: &Range<'_>,
    mut told: impl FnMut(Record) -> bool,
) -> Result<()> {
    let size = sources.segment_size();
    let to = range.to.unwrap_or_else(|| sources.all.reach(range.history, range.from));
    if to <= range.from {
        return Ok(());
    }
    let scratch = Scratch::new(user)?;
    for segment in range.history.segments(range.from, to, size) {
        let file = sources.file(segment, &scratch.fetched, user)?;
        let name = Segment { timeline: range.history.timeline, ..segment }.file_name(size);
        let link = scratch.linked.join(name);
        symlink(&file, &link).map_err(Error::io("link", &link))?;
    }
    let mut command = user.command(&node.bin_folder.join("pg_waldump"));
    command.arg("--path").arg(&scratch.linked).arg("--timeline").arg(range.history.timeline.to_string());
    command.arg("--start").arg(range.from.to_string());
    if let Some(to) = range.to {
        command.arg("--end").arg(to.to_string());
    }
    command.args(range.kinds.iter().map(|kind| format!("--rmgr={kind}")));
    // Times are read as UTC.
    command.env("TZ", "UTC").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |reason: String| Error::Scan {
        node: node.name.clone(),
        from: range.from.to_string(),
        to: to.to_string(),
        reason,
    };
    let mut child = spawn::tethered(command).map_err(|error| failed(error.to_string()))?;
    let complaints = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).trim().to_owned()
        })
    });
    let mut stopped = false;
    if let Some(stdout) = child.stdout.take() {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while !stopped {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(|error| failed(error.to_string()))? == 0 {
                break;
            }
            let record = Record::parse(String::from_utf8_lossy(&line).trim_end());
            stopped = record.is_some_and(|record| !told(record));
        }
    }
    if stopped {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    let complaints = complaints.and_then(|reader| reader.join().ok()).unwrap_or_default();
    // Without an end it always ends with a complaint: what follows the last record is none.
    match status.success() || stopped || range.to.is_none() {
        true => Ok(()),
        false => Err(failed(complaints)),
    }
}

struct Scratch {
    folder: PathBuf,
    linked: PathBuf,
    fetched: PathBuf,
}

impl Scratch {
    fn new(user: &ServerUser) -> Result<Scratch> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let folder = run_folder::base().join(format!("spockctl-scan-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let (linked, fetched) = (folder.join("linked"), folder.join("fetched"));
        for path in [folder.as_path(), &linked, &fetched] {
            user.make_folder(path)?;
        }
        Ok(Scratch { folder, linked, fetched })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Links, and copies in a folder for temporary files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Whether a node has committed something that a subscriber's window would lose.
pub fn would_lose(
    node: &MeshNode,
    sources: &Sources<'_>,
    user: &ServerUser,
    (history, from): (&History, Lsn),
    window: &Window,
) -> Result<bool> {
    let (mut seeker, mut lost) = (Seeker::default(), false);
    let size = sources.segment_size();
    let range = Range { history, from, to: Some(window.begins), kinds: &CHANGES };
    scan(node, sources, user, &range, |record| {
        lost = seeker.is_lost(&record, record.end(size), window);
        !lost
    })?;
    Ok(lost)
}

/// The last record of a kind of commits, for a node that is restored to the end of what it has.
pub fn last_commit(
    node: &MeshNode,
    sources: &Sources<'_>,
    user: &ServerUser,
    history: &History,
    from: Lsn,
) -> Result<Option<Record>> {
    let mut last = None;
    let range = Range { history, from, to: None, kinds: &ARRIVALS[..1] };
    scan(node, sources, user, &range, |record| {
        if record.commit.is_some() {
            last = Some(record);
        }
        true
    })?;
    Ok(last)
}

/// Where the record of a restore point ends.
pub fn find_point(
    node: &MeshNode,
    sources: &Sources<'_>,
    user: &ServerUser,
    (history, from): (&History, Lsn),
    name: &str,
) -> Result<Option<Lsn>> {
    let mut found = None;
    let range = Range { history, from, to: None, kinds: &RESTORE_POINTS };
    let size = sources.segment_size();
    scan(node, sources, user, &range, |record| {
        found = (record.restore_point.as_deref() == Some(name)).then(|| record.end(size));
        found.is_none()
    })?;
    Ok(found)
}

/// The pg_wal of a data directory.
pub fn pg_wal(data: &Path) -> PathBuf {
    data.join("pg_wal")
}
