//! What can go wrong with backups; each message says what to type next.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Server(#[from] spock_recovery_cluster::Error),
    #[error("there is no repository in \"{0}\": spockctl backup setup --repo {0} --dsn … makes one")]
    NoRepository(PathBuf),
    #[error("\"{path}\" is damaged, or of another version of spockctl: {reason}")]
    Document { path: PathBuf, reason: String },
    #[error(
        "the repository knows no node \"{name}\", but {known}: --node takes one of these; spockctl backup setup adds new ones"
    )]
    UnknownNode { name: String, known: String },
    #[error(
        "node \"{node}\" has no complete backup \"{label}\": spockctl backup list --repo … shows those that it has"
    )]
    UnknownBackup { node: String, label: String },
    #[error(
        "backup \"{label}\" of node \"{node}\" is incremental, and what it refers to is not there: choose another one of spockctl backup list"
    )]
    BrokenChain { node: String, label: String },
    #[error(
        "\"{file}\" is not in the archive of node \"{node}\": spockctl backup check --repo … shows everything that is missing"
    )]
    NoWal { node: String, file: String },
    #[error("the folder \"{0}\" is not empty: a backup goes into an empty one; move it away first")]
    NotEmpty(PathBuf),
}

impl Error {
    /// What the caller typed cannot be right, whatever the state of the servers and the repository.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::UnknownNode { .. } | Error::UnknownBackup { .. })
    }

    pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let failed = spock_recovery_cluster::Error::io(action, path);
        move |source| Error::Server(failed(source))
    }
}
