//! What can go wrong with backups; each message says what to type next.

use std::io;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::Error as ServerError;

use super::repository::DriverName;
use super::shell;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("there is no repository in \"{0}\": spockctl backup setup --repo {typed} --dsn … makes one", typed = shell::typed(.0))]
    NoRepository(PathBuf),
    #[error(
        "this account may not look into \"{0}\": run spockctl as the account that owns the data directories, or as root"
    )]
    Forbidden(PathBuf),
    #[error("there is a backup \"{0}\" of this second already: try again")]
    LabelTaken(String),
    #[error("\"{path}\" is damaged, or of another version of spockctl: {reason}")]
    Document { path: PathBuf, reason: String },
    #[error("the repository \"{path}\" is one of the driver {driver}: leave --driver out, or name another folder with --repo", driver = .driver.name())]
    OtherDriver { path: PathBuf, driver: DriverName },
    #[error(
        "node \"{node}\" has the system identifier {now}, and the repository's node of that name {then}: name the repository of this mesh with --repo; \
         or, if the node was made anew, move its old backups away (mv {typed} {typed}.old) and run spockctl backup setup again",
        typed = shell::typed(.folder)
    )]
    OtherSystem { node: String, now: String, then: String, folder: PathBuf },
    #[error("there is no node \"{name}\", but {known}: --node takes one of these")]
    UnknownNode { name: String, known: String },
    #[error(
        "\"{0}\" is no name of a folder, which the repository has for each node: backups need a node of another name"
    )]
    NodeName(String),
    #[error("node \"{0}\" is not set up for backups: spockctl backup setup --repo … --dsn … does that")]
    NotSetUp(String),
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
    #[error(
        "no connection to {server} ({conninfo}): {reason}; start the server, or name a node that answers with --dsn"
    )]
    Connection { server: String, conninfo: String, reason: String },
    #[error("no node answers: {0}; start a server, or name a node that answers with --dsn")]
    NobodyAnswers(String),
    #[error(
        "a connection string is neither keywords with values nor a URI, for instance \"host=/tmp port=5432 dbname=app user=postgres\""
    )]
    Conninfo,
    #[error(
        "\"{conninfo}\" demands TLS, which spockctl does not speak: run it on the node's host, and give --dsn the folder of the server's socket as host"
    )]
    Tls { conninfo: String },
    #[error(
        "database \"{database}\" is no node of spock_recovery: name a node's database in --dsn (dbname=…); spock.node_create() makes a database a node"
    )]
    NotANode { database: String },
    #[error(
        "the connection strings of the nodes, the settings and the backups are for superusers: name one in --dsn (user=…)"
    )]
    NotSuperuser,
    #[error(
        "nobody knows how node \"{node}\" is reached: give it a connection string with spock.peer_create('{node}', '…')"
    )]
    NoDsn { node: String },
    #[error(
        "the data directory of node \"{node}\", \"{pgdata}\", is not on this machine: run the same command on that host, with --node {node}"
    )]
    Elsewhere { node: String, pgdata: PathBuf },
    #[error(
        "this account may not look into the data directory of node \"{node}\", \"{pgdata}\": run spockctl as its owner, or as root"
    )]
    Closed { node: String, pgdata: PathBuf },
    #[error(
        "node \"{node}\" archives by a setting of its own, {name} = '{value}': keep it with --driver command or --driver barman; \
         or give it up with ALTER SYSTEM SET {name} = '' and SELECT pg_reload_conf() on that node, and run setup again"
    )]
    ForeignArchiving { node: String, name: String, value: String },
    #[error(
        "\"{user}\", who runs node \"{node}\", cannot write into \"{folder}\": give every folder above it the mode x for that user, or choose another --repo"
    )]
    Unwritable { node: String, user: String, folder: PathBuf },
    #[error("node \"{node}\" does not archive into the repository: {reason}")]
    NotArchiving { node: String, reason: String },
    #[error("another spockctl is at work on node \"{0}\" in this repository: wait for its end, and try again")]
    Locked(String),
    #[error(
        "node \"{node}\" has tablespaces outside its data directory ({locations}), which the driver dir cannot restore: use --driver barman or --driver command"
    )]
    Tablespaces { node: String, locations: String },
    #[error(
        "\"{folder}\" has {free} free, and a full backup of node \"{node}\" needs about {needed}: make room, for instance with spockctl backup expire --keep …"
    )]
    NoRoom { node: String, folder: PathBuf, free: String, needed: String },
    #[error("no room is left in \"{folder}\": {reason}; make some, for instance with spockctl backup expire --keep …")]
    DiskFull { folder: PathBuf, reason: String },
    #[error(
        "backup {label} is complete, but segment {file}, in which it ends, has not come into the archive: until it does, nothing after the backup \
         can be restored; the log of node \"{node}\" says why"
    )]
    NotArchived { node: String, file: String, label: String },
    #[error("an incremental backup of node \"{node}\" is not possible: {reason}; take a full one with --full")]
    NoIncremental { node: String, reason: String },
    #[error(
        "node \"{node}\" takes no replication connection, over which a backup comes: {reason}; give the role REPLICATION, and pg_hba.conf a line with \
         the database replication"
    )]
    NoReplication { node: String, reason: String },
    #[error("{option}: {reason}; its placeholders are in the documentation, docs/backup.md")]
    Template { option: &'static str, reason: String },
    #[error(
        "the driver command needs its commands: give spockctl backup setup --archive-command, --take-command, --list-command, --list-wal-command, --fetch-base-command and --fetch-wal-command"
    )]
    NoTemplates,
    #[error(
        "setup was given no --remove-command: have the backup program expire its backups itself, or run spockctl backup setup again with one"
    )]
    NoRemoveCommand,
    #[error("{option} does not do what is asked of it: {reason}; run spockctl backup setup again with another one")]
    Printed { option: &'static str, reason: String },
    #[error("\"{file}\" was not fetched from the archive of node \"{node}\": {reason}")]
    NotFetched { node: String, file: String, reason: String },
    #[error(
        "there is no barman in PATH: install Barman 3.19 (pip install barman==3.19.1) and rsync for the account that owns the data directory"
    )]
    NoBarman,
    #[error("Barman: {0}; look into R/barman/barman.log, R being the repository")]
    Barman(String),
    #[error("the path \"{0}\" is no UTF-8 text: choose another one")]
    NotText(PathBuf),
    #[error("\"{path}\" is no sound segment: {reason}")]
    Segment { path: PathBuf, reason: String },
    /// Each was shown.
    #[error("{0} {noun}", noun = if *.0 == 1 { "finding" } else { "findings" })]
    Findings(usize),
}

impl Error {
    /// What the caller typed cannot be right, whatever the state of the servers.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Error::UnknownNode { .. }
                | Error::UnknownBackup { .. }
                | Error::Conninfo
                | Error::OtherDriver { .. }
                | Error::Template { .. }
                | Error::NoTemplates
        )
    }

    /// For `map_err` on a file operation: says what was being done, with which path, and of a full disk what helps.
    pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        let failed = ServerError::io(action, path);
        move |source| Error::Server(failed(source))
    }
}
