//! Why there is no figure.

use std::thread;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] spock_recovery_cluster::Error),
    #[error("verification failed: {0}")]
    Verification(String),
}

/// What a thread has returned that was waited for.
pub fn joined<T>(ended: thread::Result<Result<T>>) -> Result<T> {
    ended.unwrap_or_else(|_| Err(Error::Verification("a thread has panicked".into())))
}
