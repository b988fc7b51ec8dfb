//! The driver `barman`: the real Barman, with a configuration of its own in the repository.
//!
//! ```text
//! R/barman/barman.conf          the whole configuration: barman -c R/barman/barman.conf list-backups <node>
//! R/barman/conf.d/<node>.conf
//! R/barman/home/<node>/         Barman's own files
//! ```

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use spock_recovery_cluster::{Error as ServerError, ServerUser};

use super::archiving::{self, Archiving};
use super::base::{self, BaseBackup, Kind};
use super::dir;
use super::driver::{self, Driver, Order, Progress};
use super::error::{Error, Result};
use super::program;
use super::repository::{self, MeshNode, Repository};
use super::setup;
use super::shell;
use super::wal::{Archive, Segment};
use crate::lsn::Lsn;

#[derive(Debug)]
pub struct Barman {
    repository: Repository,
}

impl Barman {
    pub fn new(repository: Repository) -> Barman {
        Barman { repository }
    }

    fn folder(&self) -> PathBuf {
        self.repository.path().join("barman")
    }

    fn configuration(&self) -> PathBuf {
        self.folder().join("barman.conf")
    }

    fn server(&self, node: &MeshNode) -> PathBuf {
        self.folder().join("home").join(&node.name)
    }

    fn is_here(&self, node: &MeshNode) -> bool {
        self.server(node).is_dir()
    }

    fn owner(&self, node: &MeshNode) -> Result<ServerUser> {
        let folder = self.repository.node_folder(&node.name);
        let closed = || Error::Closed { node: node.name.clone(), pgdata: folder.clone() };
        ServerUser::owner_of(&folder)?.ok_or_else(closed)
    }

    fn run(&self, arguments: &[&str], user: &ServerUser, look: impl FnMut()) -> Result<String> {
        let mut command = user.command(&find_barman()?);
        // Its times are those of its time zone.
        command.arg("-c").arg(self.configuration()).args(["-f", "json"]).args(arguments).env("TZ", "UTC");
        program::run(command, look).map_err(complaint)
    }

    /// What a command prints for one node.
    fn ask<T: for<'de> Deserialize<'de>>(&self, node: &MeshNode, arguments: &[&str]) -> Result<T> {
        let printed = self.run(arguments, &self.owner(node)?, || ())?;
        parse(&printed, node)
    }

    /// Complete or not.
    fn all(&self, node: &MeshNode) -> Result<Vec<Listed>> {
        match self.is_here(node) {
            true => self.ask(node, &["list-backups", &node.name]),
            false => Ok(Vec::new()),
        }
    }

    /// What Barman has received and not yet taken over is moved into its archive.
    fn take_over(&self, node: &MeshNode) -> Result<()> {
        self.run(&["archive-wal", &node.name], &self.owner(node)?, || ()).map(drop)
    }

    /// Files of one of its folders, with their bytes.
    fn look_into(&self, folder: &Path, archive: &mut Archive) -> Result<()> {
        for (name, path) in dir::entries(folder)? {
            let metadata = fs::metadata(&path);
            match Segment::parse(&name, archive.segment_size) {
                // A folder has 16 digits, for which a segment has 24.
                Some(segment) => drop(archive.segments.insert(segment, metadata.ok().map(|metadata| metadata.len()))),
                None => dir::note_history(&name, &path, archive)?,
            }
        }
        Ok(())
    }

    fn backup(&self, node: &MeshNode, id: &str) -> Result<BaseBackup> {
        let shown: Shown = self.ask(node, &["show-backup", &node.name, id])?;
        let parent = shown.catalog_information.parent_backup_id;
        let base = shown.base_backup_information;
        Ok(BaseBackup {
            version: base::VERSION,
            label: shown.backup_id,
            kind: if parent.is_some() { Kind::Incremental } else { Kind::Full },
            parent,
            timeline: base.timeline,
            start_lsn: base.begin_lsn,
            stop_lsn: base.end_lsn,
            begun_at: in_our_form(&base.begin_time),
            ended_at: in_our_form(&base.end_time),
            bytes: base.backup_size_bytes,
            verified_at: None,
        })
    }
}

#[derive(Deserialize)]
struct Listed {
    backup_id: String,
    status: String,
}

#[derive(Deserialize)]
struct Shown {
    backup_id: String,
    base_backup_information: Base,
    catalog_information: Catalog,
}

#[derive(Deserialize)]
struct Base {
    timeline: u32,
    begin_lsn: Lsn,
    end_lsn: Lsn,
    begin_time: String,
    end_time: String,
    backup_size_bytes: u64,
}

#[derive(Deserialize)]
struct Catalog {
    parent_backup_id: Option<String>,
}

#[derive(Deserialize)]
struct Checked {
    status: String,
    hint: String,
}

impl Driver for Barman {
    fn backups(&self, node: &MeshNode) -> Result<Vec<BaseBackup>> {
        // WAITING_FOR_WALS: its files are complete, and so is its WAL once that was taken over.
        let complete = |listed: &&Listed| ["DONE", "WAITING_FOR_WALS"].contains(&listed.status.as_str());
        let listed = self.all(node)?;
        let found: Result<Vec<BaseBackup>> =
            listed.iter().filter(complete).map(|listed| self.backup(node, &listed.backup_id)).collect();
        let mut backups = found?;
        backups.sort_by(|a, b| a.ended_at.cmp(&b.ended_at));
        Ok(backups)
    }

    fn archive(&self, node: &MeshNode) -> Result<Archive> {
        let mut archive = Archive::new(node.wal_segment_bytes);
        if !self.is_here(node) {
            return Ok(archive);
        }
        // What stays where it was received can be fetched as well.
        let _ = self.take_over(node);
        let wals = self.server(node).join("wals");
        self.look_into(&self.server(node).join("incoming"), &mut archive)?;
        self.look_into(&wals, &mut archive)?;
        for (_, path) in dir::entries(&wals)?.into_iter().filter(|(_, path)| path.is_dir()) {
            self.look_into(&path, &mut archive)?;
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
        let backup = self.backup(node, label)?;
        dir::prepare_target(data, user)?;
        let target = data.to_str().ok_or_else(|| Error::NotText(data.into()))?;
        let look = || progress(dir::folder_bytes(data));
        self.run(&["restore", "--get-wal", &node.name, label, target], user, look)?;
        put_back(data)?;
        driver::complete(self, node, &backup, data, user)?;
        dir::sync_data(node, data, user)?;
        progress(dir::folder_bytes(data));
        Ok(())
    }

    fn fetch_wal(&self, node: &MeshNode, file: &str, folder: &Path, user: &ServerUser) -> Result<()> {
        let partial = folder.join(format!("{file}.tmp"));
        // Its output is the file.
        let mut command = user.command(Path::new("/bin/sh"));
        let fetch =
            format!("umask 077; {} {} > {}", self.get_wal(node)?, shell::word(Path::new(file)), shell::word(&partial));
        command.args(["-c", &fetch]);
        if let Err(error) = program::run(command, || ()) {
            let _ = fs::remove_file(&partial);
            return Err(Error::NotFetched { node: node.name.clone(), file: file.into(), reason: error.to_string() });
        }
        File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io("flush", &partial))?;
        let target = folder.join(file);
        fs::rename(&partial, &target).map_err(Error::io("rename to", &target))?;
        repository::sync_folder(folder)
    }

    fn restore_command(&self, node: &MeshNode) -> Result<String> {
        Ok(format!("{} %f > \"%p\"", self.get_wal(node)?.replace('%', "%%")))
    }

    fn archiving(&self, node: &MeshNode, _: bool) -> Result<Archiving> {
        Ok(Archiving::Command(archiving::command(&self.server(node).join("incoming"))))
    }

    fn prepare(&self, node: &MeshNode, user: &ServerUser) -> Result<()> {
        find_barman()?;
        let (home, servers) = (self.folder().join("home"), self.folder().join("conf.d"));
        for folder in [&self.repository.node_folder(&node.name), &home, &servers] {
            repository::make_folder(folder, user)?;
        }
        setup::require_writable(&node.name, &home, user)?;
        let folder = self.folder().display().to_string();
        let general = [
            ("barman_user", user.name()),
            ("barman_home", &format!("{folder}/home")),
            ("configuration_files_directory", &format!("{folder}/conf.d")),
            ("log_file", &format!("{folder}/barman.log")),
        ];
        repository::write_file(&self.configuration(), &section("barman", &general)?, user)?;
        let bin_folder = node.bin_folder.display().to_string();
        let own = [
            ("conninfo", node.dsn.as_str()),
            ("streaming_conninfo", &node.dsn),
            ("backup_method", "postgres"),
            ("archiver", "on"),
            ("streaming_archiver", "off"),
            ("immediate_checkpoint", "true"),
            ("path_prefix", &bin_folder),
        ];
        repository::write_file(&servers.join(format!("{}.conf", node.name)), &section(&node.name, &own)?, user)?;
        // It makes its folders, into which the server archives, and finds fault with a server that does not archive yet.
        let _ = self.run(&["check", &node.name], user, || ());
        let incoming = self.server(node).join("incoming");
        match incoming.is_dir() {
            true => Ok(()),
            false => self.run(&["check", &node.name], user, || ()).map(drop),
        }
    }

    /// Barman refuses to delete a backup that is being taken.
    fn sweep(&self, node: &MeshNode) -> Result<()> {
        let user = self.owner(node)?;
        let unfinished = |listed: &&Listed| ["FAILED", "STARTED", "EMPTY"].contains(&listed.status.as_str());
        for listed in self.all(node)?.iter().filter(unfinished) {
            self.run(&["delete", &node.name, &listed.backup_id], &user, || ())?;
        }
        Ok(())
    }

    fn decides_kind(&self) -> bool {
        false
    }

    fn restores_tablespaces(&self) -> bool {
        true
    }

    fn take(
        &self,
        order: &Order<'_>,
        now: &mut dyn FnMut() -> Result<String>,
        progress: Progress<'_>,
    ) -> Result<BaseBackup> {
        let node = order.node;
        let before = self.backups(node)?;
        let mut arguments = vec!["backup", "--wait", "--wait-timeout", "60"];
        if let Some(parent) = order.chain.last() {
            arguments.extend(["--incremental", &parent.label]);
        }
        arguments.push(&node.name);
        let folder = self.server(node).join("base");
        let there = dir::folder_bytes(&folder);
        self.run(&arguments, order.user, || progress(dir::folder_bytes(&folder).saturating_sub(there)))?;
        let after = self.backups(node)?;
        let taken = after.iter().find(|backup| !before.iter().any(|known| known.label == backup.label));
        let taken = taken.ok_or_else(|| Error::Barman("it shows no new backup".into()))?;
        self.verify(node, &[taken], order.user)?;
        Ok(BaseBackup { verified_at: Some(now()?), ..taken.clone() })
    }

    fn verify(&self, node: &MeshNode, chain: &[&BaseBackup], user: &ServerUser) -> Result<()> {
        let Some(backup) = chain.last() else { return Ok(()) };
        self.run(&["verify-backup", &node.name, &backup.label], user, || ()).map(drop)
    }

    fn verify_segment(&self, node: &MeshNode, file: &str, closely: bool, user: &ServerUser) -> Result<()> {
        // Its folder has the first 16 digits.
        let path = self.server(node).join("wals").join(file.get(..16).unwrap_or_default()).join(file);
        match path.is_file() {
            true => dir::verify_segment_file(node, &path, file, closely, user),
            false => Ok(()),
        }
    }

    fn complaints(&self, node: &MeshNode, user: &ServerUser) -> Result<Vec<String>> {
        // It fails where it complains, and prints what of.
        let check = format!("{} -f json check {}; true", self.program()?, shell::word(Path::new(&node.name)));
        let mut command = user.command(Path::new("/bin/sh"));
        command.args(["-c", &check]);
        let checked: BTreeMap<String, Checked> = parse(&program::run(command, || ())?, node)?;
        let failed = checked.into_iter().filter(|(_, checked)| checked.status != "OK");
        Ok(failed
            .map(|(name, Checked { hint, .. })| format!("barman check: {}: {hint}", name.replace('_', " ")))
            .collect())
    }

    fn remove_backup(&self, node: &MeshNode, label: &str, user: &ServerUser) -> Result<()> {
        self.run(&["delete", &node.name, label], user, || ()).map(drop)
    }

    /// Barman does that with the backup.
    fn remove_wal_before(&self, _: &MeshNode, _: u64, _: &ServerUser, _: bool) -> Result<Option<(u64, u64)>> {
        Ok(None)
    }
}

impl Barman {
    /// As words for the shell.
    fn program(&self) -> Result<String> {
        Ok(format!("{} -c {}", shell::word(&find_barman()?), shell::word(&self.configuration())))
    }

    fn get_wal(&self, node: &MeshNode) -> Result<String> {
        Ok(format!("{} get-wal {}", self.program()?, shell::word(Path::new(&node.name))))
    }
}

/// The first in PATH: a server that runs restore_command may have another PATH.
fn find_barman() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("barman")).find(|program| program.is_file());
    found.ok_or(Error::NoBarman)
}

/// Of a program's many lines those that say what is wrong.
fn complaint(error: Error) -> Error {
    let Error::Server(ServerError::Command { output, .. }) = &error else { return error };
    let wrong = ["ERROR", "EXCEPTION", "rror:", "No space left", "WAL summar"];
    let lines: Vec<&str> = output.lines().filter(|line| wrong.iter().any(|word| line.contains(word))).collect();
    Error::Barman(if lines.is_empty() { program::last_line(output) } else { lines.join("; ") })
}

fn parse<T: for<'de> Deserialize<'de>>(printed: &str, node: &MeshNode) -> Result<T> {
    let broken = |error: serde_json::Error| Error::Barman(format!("its answer is not understood ({error})"));
    // Log lines of its commands are a key of their own.
    let mut answer: BTreeMap<String, serde_json::Value> = serde_json::from_str(printed).map_err(broken)?;
    let own =
        answer.remove(&node.name).ok_or_else(|| Error::Barman(format!("it says nothing of \"{}\"", node.name)))?;
    serde_json::from_value(own).map_err(broken)
}

/// A % would begin a reference to another value, and cannot be written otherwise (3.19.1 reads it twice).
fn section(name: &str, values: &[(&str, &str)]) -> Result<String> {
    if let Some((_, value)) = values.iter().find(|(_, value)| value.contains('%')) {
        return Err(Error::Barman(format!(
            "its configuration cannot hold \"{value}\", which has a %: choose another name"
        )));
    }
    let lines: String = values.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
    Ok(format!("; written by spockctl backup setup\n[{name}]\n{lines}"))
}

/// Barman changes settings for a recovery of its own. The caller makes its own, upon those of the server.
fn put_back(data: &Path) -> Result<()> {
    for (name, path) in dir::entries(data)? {
        if let Some(original) = name.strip_suffix(".origin") {
            fs::rename(&path, data.join(original)).map_err(Error::io("rename", &path))?;
        }
    }
    Ok(())
}

/// `2026-11-26 23:59:41.514750+00:00`, the microseconds left out where they are 0.
fn in_our_form(time: &str) -> String {
    let time = time.strip_suffix("+00:00").unwrap_or(time).replace(' ', "T");
    match time.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<6}Z"),
        None => format!("{time}.000000Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::in_our_form;

    #[test]
    fn barmans_times_become_ours() {
        assert_eq!(in_our_form("2026-11-26 23:59:41.514750+00:00"), "2026-11-26T23:59:41.514750Z");
        assert_eq!(in_our_form("2026-11-26 23:59:41+00:00"), "2026-11-26T23:59:41.000000Z");
    }
}
