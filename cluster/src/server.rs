//! One PostgreSQL server as a child process: `postgres -D …` itself, so that its id is known and its end can be waited for.

mod sql;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::command;
use crate::configuration::Configuration;
use crate::data_folder;
use crate::deadline;
use crate::error::{Error, Result};
use crate::installation::Installation;
use crate::pid_file::PidFile;
use crate::process::{self, Process};
use crate::spawn;
use crate::user::ServerUser;

/// How long a server may take to start or to stop: crash recovery on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    Fast,
    /// Without a shutdown checkpoint; recovery at the next start.
    Immediate,
}

/// A server that was not stopped is ended immediately when it is dropped, unless it is detached and was released.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    user: ServerUser,
    name: String,
    port: u16,
    configuration: Configuration,
    socket_folder: PathBuf,
    data: PathBuf,
    log: PathBuf,
    /// None while it does not run. Locked until a start or an end is complete.
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Makes the data folder `<folder>/<name>` and its configuration; starts nothing. `folder` also holds socket and log.
    pub fn create(
        installation: &Installation,
        user: &ServerUser,
        folder: &Path,
        (name, port): (&str, u16),
        configuration: Configuration,
    ) -> Result<Server> {
        let server = Server::existing(installation, user, folder, (name, port), configuration);
        data_folder::create(installation, user, &server.data)?;
        server.configure()?;
        Ok(server)
    }

    /// Like `create`, with a copy of a running server, whose physical standby it becomes, on a slot there of its own name.
    pub fn create_standby(
        primary: &Server,
        folder: &Path,
        address: (&str, u16),
        configuration: Configuration,
    ) -> Result<Server> {
        let server = Server::existing(&primary.installation, &primary.user, folder, address, configuration);
        server.copy(primary, "standby.signal", [&"--create-slot", &"--slot", &server.name])?;
        Ok(server)
    }

    /// Like `create`, with a base backup of a running server, from which the server is restored at its first start. The
    /// configuration says up to where.
    pub fn create_restored(
        original: &Server,
        folder: &Path,
        address: (&str, u16),
        configuration: Configuration,
    ) -> Result<Server> {
        let server = Server::existing(&original.installation, &original.user, folder, address, configuration);
        server.copy(original, "recovery.signal", [])?;
        Ok(server)
    }

    /// Makes the data folder a base backup of a running server. `signal`: the file that tells the server how to begin.
    fn copy<const N: usize>(&self, original: &Server, signal: &str, options: [&dyn AsRef<OsStr>; N]) -> Result<()> {
        let program = self.installation.bindir.join("pg_basebackup");
        let mut command = self.user.command(&program);
        command.arg("--pgdata").arg(&self.data).arg("--dbname").arg(original.dsn("postgres"));
        command.args(["--checkpoint=fast", "--no-sync"]).args(options.iter().map(AsRef::as_ref));
        command::run(&mut command)?;
        self.configure()?;
        let signal = self.data.join(signal);
        fs::write(&signal, "").map_err(Error::io("write", &signal))?;
        self.user.own(&signal)
    }

    /// A server whose data folder and configuration are there already, made by another process.
    pub fn existing(
        installation: &Installation,
        user: &ServerUser,
        folder: &Path,
        (name, port): (&str, u16),
        configuration: Configuration,
    ) -> Server {
        Server {
            installation: installation.clone(),
            user: user.clone(),
            name: name.to_owned(),
            port,
            configuration,
            socket_folder: folder.to_owned(),
            log: folder.join(format!("{name}.log")),
            data: folder.join(name),
            child: Mutex::new(None),
        }
    }

    fn configure(&self) -> Result<()> {
        let path = self.data.join("postgresql.conf");
        let text = self.configuration.lines(&self.installation, &self.socket_folder, self.port);
        let appended = OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        appended.map_err(Error::io("write", &path))
    }

    /// Starts the server and waits until it takes connections.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the server without waiting, so that several start at once.
    pub fn launch(&self) -> Result<()> {
        let log = OpenOptions::new().append(true).create(true).open(&self.log).map_err(Error::io("open", &self.log))?;
        let stdout = log.try_clone().map_err(Error::io("open", &self.log))?;
        let null = File::open("/dev/null").map_err(Error::io("open", Path::new("/dev/null")))?;
        let mut command = self.user.command(&self.installation.bindir.join("postgres"));
        // A process group of its own: an interrupt typed at the terminal is for us, and we end the servers.
        command.arg("-D").arg(&self.data).stdin(null).stdout(stdout).stderr(log).process_group(0);
        let spawned = if self.configuration.detached { command.spawn() } else { spawn::tethered(command) };
        *self.child() = Some(spawned.map_err(self.failed_to("start"))?);
        Ok(())
    }

    pub fn wait_ready(&self) -> Result<()> {
        let mut running = self.child();
        let child = running.as_mut().ok_or_else(|| Error::NotRunning(self.name.clone()))?;
        let pid = child.id().cast_signed();
        let started = deadline::poll(LIMIT, || match child.try_wait() {
            Ok(None) => PidFile::read(&self.data).is_some_and(|file| file.pid == pid && file.ready).then_some(Ok(())),
            Ok(Some(status)) => Some(Err(status.to_string())),
            Err(error) => Some(Err(error.to_string())),
        });
        let reason = match started {
            Some(Ok(())) => return Ok(()),
            Some(Err(reason)) => {
                // It was reaped just now: its id is no longer ours to signal.
                *running = None;
                reason
            }
            None => format!("nothing after {} s", LIMIT.as_secs()),
        };
        Err(Error::Start { name: self.name.clone(), reason, log: self.log_tail() })
    }

    /// Does nothing to a server that is not running.
    pub fn stop(&self, shutdown: Shutdown) -> Result<()> {
        let mut running = self.child();
        let Some(child) = running.as_mut() else {
            return Ok(());
        };
        let signal = match shutdown {
            Shutdown::Fast => Signal::SIGINT,
            Shutdown::Immediate => Signal::SIGQUIT,
        };
        // The signal would wait behind a pause.
        let pid = child.id().cast_signed();
        process::send(pid, signal).and_then(|()| process::thaw(pid)).map_err(self.failed_to("stop"))?;
        let ended = deadline::poll(LIMIT, || child.try_wait().transpose());
        let ended = ended.ok_or_else(|| Error::Stop { name: self.name.clone(), waited: LIMIT })?;
        *running = None;
        ended.map(drop).map_err(self.failed_to("stop"))
    }

    /// SIGKILL to the postmaster and all its processes, as a failing machine would.
    pub fn kill(&self) -> Result<()> {
        let mut running = self.child();
        let Some(mut child) = running.take() else {
            return Ok(());
        };
        let killed = process::kill_all(child.id().cast_signed());
        killed.and_then(|()| child.wait()).map(drop).map_err(self.failed_to("kill"))
    }

    /// Ends it at once, whatever its state: what SIGQUIT does not end, SIGKILL does. Nothing is left to be done where that fails.
    pub fn end(&self) {
        if self.stop(Shutdown::Immediate).is_err() {
            let _ = self.kill();
        }
    }

    /// Stops every process of the server where it is, as a hanging machine would; `resume` lets them go on.
    pub fn pause(&self) -> Result<()> {
        process::freeze(self.running_pid()?).map(drop).map_err(self.failed_to("pause"))
    }

    pub fn resume(&self) -> Result<()> {
        process::thaw(self.running_pid()?).map_err(self.failed_to("resume"))
    }

    /// Leaves a detached server to the user.
    pub fn release(&self) {
        *self.child() = None;
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For `map_err`: says what was being done, to which server.
    fn failed_to(&self, action: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        let action = format!("{action} server \"{}\"", self.name);
        move |source| Error::Io { action, source }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn user(&self) -> &ServerUser {
        &self.user
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Empty if there is no log yet. A log may hold bytes of any encoding.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The postmaster's id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child().as_ref().map(|child| child.id().cast_signed())
    }

    fn running_pid(&self) -> Result<i32> {
        self.pid().ok_or_else(|| Error::NotRunning(self.name.clone()))
    }

    /// The server's processes, the postmaster not among them.
    pub fn processes(&self) -> Vec<Process> {
        self.pid().map(process::children).unwrap_or_default()
    }

    /// Puts the data folder of a server that does not run aside, for another one in its place; where it is from then on.
    ///
    /// # Errors
    /// The folder cannot be renamed.
    pub fn set_aside(&self) -> Result<PathBuf> {
        let aside = self.data.with_extension("aside");
        self.remove_segment();
        fs::rename(&self.data, &aside).map_err(Error::io("rename", &self.data))?;
        Ok(aside)
    }

    /// A server that was killed leaves its segment behind, of which a machine has room for a few thousand; only its next start
    /// would remove it.
    fn remove_segment(&self) {
        if let Some(segment) = PidFile::read(&self.data).and_then(|file| file.segment) {
            let _ = Command::new("ipcrm").args(["-m", &segment]).stderr(Stdio::null()).status();
        }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if self.configuration.detached {
            return;
        }
        self.remove_segment();
    }
}
