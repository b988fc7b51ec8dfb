//! What can go wrong while servers are started and wired, each with what was being done.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not {action}: {source}")]
    Io { action: String, source: io::Error },
    #[error("\"{program}\" failed with {status}: {output}")]
    Command { program: String, status: String, output: String },
    #[error(
        "no PostgreSQL server was found: give its pg_config (--pg-config, or SPOCK_RECOVERY_PG_CONFIG), or run scripts/setup.sh"
    )]
    NoServer,
    #[error("\"{pg_config}\" is no usable pg_config: {reason}")]
    PgConfig { pg_config: PathBuf, reason: String },
    #[error(
        "servers cannot run as root, and there is no user \"{0}\": create it, or name another in SPOCK_RECOVERY_USER"
    )]
    NoUser(String),
    #[error("\"{0}\" is no pg_control file of a known layout")]
    ControlFile(PathBuf),
    #[error("server \"{name}\" did not start ({reason}); the end of its log:\n{log}")]
    Start { name: String, reason: String, log: String },
    #[error("server \"{0}\" is not running")]
    NotRunning(String),
    #[error("server \"{name}\" is still running {} s after it was told to stop", .waited.as_secs())]
    Stop { name: String, waited: Duration },
    #[error("the path \"{0}\" is too long for a socket (107 bytes): name a shorter folder in SPOCK_RECOVERY_TMP")]
    SocketPath(PathBuf),
    #[error("server \"{server}\", \"{statement}\": {}", crate::client::describe(.source))]
    Sql { server: String, statement: String, source: postgres::Error },
    #[error("waited {} s in vain for {what}; last seen: {last}", .waited.as_secs())]
    Timeout { what: String, waited: Duration, last: String },
    #[error("there are not {count} ports from {from} on: the last is 65535")]
    NoPorts { from: u16, count: usize },
    #[error("node \"{0}\" is not among the nodes")]
    NoNode(String),
}

impl Error {
    /// For `map_err` on a file operation: says what was being done, with which path.
    pub fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let action = format!("{action} \"{}\"", path.display());
        move |source| Error::Io { action, source }
    }
}
