//! The errors of a copy.

use crate::error::{SqlError, known_sqlstate};
use crate::intent::IntentError;
use crate::node::error::RegistryError;
use crate::pg::copy_from::CopyIntoError;
use crate::pg::owned_table::OwnedTableError;
use crate::rebuild::pin::PinFailure;
use crate::remote::error::RemoteError;
use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{argument} must not be null")]
    NullArgument { argument: &'static str },
    #[error("{argument} is outside its range")]
    BadArgument { argument: &'static str },
    #[error("table {leaf} is no part of table {table}")]
    NotAPart { leaf: String, table: String },
    #[error("table {table} is not published")]
    NotPublished { table: String },
    #[error("table {table} is published with different column lists")]
    DifferentColumns { table: String },
    /// The bytes that have arrived are not those that were sent.
    #[error("chunk {chunk} of table {table} has arrived damaged")]
    Damaged { table: String, chunk: u64, tries: u32 },
    #[error("node \"{node}\": {error}")]
    Remote { node: String, error: RemoteError },
    #[error("no connection string to node \"{node}\" is known")]
    NoRoute { node: String },
    #[error("the manifest of intent {intent} cannot be read")]
    BadManifest { intent: String },
    /// Another copy of the table has begun anew meanwhile, or there is none.
    #[error("the copy of table {table} has been superseded")]
    Superseded { table: String },
    #[error("another table has taken the name of table {table}")]
    AnotherTable { table: String },
    #[error("no worker can copy the table")]
    NoWorker,
    #[error("the worker that copied the table has ended")]
    WorkerEnded,
    #[error("the copy was stopped")]
    Stopped,
    /// A chunk could not be written: an ERROR of core, whose message may contain values and is therefore left out.
    #[error("chunk {chunk} of table {table} could not be written{place}")]
    NotWritten { table: String, chunk: u64, sqlstate: String, place: String },
    /// What a worker has reported.
    #[error("{message}")]
    Reported { sqlstate: String, message: String, detail: String, hint: String },
    #[error(transparent)]
    Into(#[from] CopyIntoError),
    #[error(transparent)]
    Table(#[from] OwnedTableError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Intent(#[from] IntentError),
}

impl From<pgrx::spi::Error> for CopyError {
    fn from(error: pgrx::spi::Error) -> CopyError {
        CopyError::Registry(error.into())
    }
}

impl From<PinFailure> for CopyError {
    fn from(PinFailure { sqlstate, message, detail, hint }: PinFailure) -> CopyError {
        CopyError::Reported { sqlstate, message, detail, hint }
    }
}

impl SqlError for CopyError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use CopyError as E;
        match self {
            E::NullArgument { .. } => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            E::BadArgument { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            E::NotAPart { .. } => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            E::NotPublished { .. } | E::DifferentColumns { .. } | E::NoRoute { .. } | E::AnotherTable { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            E::Damaged { .. } | E::BadManifest { .. } => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            E::Remote { error, .. } => error
                .said()
                .and_then(|(sqlstate, ..)| known_sqlstate(sqlstate))
                .unwrap_or(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE),
            E::Superseded { .. } => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            E::NoWorker => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            E::WorkerEnded => PgSqlErrorCode::ERRCODE_OPERATOR_INTERVENTION,
            E::Stopped => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            E::NotWritten { sqlstate, .. } | E::Reported { sqlstate, .. } => {
                known_sqlstate(sqlstate).unwrap_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR)
            }
            E::Into(error) => error.sqlstate(),
            E::Table(error) => error.sqlstate(),
            E::Registry(error) => error.sqlstate(),
            E::Intent(error) => error.sqlstate(),
        }
    }

    fn detail(&self) -> Option<String> {
        use CopyError as E;
        match self {
            E::Damaged { tries, .. } => {
                Some(format!("Its checksum was wrong {tries} times. Chunks that were copied before stay."))
            }
            E::Remote { error, .. } => error.said().and_then(|(_, detail, _)| detail.map(str::to_owned)),
            E::NoWorker => Some("No worker slot is free (max_worker_processes).".to_owned()),
            E::Reported { detail, .. } => Some(detail.clone()).filter(|detail| !detail.is_empty()),
            E::Into(error) => error.detail(),
            E::Table(error) => error.detail(),
            E::Registry(error) => error.detail(),
            E::Intent(error) => error.detail(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        use CopyError as E;
        Some(match self {
            E::NullArgument { .. } | E::BadArgument { .. } | E::NotAPart { .. } => {
                "The target's CALL spock.rebuild_run() passes it.".to_owned()
            }
            E::NotPublished { .. } => "ALTER PUBLICATION … ADD TABLE …; on the source.".to_owned(),
            E::DifferentColumns { .. } => "Give it one column list in all publications of the subscription.".to_owned(),
            E::Damaged { .. } => {
                "Check the memory and the network of both servers, then try again: the copy goes on with this chunk."
                    .to_owned()
            }
            E::Remote { error, .. } => return error.said().and_then(|(.., hint)| hint.map(str::to_owned)),
            E::NoRoute { node } => {
                format!("SELECT spock.peer_create({}, 'host=… port=5432 dbname=…');", crate::quoted::literal(node))
            }
            E::BadManifest { .. } | E::Superseded { .. } | E::Stopped => {
                "CALL spock.rebuild_run(); begins or continues it.".to_owned()
            }
            E::AnotherTable { .. } => {
                "Give it its name back, or end the rebuild with CALL spock.rebuild_abort(); and begin it anew."
                    .to_owned()
            }
            E::NoWorker => "Raise max_worker_processes and restart the server.".to_owned(),
            E::WorkerEnded => "See the server's log, and try again.".to_owned(),
            E::NotWritten { .. } => "Make the table accept the source's rows, and try again.".to_owned(),
            E::Reported { hint, .. } => return Some(hint.clone()).filter(|hint| !hint.is_empty()),
            E::Into(error) => return error.hint(),
            E::Table(error) => return error.hint(),
            E::Registry(error) => return error.hint(),
            E::Intent(error) => return error.hint(),
        })
    }
}
