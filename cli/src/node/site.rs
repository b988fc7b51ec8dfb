//! One new node at work: its journal, its owner, and how everybody is reached.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use spock_recovery_cluster::{ServerUser, deadline};

use super::create::Options;
use super::error::{Error, Result};
use super::journal::{Journal, Step, paths};
use super::mesh::Mesh;
use crate::backup::conninfo::Conninfo;
use crate::screen::Screen;

/// How long a spockctl that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(5);

pub struct Site {
    pub journal: Journal,
    pub user: ServerUser,
    /// The living node, as the user has said it.
    pub from: String,
    pub screen: Screen,
    end_after: Option<Step>,
    begun: Instant,
    _lock: File,
}

impl Site {
    /// Takes the lock, and takes the journal of before where there is one that is not over.
    pub fn open(journal: Journal, user: ServerUser, options: &Options, screen: &Screen) -> Result<Site> {
        let lock = lock(&journal.pgdata, &user)?;
        // What it was when nobody held the lock may be old.
        let journal = match Journal::read(&journal.pgdata)? {
            Some(there) if !there.step.is_over() => there,
            _ => journal,
        };
        Ok(Site {
            journal,
            user,
            from: options.from.clone(),
            screen: screen.clone(),
            end_after: options.end_after,
            begun: Instant::now(),
            _lock: lock,
        })
    }

    /// The step is done, and lasting.
    pub fn done(&mut self, step: Step) -> Result<()> {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.journal.seconds.insert(step.name(), seconds);
        self.begun = Instant::now();
        self.journal.step = step;
        self.journal.write(&self.user)?;
        match self.end_after == Some(step) {
            true => Err(Error::Ended(step.name())),
            false => Ok(()),
        }
    }

    pub fn say(&self, text: impl AsRef<str>) {
        self.screen.line(format!("{}: {}", self.journal.name, text.as_ref()));
    }

    pub fn source_conninfo(&self) -> Result<Conninfo> {
        Ok(Conninfo::parse(&self.from)?)
    }

    /// Every node of the mesh but the new one and the one that it replaces.
    pub fn mesh(&self) -> Result<Mesh> {
        let mut without = vec![self.journal.name.as_str()];
        without.extend(self.journal.replaces.as_deref());
        Mesh::meet_all(&self.source_conninfo()?, &self.from, &without)
    }
}

/// Held until the file is dropped.
pub fn lock(pgdata: &Path, user: &ServerUser) -> Result<File> {
    let paths = paths(pgdata);
    if !paths.folder.is_dir() {
        user.make_folder(&paths.folder)?;
    }
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(paths.lock());
    let file = file.map_err(Error::io("open", &paths.lock()))?;
    user.own(&paths.lock())?;
    // One that was killed may not be gone yet.
    let locked = deadline::poll(GONE, || file.try_lock().is_ok().then_some(()));
    locked.ok_or_else(|| Error::Locked(pgdata.into()))?;
    Ok(file)
}
