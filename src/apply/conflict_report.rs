//! What the log says of a conflict (pure): the words of PostgreSQL 18's own apply worker (documentation, "Conflicts" in
//! logical replication, "Logging"), on every major version alike, and how the conflict was resolved.

use crate::pg::row_text::{RowAuthor, RowWriter};
use crate::tally::conflict::{ConflictKind, Resolution};

/// An existing row, and the change that met it. None: the value must not be shown to the role that applies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RowTexts {
    /// `(id)=(1)`
    pub key: Option<String>,
    pub existing: Option<String>,
    pub incoming: Option<String>,
    /// `(id)=(1)`, or the whole row if the replica identity is full.
    pub identity: Option<String>,
    pub is_identity_full: bool,
}

pub fn message(relation: &str, kind: ConflictKind) -> String {
    format!("conflict detected on relation \"{relation}\": conflict={}", kind.name())
}

/// What has happened, in a sentence. `index` is the unique index in which the key exists.
pub fn explanation(kind: ConflictKind, index: Option<&str>, author: Option<&RowAuthor>) -> String {
    let index = index.unwrap_or_default();
    match kind {
        ConflictKind::UpdateMissing => "Could not find the row to be updated.".to_owned(),
        ConflictKind::DeleteMissing => "Could not find the row to be deleted.".to_owned(),
        ConflictKind::InsertExists | ConflictKind::UpdateExists | ConflictKind::MultipleUniqueConflicts => {
            let by = author.map_or_else(String::new, |author| format!(", modified{}", by(author, "")));
            format!("Key already exists in unique index \"{index}\"{by}.")
        }
        ConflictKind::UpdateOriginDiffers => {
            format!(
                "Updating the row that was modified{}.",
                author.map_or_else(String::new, |author| by(author, "different "))
            )
        }
        ConflictKind::DeleteOriginDiffers => {
            format!(
                "Deleting the row that was modified{}.",
                author.map_or_else(String::new, |author| by(author, "different "))
            )
        }
        ConflictKind::TruncateOriginDiffers => "Rows were committed after the TRUNCATE.".to_owned(),
    }
}

fn by(author: &RowAuthor, different: &str) -> String {
    let transaction = author.transaction;
    match &author.committed {
        None => format!(" in transaction {transaction}"),
        Some((RowWriter::Here, at)) => format!(" locally in transaction {transaction} at {at}"),
        Some((RowWriter::Origin(name), at)) => {
            let article = if different.is_empty() { "" } else { "a " };
            format!(" by {article}{different}origin \"{name}\" in transaction {transaction} at {at}")
        }
        Some((RowWriter::Gone, at)) => format!(" by a non-existent origin in transaction {transaction} at {at}"),
    }
}

/// The rows, in a sentence; empty if none may be shown.
pub fn rows(rows: &RowTexts) -> String {
    let identity = if rows.is_identity_full { "replica identity full" } else { "replica identity" };
    let parts = [
        ("key", &rows.key),
        ("existing local row", &rows.existing),
        ("remote row", &rows.incoming),
        (identity, &rows.identity),
    ];
    let shown: Vec<String> =
        parts.iter().filter_map(|(name, text)| text.as_ref().map(|text| format!("{name} {text}"))).collect();
    let mut sentence = shown.join("; ");
    if let Some(first) = sentence.get(..1).map(str::to_uppercase) {
        sentence.replace_range(..1, &first);
        sentence.push('.');
    }
    sentence
}

/// Whose transaction met the conflict, and how the conflict was resolved.
pub fn outcome(failed_node: &str, origin_lsn: crate::lsn::OriginLsn, resolution: Option<Resolution>) -> String {
    let resolution = resolution.map_or_else(String::new, |resolution| format!("; resolution: {}", resolution.name()));
    format!("Transaction of node \"{failed_node}\" that ended at {origin_lsn}{resolution}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(writer: Option<RowWriter>) -> RowAuthor {
        RowAuthor { transaction: 742, committed: writer.map(|writer| (writer, "2026-11-20 10:00:00+00".to_owned())) }
    }

    #[test]
    fn a_conflict_is_explained_in_the_words_of_postgresql_18() {
        let n3 = || Some(RowWriter::Origin("pg_16394".to_owned()));
        for (kind, writer, expected) in [
            (
                ConflictKind::InsertExists,
                Some(RowWriter::Here),
                "Key already exists in unique index \"t_pkey\", modified locally in transaction 742 at 2026-11-20 10:00:00+00.",
            ),
            (
                ConflictKind::UpdateExists,
                n3(),
                "Key already exists in unique index \"t_pkey\", modified by origin \"pg_16394\" in transaction 742 at \
                 2026-11-20 10:00:00+00.",
            ),
            (
                ConflictKind::MultipleUniqueConflicts,
                None,
                "Key already exists in unique index \"t_pkey\", modified in transaction 742.",
            ),
            (
                ConflictKind::UpdateOriginDiffers,
                n3(),
                "Updating the row that was modified by a different origin \"pg_16394\" in transaction 742 at 2026-11-20 \
                 10:00:00+00.",
            ),
            (
                ConflictKind::DeleteOriginDiffers,
                Some(RowWriter::Gone),
                "Deleting the row that was modified by a non-existent origin in transaction 742 at 2026-11-20 10:00:00+00.",
            ),
            (
                ConflictKind::DeleteOriginDiffers,
                Some(RowWriter::Here),
                "Deleting the row that was modified locally in transaction 742 at 2026-11-20 10:00:00+00.",
            ),
        ] {
            assert_eq!(explanation(kind, Some("t_pkey"), Some(&author(writer))), expected);
        }
        assert_eq!(explanation(ConflictKind::UpdateMissing, None, None), "Could not find the row to be updated.");
        assert_eq!(explanation(ConflictKind::DeleteMissing, None, None), "Could not find the row to be deleted.");
    }

    #[test]
    fn rows_are_shown_as_far_as_they_may_be() {
        let text = |text: &str| Some(text.to_owned());
        let all = RowTexts {
            key: text("(id)=(1)"),
            existing: text("(1, there)"),
            incoming: text("(1, come)"),
            identity: text("(id)=(1)"),
            is_identity_full: false,
        };
        assert_eq!(
            rows(&all),
            "Key (id)=(1); existing local row (1, there); remote row (1, come); replica identity (id)=(1)."
        );
        let few = RowTexts { identity: text("(1, x)"), is_identity_full: true, ..RowTexts::default() };
        assert_eq!(rows(&few), "Replica identity full (1, x).");
        assert_eq!(rows(&RowTexts::default()), "");
    }
}
