//! Who runs the servers: PostgreSQL refuses to run as root, so root drops to another user.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use crate::command;
use crate::error::{Error, Result};

#[derive(Debug, Clone)]
pub struct ServerUser {
    name: String,
    /// None: the current user, nothing to drop.
    ids: Option<(u32, u32)>,
}

impl ServerUser {
    /// Run as root: SPOCK_RECOVERY_USER, else `postgres` where it exists, else `spock_recovery`. Otherwise the current user.
    pub fn find() -> Result<ServerUser> {
        if !Uid::effective().is_root() {
            let name = by_uid(Uid::effective())?.unwrap_or_else(|| Uid::effective().to_string());
            return Ok(ServerUser { name, ids: None });
        }
        let named = env::var("SPOCK_RECOVERY_USER").ok();
        let candidates = match &named {
            Some(name) => vec![name.as_str()],
            None => vec!["postgres", "spock_recovery"],
        };
        for name in &candidates {
            if let Some(user) = User::from_name(name).map_err(lookup_error)? {
                let ids = (user.uid.as_raw(), user.gid.as_raw());
                return Ok(ServerUser { name: user.name, ids: Some(ids) });
            }
        }
        Err(Error::NoUser(named.unwrap_or_else(|| "spock_recovery".into())))
    }

    /// Whom a path belongs to: run as root, that account; otherwise the current one, and None if the path is another's.
    pub fn owner_of(path: &Path) -> Result<Option<ServerUser>> {
        let metadata = fs::metadata(path).map_err(Error::io("look at", path))?;
        let (uid, gid) = (Uid::from_raw(metadata.uid()), metadata.gid());
        let name = by_uid(uid)?.unwrap_or_else(|| uid.to_string());
        let current = Uid::effective();
        Ok(match (current == uid, current.is_root()) {
            (true, _) => Some(ServerUser { name, ids: None }),
            (false, true) => Some(ServerUser { name, ids: Some((uid.as_raw(), gid)) }),
            (false, false) => None,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs as this user, in a folder that every user may enter, without PostgreSQL's variables of the caller.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        // Rust's backtraces would be appended to the DETAIL of the extension's errors.
        command.env_remove("RUST_BACKTRACE");
        if let Some((uid, gid)) = self.ids {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Runs a program to its end as this user; what it printed on stdout.
    pub fn run<const N: usize>(&self, program: &Path, arguments: [&dyn AsRef<std::ffi::OsStr>; N]) -> Result<String> {
        command::run(self.command(program).args(arguments.map(|argument| argument.as_ref().to_owned())))
    }

    /// Gives one file or folder to this user; of a link the link itself, for somebody else may have put it there.
    pub fn own(&self, path: &Path) -> Result<()> {
        match self.ids {
            Some((uid, gid)) => lchown(path, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path)),
            None => Ok(()),
        }
    }

    /// The same for an open file; its path is for the message.
    pub fn own_file(&self, file: &File, path: &Path) -> Result<()> {
        match self.ids {
            Some((uid, gid)) => fchown(file, Some(uid), Some(gid)).map_err(Error::io("change the owner of", path)),
            None => Ok(()),
        }
    }

    /// A new folder of this user's that nobody else but root may enter.
    pub fn make_folder(&self, path: &Path) -> Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create the folder", path))?;
        self.own(path)
    }
}

fn by_uid(uid: Uid) -> Result<Option<String>> {
    Ok(User::from_uid(uid).map_err(lookup_error)?.map(|user| user.name))
}

fn lookup_error(source: nix::Error) -> Error {
    Error::Io { action: "look up a user".into(), source: source.into() }
}
