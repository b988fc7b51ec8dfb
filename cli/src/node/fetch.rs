//! The base backup, and the configuration of the server that comes of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use spock_recovery_cluster::deadline;

use super::closed;
use super::error::{Error, Result};
use super::settings;
use super::site::Site;
use crate::backup::take::size;
use crate::backup::{dir, program};
use crate::restore::site::write_bytes;

/// How long a program that was killed with its starter may go on writing.
const REMOVAL: Duration = Duration::from_secs(5);

/// `expected`: bytes of the living node's databases.
pub fn fetch(site: &mut Site, expected: u64) -> Result<()> {
    let conninfo = site.source_conninfo()?;
    let journal = &site.journal;
    let _ = fs::remove_file(journal.paths().settings());
    empty(&journal.pgdata)?;
    let mut command = site.user.command(&journal.bin_folder.join("pg_basebackup"));
    command.arg("--pgdata").arg(&journal.pgdata).arg("--dbname").arg(conninfo.without_password().to_string());
    command.args(["--checkpoint=fast", "--wal-method=stream", "--no-password", "--label"]);
    command.arg(format!("spockctl node create {}", journal.name));
    for (from, to) in &journal.tablespaces {
        empty(to)?;
        command.arg("--tablespace-mapping").arg(mapping(from, to));
    }
    program::with_password(&mut command, &conninfo);
    let bytes = || {
        let outside: u64 = journal.tablespaces.iter().map(|(_, folder)| dir::folder_bytes(folder)).sum();
        dir::folder_bytes(&journal.pgdata) + outside
    };
    let step = site.screen.bar(format!("MB of a base backup of {}", journal.source), expected >> 20);
    program::run(command, || step.set(bytes() >> 20))?;
    drop(step);
    let bytes = bytes();
    site.say(format!("a base backup of node \"{}\" was fetched, {}", journal.source, size(bytes)));
    site.journal.bytes = bytes;
    Ok(())
}

/// As pg_basebackup reads it: a = in a path is escaped.
fn mapping(from: &str, to: &Path) -> String {
    let escaped = |path: &str| path.replace('\\', r"\\").replace('=', r"\=");
    format!("{}={}", escaped(from), escaped(&to.display().to_string()))
}

/// What a backup that was killed has left goes; the folder itself stays, which may be a file system of its own.
pub fn empty(folder: &Path) -> Result<()> {
    let mut last = Ok(());
    let emptied = deadline::poll(REMOVAL, || {
        last = remove_entries(folder);
        last.is_ok().then_some(())
    });
    emptied.map_or(last, Ok)
}

fn remove_entries(folder: &Path) -> Result<()> {
    let failed = || Error::io("empty the folder", folder);
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry.map_err(failed())?;
        match entry.file_type().map_err(failed())?.is_dir() {
            true => fs::remove_dir_all(entry.path()).map_err(failed())?,
            false => fs::remove_file(entry.path()).map_err(failed())?,
        }
    }
    Ok(())
}

/// The settings of the open node are written aside, those of the closed one into the data directory.
pub fn configure(site: &Site) -> Result<()> {
    let (data, paths) = (&site.journal.pgdata, site.journal.paths());
    // Once only: the second time what is there is ours.
    if !paths.settings().exists() {
        let before = fs::read_to_string(data.join("postgresql.auto.conf")).unwrap_or_default();
        let text = settings::open(&before, &site.journal.settings);
        write_bytes(&paths.settings(), text.as_bytes(), &site.user)?;
    }
    let _ = fs::remove_file(data.join("standby.signal"));
    write_bytes(&data.join("recovery.signal"), b"", &site.user)?;
    closed::write(site, &closed::libraries_without_ours(site)).map(drop)
}
