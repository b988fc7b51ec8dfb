//! One node of this machine in a restore: its journal, its place, and its server while that is closed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;
use spock_recovery_cluster::{ServerUser, deadline};

use super::check::{Ground, Options};
use super::error::{Error, Result};
use super::journal::{Journal, Step};
use super::server::{self, Watch};
use super::settings::{self, Closed};
use super::sources::Sources;
use super::target::Stop;
use crate::backup::repository::{self, MeshNode};
use crate::backup::shell;
use crate::lsn::Lsn;
use crate::screen::Screen;

/// How often a replay is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a spockctl that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// One node of this machine, and its journal.
pub struct Site<'a> {
    pub ground: &'a Ground,
    pub node: &'a MeshNode,
    pub user: ServerUser,
    pub journal: Journal,
    pub screen: Screen,
    end_after: Option<Step>,
    begun: Instant,
    _lock: File,
}

impl<'a> Site<'a> {
    pub fn open(
        ground: &'a Ground,
        node: &'a MeshNode,
        journal: Journal,
        options: &Options,
        screen: &Screen,
    ) -> Result<Site<'a>> {
        let user = owner(ground, node, &journal.pgdata, journal.before.as_deref())?;
        let paths = journal.paths();
        if let Some(parent) = paths.folder.parent().filter(|_| journal.beside) {
            repository::make_folder(parent, &user)?;
        }
        if !paths.folder.is_dir() {
            user.make_folder(&paths.folder)?;
            repository::sync_folder(paths.folder.parent().unwrap_or(Path::new("/")))?;
        }
        let lock = repository::lock_file(&paths.lock(), &user)?;
        // One that was killed may not be gone yet.
        let locked = deadline::poll(GONE, || lock.try_lock().is_ok().then_some(()));
        locked.ok_or_else(|| Error::Locked(node.name.clone()))?;
        // What it was when nobody held it may be old.
        let journal = match Journal::read(&journal.pgdata)? {
            Some(there) if !there.step.is_over() => there,
            _ => journal,
        };
        let end_after = options.end_after.as_ref().filter(|(name, _)| *name == node.name).map(|(_, step)| *step);
        Ok(Site { ground, node, user, journal, screen: screen.clone(), end_after, begun: Instant::now(), _lock: lock })
    }

    pub fn write(&self) -> Result<()> {
        self.journal.write(&self.user, Some(&self.ground.repository))
    }

    /// The step is done, and lasting.
    pub fn done(&mut self, step: Step) -> Result<()> {
        let name =
            serde_json::to_value(step).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        self.journal.seconds.insert(name.clone(), self.begun.elapsed().as_secs_f64());
        self.begun = Instant::now();
        self.journal.step = step;
        self.write()?;
        match self.end_after == Some(step) {
            true => Err(Error::Ended(name)),
            false => Ok(()),
        }
    }

    pub fn say(&self, text: impl AsRef<str>) {
        self.screen.line(format!("{}: {}", self.node.name, text.as_ref()));
    }

    pub fn folders(&self) -> Vec<PathBuf> {
        let original = if self.journal.beside { Some(self.node.pgdata.clone()) } else { self.journal.before.clone() };
        original.iter().map(|data| super::scan::pg_wal(data)).collect()
    }

    pub fn sources(&self) -> Result<Sources<'_>> {
        Sources::of(&*self.ground.driver, self.node, self.folders())
    }

    /// Archive first; then what was not archived yet.
    fn restore_command(&self) -> Result<String> {
        let mut command = self.ground.driver.restore_command(self.node)?;
        for folder in self.folders() {
            command.push_str(&format!(" || cp -- {}/%f \"%p\"", shell::setting_word(&folder)));
        }
        Ok(command)
    }

    /// The settings of the closed server, and those for its command line.
    pub fn close(&self, libraries: Option<&str>) -> Result<Vec<String>> {
        let (journal, paths) = (&self.journal, self.journal.paths());
        let target = journal.target.as_ref().ok_or_else(|| Error::None(format!(" for node \"{}\"", journal.node)))?;
        let own = fs::read_to_string(paths.settings()).map_err(Error::io("read", &paths.settings()))?;
        let socket_folder = paths.socket(&self.user)?;
        let closed = Closed {
            socket_folder: &socket_folder,
            hba: &paths.hba(),
            restore_command: &self.restore_command()?,
            target,
            sizes: &self.sizes()?,
            libraries,
        };
        write_file(
            &paths.hba(),
            "# spockctl restore: the folder of the socket is its owner's alone\nlocal all all trust\n",
            &self.user,
        )?;
        write_file(&journal.pgdata.join("postgresql.auto.conf"), &closed.text(&own), &self.user)?;
        let mut isolation = closed.isolation();
        isolation.push(("data_directory", journal.pgdata.display().to_string()));
        Ok([journal.options.clone(), server::arguments(&isolation)].concat())
    }

    /// What the server is configured with, but never less than it had when the WAL was written.
    fn sizes(&self) -> Result<Vec<(&'static str, u64)>> {
        let (journal, bin) = (&self.journal, &self.journal.bin_folder);
        let control = server::control(bin, &journal.pgdata, &self.user)?;
        let mut sizes = Vec::new();
        for (name, label) in settings::AT_LEAST {
            let then = settings::control_value(&control, label);
            let now = server::configured(bin, &journal.pgdata, &self.user, &journal.options, name)
                .and_then(|text| text.parse().ok());
            sizes.extend(then.max(now).map(|value| (name, value)));
        }
        Ok(sizes)
    }

    /// Starts it where it does not run, and waits until it stands at its target.
    pub fn pause(&self, options: &[String]) -> Result<Client> {
        let journal = &self.journal;
        if server::running(&journal.pgdata).is_none() {
            server::launch(journal, &self.user, options, &journal.paths().log())?;
        }
        self.await_pause()
    }

    fn await_pause(&self) -> Result<Client> {
        let (journal, log) = (&self.journal, self.journal.paths().log());
        let failed = |reason: String| Error::NotPaused { node: journal.node.clone(), reason, log: log.clone() };
        let (mut client, mut watch) = (None::<Client>, Watch::new());
        let (start, size) = self.journal.replays().unwrap_or_default();
        let step = self.screen.bar(format!("MB of WAL replayed on {}", journal.node), size >> 20);
        loop {
            let mut seen = self.traces();
            client = client.or_else(|| server::connect(journal, &self.user).ok());
            let question =
                "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END,
                                   pg_last_wal_replay_lsn()";
            match client.as_mut().map(|client| server::query(journal, client, question)) {
                Some(Ok(rows)) => match rows.first().map(Vec::as_slice) {
                    Some([Some(recovers), state, replayed]) => {
                        if recovers != "t" {
                            return Err(failed("it has ended its recovery".into()));
                        }
                        if state.as_deref() == Some("paused") {
                            let replayed = replayed.as_ref().and_then(|lsn| lsn.parse().ok()).unwrap_or_default();
                            self.judge_pause(replayed).map_err(failed)?;
                            return client.ok_or_else(|| failed("its connection is gone".into()));
                        }
                        let replayed = replayed.as_deref().unwrap_or_default();
                        step.set(replayed.parse::<Lsn>().unwrap_or_default().0.saturating_sub(start.0) >> 20);
                        seen.push_str(replayed);
                    }
                    _ => client = None,
                },
                // It is not consistent yet, or it was killed.
                Some(Err(_)) => client = None,
                None => {}
            }
            if server::running(&journal.pgdata).is_none() {
                return Err(failed(format!("it has ended\n{}", server::log_tail(&log))));
            }
            if !watch.moves(seen) {
                return Err(failed(format!("nothing moves\n{}", server::log_tail(&log))));
            }
            thread::sleep(LOOK);
        }
    }

    /// What changes while it replays, before anybody can ask it.
    fn traces(&self) -> String {
        let stamp = |path: PathBuf| fs::metadata(path).map(|file| (file.len(), file.modified().ok())).ok();
        let data = &self.journal.pgdata;
        format!(
            "{:?}{:?}{:?}",
            stamp(self.journal.paths().log()),
            stamp(data.join("global/pg_control")),
            stamp(data.join("pg_wal"))
        )
    }

    /// It may have paused for another reason: because hot standby needs larger settings.
    fn judge_pause(&self, replayed: Lsn) -> std::result::Result<(), String> {
        let Some(target) = &self.journal.target else { return Ok(()) };
        let reached = match target.stop {
            Stop::Point { end, .. } | Stop::After { end, .. } => replayed == end,
            Stop::Before { lsn } => {
                let log = fs::read(self.journal.paths().log()).unwrap_or_default();
                replayed <= lsn && String::from_utf8_lossy(&log).contains("recovery stopping before")
            }
        };
        let tail = || server::log_tail(&self.journal.paths().log());
        match reached {
            true => Ok(()),
            false => Err(format!("it has paused at {replayed}, and {} is wanted\n{}", target.stop.position(), tail())),
        }
    }
}

/// Whose the node's files are.
pub fn owner(ground: &Ground, node: &MeshNode, pgdata: &Path, before: Option<&Path>) -> Result<ServerUser> {
    let folder = ground.repository.node_folder(&node.name);
    let places = [Some(node.pgdata.as_path()), before, Some(pgdata), Some(&folder), pgdata.parent()];
    let place = places.into_iter().flatten().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let closed = || crate::backup::Error::Closed { node: node.name.clone(), pgdata: place.into() };
    Ok(ServerUser::owner_of(place)?.ok_or_else(closed)?)
}

pub fn write_file(path: &Path, text: &str, user: &ServerUser) -> Result<()> {
    write_bytes(path, text.as_bytes(), user)
}

pub fn write_bytes(path: &Path, bytes: &[u8], user: &ServerUser) -> Result<()> {
    Ok(repository::write_bytes(path, bytes, user)?)
}
