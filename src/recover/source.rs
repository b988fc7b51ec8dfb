//! What is asked of the source of a recovery, over a connection for SQL.

use super::error::RecoverError;
use super::target::TargetTable;
use crate::compare::side::There;
use crate::identity::DatabaseIdentity;
use crate::intent_id::IntentId;
use crate::lsn::LocalLsn;
use crate::node::dsn::Dsn;
use crate::node::error::RegistryError;
use crate::node::native::{self, NativeProvider};
use crate::node::provider::{ReplicationProvider, Route};
use crate::node::registry;
use crate::pg::clock::Timestamp;
use crate::pg::{origin, role, transaction};
use crate::plan::facts::NodeFacts;
use crate::remote::argument;
use crate::remote::connection::Connection;
use crate::remote::error::RemoteError;
use crate::{guc, protocol};
use pgrx::spi::quote_literal;
use std::cmp::Ordering;
use std::ffi::CStr;
use std::time::Duration;

/// Version 0.1.0 does not report its protocol. So the column is read from the row as JSON, whatever columns it has.
const IDENTITY: &str = "SELECT i.node_name, i.version, i.system_identifier, i.database, \
                        pg_catalog.to_jsonb(i) OPERATOR(pg_catalog.->>) 'protocol_version' FROM";

/// The connection and the questions that show that a node answers are three steps; each may take this fraction of
/// spock.peer_timeout (1/5).
const ANSWER_FRACTION: u32 = 5;

const FLUSHED: &str = "SELECT pg_catalog.pg_current_wal_flush_lsn()";

/// What the source has of the failed node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFacts {
    /// The id of the replication origin under which the source has applied the failed node.
    pub origin_id: u32,
    /// The oids on the source of the tables that either node replicates from the failed one.
    pub tables: Vec<u32>,
    /// The local LSN on the source before which its WAL holds everything that it has applied.
    pub until: LocalLsn,
}

/// A clone as the source has registered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneFacts {
    pub failed: Option<String>,
}

pub struct Source {
    name: String,
    connection: Connection,
    protocol: u32,
}

/// The connection string to a node, by the node's name. Needs a transaction with a snapshot.
///
/// # Errors
///
/// If the node is not known, or no connection string to it is.
pub fn route_to(name: &str) -> Result<Route, RecoverError> {
    let peer = NativeProvider.peers()?.into_iter().find(|peer| peer.name.as_str() == name);
    let peer = peer.ok_or_else(|| RecoverError::UnknownNode { name: name.to_owned() })?;
    if let Some(dsn) = native::dsn_for_recovery(peer.id)? {
        return Ok(Route { dsn, must_use_password: false });
    }
    NativeProvider.route_to_peer(peer.id)?.ok_or_else(|| RecoverError::NoRoute { source_node: name.to_owned() })
}

/// Whether a node answers now, over the connection string that this node knows, within a fraction of
/// spock.peer_timeout: a caller that waits for this node has no more time itself. Needs a transaction with a snapshot.
pub fn answers(name: &str) -> bool {
    // The connection string is read on behalf of the caller, who may not see it.
    let Ok(route) = role::as_superuser(|| route_to(name)) else { return false };
    let limit = guc::peer_timeout() / ANSWER_FRACTION;
    !matches!(
        Source::open_within(name, &route, limit),
        Err(RecoverError::Remote {
            error: RemoteError::Connect(_) | RemoteError::Lost(_) | RemoteError::TimedOut(_),
            ..
        } | RecoverError::OtherServer { .. })
    )
}

/// The route for a connection string that a superuser has given. The string is checked first, because libpq's message
/// would repeat a part of it, perhaps a password.
pub fn given_route(dsn: &CStr) -> Result<Route, RecoverError> {
    Ok(Route { dsn: Dsn::parse(dsn).map_err(RegistryError::from)?, must_use_password: false })
}

impl Source {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Connects, and makes sure that the peer is the node that it is expected to be, and that the two protocols fit.
    ///
    /// # Errors
    ///
    /// If the peer cannot be connected to, is another node or another server, or has a version that does not fit.
    pub fn open(name: &str, route: &Route) -> Result<Source, RecoverError> {
        Source::open_within(name, route, guc::peer_timeout())
    }

    /// Like `open`, with a time limit of its own for the connection and each question.
    fn open_within(name: &str, route: &Route, limit: Duration) -> Result<Source, RecoverError> {
        let lost = |error| RecoverError::Remote { source_node: name.to_owned(), error };
        let mut connection = Connection::open(route, "rescue", limit).map_err(lost)?;
        in_transaction(|| connection.prepare()).map_err(lost)?;
        in_transaction(|| connection.require_extension()).map_err(lost)?;
        let mut source = Source { name: name.to_owned(), connection, protocol: protocol::UNTOLD };
        let rows = source.rows(&format!("{IDENTITY} {}.node_identity() i", source.internal_schema()), 5)?;
        let Some(row) = rows.first() else {
            return Err(source.error(RemoteError::Unexpected("it is not a node".to_owned())));
        };
        let (found, version): (String, String) = (source.read(row.value(0))?, source.read(row.value(1))?);
        if found != name {
            return Err(RecoverError::OtherNode { source_node: name.to_owned(), found });
        }
        let found =
            DatabaseIdentity { system_identifier: source.read(row.value(2))?, database: source.read(row.value(3))? };
        if let Some(known) = in_transaction(|| registry::bound_identity(name)).filter(|known| *known != found) {
            return Err(RecoverError::OtherServer { source_node: name.to_owned(), known, found });
        }
        let ours = env!("CARGO_PKG_VERSION");
        let theirs = source.read(row.optional(4))?.unwrap_or(protocol::UNTOLD);
        source.protocol = theirs;
        let lags = protocol::lags(protocol::OURS, theirs);
        if lags != Ordering::Equal {
            let must_be_upgraded = if lags.is_lt() { None } else { Some(name.to_owned()) };
            return Err(RecoverError::OtherVersion {
                source_node: name.to_owned(),
                theirs: version,
                ours,
                must_be_upgraded,
            });
        }
        Ok(source)
    }

    /// The name of the node that a connection string leads to. Messages call the node `argument` before its name is
    /// known.
    pub fn name_behind(argument: &'static str, route: &Route) -> Result<String, RecoverError> {
        match Source::open(argument, route) {
            Err(RecoverError::OtherNode { found, .. }) => Ok(found),
            Err(RecoverError::Remote { error, .. }) => Err(RecoverError::NoNodeBehind { argument, error }),
            Err(error) => Err(error),
            Ok(_) => Ok(argument.to_owned()),
        }
    }

    /// The version of the protocol that the source speaks.
    pub fn protocol(&self) -> u32 {
        self.protocol
    }

    /// The schema of the functions there that only the extension's own code calls.
    pub fn internal_schema(&self) -> &'static str {
        self.connection.internal_schema()
    }

    /// Has the source ask its peers at once, so that it soon knows how far it has passed those that send nothing. A source
    /// of an older version asks them at its next poll.
    pub fn ask_pollers(&mut self) -> Result<(), RecoverError> {
        if self.protocol != protocol::UNTOLD {
            self.rows(&format!("SELECT {}.ask_pollers()", self.internal_schema()), 1)?;
        }
        Ok(())
    }

    /// What the source reports about itself and the failed node, for a plan.
    pub fn node_facts(&mut self, failed: &str) -> Result<NodeFacts, RecoverError> {
        let asked = format!("{}.recovery_facts({})", self.internal_schema(), argument::name(failed));
        let text = self.read_one(&in_ascii(&asked))?;
        let unexpected = |message| self.error(RemoteError::Unexpected(message));
        let text = from_ascii(&text.unwrap_or_default());
        let text = text.ok_or_else(|| unexpected("facts that are no text".to_owned()))?;
        NodeFacts::parse(&text).map_err(unexpected)
    }

    /// What the source has of the failed node. The end of its WAL is read last, so that everything read before lies
    /// within that WAL.
    ///
    /// # Errors
    ///
    /// If the source has applied nothing of the failed node, subscribes to it more than once, or lacks one of the
    /// tables.
    pub fn facts(&mut self, failed: &str, tables: &[TargetTable]) -> Result<SourceFacts, RecoverError> {
        let failed_literal = argument::name(failed);
        let rows = self.rows(
            &format!("SELECT origin_id, subscription FROM spock.node_positions(true::pg_catalog.bool) WHERE origin_node = {failed_literal}"),
            2,
        )?;
        let nothing = || RecoverError::SourceHasNothing { source_node: self.name.clone(), failed: failed.to_owned() };
        let row = rows.first().ok_or_else(nothing)?;
        if rows.len() > 1 {
            return Err(RecoverError::SeveralSubscriptions { node: self.name.clone(), failed: failed.to_owned() });
        }
        let (origin_id, subscription): (u32, u32) = (self.read(row.value(0))?, self.read(row.value(1))?);
        let tables = self.tables(failed, subscription, tables)?;
        let rows = self.rows(FLUSHED, 1)?;
        let until = match rows.first() {
            Some(row) => self.read(row.value(0))?,
            None => return Err(self.error(RemoteError::Unexpected("no position".to_owned()))),
        };
        Ok(SourceFacts { origin_id, tables, until })
    }

    /// Whether the source was itself the target of a recovery.
    pub fn was_recovered(&mut self) -> Result<bool, RecoverError> {
        Ok(self.reconcile_origin()?.is_some())
    }

    /// The id of the replication origin under which the source has written while reconciling its own recoveries; None:
    /// it was never recovered.
    pub fn reconcile_origin(&mut self) -> Result<Option<u32>, RecoverError> {
        let name = quote_literal(origin::RECONCILE.to_string_lossy());
        let question = format!("SELECT roident FROM pg_catalog.pg_replication_origin WHERE roname = {name}");
        match self.rows(&question, 1)?.first() {
            Some(row) => Ok(Some(self.read(row.value(0))?)),
            None => Ok(None),
        }
    }

    /// The oids of the tables that the source replicates from the failed node, and of the target's tables, by name. The
    /// latter are included so that a table that the target has lost causes an error there, and not a gap. For a table
    /// that has been dropped on the source, the WAL has the changes under its old oid.
    fn tables(&mut self, failed: &str, subscription: u32, wanted: &[TargetTable]) -> Result<Vec<u32>, RecoverError> {
        let rows = self.rows(
            &format!(
                "SELECT srrelid FROM pg_catalog.pg_subscription_rel WHERE srsubid = {subscription}::pg_catalog.oid"
            ),
            1,
        )?;
        let mut oids = Vec::new();
        for row in &rows {
            oids.push(self.read(row.value(0))?);
        }
        if wanted.is_empty() {
            return Ok(oids);
        }
        let names: Vec<String> = wanted
            .iter()
            .map(|table| format!("({}, {})", quote_literal(&table.schema), quote_literal(&table.name)))
            .collect();
        let rows = self.rows(
            &format!(
                "SELECT c.oid, w.place FROM (SELECT v.*, row_number() OVER () AS place FROM (VALUES {}) v(s, t)) w \
                   LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) \
                          ON n.nspname = w.s AND c.relname = w.t AND c.relkind IN ('r', 'p') ORDER BY w.place",
                names.join(", ")
            ),
            2,
        )?;
        let facts = self.node_facts(failed)?;
        let gone = facts.only_subscription().map(|subscription| subscription.gone.as_slice()).unwrap_or_default();
        oids.extend(gone.iter().map(|gone| gone.oid));
        for (row, table) in rows.iter().zip(wanted) {
            let has_gone = || gone.iter().any(|gone| (&gone.schema, &gone.name) == (&table.schema, &table.name));
            match self.read(row.optional(0))? {
                Some(oid) => oids.push(oid),
                None if has_gone() => (),
                None => {
                    return Err(RecoverError::TableMissing {
                        source_node: self.name.clone(),
                        table: format!("{}.{}", table.schema, table.name),
                    });
                }
            }
        }
        oids.sort_unstable();
        oids.dedup();
        Ok(oids)
    }

    /// Reads how a clone is registered, and makes sure that it exists and is usable.
    pub fn clone_facts(&mut self, clone: &str) -> Result<CloneFacts, RecoverError> {
        let name = quote_literal(clone);
        let rows = self.rows(
            &format!(
                "SELECT s.plugin, s.wal_status = 'lost' OR s.invalidation_reason IS NOT NULL, c.failed_node \
                   FROM pg_catalog.pg_replication_slots s \
                   LEFT JOIN spock.recovery_clones() c ON c.slot_name = s.slot_name \
                  WHERE s.slot_name = {name} AND s.database = pg_catalog.current_database()"
            ),
            3,
        )?;
        let source_node = || self.name.clone();
        let Some(row) = rows.first() else {
            return Err(RecoverError::NoClone { source_node: source_node(), clone: clone.to_owned() });
        };
        if self.read(row.optional::<String>(0))?.as_deref() != Some("spock_recovery") {
            return Err(RecoverError::NotAClone { source_node: source_node(), clone: clone.to_owned() });
        }
        if self.read(row.optional::<String>(1))?.as_deref() == Some("t") {
            return Err(RecoverError::CloneInvalid { source_node: source_node(), clone: clone.to_owned() });
        }
        Ok(CloneFacts { failed: self.read(row.optional(2))? })
    }

    /// Claims the clone for the intent: from now on the source keeps it until the recovery has ended on this node.
    pub fn claim(&mut self, clone: &str, id: IntentId, failed: &str, target: &str) -> Result<(), RecoverError> {
        let call = format!(
            "SELECT {}.claim_clone({}, {}, {}, {})",
            self.internal_schema(),
            argument::text(Some(clone)),
            argument::uuid(Some(id)),
            argument::name(failed),
            argument::name(target)
        );
        self.write_one(&call).map(|_| ())
    }

    /// Makes a clone for the intent. A repeated call returns the same clone. `begun_at` is in microseconds since
    /// 2000-01-01.
    pub fn make_clone(
        &mut self,
        id: IntentId,
        begun_at: Timestamp,
        failed: &str,
        target: &str,
    ) -> Result<String, RecoverError> {
        self.begin_writing()?;
        let question = format!(
            "SELECT cloned_slot_name, message FROM {}.clone_for_recovery({}, {}, {}, {})",
            self.internal_schema(),
            argument::uuid(Some(id)),
            argument::bigint(begun_at.0),
            argument::name(failed),
            argument::name(target)
        );
        let rows = self.rows(&question, 2)?;
        let row = rows.first().ok_or_else(|| self.error(RemoteError::Unexpected("no clone".to_owned())))?;
        match self.read(row.optional(0))? {
            Some(clone) => Ok(clone),
            None => {
                let message = self.read(row.optional(1))?.unwrap_or_default();
                Err(RecoverError::CloneRefused { source_node: self.name.clone(), message })
            }
        }
    }

    /// Tells the source that the recovery does not need its clone any more.
    pub fn release_clone(&mut self, clone: &str, id: IntentId) -> Result<(), RecoverError> {
        let (clone, id) = (argument::text(Some(clone)), argument::uuid(Some(id)));
        self.write_one(&format!("SELECT {}.release_clone({clone}, {id})", self.internal_schema())).map(|_| ())
    }

    /// Runs a query that returns one value.
    pub fn read_one(&mut self, question: &str) -> Result<Option<String>, RecoverError> {
        let rows = self.rows(question, 1)?;
        rows.first().map_or(Ok(None), |row| self.read(row.optional(0)))
    }

    /// Runs a function call that changes something on the source and returns one value.
    pub fn write_one(&mut self, call: &str) -> Result<Option<String>, RecoverError> {
        self.begin_writing()?;
        self.read_one(call)
    }

    /// Like `write_one`, for a query that may take as long as `limit`.
    pub fn write_one_within(&mut self, limit: Duration, question: &str) -> Result<Option<String>, RecoverError> {
        self.begin_writing()?;
        let rows = self.rows_within(limit, question, 1)?;
        rows.first().map_or(Ok(None), |row| self.read(row.optional(0)))
    }

    /// The connection, for what asks other questions than this.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Runs a command without a result.
    pub fn command(&mut self, command: &str) -> Result<(), RecoverError> {
        in_transaction(|| self.connection.command(command)).map_err(|error| self.error(error))
    }

    fn begin_writing(&mut self) -> Result<(), RecoverError> {
        let writable = "SET default_transaction_read_only = off";
        in_transaction(|| self.connection.command(writable)).map_err(|error| self.error(error))
    }

    /// Runs a query that returns rows of so many columns.
    pub fn rows(&mut self, question: &str, columns: usize) -> Result<Vec<crate::remote::row::PeerRow>, RecoverError> {
        in_transaction(|| self.connection.query(question, columns)).map_err(|error| self.error(error))
    }

    /// Like `rows`, for a query that may take as long as `limit`.
    pub fn rows_within(
        &mut self,
        limit: Duration,
        question: &str,
        columns: usize,
    ) -> Result<Vec<crate::remote::row::PeerRow>, RecoverError> {
        in_transaction(|| self.connection.query_within(limit, question, columns)).map_err(|error| self.error(error))
    }

    /// What the source answers to a question about rows of a table, which it reads as the table's owner. `limit` is the
    /// time that this may take.
    pub fn touched_rows(&mut self, question: &str, limit: Duration) -> Result<String, RecoverError> {
        let schema = self.internal_schema();
        let question = format!("SELECT {schema}.touched_rows({}::pg_catalog.text)", quote_literal(question));
        let row = self.rows_within(limit, &question, 1)?.pop();
        let answer = row.and_then(|row| row.into_values().pop().flatten());
        answer.ok_or_else(|| self.unexpected("no rows"))
    }

    /// The source as one of the two nodes of a comparison of tables.
    pub fn there(&mut self) -> There<'_> {
        There::new(&self.name, &mut self.connection)
    }

    /// The error for an answer that makes no sense.
    pub fn unexpected(&self, what: &str) -> RecoverError {
        self.error(RemoteError::Unexpected(what.to_owned()))
    }

    fn error(&self, error: RemoteError) -> RecoverError {
        RecoverError::Remote { source_node: self.name.clone(), error }
    }

    /// A value of an answer, with its error as one of this source's.
    pub fn read<T>(&self, value: Result<T, RemoteError>) -> Result<T, RecoverError> {
        value.map_err(|error| self.error(error))
    }
}

/// The query for a document, whose result is in hexadecimal digits. A document may hold names of other nodes; a single
/// character that this database's encoding lacks would otherwise make the server refuse the whole answer.
pub fn in_ascii(document: &str) -> String {
    format!("SELECT pg_catalog.encode(pg_catalog.convert_to({document}::pg_catalog.text, 'UTF8'), 'hex')")
}

/// The document of such a result; None if the digits are malformed or are not UTF-8.
pub fn from_ascii(digits: &str) -> Option<String> {
    let nibble = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(nibble(*high)? << 4 | nibble(*low)?),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

/// A session asks within its own transaction. A worker opens a transaction for each question, so as not to hold back
/// vacuum meanwhile.
fn in_transaction<T>(f: impl FnOnce() -> T) -> T {
    if transaction::is_open() { f() } else { transaction::run_without_snapshot(f) }
}
