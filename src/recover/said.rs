//! What a server has said about the failure for which a recovery waits: everything that its log has. It may quote rows,
//! so it is shown in the log and to superusers, and is stored in no label.

use crate::pg::last_error::ServerError;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::elog::PgLogLevel;
use pgrx::pg_sys::panic::ErrorReport;
use serde_json::{Map, Value};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// The node that has raised the error; None: this node.
    pub node: Option<String>,
    pub error: ServerError,
}

/// How many characters of each part are kept: the first of these numbers with which the whole document is short enough.
const PARTS: [usize; 5] = [1_000, 400, 150, 60, 0];

impl Said {
    fn parts(&self) -> [(&'static str, Option<&str>); 11] {
        let error = &self.error;
        [
            ("node", self.node.as_deref()),
            ("sqlstate", Some(&error.sqlstate)),
            ("message", Some(&error.message)),
            ("detail", error.detail.as_deref()),
            ("hint", error.hint.as_deref()),
            ("context", error.context.as_deref()),
            ("schema", error.schema.as_deref()),
            ("table", error.table.as_deref()),
            ("column", error.column.as_deref()),
            ("datatype", error.datatype.as_deref()),
            ("constraint", error.constraint.as_deref()),
        ]
    }

    /// The error as a document of at most so many bytes. Long parts are cut.
    pub fn to_text(&self, bytes: usize) -> String {
        let document = |kept: usize| {
            let part = |text: &str| {
                let mut cut: String = text.chars().take(kept).map(|c| if c == '\u{FFFD}' { '?' } else { c }).collect();
                if cut.len() < text.len() && text.chars().count() > kept {
                    cut.push_str("...");
                }
                Value::String(cut)
            };
            let parts = self.parts().into_iter().filter_map(|(name, text)| Some((name.to_owned(), part(text?))));
            Value::Object(parts.collect::<Map<_, _>>()).to_string()
        };
        PARTS.into_iter().map(document).find(|text| text.len() <= bytes).unwrap_or_default()
    }

    /// Writes the error to the log, as a WARNING that begins with `text`.
    pub fn log(&self, text: &str) {
        let error = &self.error;
        let message = match &self.node {
            None if text.contains(&error.message) => text.to_owned(),
            None => format!("{text}: {}", error.message),
            Some(node) => format!("{text}: node \"{node}\" says: {}", error.message),
        };
        let context = error.context.as_ref().map(|context| format!("Context: {context}"));
        let details: Vec<String> = [error.detail.clone(), context].into_iter().flatten().collect();
        let mut report = ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "recovery");
        if !details.is_empty() {
            report = report.set_detail(details.join("\n"));
        }
        if let Some(hint) = &error.hint {
            report = report.set_hint(hint.clone());
        }
        report.report(PgLogLevel::WARNING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_said_is_a_document_of_its_parts() {
        let error = ServerError {
            sqlstate: "23514".to_owned(),
            message: "no".to_owned(),
            detail: Some("Failing row contains (1).".to_owned()),
            constraint: Some("c".to_owned()),
            ..ServerError::default()
        };
        let said = Said { node: None, error };
        assert_eq!(
            said.to_text(2_000),
            r#"{"constraint":"c","detail":"Failing row contains (1).","message":"no","sqlstate":"23514"}"#
        );
    }

    proptest! {
        #[test]
        fn it_is_never_too_long(message: String, detail in ".{0,5000}", hint in "[\u{1}-\u{20}]{0,3000}") {
            let error = ServerError { message, detail: Some(detail), hint: Some(hint), ..ServerError::default() };
            let text = Said { node: None, error }.to_text(2_048);
            prop_assert!(text.len() <= 2_048);
            prop_assert!(serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}
