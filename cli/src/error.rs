//! What can go wrong in spockctl, beside what can go wrong with the servers.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] spock_recovery_cluster::Error),
    #[error(transparent)]
    Backup(#[from] crate::backup::Error),
    #[error(transparent)]
    Restore(#[from] crate::restore::Error),
    #[error(transparent)]
    Node(#[from] crate::node::Error),
    #[error("{nodes} nodes are too few: {reason}")]
    TooFewNodes { nodes: usize, reason: &'static str },
    #[error("\"{path}\" is no record of a cluster: {reason}")]
    Record { path: PathBuf, reason: String },
    #[error("there is no cluster in \"{0}\"")]
    NoCluster(PathBuf),
    #[error("there are several clusters; name the one that is meant: {}", listed(.0))]
    SeveralClusters(Vec<PathBuf>),
    #[error("verification failed: {0}")]
    Verification(String),
}

impl Error {
    /// What was typed cannot be right, whatever the state of the servers: exit status 2.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Backup(error) => error.is_usage(),
            Error::Restore(error) => error.is_usage(),
            Error::Node(error) => error.is_usage(),
            _ => false,
        }
    }
}

fn listed(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}
