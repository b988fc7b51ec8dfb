//! The folder of one run: sockets, data folders and logs of its servers.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::user::ServerUser;

const PREFIX: &str = "spk-";

/// sun_path of sockaddr_un has 108 bytes with its closing zero; `/.s.PGSQL.65535` is what the server appends.
const SOCKET_PATH_BYTES: usize = 107;
const SOCKET_NAME_BYTES: usize = "/.s.PGSQL.65535.lock".len();

/// In the folder while its process lives: the lock on it goes with the process, however that ends.
const LOCK: &str = "lock";

/// Removed when it is dropped, unless `keep` was called; by the next run, if this process is killed.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    lock: Option<File>,
}

impl RunFolder {
    /// Below SPOCK_RECOVERY_TMP, else /tmp: TMPDIR may lead where only its owner may enter, and paths of sockets must be short.
    pub fn create(user: &ServerUser) -> Result<RunFolder> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let base = base();
        sweep(&base);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{PREFIX}{}-{count}", std::process::id()));
            if path.as_os_str().len() + SOCKET_NAME_BYTES > SOCKET_PATH_BYTES {
                return Err(Error::SocketPath(path));
            }
            match user.make_folder(&path) {
                // Kept by an earlier process with this process's id.
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
                Ok(()) => {
                    let lock = lock(&path).map_err(Error::io("lock", &path))?;
                    return Ok(RunFolder { path, lock: Some(lock) });
                }
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder stays: nobody removes one without a lock file.
    pub fn keep(&mut self) -> Result<()> {
        let path = self.path.join(LOCK);
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        self.lock = None;
        Ok(())
    }
}

/// Where run folders are.
pub fn base() -> PathBuf {
    PathBuf::from(env::var_os("SPOCK_RECOVERY_TMP").unwrap_or_else(|| "/tmp".into()))
}

/// The folders that `keep` has left, of whomever.
pub fn kept() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base()) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)))
        .map(|entry| entry.path())
        .filter(|path| !path.join(LOCK).exists())
        .collect();
    found.sort();
    found
}

/// Removes the folders of this process, for one that ends before it comes to that; true if none is left. What is being
/// written to cannot be removed at once.
pub fn remove_own() -> bool {
    let own = format!("{PREFIX}{}-", std::process::id());
    let Ok(entries) = fs::read_dir(base()) else { return true };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&own)))
        .all(|entry| fs::remove_dir_all(entry.path()).is_ok())
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // Nobody is left to be told, and what stays is in /tmp.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Locked before it has its name, so that another process's sweep never sees it unlocked.
fn lock(folder: &Path) -> io::Result<File> {
    let unnamed = folder.join("lock.new");
    let file = File::create(&unnamed)?;
    file.lock()?;
    fs::rename(unnamed, folder.join(LOCK))?;
    Ok(file)
}

/// Removes what killed processes left behind. What cannot be read or removed is somebody else's.
fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        let abandoned = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
            && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if abandoned {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
