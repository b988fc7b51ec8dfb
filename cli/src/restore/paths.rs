//! The files of one node's restore, all beside its data directory (pure, but for the folder of the socket).

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::{ServerUser, run_folder};

use super::error::{Error, Result};

/// What the server appends to the folder of its socket, with the lock file; a socket's path has 107 bytes at most.
const SOCKET: usize = "/.s.PGSQL.65535.lock".len();
const SOCKET_PATH: usize = 107;

/// `<pgdata><suffix>`
pub fn beside(pgdata: &Path, suffix: &str) -> PathBuf {
    let mut name = pgdata.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    pgdata.with_file_name(name)
}

/// The first of `<pgdata>.<word>-<label>`, `….2`, … that is free.
pub fn free(pgdata: &Path, word: &str, label: &str) -> PathBuf {
    let first = beside(pgdata, &format!(".{word}-{label}"));
    let mut count = 1;
    let mut path = first.clone();
    while path.symlink_metadata().is_ok() {
        count += 1;
        path = beside(&first, &format!(".{count}"));
    }
    path
}

/// Everything of ours: `<pgdata>.restore`.
#[derive(Debug, Clone)]
pub struct Paths {
    pub folder: PathBuf,
}

impl Paths {
    pub fn of(pgdata: &Path) -> Paths {
        Paths { folder: beside(pgdata, ".restore") }
    }

    pub fn journal(&self) -> PathBuf {
        self.folder.join("journal.json")
    }

    pub fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// Of the restored server until it is opened.
    pub fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    pub fn hba(&self) -> PathBuf {
        self.folder.join("pg_hba.conf")
    }

    /// What postgresql.auto.conf is to be in the end.
    pub fn settings(&self) -> PathBuf {
        self.folder.join("postgresql.auto.conf")
    }

    /// The recovery slot's files: `state`, and the snapshot under its own name.
    pub fn slot(&self) -> PathBuf {
        self.folder.join("slot")
    }

    /// Where the socket of the closed server is: nobody but its owner gets there. In the folder for temporary files where this
    /// folder's path is too long for a socket.
    pub fn socket(&self, user: &ServerUser) -> Result<PathBuf> {
        if self.folder.as_os_str().len() + SOCKET <= SOCKET_PATH {
            return Ok(self.folder.clone());
        }
        let mut hasher = DefaultHasher::new();
        self.folder.hash(&mut hasher);
        let path = run_folder::base().join(format!("spockctl-restore-{:016x}", hasher.finish()));
        match user.make_folder(&path) {
            Err(spock_recovery_cluster::Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                let own = fs::metadata(&self.folder).map_err(Error::io("look at", &self.folder))?.uid();
                let there = fs::symlink_metadata(&path).map_err(Error::io("look at", &path))?;
                match there.is_dir() && there.uid() == own && there.mode() & 0o077 == 0 {
                    true => Ok(path),
                    false => Err(Error::InTheWay(path)),
                }
            }
            made => Ok(made.map(|()| path)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_lies_beside_the_data_directory() {
        assert_eq!(beside(Path::new("/data/n1"), ".restore"), Path::new("/data/n1.restore"));
        assert_eq!(free(Path::new("/nowhere/n1"), "before", "p"), Path::new("/nowhere/n1.before-p"));
    }
}
