//! The check of documents that cannot be read: which one, why, and what to do.

use super::judge::{Check, Status};
use crate::document::Unreadable;
use crate::error::SqlError;

/// Nothing overwrites such a document, so that a library which can read it still finds it. Until then much is blocked.
pub fn unreadable(document: &Unreadable) -> Check {
    let parts = [Some(document.to_string()), document.detail(), document.hint()];
    let [what, why, hint] = parts.map(Option::unwrap_or_default);
    Check {
        name: format!("document {}", document.name()),
        status: Status::Critical,
        details: format!("{what}: {why} {hint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{DocumentError, DocumentKind};

    #[test]
    fn it_is_told_which_document_why_and_what_to_type() {
        let later = DocumentError::Later { found: 2, known: 1 };
        let damaged = DocumentError::Malformed("expected value".to_owned());
        let of = |kind, object: &str, error: &DocumentError| {
            unreadable(&Unreadable { kind, object: object.to_owned(), error: error.clone() })
        };
        for (kind, object, removal) in [
            (DocumentKind::Journal, "SCHEMA spock", "SECURITY LABEL FOR spock_recovery ON SCHEMA spock IS NULL;"),
            (DocumentKind::RetentionRecord, "DATABASE d", "SECURITY LABEL FOR spock_recovery ON DATABASE d IS NULL;"),
            (
                DocumentKind::SubscriptionLabel,
                "SUBSCRIPTION s",
                "SECURITY LABEL FOR spock_recovery ON SUBSCRIPTION s IS NULL;",
            ),
            (DocumentKind::KeptRows, "16400", "SELECT pg_catalog.lo_unlink(16400);"),
            (DocumentKind::SlotFiles, "16401", "SELECT pg_catalog.lo_unlink(16401);"),
        ] {
            let told = of(kind, object, &damaged);
            assert_eq!(told.status, Status::Critical);
            assert!(told.details.contains(removal) && told.details.contains("expected value"), "{}", told.details);
            let told = of(kind, object, &later);
            // A document that a newer library has written is not damaged: the user is not told to remove it.
            assert!(told.details.contains("Install") && !told.details.contains("IS NULL"), "{}", told.details);
            assert!(told.details.contains("version 2") && !told.details.contains("lo_unlink"), "{}", told.details);
        }
    }
}
