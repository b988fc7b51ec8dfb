//! The server of one node: stopped, started closed or open, and asked.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use postgres::Client;
use spock_recovery_cluster::client::{self, Rows};
use spock_recovery_cluster::pid_file::PidFile;
use spock_recovery_cluster::{ServerUser, deadline, process};

use super::error::{Error, Result};
use super::journal::Journal;
use super::settings;
use crate::backup::{program, shell};

/// A server of this machine that a command starts and stops.
pub trait Managed {
    fn node(&self) -> &str;
    fn pgdata(&self) -> &Path;
    fn bin_folder(&self) -> &Path;
    fn port(&self) -> u16;
    fn database(&self) -> &str;
    fn superuser(&self) -> &str;
    /// Where the socket of the closed server is.
    fn socket_folder(&self, user: &ServerUser) -> Result<PathBuf>;
}

impl Managed for Journal {
    fn node(&self) -> &str {
        &self.node
    }

    fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    fn bin_folder(&self) -> &Path {
        &self.bin_folder
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn database(&self) -> &str {
        &self.database
    }

    fn superuser(&self) -> &str {
        &self.superuser
    }

    fn socket_folder(&self, user: &ServerUser) -> Result<PathBuf> {
        self.paths().socket(user)
    }
}

/// A fast shutdown writes a checkpoint; pg_ctl gives up after that.
const STOP_SECONDS: &str = "3600";

/// How long a server may take until it answers, beside what it replays.
pub const ANSWERS: Duration = Duration::from_secs(60);

/// The postmaster in a data directory. A killed one leaves its file behind, and its process id may be another's by now; a postmaster's
/// working directory is its data directory, whatever that is called by now.
pub fn running(data: &Path) -> Option<i32> {
    let pid = PidFile::read(data)?.pid;
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let own = fs::canonicalize(data).ok()?;
    (process::is_alive(pid) && folder == own).then_some(pid)
}

/// What a postmaster was started with, and where its stderr goes if that is a file.
pub fn started_with(data: &Path, pid: Option<i32>) -> (Vec<String>, Option<PathBuf>) {
    let options =
        fs::read_to_string(data.join("postmaster.opts")).map(|text| settings::options(&text)).unwrap_or_default();
    let log = pid.and_then(|pid| fs::read_link(format!("/proc/{pid}/fd/2")).ok()).filter(|path| path.is_file());
    (options, log)
}

/// Does nothing where it does not run.
pub fn stop(node: &str, bin_folder: &Path, data: &Path, user: &ServerUser) -> Result<()> {
    let Some(pid) = running(data) else { return Ok(()) };
    // It would wait behind a pause.
    let _ = process::thaw(pid);
    let mut command = user.command(&bin_folder.join("pg_ctl"));
    command.args(["stop", "--mode=fast", "--wait", "--silent", "--timeout", STOP_SECONDS, "--pgdata"]).arg(data);
    program::run(command, || ()).map(drop).or_else(|error| match running(data) {
        None => Ok(()),
        Some(pid) => {
            let reason = program::last_line(&error.to_string());
            Err(Error::StillRunning { node: node.into(), pid, data: data.into(), reason })
        }
    })
}

/// Starts it, and waits until its postmaster is there; `options` are for its command line.
pub fn launch(server: &impl Managed, user: &ServerUser, options: &[String], log: &Path) -> Result<()> {
    let (bin_folder, data) = (server.bin_folder(), server.pgdata());
    if let Some(PidFile { pid, .. }) = PidFile::read(data) {
        // A killed postmaster whose parent has not taken note of its end yet still holds the lock on its data directory.
        deadline::poll(ANSWERS, || (process::is_alive(pid) || process::status(pid).is_none()).then_some(()));
    }
    let told_before = fs::metadata(log).map_or(0, |file| file.len());
    let mut command = user.command(&bin_folder.join("pg_ctl"));
    command.args(["start", "--no-wait", "--silent", "--pgdata"]).arg(data).arg("--log").arg(log);
    if !options.is_empty() {
        let words: Vec<String> = options.iter().map(|option| shell::word(Path::new(OsStr::new(option)))).collect();
        command.arg("--options").arg(words.join(" "));
    }
    program::run(command, || ())?;
    // pg_ctl returns before the postmaster has written its file.
    let there = deadline::poll(ANSWERS, || match running(data) {
        Some(_) => Some(true),
        None => has_failed(log, told_before).then_some(false),
    });
    match there {
        Some(true) => Ok(()),
        _ => Err(failed_to_start(server, log)),
    }
}

/// Starts it where it does not run, and waits until it takes connections.
pub fn open(server: &impl Managed, user: &ServerUser, options: &[String], log: &Path) -> Result<()> {
    let data = server.pgdata();
    if running(data).is_none() {
        launch(server, user, options, log)?;
    }
    let ready = deadline::poll(ANSWERS * 10, || {
        let ready = PidFile::read(data).is_some_and(|file| file.ready);
        running(data).map_or(Some(false), |_| ready.then_some(true))
    });
    match ready {
        Some(true) => Ok(()),
        _ => Err(failed_to_start(server, log)),
    }
}

/// Whether a file can be written by the server itself: whoever started it may have opened it as another account.
pub fn is_writable(path: &Path, user: &ServerUser) -> bool {
    let mut command = user.command(Path::new("/bin/sh"));
    command.args(["-c", "test -w \"$0\""]).arg(path);
    program::run(command, || ()).is_ok()
}

/// Whether a server has said since then that it ends.
pub fn has_failed(log: &Path, told_before: u64) -> bool {
    let said = fs::read(log).unwrap_or_default();
    let said = said.get(usize::try_from(told_before).unwrap_or(0)..).unwrap_or_default();
    let said = String::from_utf8_lossy(said);
    said.contains("FATAL: ") || said.contains("database system is shut down")
}

pub fn failed_to_start(server: &impl Managed, log: &Path) -> Error {
    let reason = format!("it does not start\n{}", log_tail(log));
    Error::Started { node: server.node().to_owned(), reason, log: log.into() }
}

/// Settings as arguments of the server.
pub fn arguments(settings: &[(&'static str, String)]) -> Vec<String> {
    settings.iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

/// A setting of a server that is down.
pub fn configured(bin_folder: &Path, data: &Path, user: &ServerUser, options: &[String], name: &str) -> Option<String> {
    let mut command = user.command(&bin_folder.join("postgres"));
    command.arg("-D").arg(data).args(options).args(["-C", name]);
    program::run(command, || ()).ok().map(|text| text.trim().to_owned())
}

/// pg_controldata's output.
pub fn control(bin_folder: &Path, data: &Path, user: &ServerUser) -> Result<String> {
    let mut command = user.command(&bin_folder.join("pg_controldata"));
    command.arg("--pgdata").arg(data);
    Ok(program::run(command, || ())?)
}

/// Over the socket of the closed server.
pub fn connect(server: &impl Managed, user: &ServerUser) -> Result<Client> {
    let folder = server.socket_folder(user)?;
    let mut config = client::config(&folder, server.port(), server.database());
    config.user(server.superuser());
    Ok(client::connect(server.node(), &config)?)
}

pub fn query(server: &impl Managed, client: &mut Client, statement: &str) -> Result<Rows> {
    Ok(client::query(server.node(), client, statement)?)
}

pub fn value(server: &impl Managed, client: &mut Client, statement: &str) -> Result<String> {
    Ok(client::first(query(server, client, statement)?))
}

/// What the server said in the end.
pub fn log_tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// Something that must not stand still.
pub struct Watch {
    seen: String,
    since: Instant,
}

impl Watch {
    /// How long nothing may change; a checkpoint in between takes its time.
    const PATIENCE: Duration = Duration::from_secs(300);

    pub fn new() -> Watch {
        Watch { seen: String::new(), since: Instant::now() }
    }

    /// Whether it moves, or has done so not long ago.
    pub fn moves(&mut self, seen: String) -> bool {
        if seen != self.seen {
            *self = Watch { seen, since: Instant::now() };
        }
        self.since.elapsed() < Watch::PATIENCE
    }
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new()
    }
}
