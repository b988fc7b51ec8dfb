//! Data folders: one initdb per installation, kept in the cache, and copies of it, each a cluster of its own.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::command;
use crate::error::{Error, Result};
use crate::installation::{Installation, cache_folder};
use crate::system_identifier;
use crate::user::ServerUser;

const INITDB_OPTIONS: [&str; 6] =
    ["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=trust", "--username=postgres", "--no-instructions"];

/// Makes `data` a fresh data folder with its own system identifier. Its parent must be the server user's.
pub fn create(installation: &Installation, user: &ServerUser, data: &Path) -> Result<()> {
    let template = template(installation, user)?;
    user.run(Path::new("/bin/cp"), [&"-a", &"--reflink=auto", &template, &data])?;
    system_identifier::renew(installation, user, data)
}

/// A second caller, in this process or another, finds either the whole template or none: it is made aside and renamed.
fn template(installation: &Installation, user: &ServerUser) -> Result<PathBuf> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let folder = cache_folder().join("templates");
    let template = folder.join(template_name(installation, user));
    if template.is_dir() {
        return Ok(template);
    }
    fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
    // The caller's umask may be narrow, and the server user has to enter.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).map_err(Error::io("set the mode of", &folder))?;
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let partial = template.with_extension(format!("{}-{count}.partial", std::process::id()));
    user.make_folder(&partial)?;
    let made = initdb(installation, user, &partial).and_then(|()| match fs::rename(&partial, &template) {
        Err(_) if template.is_dir() => Ok(()),
        renamed => renamed.map_err(Error::io("rename", &partial)),
    });
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io("remove", &partial))?;
    }
    made.map(|()| template)
}

fn initdb(installation: &Installation, user: &ServerUser, data: &Path) -> Result<()> {
    command::run(user.command(&installation.bindir.join("initdb")).args(INITDB_OPTIONS).arg("--pgdata").arg(data))?;
    // A copy gets WAL of its own from pg_resetwal: no need to copy a segment.
    let wal = data.join("pg_wal");
    for entry in fs::read_dir(&wal).map_err(Error::io("list", &wal))?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::remove_file(entry.path()).map_err(Error::io("remove", &entry.path()))?;
        }
    }
    Ok(())
}

/// Two installations of one version may be configured differently, hence the folder in the key.
fn template_name(installation: &Installation, user: &ServerUser) -> String {
    let mut hasher = DefaultHasher::new();
    (&installation.bindir, INITDB_OPTIONS, user.name()).hash(&mut hasher);
    let version: String =
        installation.version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{version}-{:016x}", hasher.finish())
}
