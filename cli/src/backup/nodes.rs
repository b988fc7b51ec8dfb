//! The nodes as the mesh itself knows them, and what each server says of itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use postgres::Client;
use postgres::error::SqlState;
use spock_recovery_cluster::client::{self, Rows};
use spock_recovery_cluster::{Error as ServerError, ServerUser};

use super::conninfo::Conninfo;
use super::error::{Error, Result};
use super::repository::MeshNode;

/// Each node by the connection string that it was given itself, else by that of a subscription to it.
const NODES: &str = "SELECT n.node_name, n.node_id = (SELECT l.node_id FROM spock.local_node l),
       (SELECT i.if_dsn FROM spock.node_interface i WHERE i.if_nodeid = n.node_id AND i.if_dsn IS NOT NULL
         ORDER BY i.if_name = n.node_name DESC, i.if_id LIMIT 1),
       current_setting('is_superuser')
  FROM spock.node n ORDER BY 1";

const FACTS: &str = "SELECT current_setting('data_directory'), current_setting('config_file'), current_setting('port'),
       (SELECT setting FROM pg_config WHERE name = 'BINDIR'), (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'),
       (SELECT system_identifier FROM pg_control_system()), current_setting('server_version'),
       current_setting('server_version_num'), pg_size_bytes(current_setting('wal_segment_size'))";

/// In UTC with microseconds, always of one length.
pub const NOW: &str = "to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// A node and how it is reached.
#[derive(Debug, Clone)]
pub struct Registered {
    pub name: String,
    pub conninfo: Conninfo,
}

/// The database, and its nodes by name.
#[derive(Debug)]
pub struct Found {
    pub database: String,
    pub nodes: Vec<Registered>,
}

/// Where the data directory of a node is, seen from this process.
#[derive(Debug, Clone)]
pub enum Place {
    /// On this machine, of an account whose programs can be run.
    Here(ServerUser),
    /// No data directory with this system identifier is at this place: on another host.
    Elsewhere,
    /// On this machine or another; this account may not look.
    Closed,
}

/// A node that answers.
pub struct Live {
    pub node: MeshNode,
    pub major: u32,
    pub library_folder: PathBuf,
    pub conninfo: Conninfo,
    pub place: Place,
    client: Client,
}

/// The node that the user has named, until it has said its name.
const GIVEN: &str = "the node of --dsn";

/// A node as the one that was asked knows it.
#[derive(Debug, Clone)]
pub struct Member {
    pub name: String,
    /// The one that was asked.
    pub is_local: bool,
    /// None: nobody knows how it is reached.
    pub conninfo: Option<Conninfo>,
}

/// Asks any node for all; their database.
///
/// # Errors
/// It does not answer, is no node, or the user is no superuser.
pub fn members(dsn: &str) -> Result<(String, Vec<Member>)> {
    let conninfo = Conninfo::parse(dsn)?;
    let mut client = connect(GIVEN, &conninfo)?;
    let database = client::first(client::query(GIVEN, &mut client, "SELECT current_database()")?);
    let rows = client::rows(&mut client, NODES).map_err(|source| match source.code() {
        Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME) => {
            Error::NotANode { database: database.clone() }
        }
        _ => Error::Server(ServerError::Sql { server: GIVEN.into(), statement: NODES.into(), source }),
    })?;
    let mut members = Vec::new();
    for row in rows {
        let [Some(name), is_local, dsn, is_superuser] = row.as_slice() else { continue };
        if is_superuser.as_deref() != Some("on") {
            return Err(Error::NotSuperuser);
        }
        let is_local = is_local.as_deref() == Some("t");
        let conninfo = match dsn {
            // Without a user it means another one for each account that connects.
            Some(dsn) => Some(Conninfo::parse(dsn)?.or("user", &conninfo)),
            None => is_local.then(|| conninfo.clone()),
        };
        members.push(Member { name: name.clone(), is_local, conninfo });
    }
    match members.is_empty() {
        true => Err(Error::NotANode { database }),
        false => Ok((database, members)),
    }
}

/// Asks any node for all, and for how each is reached.
pub fn find_all(dsn: &str) -> Result<Found> {
    let (database, members) = members(dsn)?;
    let registered = |Member { name, conninfo, .. }| match conninfo {
        Some(conninfo) => Ok(Registered { name, conninfo }),
        None => Err(Error::NoDsn { node: name }),
    };
    Ok(Found { database, nodes: members.into_iter().map(registered).collect::<Result<_>>()? })
}

fn connect(server: &str, conninfo: &Conninfo) -> Result<Client> {
    let connected = client::connect(server, &conninfo.config()?);
    connected.map_err(|error| Error::Connection {
        server: if server == GIVEN { server.into() } else { format!("node \"{server}\"") },
        conninfo: conninfo.to_string(),
        reason: said(&error),
    })
}

/// What PostgreSQL or the system said, without the statement.
pub fn said(error: &ServerError) -> String {
    match error {
        ServerError::Sql { source, .. } => client::describe(source),
        other => other.to_string(),
    }
}

impl Live {
    pub fn meet(registered: &Registered) -> Result<Live> {
        let name = &registered.name;
        let mut client = connect(name, &registered.conninfo)?;
        let mut row = client::query(name, &mut client, FACTS)?.into_iter().flatten().map(Option::unwrap_or_default);
        let mut next = || row.next().unwrap_or_default();
        let (pgdata, config_file, port, bin_folder) = (next(), next(), next(), next());
        let (library_folder, system_identifier, pg_version) = (next(), next(), next());
        let (version_number, wal_segment_bytes) = (next(), next());
        let node = MeshNode {
            name: name.clone(),
            dsn: registered.conninfo.without_password().to_string(),
            pgdata: pgdata.into(),
            config_file: config_file.into(),
            port: port.parse().unwrap_or(5432),
            bin_folder: bin_folder.into(),
            system_identifier,
            pg_version,
            wal_segment_bytes: wal_segment_bytes.parse().unwrap_or(16 << 20),
        };
        let major = version_number.parse::<u32>().unwrap_or(0) / 10_000;
        let place = place(&node.pgdata, &node.system_identifier)?;
        Ok(Live {
            node,
            major,
            library_folder: library_folder.into(),
            conninfo: registered.conninfo.clone(),
            place,
            client,
        })
    }

    pub fn name(&self) -> &str {
        &self.node.name
    }

    pub fn query(&mut self, statement: &str) -> Result<Rows> {
        Ok(client::query(&self.node.name, &mut self.client, statement)?)
    }

    /// A statement that holds a password; an error shows what stands for it.
    pub fn query_secret(&mut self, statement: &str, shown: &str) -> Result<Rows> {
        Ok(client::query_secret(&self.node.name, &mut self.client, statement, shown)?)
    }

    /// The first value; empty for NULL and where there is no row.
    pub fn value(&mut self, question: &str) -> Result<String> {
        Ok(client::first(self.query(question)?))
    }

    pub fn now(&mut self) -> Result<String> {
        self.value(&format!("SELECT {NOW}"))
    }

    /// A session that has the settings of the last reload: an old one may not have read them yet.
    pub fn reconnect(&mut self) -> Result<()> {
        self.client = connect(&self.node.name, &self.conninfo)?;
        Ok(())
    }

    /// Whom programs run as that touch the files of this node.
    pub fn user(&self) -> Result<&ServerUser> {
        let node = self.node.name.clone();
        match &self.place {
            Place::Here(user) => Ok(user),
            Place::Elsewhere => Err(Error::Elsewhere { node, pgdata: self.node.pgdata.clone() }),
            Place::Closed => Err(Error::Closed { node, pgdata: self.node.pgdata.clone() }),
        }
    }
}

/// The first field of pg_control is the system identifier: a folder of the same path on this machine may be another server's.
pub fn place(pgdata: &Path, system_identifier: &str) -> Result<Place> {
    let path = pgdata.join("global/pg_control");
    let control = match fs::read(&path) {
        Ok(control) => control,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Place::Closed),
        Err(_) => return Ok(Place::Elsewhere),
    };
    let identifier = control.first_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes).to_string());
    if identifier.as_deref() != Some(system_identifier) {
        return Ok(Place::Elsewhere);
    }
    Ok(ServerUser::owner_of(pgdata)?.map_or(Place::Closed, Place::Here))
}
