//! The functions behind rebuild_run() and the view rebuild_progress. Their CREATE FUNCTION, grants and comments are in
//! sql/rebuild_run.sql.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::coordinate::{Target, require_superuser, required, target};
use crate::error::OrRaise;
use crate::intent::document::Request;
use crate::intent::rebuild::{Method, Wanted};
use crate::intent::storage;
use crate::intent_id::IntentId;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::recover::error::RecoverError;
use crate::recover::rebuild;
use crate::recover::rebuild_error::RebuildError;
use crate::recover::{rebuild_state, state};
use crate::remote::argument;
use crate::slot::snapshot::require_reader;
use crate::wake;
use pgrx::Uuid;
use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

const REBUILD_RUN: &str = "CALL spock.rebuild_run(target_node_name := 'n2', source_node_name := 'n3');";

/// What rebuild_run() was asked for.
struct Asked {
    request: Request,
    /// The tables as they were given: JSON.
    tables: Option<String>,
}

impl Asked {
    fn of(
        source: Option<Name>,
        target: Option<Name>,
        failed: Option<Name>,
        tables: Option<Text>,
        method: Option<Text>,
    ) -> Result<Asked, RecoverError> {
        let method = method.map_or_else(|| Method::Auto.name().to_owned(), |method| method.to_utf8());
        let Some(method) = Method::of_name(&method) else { return Err(RebuildError::UnknownMethod { method }.into()) };
        let text = tables.map(|tables| tables.to_utf8());
        let tables = text.as_deref().map_or(Ok(Vec::new()), serde_json::from_str);
        let tables = tables.map_err(|_| RecoverError::NullArgument { argument: "tables", hint: REBUILD_RUN })?;
        let request = Request {
            failed: failed.map(|name| name.0).unwrap_or_default(),
            source: required(source, "source_node", REBUILD_RUN),
            target: required(target, "target_node", REBUILD_RUN),
            clone: None,
            skip: None,
            stop: None,
            stop_timestamp: None,
            rebuild: Some(Wanted { method, tables }),
        };
        Ok(Asked { request, tables: text })
    }

    /// The call that begins the rebuild on another node. `schema`: where that node has the function.
    fn call(&self, schema: &str) -> String {
        let method = self.request.rebuild.as_ref().map(|wanted| wanted.method.name());
        format!(
            "SELECT {schema}.begin_rebuild({}, {}, {}, {}, {})",
            argument::name(&self.request.source),
            argument::name(&self.request.target),
            argument::name(&self.request.failed),
            argument::text(self.tables.as_deref()),
            argument::text(method),
        )
    }
}

/// Begins a rebuild whose target is this node. It is carried out after the caller has committed.
#[pg_extern(sql = false)]
fn begin_rebuild(
    source_node: Option<Name>,
    target_node: Option<Name>,
    failed_node: Option<Name>,
    tables: Option<Text>,
    method: Option<Text>,
) -> Uuid {
    require_superuser("begin_rebuild");
    let asked = Asked::of(source_node, target_node, failed_node, tables, method);
    let begun = asked.and_then(|asked| rebuild::begin(&asked.request));
    Uuid::from_bytes(begun.or_raise().0)
}

/// Begins a rebuild on its target, which may be this node or another one.
#[pg_extern(sql = false)]
fn begin_rebuild_at(
    source_node: Option<Name>,
    target_node: Option<Name>,
    failed_node: Option<Name>,
    tables: Option<Text>,
    method: Option<Text>,
) -> Uuid {
    require_superuser("rebuild_run");
    let begin = || {
        let asked = Asked::of(source_node, target_node, failed_node, tables, method)?;
        match target(Some(&asked.request.target), None)? {
            Target::Here => rebuild::begin(&asked.request),
            Target::Elsewhere(mut node) => {
                let id: String = node.write_one(&asked.call(node.internal_schema()))?.unwrap_or_default();
                id.parse().map_err(|_| RecoverError::NotRunningThere { target: asked.request.target.clone() })
            }
        }
    };
    Uuid::from_bytes(begin().or_raise().0)
}

/// Asks the workers of this node to end its rebuild.
#[pg_extern(sql = false)]
fn ask_to_abort_rebuild() -> Uuid {
    require_superuser("rebuild_abort");
    Uuid::from_bytes(ask_to_abort_here().or_raise().0)
}

fn ask_to_abort_here() -> Result<IntentId, RecoverError> {
    let id = storage::update(|journal| match journal.ask_to_abort_rebuild() {
        Some(id) => Ok(id),
        None => Err(RecoverError::from(RebuildError::NotRunning)),
    })?;
    wake::note(crate::pg::hooks::CatalogChange::ThisDatabase);
    Ok(id)
}

/// Asks the target, which may be this node or another one, to end its rebuild.
#[pg_extern(sql = false)]
fn abort_rebuild_at(target_node: Option<Name>) -> Uuid {
    require_superuser("rebuild_abort");
    let ask = || match target(target_node.as_ref().map(|name| name.0.as_str()), None)? {
        Target::Here => ask_to_abort_here(),
        Target::Elsewhere(mut node) => {
            let id: String = node
                .write_one(&format!("SELECT {}.ask_to_abort_rebuild()", node.internal_schema()))?
                .unwrap_or_default();
            id.parse().map_err(|_| RecoverError::NotRunningThere { target: node.name().to_owned() })
        }
    };
    Uuid::from_bytes(ask().or_raise().0)
}

/// The tables of the unfinished rebuild of this node.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the row type of a set-returning function
fn rebuild_tables() -> TableIterator<
    'static,
    (
        name!(intent_id, Uuid),
        name!(target_node, Name),
        name!(source_node, Name),
        name!(relation, Oid),
        name!(method, Option<String>),
        name!(phase, String),
        name!(chunks_done, i64),
        name!(chunks_total, i64),
        name!(rows_done, i64),
        name!(rows_differing, i64),
        name!(bytes, i64),
        name!(time_left, Option<Interval>),
    ),
> {
    require_reader("rebuild_progress");
    let journal = storage::read().or_raise();
    let mut rows = Vec::new();
    for intent in journal.unfinished().filter(|intent| intent.is_rebuild()) {
        for table in rebuild_state::tables(intent, state::live(intent).as_ref()) {
            rows.push((
                Uuid::from_bytes(intent.id.0),
                Name(intent.request.target.clone()),
                Name(intent.request.source.clone()),
                Oid::from_u32(table.oid),
                table.method.map(|method| method.name().to_owned()),
                table.phase.to_owned(),
                table.chunks_done as i64,
                table.chunks_total as i64,
                table.rows as i64,
                table.differing as i64,
                table.bytes as i64,
                table.seconds_left.and_then(|seconds| Interval::from_seconds(seconds.min(3.2e9)).into()),
            ));
        }
    }
    TableIterator::new(rows)
}
