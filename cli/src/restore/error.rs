//! What can go wrong with a restore; each message says what to do next.

use std::path::{Path, PathBuf};

use spock_recovery_cluster::Error as ServerError;

use crate::backup;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Backup(#[from] backup::Error),
    #[error("say to which moment: --point NAME, --time T or --latest")]
    NoMoment,
    #[error("\"{0}\" is no time: write it as 2026-11-26 23:30:00+01:00; without a zone it is UTC")]
    Time(String),
    #[error("there is no restore point \"{name}\"{nearest}")]
    UnknownPoint { name: String, nearest: String },
    #[error("{moment} is later than everything that node \"{node}\" has: choose an earlier one, or --latest")]
    Future { moment: String, node: String },
    #[error(
        "nobody knows which node the origins of node \"{0}\" stand for, because it does not answer: start it and run spockctl restore check; \
         or choose a restore point of quality cut or drained, for which this is not needed"
    )]
    NoOrigins(String),
    #[error("node \"{node}\" cannot be restored to {moment}: {reason}")]
    NoBase { node: String, moment: String, reason: String },
    #[error("WAL of node \"{node}\" from {from} to {to} cannot be read: {reason}")]
    Scan { node: String, from: String, to: String, reason: String },
    #[error(
        "a restore to {under_way} is under way: finish it with spockctl restore finish, or take it back with spockctl restore cancel"
    )]
    Other { under_way: String },
    #[error("no restore is under way{0}: spockctl restore start begins one")]
    None(String),
    #[error("another spockctl is at work on the restore of node \"{0}\": wait for its end, and try again")]
    Locked(String),
    #[error(
        "the data directory of node \"{node}\", \"{pgdata}\", is not on this machine: run the same command on its host, with --node {node}; \
         if it is lost and this is its host, --node {node} restores it here"
    )]
    Elsewhere { node: String, pgdata: PathBuf },
    #[error("the server of node \"{node}\" (process {pid}) runs in \"{data}\" and does not stop: {reason}")]
    StillRunning { node: String, pid: i32, data: PathBuf, reason: String },
    #[error("node \"{node}\" did not come to its target: {reason}; its log is \"{log}\"")]
    NotPaused { node: String, reason: String, log: PathBuf },
    #[error("node \"{node}\": {reason}; its log is \"{log}\"")]
    Started { node: String, reason: String, log: PathBuf },
    #[error("node \"{node}\" has {step}, not yet what {wanted} needs: run spockctl restore {command} for it")]
    NotYet { node: String, step: String, wanted: &'static str, command: &'static str },
    #[error(
        "the recovery slot of node \"{node}\" was not saved in the state of that moment ({reason}), and without it what was in flight would be lost \
         silently: choose a restore point of quality drained, or an earlier moment; spockctl restore cancel puts everything back"
    )]
    NoSlot { node: String, reason: String },
    #[error(
        "\"{file}\", from which the recovery slot of node \"{node}\" would read, is neither in the archive nor in \"{before}\": choose a later moment; \
         spockctl restore cancel puts everything back"
    )]
    NoSlotWal { node: String, file: String, before: PathBuf },
    #[error("the restored nodes do not fit together: spockctl restore cancel puts everything back{0}")]
    NotACut(String),
    #[error(
        "node \"{0}\" was promoted already: it has a timeline of its own, and its peers may have seen it; its former data directory is still there. \
         Go on with spockctl restore finish"
    )]
    Promoted(String),
    #[error(
        "this restore is beside the living nodes (--into): it is for looking only; spockctl restore cancel ends it"
    )]
    Beside,
    #[error("\"{}\" is there already, and no restore has made it: move it away first", .0.display())]
    InTheWay(PathBuf),
    #[error("after the restore {0}")]
    Verification(String),
    /// Each was shown.
    #[error("{0} {noun}", noun = if *.0 == 1 { "finding" } else { "findings" })]
    Findings(usize),
    /// Where a test has asked for it.
    #[error("ended after step {0}, as asked")]
    Ended(String),
}

impl Error {
    /// What the caller typed cannot be right, whatever the state of the servers.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Backup(error) => error.is_usage(),
            Error::NoMoment | Error::Time(_) => true,
            _ => false,
        }
    }

    pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let failed = ServerError::io(action, path);
        move |source| Error::Server(failed(source))
    }
}
