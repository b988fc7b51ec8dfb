//! The functions that show the rows which could not be compared, and that pass rows of this node to a target. Their
//! CREATE FUNCTION, grants and comments are in sql/.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use crate::document;
use crate::error::{OrRaise, SqlError, raise};
use crate::intent::{IntentError, storage};
use crate::intent_id::IntentId;
use crate::pg::process;
use crate::pg::text::{Text, to_server};
use crate::reconcile::kept::{self, KeptRow};
use crate::reconcile::rows::Question;
use crate::slot::clone::require_slot_user;
use crate::tally::compared::Why;
use pgrx::Uuid;
use pgrx::prelude::*;
use pgrx::spi::{quote_identifier, quote_qualified_identifier};

const RECOVERY_UNJUDGED: &str =
    "SELECT i.failed_node, u.* FROM spock.recovery_intents() i, spock.recovery_unjudged(i.intent_id) u;";

/// The rows of a recovery that are still to be compared: table, key, and why that was not possible at the last attempt.
/// Only superusers may call this, because keys are data of the tables.
#[pg_extern(sql = false)]
fn recovery_unjudged_2(
    intent_id: Option<Uuid>,
) -> TableIterator<'static, (name!(relation, Text), name!(key, Text), name!(reason, String), name!(detail, Option<Text>))>
{
    if !process::is_superuser() {
        raise(&IntentError::NotSuperuser { function: "recovery_unjudged" });
    }
    let intent_id = intent_id.ok_or(IntentError::NullArgument { argument: "intent_id", hint: RECOVERY_UNJUDGED });
    let id = IntentId(*intent_id.or_raise().as_bytes());
    let journal = storage::read_by_snapshot().or_raise();
    let Some(intent) = journal.intent(id) else { raise(&IntentError::Unknown { id }) };
    let mut rows = Vec::new();
    if let Some(object) = intent.kept_rows {
        let found = kept::read(object, |tables, KeptRow(place, why, values)| {
            let Some(table) = tables.get(place) else { return };
            let columns: Vec<String> =
                table.key.iter().filter_map(|column| table.columns.get(*column)).map(quote_identifier).collect();
            let key = format!("({})=({})", columns.join(", "), values.join(", "));
            let relation = quote_qualified_identifier(&table.schema, &table.name);
            let detail = table.refused.as_deref().filter(|_| why == Why::Refused).map(Text::of_message);
            rows.push((Text::of_message(&relation), Text::of_message(&key), why.name().to_owned(), detail));
        })
        .or_raise();
        if found.is_none() {
            pgrx::warning!(
                "the rows that could not be compared yet are lost: large object {object}, which stored them, was \
                 removed"
            );
        }
    }
    TableIterator::new(rows)
}

/// Like [`recovery_unjudged_2`], for the SQL of version 0.1.0.
#[pg_extern(sql = false)]
fn recovery_unjudged(
    intent_id: Option<Uuid>,
) -> TableIterator<'static, (name!(relation, Text), name!(key, Text), name!(reason, String))> {
    TableIterator::new(recovery_unjudged_2(intent_id).map(|(relation, key, reason, _)| (relation, key, reason)))
}

/// Returns the rows of a table that a target asks for in order to compare its own with them; question and answer are
/// JSON documents. The caller must be allowed to read the table. The table is read as its owner, whose code receives
/// the caller's values; therefore the caller needs REPLICATION as well.
#[pg_extern(sql = false)]
fn touched_rows(question: Text) -> Option<Text> {
    require_slot_user("touched_rows").or_raise();
    let Some(question) = Question::of_text(&question.to_utf8()) else {
        raise(&NoQuestion { function: "touched_rows" })
    };
    let answer = question.answer().or_raise();
    // The answer is in ASCII. The encoding of the target's database may lack a character of this one, and one such
    // value would make the whole answer unusable.
    to_server(&document::to_text(&answer)).map(Text)
}

/// The document is not a question that this version understands.
#[derive(Debug, thiserror::Error)]
#[error("invalid request for {function}()")]
pub(super) struct NoQuestion {
    pub function: &'static str,
}

impl SqlError for NoQuestion {
    fn sqlstate(&self) -> PgSqlErrorCode {
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
    }

    fn hint(&self) -> Option<String> {
        Some("Install the same version of spock_recovery on both nodes.".to_owned())
    }
}
