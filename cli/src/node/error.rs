//! What can go wrong while a node is made; each message says what to do next.

use std::path::{Path, PathBuf};

use spock_recovery_cluster::Error as ServerError;

use crate::{backup, restore};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error(transparent)]
    Backup(#[from] backup::Error),
    #[error(transparent)]
    Restore(#[from] restore::Error),
    #[error(
        "say how the other nodes reach the new one: --dsn 'host=… port=… dbname=…'; or, on the host of the living node, give it a port of its own with --port"
    )]
    NoDsn,
    #[error(
        "the names of the mesh's {what} follow no rule that this command finds: say the rule with {option}, for instance {option} 'sub_{{target}}_{{source}}'"
    )]
    NoPattern { what: &'static str, option: &'static str },
    #[error(
        "{option} \"{text}\" has neither {{target}} nor {{source}} in it, the places of the receiving and the sending node's names"
    )]
    Pattern { option: &'static str, text: String },
    #[error("{option} \"{text}\" is not of the form {form}")]
    Pair { option: &'static str, text: String, form: &'static str },
    #[error(
        "in \"{}\", node \"{name}\" is being made{replaces} from node \"{source_node}\": go on with the same command, or take it back with spockctl node cancel --pgdata {typed}",
        .pgdata.display(), typed = backup::shell::typed(.pgdata)
    )]
    Other { name: String, replaces: String, source_node: String, pgdata: PathBuf },
    #[error("no node is being made in \"{}\": spockctl node create begins", .0.display())]
    None(PathBuf),
    #[error("another spockctl is at work in \"{}\": wait for its end, and try again", .0.display())]
    Locked(PathBuf),
    #[error(
        "node \"{name}\" does not answer ({reason}): start it, or correct its connection string, and run the same command again"
    )]
    Silent { name: String, reason: String },
    #[error(
        "node \"{old}\" answers, so it is not lost: stop it for good, or leave --replaces out and give the new node another name"
    )]
    Alive { old: String },
    #[error(
        "slot \"{slot}\" of the replaced node on node \"{node}\" is in use: stop what receives from it, and run the same command again"
    )]
    SlotInUse { slot: String, node: String },
    #[error(
        "node \"{node}\" does not come beyond {wanted} of node \"{provider}\", where the new node's slot begins; it is at {at}: see why its subscription \"{subscription}\" stands still, and run the same command again"
    )]
    StandsStill { node: String, provider: String, subscription: String, wanted: String, at: String },
    #[error("the new node's server {what}; its log is \"{}\":\n{tail}", .log.display())]
    Closed { what: &'static str, log: PathBuf, tail: String },
    #[error(
        "the new node's server was killed at the moment at which its recovery ended, and nobody knows where the base backup ends: run the same \
         command again, which fetches another one"
    )]
    NoEnd,
    #[error(
        "the base backup holds no subscription \"{subscription}\" to node \"{provider}\": it was dropped or renamed meanwhile; take this back with spockctl node cancel, and begin anew"
    )]
    Subscription { subscription: String, provider: String },
    #[error(
        "node \"{0}\" is open: it is a node of the mesh now, and what was written on it would be lost. Run spockctl node create again to finish it"
    )]
    Open(String),
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
            Error::Restore(error) => error.is_usage(),
            Error::NoDsn | Error::NoPattern { .. } | Error::Pattern { .. } | Error::Pair { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let failed = ServerError::io(action, path);
        move |source| Error::Server(failed(source))
    }
}
