//! The recovery as the calling session controls it: the session begins it on the target, which may be another node, and
//! then watches it.
//!
//! Another node is asked through the functions of this file, so that the same code answers here and there.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::error::{OrRaise, SqlError, raise};
use crate::intent::document::Request;
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::lsn::OriginLsn;
use crate::node::native::NativeProvider;
use crate::node::provider::ReplicationProvider;
use crate::pg::clock::Timestamp;
use crate::pg::json::Json;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::pg::{process, transaction};
use crate::recover::begin;
use crate::recover::error::RecoverError;
use crate::recover::source::{self, Source};
use crate::recover::state::RecoveryState;
use crate::recover::watching::WatchedState;
use crate::remote::argument;
use crate::{shmem, wake};
use pgrx::Uuid;
use pgrx::prelude::*;

/// The state of a recovery of this node, given by its id or by its clone. If neither is given, that of the unfinished
/// recovery. NULL if there is none.
#[pg_extern(sql = false)]
fn recovery_state(intent_id: Option<Uuid>, clone: Option<Text>) -> Option<Json> {
    state_here(intent_id, clone).map(|state| Json::of(&state))
}

fn state_here(intent_id: Option<Uuid>, clone: Option<Text>) -> Option<RecoveryState> {
    crate::slot::snapshot::require_reader("recovery_state");
    let journal = storage::read().or_raise();
    let intent = match (intent_id, clone) {
        (Some(id), _) => journal.intent(IntentId(*id.as_bytes())),
        (None, Some(clone)) => {
            let clone = clone.to_utf8();
            journal.intents.iter().find(|intent| intent.clone_name() == Some(&clone))
        }
        (None, None) => journal.unfinished().next(),
    };
    intent.map(RecoveryState::of)
}

/// Begins a recovery whose target is this node. It is carried out after the caller has committed.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // as recover_run
fn begin_recovery(
    failed_node: Option<Name>,
    source_node: Option<Name>,
    target_node: Option<Name>,
    source_dsn: Option<Text>,
    skip_lsn: Option<OriginLsn>,
    stop_lsn: Option<OriginLsn>,
    stop_timestamp: Option<TimestampWithTimeZone>,
) -> Uuid {
    require_superuser("begin_recovery");
    let nodes = [failed_node, source_node, target_node];
    let asked = Asked::of(nodes, source_dsn, skip_lsn, stop_lsn, stop_timestamp);
    Uuid::from_bytes(asked.begin_here().or_raise().0)
}

const BEGIN_RECOVERY: &str = "SELECT spock_internal.begin_recovery('n1', 'n3', 'n2');";
const ASK_TO_ABORT: &str = "CALL spock.recover_abort('n1');";

pub(super) fn required(name: Option<Name>, argument: &'static str, hint: &'static str) -> String {
    name.ok_or(RecoverError::NullArgument { argument, hint }).or_raise().0
}

/// A recovery that creates its own clone.
struct Asked {
    request: Request,
    source_dsn: Option<Text>,
}

impl Asked {
    /// Made from the arguments of the SQL functions. `nodes` are the failed node, the source and the target.
    fn of(
        [failed, source, target]: [Option<Name>; 3],
        source_dsn: Option<Text>,
        skip_lsn: Option<OriginLsn>,
        stop_lsn: Option<OriginLsn>,
        stop_timestamp: Option<TimestampWithTimeZone>,
    ) -> Asked {
        let request = Request {
            failed: required(failed, "failed_node", BEGIN_RECOVERY),
            source: required(source, "source_node", BEGIN_RECOVERY),
            target: required(target, "target_node", BEGIN_RECOVERY),
            clone: None,
            skip: skip_lsn,
            stop: stop_lsn,
            stop_timestamp: stop_timestamp.map(Timestamp::from),
            rebuild: None,
        };
        Asked { request, source_dsn }
    }

    fn begin_here(&self) -> Result<IntentId, RecoverError> {
        let mut request = self.request.clone();
        let (id, _) = begin::begin(&mut request, self.source_dsn.as_ref().map(|dsn| dsn.0.as_c_str()))?;
        Ok(id)
    }

    /// The call that begins the recovery on another node. `schema`: where that node has the function.
    fn call(&self, schema: &str) -> String {
        format!(
            "SELECT {schema}.begin_recovery({}, {}, {}, {}, {}, {}, {})",
            argument::name(&self.request.failed),
            argument::name(&self.request.source),
            argument::name(&self.request.target),
            argument::text(self.source_dsn.as_ref().map(Text::to_utf8).as_deref()),
            argument::lsn(self.request.skip),
            argument::lsn(self.request.stop),
            argument::timestamp(self.request.stop_timestamp),
        )
    }
}

/// The target of a recovery: this node or another one.
pub(super) enum Target {
    Here,
    Elsewhere(Box<Source>),
}

/// Finds the target; without a name it is this node. Only superusers may do this, because this server connects to where
/// the caller says, as its own operating system user.
pub(super) fn target(name: Option<&str>, dsn: Option<Text>) -> Result<Target, RecoverError> {
    let local = NativeProvider.local_node()?.ok_or(RecoverError::NoLocalNode)?;
    let Some(name) = name.filter(|&name| name != local.name.as_str()) else { return Ok(Target::Here) };
    let route = match dsn {
        Some(dsn) => source::given_route(&dsn.0)?,
        None => source::route_to(name)?,
    };
    Ok(Target::Elsewhere(Box::new(Source::open(name, &route)?)))
}

pub(super) fn require_superuser(function: &str) {
    if !process::is_superuser() {
        raise(&RecoverError::NotSuperuser { function: function.to_owned() });
    }
}

/// Begins a recovery on its target, which may be this node or another one.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // as recover_run
fn begin_recovery_at(
    target_dsn: Option<Text>,
    failed_node: Option<Name>,
    source_node: Option<Name>,
    target_node: Option<Name>,
    source_dsn: Option<Text>,
    skip_lsn: Option<OriginLsn>,
    stop_lsn: Option<OriginLsn>,
    stop_timestamp: Option<TimestampWithTimeZone>,
) -> Uuid {
    require_superuser("recover_run");
    let nodes = [failed_node, source_node, target_node];
    let asked = Asked::of(nodes, source_dsn, skip_lsn, stop_lsn, stop_timestamp);
    let begin = || match target(Some(&asked.request.target), target_dsn)? {
        Target::Here => asked.begin_here(),
        Target::Elsewhere(mut node) => {
            let id: String = node.write_one(&asked.call(node.internal_schema()))?.unwrap_or_default();
            id.parse().map_err(|_| RecoverError::NotRunningThere { target: asked.request.target.clone() })
        }
    };
    Uuid::from_bytes(begin().or_raise().0)
}

/// The result of [`recovery_state`] on the target, which may be this node or another one, with what the watching
/// session should do.
#[pg_extern(sql = false)]
fn recovery_state_at(
    target_dsn: Option<Text>,
    target_node: Option<Name>,
    intent_id: Option<Uuid>,
    clone: Option<Text>,
) -> Option<Json> {
    require_superuser("recovery_state_at");
    let ask = || match target(target_node.as_ref().map(|name| name.0.as_str()), target_dsn)? {
        Target::Here => Ok(state_here(intent_id, clone).and_then(|state| serde_json::to_value(state).ok())),
        Target::Elsewhere(mut node) => {
            let id = argument::uuid(intent_id.map(|id| IntentId(*id.as_bytes())));
            let clone = argument::text(clone.map(|clone| clone.to_utf8()).as_deref());
            let text: Option<String> =
                node.read_one(&format!("SELECT {}.recovery_state({id}, {clone})", node.internal_schema()))?;
            Ok::<_, RecoverError>(text.and_then(|text| serde_json::from_str(&text).ok()))
        }
    };
    ask().or_raise().map(|state| Json::of(&with_advice(state)))
}

/// Adds to a state what the watching session should do.
fn with_advice(mut state: serde_json::Value) -> serde_json::Value {
    let watch = serde_json::to_value(WatchedState::of(&state).advice()).unwrap_or_default();
    if let Some(state) = state.as_object_mut() {
        state.insert("watch".to_owned(), watch);
    }
    state
}

/// Asks the target, which may be this node or another one, to end the recovery of a failed node. Returns the id of the
/// intent.
#[pg_extern(sql = false)]
fn abort_recovery_at(target_dsn: Option<Text>, target_node: Option<Name>, failed_node: Option<Name>) -> Uuid {
    require_superuser("recover_abort");
    let failed = required(failed_node, "failed_node_name", ASK_TO_ABORT);
    let ask = || match target(target_node.as_ref().map(|name| name.0.as_str()), target_dsn)? {
        Target::Here => Ok::<_, RecoverError>(crate::sql::intent::ask_to_abort_here(&failed)?),
        Target::Elsewhere(mut node) => {
            let call = format!("SELECT {}.ask_to_abort({})", node.internal_schema(), argument::name(&failed));
            let id: String = node.write_one(&call)?.unwrap_or_default();
            id.parse().map_err(|_| RecoverError::NotRunningThere { target: node.name().to_owned() })
        }
    };
    Uuid::from_bytes(ask().or_raise().0)
}

/// Lets the waiting recovery of this node be retried immediately. Does nothing if no recovery is waiting.
#[pg_extern(sql = false)]
fn retry_recovery() {
    require_superuser("retry_recovery");
    {
        let mut shared = shmem::lock();
        if let Some(index) = shared.index_of(process::my_database()) {
            shared.databases()[index].rescue.failures = 0;
        }
    }
    wake::manager();
}

/// Calls [`retry_recovery`] on the target, which may be this node or another one.
#[pg_extern(sql = false)]
fn retry_recovery_at(target_dsn: Option<Text>, target_node: Option<Name>) {
    require_superuser("retry_recovery_at");
    let ask = || match target(target_node.as_ref().map(|name| name.0.as_str()), target_dsn)? {
        Target::Here => {
            retry_recovery();
            Ok(())
        }
        Target::Elsewhere(mut node) => {
            node.write_one(&format!("SELECT {}.retry_recovery()", node.internal_schema())).map(|_| ())
        }
    };
    ask().or_raise();
}

/// Raises an error if the caller is not a superuser, even if he was granted the function, or if he names no failed
/// node. A procedure that commits must also not be called in a transaction block: a waiting procedure must not hold a
/// transaction open, and what it begins must be committed before a worker can carry it out.
#[pg_extern(sql = false)]
fn require_caller(procedure: Option<&str>, failed_node: Option<&str>, commits: Option<bool>) {
    let procedure = procedure.unwrap_or_default();
    require_superuser(procedure);
    if failed_node.is_none() {
        let argument = "failed_node_name";
        raise(&RecoverError::NullArgument { argument, hint: "Name the node that is lost: failed_node_name := 'n1'." });
    }
    if commits.unwrap_or(true) && transaction::is_block() {
        raise(&NotTopLevel { procedure: procedure.to_owned() });
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{procedure} cannot run inside a transaction block")]
struct NotTopLevel {
    procedure: String,
}

impl SqlError for NotTopLevel {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION
    }

    fn detail(&self) -> Option<String> {
        Some("It commits, so that the recovery continues even if this session ends.".to_owned())
    }

    fn hint(&self) -> Option<String> {
        Some("COMMIT or ROLLBACK first, then CALL it by itself.".to_owned())
    }
}
