//! The documents that this extension keeps as text (pure): one way to read them and one way to overwrite them.
//!
//! A document is absent, or foreign (written in another database or on another server, and without effect here), or
//! this database's own, or unreadable: written by a later version of this library, or damaged. An unreadable document
//! is never treated as absent, and nothing overwrites it.
//!
//! Every document carries a version. A library reads the versions before its own, and refuses later ones without
//! changing them. A version may gain fields, provided that a library which does not know them may ignore them. Such a
//! library keeps the unknown fields, at every level, when it writes the document back, so that a return to an older
//! package loses nothing. A new word in a closed list of words, or a field that must not be ignored, requires a new
//! version.
//!
//! The labels of databases and subscriptions are in a shared catalog, which databases of every encoding read. Documents
//! are therefore ASCII, with all other characters escaped.

use crate::error::SqlError;
use crate::identity::DatabaseIdentity;
use pgrx::PgSqlErrorCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A kind of document, at its newest version.
pub trait Document: Serialize + DeserializeOwned {
    /// The newest version that this library reads. It is also the one that it writes.
    const VERSION: u32;

    /// Converts a document of an earlier version into one of this version, except for the version number.
    fn bring_forward(_document: &mut Value, _from: u32) {}
}

/// What was found where a document is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored<T> {
    Absent,
    /// Written in another database, or on another server.
    Foreign,
    Own(T),
    Unreadable(DocumentError),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("it has version {found}, and this version of spock_recovery reads versions up to {known}")]
    Later { found: u64, known: u32 },
    #[error("{0}")]
    Malformed(String),
}

impl<T> Stored<T> {
    /// The document if it is this database's own, and None if it is absent or foreign.
    ///
    /// # Errors
    /// The document is unreadable.
    pub fn own(self) -> Result<Option<T>, DocumentError> {
        match self {
            Stored::Own(document) => Ok(Some(document)),
            Stored::Absent | Stored::Foreign => Ok(None),
            Stored::Unreadable(error) => Err(error),
        }
    }

    /// Passes the document to a check that only its own kind can make. An error of the check makes the document
    /// unreadable.
    pub fn and_then<U>(self, f: impl FnOnce(T) -> Result<U, DocumentError>) -> Stored<U> {
        match self {
            Stored::Absent => Stored::Absent,
            Stored::Foreign => Stored::Foreign,
            Stored::Own(document) => f(document).map_or_else(Stored::Unreadable, Stored::Own),
            Stored::Unreadable(error) => Stored::Unreadable(error),
        }
    }
}

/// The database to which the document in a label belongs. Every version that may be found in another database's label
/// has these fields.
#[derive(Deserialize)]
struct Head {
    system_identifier: u64,
    database: u32,
}

impl Head {
    fn is_of_another(&self, here: DatabaseIdentity) -> bool {
        (self.system_identifier, self.database) != (here.system_identifier, here.database)
    }
}

/// Reads the document in a label. The owner is looked at before the version, because a later version of another
/// database's document does not concern this database. A document without an owner, which a later version may permit,
/// counts as this database's own.
pub fn read<T: Document>(text: Option<&str>, here: DatabaseIdentity) -> Stored<T> {
    let Some(text) = text else { return Stored::Absent };
    let value = match value_of::<T>(text) {
        Ok(value) => value,
        Err(error) => return Stored::Unreadable(error),
    };
    match Head::deserialize(&value) {
        Ok(head) if head.is_of_another(here) => Stored::Foreign,
        Ok(_) => understood(value).map_or_else(Stored::Unreadable, |(_, document)| Stored::Own(document)),
        Err(error) => Stored::Unreadable(version_of::<T>(&value).err().unwrap_or_else(|| malformed(error))),
    }
}

/// The database in which the document in a label was written, according to the document.
pub fn home(text: &str) -> Option<DatabaseIdentity> {
    let head = serde_json::from_str::<Head>(text).ok()?;
    Some(DatabaseIdentity { system_identifier: head.system_identifier, database: head.database })
}

/// Reads a document that carries a version and is kept where no other database can write.
///
/// # Errors
/// The document is damaged or has a later version.
pub fn parse<T: Document>(text: &str) -> Result<T, DocumentError> {
    Ok(understood(value_of::<T>(text)?)?.1)
}

/// The text of a document that is to overwrite another one. It retains those fields of the other document that this
/// library does not know.
///
/// # Errors
/// The document that would be overwritten is unreadable.
pub fn written_over<T: Document>(
    before: Option<&str>,
    document: &T,
    here: DatabaseIdentity,
) -> Result<String, DocumentError> {
    let plain = to_text(document);
    let Some(before) = before else { return Ok(plain) };
    let value = value_of::<T>(before)?;
    if Head::deserialize(&value).is_ok_and(|head| head.is_of_another(here)) {
        return Ok(plain);
    }
    let (raw, known) = understood::<T>(value)?;
    let known = serde_json::to_value(&known).unwrap_or_default();
    // As a rule this library has written it. A long document then costs no more than to read it once.
    if raw == known {
        return Ok(plain);
    }
    let Ok(mut new) = serde_json::from_str::<Value>(&plain) else { return Ok(plain) };
    Ok(if keep_unknown(&raw, &known, &mut new) { to_text(&new) } else { plain })
}

/// The document as ASCII.
pub fn to_text(document: &impl Serialize) -> String {
    // Serialization cannot fail for structs of strings, numbers and lists.
    let json = serde_json::to_string(document).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

fn malformed(error: impl std::fmt::Display) -> DocumentError {
    DocumentError::Malformed(error.to_string())
}

/// The JSON of a document, which must be ASCII unless a later version has written it.
fn value_of<T: Document>(text: &str) -> Result<Value, DocumentError> {
    let value = serde_json::from_str(text).map_err(malformed)?;
    if !text.is_ascii() {
        version_of::<T>(&value)?;
        return Err(malformed("characters beyond ASCII must be written as \\uXXXX"));
    }
    Ok(value)
}

/// The version of a document. It determines how all other fields are read, and is therefore examined first.
///
/// # Errors
/// This library does not read that version, or there is none.
fn version_of<T: Document>(value: &Value) -> Result<u32, DocumentError> {
    let version = value.get("version").and_then(Value::as_u64).ok_or_else(|| malformed("it has no version"))?;
    match u32::try_from(version) {
        Ok(0) => Err(malformed("there is no version 0")),
        Ok(known) if known <= T::VERSION => Ok(known),
        _ => Err(DocumentError::Later { found: version, known: T::VERSION }),
    }
}

/// The JSON of a document and what it says, both converted to this library's version.
fn understood<T: Document>(mut value: Value) -> Result<(Value, T), DocumentError> {
    let version = version_of::<T>(&value)?;
    if version < T::VERSION {
        T::bring_forward(&mut value, version);
        value["version"] = T::VERSION.into();
    }
    let document = T::deserialize(&value).map_err(malformed)?;
    Ok((value, document))
}

/// The fields that identify a member of a list. Two members are the same one if each has the same of these fields, with
/// equal values.
const TELLS_APART: [&str; 12] = [
    "id",
    "name",
    "slot",
    "peer",
    "node",
    "subscription",
    "origin",
    "origin_id",
    "phase",
    "relation",
    "kind",
    "resolution",
];

/// Copies into `new` the fields that `raw` has and that `known`, which was read from it, lacks. Returns whether there
/// were any.
fn keep_unknown(raw: &Value, known: &Value, new: &mut Value) -> bool {
    match (raw, known, new) {
        (Value::Object(raw), Value::Object(known), Value::Object(new)) => {
            let mut has_kept = false;
            for (name, value) in raw {
                match (known.get(name), new.get_mut(name)) {
                    (Some(known), Some(new)) => has_kept |= keep_unknown(value, known, new),
                    (None, None) => {
                        new.insert(name.clone(), value.clone());
                        has_kept = true;
                    }
                    // The library knows this field. If it is missing on one side, its value is omitted when written, or
                    // this library has removed or added it.
                    _ => (),
                }
            }
            has_kept
        }
        (Value::Array(raw), Value::Array(known), Value::Array(new)) if raw.len() == known.len() => {
            let mut has_kept = false;
            let mut expected = 0;
            for new in new.iter_mut().filter(|new| new.is_object()) {
                let Some(place) = place_of(new, known, expected) else { continue };
                has_kept |= keep_unknown(&raw[place], &known[place], new);
                expected = place + 1;
            }
            has_kept
        }
        _ => false,
    }
}

/// Where a member stood in a list, or the one that has become it. The search begins where it is expected: members that
/// stay are in the same order as before, so that a long list is gone through once.
fn place_of(new: &Value, known: &[Value], expected: usize) -> Option<usize> {
    let (before, after) = known.split_at(expected.min(known.len()));
    let equal = |members: &[Value]| members.iter().position(|member| member == new);
    equal(after)
        .map(|place| place + before.len())
        .or_else(|| equal(before))
        .or_else(|| known.iter().position(|member| is_same_member(member, new)))
}

fn is_same_member(one: &Value, other: &Value) -> bool {
    TELLS_APART.iter().any(|name| one.get(name).is_some())
        && TELLS_APART.iter().all(|name| one.get(name) == other.get(name))
}

/// The kinds of documents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DocumentKind {
    /// In the label of the extension's schema.
    Journal,
    /// In the label of the database.
    RetentionRecord,
    /// In the label of a subscription.
    SubscriptionLabel,
    /// In a large object that the journal names.
    KeptRows,
    /// In a large object that the journal names.
    SlotFiles,
    /// In a large object that the journal names.
    Comparison,
    /// In the label of the schema spock_internal.
    RestorePoints,
}

/// A document that cannot be read. It is left unchanged, and whatever depends on it stays as it is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} cannot be read", self.what())]
pub struct Unreadable {
    pub kind: DocumentKind,
    /// The object that has the label, in the form that SECURITY LABEL uses (`SCHEMA spock`). For kept rows and the
    /// slot's files, the oid of the large object.
    pub object: String,
    pub error: DocumentError,
}

impl Unreadable {
    fn what(&self) -> String {
        let object = &self.object;
        match self.kind {
            DocumentKind::Journal => format!("the journal of recoveries in the label of {object}"),
            DocumentKind::RetentionRecord => format!("the retention record in the label of {object}"),
            DocumentKind::SubscriptionLabel => format!("the label of {object}"),
            DocumentKind::KeptRows => format!("large object {object} with rows that a recovery could not compare"),
            DocumentKind::RestorePoints => format!("the list of restore points in the label of {object}"),
            DocumentKind::SlotFiles => format!("large object {object} with the files of the recovery slot"),
            DocumentKind::Comparison => format!("large object {object} with a comparison of tables"),
        }
    }

    /// The name of this document in the health check.
    pub fn name(&self) -> String {
        match self.kind {
            DocumentKind::Journal => "journal".to_owned(),
            DocumentKind::RetentionRecord => "retention record".to_owned(),
            DocumentKind::SubscriptionLabel => format!("label of {}", self.object),
            DocumentKind::RestorePoints => "restore points".to_owned(),
            DocumentKind::KeptRows | DocumentKind::SlotFiles | DocumentKind::Comparison => {
                format!("large object {}", self.object)
            }
        }
    }

    /// What is blocked until the document can be read.
    pub fn holds(&self) -> &'static str {
        match self.kind {
            DocumentKind::Journal => {
                "No recovery begins or goes on here, suspended subscriptions stay disabled, recovery slots do not \
                 advance, clones are not dropped, and no node can be dropped."
            }
            DocumentKind::RetentionRecord => {
                "The recovery slot does not advance, no recovery can use this node as source or target, and no node \
                 can be dropped."
            }
            DocumentKind::SubscriptionLabel => {
                "The origin of the subscription counts as unknown, the recovery slot does not advance, no recovery \
                 begins on this node, and no node can be dropped."
            }
            DocumentKind::KeptRows => "They stay stored and are not compared, and the local node cannot be dropped.",
            DocumentKind::Comparison => "What the comparison has found is not shown, and it does not go on.",
            DocumentKind::RestorePoints => "No restore point is made or dropped in which this node takes part.",
            DocumentKind::SlotFiles => {
                "The files of the recovery slot are not saved any more: after a restore of this node from a backup, its \
                 subscribers cannot go on where they stood."
            }
        }
    }

    /// The SQL command that removes the document.
    pub fn removal(&self) -> String {
        let object = &self.object;
        match self.kind {
            DocumentKind::KeptRows | DocumentKind::SlotFiles | DocumentKind::Comparison => {
                format!("SELECT pg_catalog.lo_unlink({object});")
            }
            _ => format!("SECURITY LABEL FOR spock_recovery ON {object} IS NULL;"),
        }
    }

    /// What is lost if the document is removed.
    pub fn loss(&self) -> &'static str {
        match self.kind {
            DocumentKind::Journal => {
                "unfinished recoveries, the rows that they could not compare, and which subscriptions they have \
                 suspended are forgotten (enable these by hand), and clones made for other nodes are dropped"
            }
            DocumentKind::RetentionRecord => {
                "the WAL that the recovery slot has kept until then counts as lost: nodes that failed earlier cannot \
                 be recovered from this node"
            }
            DocumentKind::SubscriptionLabel => {
                "the node that the subscription comes from is asked for its name again; if it does not answer, set it \
                 with spock.sub_set_origin()"
            }
            DocumentKind::KeptRows => "these rows are never compared",
            DocumentKind::Comparison => "the next comparison begins anew",
            DocumentKind::RestorePoints => {
                "this node lists no restore points any more, and does not know which names were used; other nodes still do, \
                 and the points can still be restored to"
            }
            DocumentKind::SlotFiles => {
                "the files are saved anew within a minute, and backups made until then cannot put the slot back"
            }
        }
    }
}

impl SqlError for Unreadable {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self.error {
            DocumentError::Later { .. } => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            DocumentError::Malformed(_) => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        }
    }

    fn detail(&self) -> Option<String> {
        let why = match &self.error {
            later @ DocumentError::Later { .. } => later.to_string(),
            DocumentError::Malformed(reason) => format!("it does not validate: {reason}"),
        };
        Some(format!("{}. {}", upper_first(&why), self.holds()))
    }

    fn hint(&self) -> Option<String> {
        let upgrade =
            "Install the version of spock_recovery that has written it, or a later one, and restart the server.";
        Some(match self.error {
            DocumentError::Later { .. } => upgrade.to_owned(),
            DocumentError::Malformed(_) => {
                let (removal, loss) = (self.removal(), self.loss());
                format!("{upgrade} If it is damaged, remove it with {removal} Then {loss}.")
            }
        })
    }
}

fn upper_first(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
