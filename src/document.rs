//! The documents that this extension keeps, as text (pure): one way to read them and one way to write over them.
//!
//! A document is absent, or it is foreign (written in another database or on another server, and inert here), or it is this
//! database's own, or it cannot be read: a later version of this library has written it, or it is damaged. What cannot be
//! read is never taken for absent, and nothing is written over it.
//!
//! Every document carries a version. A library reads the versions before its own, and refuses later ones without touching
//! them. Within a version fields may be added, as long as a library that does not know them may ignore them: it keeps them,
//! at every level, when it writes the document back, so that going back to an older package loses nothing. A new word
//! where one of several is expected, or a field that must not be ignored, is a new version.
//!
//! Labels of databases and subscriptions stand in a shared catalog, which databases of every encoding read: documents are
//! ASCII, all other characters escaped.

use crate::error::SqlError;
use crate::identity::DatabaseIdentity;
use pgrx::PgSqlErrorCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A kind of document, at its newest version.
pub trait Document: Serialize + DeserializeOwned {
    /// The newest version that this library reads, and the one that it writes.
    const VERSION: u32;

    /// Turns a document of an earlier version into one of this version, but for the number.
    fn bring_forward(_document: &mut Value, _from: u32) {}
}

/// What stands where a document is kept.
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
    /// The document where it is this database's own; an error where it cannot be read.
    pub fn own(self) -> Result<Option<T>, DocumentError> {
        match self {
            Stored::Own(document) => Ok(Some(document)),
            Stored::Absent | Stored::Foreign => Ok(None),
            Stored::Unreadable(error) => Err(error),
        }
    }

    /// Goes on with what only its kind knows to check.
    pub fn and_then<U>(self, f: impl FnOnce(T) -> Result<U, DocumentError>) -> Stored<U> {
        match self {
            Stored::Absent => Stored::Absent,
            Stored::Foreign => Stored::Foreign,
            Stored::Own(document) => f(document).map_or_else(Stored::Unreadable, Stored::Own),
            Stored::Unreadable(error) => Stored::Unreadable(error),
        }
    }
}

/// Whose a document in a label is. Every version that may stand in another database's label has it.
#[derive(Deserialize)]
struct Head {
    system_identifier: u64,
    database: u32,
}

/// Reads a document in a label. Whose it is comes first: a later version of another database's is that one's business. One that
/// does not say whose it is, as a later version may choose to, is this one's.
pub fn read<T: Document>(text: Option<&str>, here: DatabaseIdentity) -> Stored<T> {
    let Some(text) = text else { return Stored::Absent };
    let value = match value_of::<T>(text) {
        Ok(value) => value,
        Err(error) => return Stored::Unreadable(error),
    };
    match Head::deserialize(&value) {
        Ok(head) if (head.system_identifier, head.database) != (here.system_identifier, here.database) => {
            Stored::Foreign
        }
        Ok(_) => understood(value).map_or_else(Stored::Unreadable, |(_, document)| Stored::Own(document)),
        Err(error) => Stored::Unreadable(version_of::<T>(&value).err().unwrap_or_else(|| malformed(error))),
    }
}

/// Where the document in a label was written, as it says.
pub fn home(text: &str) -> Option<DatabaseIdentity> {
    let head = serde_json::from_str::<Head>(text).ok()?;
    Some(DatabaseIdentity { system_identifier: head.system_identifier, database: head.database })
}

/// Reads a document that carries a version and stands where nobody else's can.
pub fn parse<T: Document>(text: &str) -> Result<T, DocumentError> {
    Ok(understood(value_of::<T>(text)?)?.1)
}

/// The document as the text that takes the place of another one: what that one has beyond what this library knows is kept.
/// What cannot be read is not written over.
pub fn written_over<T: Document>(
    before: Option<&str>,
    document: &T,
    here: DatabaseIdentity,
) -> Result<String, DocumentError> {
    let plain = to_text(document);
    let known: T = match read(before, here).own()? {
        Some(known) => known,
        None => return Ok(plain),
    };
    let (Some(before), Ok(mut new)) = (before, serde_json::from_str::<Value>(&plain)) else { return Ok(plain) };
    let (raw, _) = understood::<T>(value_of::<T>(before)?)?;
    let known = serde_json::to_value(&known).unwrap_or_default();
    Ok(if keep_unknown(&raw, &known, &mut new) { to_text(&new) } else { plain })
}

/// The document as ASCII.
pub fn to_text(document: &impl Serialize) -> String {
    // Structs of strings, numbers and lists cannot fail to be written.
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

/// A later version may be written in other characters, too.
fn value_of<T: Document>(text: &str) -> Result<Value, DocumentError> {
    let value = serde_json::from_str(text).map_err(malformed)?;
    if !text.is_ascii() {
        version_of::<T>(&value)?;
        return Err(malformed("characters beyond ASCII must be written as \\uXXXX"));
    }
    Ok(value)
}

/// The version, which says how all else is to be read, and is therefore looked at before it: an error where it is not one that
/// this library reads.
fn version_of<T: Document>(value: &Value) -> Result<u32, DocumentError> {
    let version = value.get("version").and_then(Value::as_u64).ok_or_else(|| malformed("it has no version"))?;
    match u32::try_from(version) {
        Ok(0) => Err(malformed("there is no version 0")),
        Ok(known) if known <= T::VERSION => Ok(known),
        _ => Err(DocumentError::Later { found: version, known: T::VERSION }),
    }
}

/// The document, and as it was written, both brought forward to this library's version.
fn understood<T: Document>(mut value: Value) -> Result<(Value, T), DocumentError> {
    let version = version_of::<T>(&value)?;
    if version < T::VERSION {
        T::bring_forward(&mut value, version);
        value["version"] = T::VERSION.into();
    }
    let document = T::deserialize(&value).map_err(malformed)?;
    Ok((value, document))
}

/// The fields that tell the members of a list apart: one that has the same of them, as far as it has them, is the same.
const TELLS_APART: [&str; 11] =
    ["id", "slot", "peer", "node", "subscription", "origin", "origin_id", "phase", "relation", "kind", "resolution"];

/// Copies what `raw` has and `known`, which was read from it, has not into `new`. Whether there was something.
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
                    // A value that is left out when it is written; one that this library has taken away, or has given.
                    _ => (),
                }
            }
            has_kept
        }
        (Value::Array(raw), Value::Array(known), Value::Array(new)) if raw.len() == known.len() => {
            let mut has_kept = false;
            for new in new.iter_mut().filter(|new| new.is_object()) {
                let same = known.iter().position(|known| is_same_member(known, new));
                has_kept |= same.is_some_and(|place| keep_unknown(&raw[place], &known[place], new));
            }
            has_kept
        }
        _ => false,
    }
}

fn is_same_member(one: &Value, other: &Value) -> bool {
    one == other
        || TELLS_APART.iter().any(|name| one.get(name).is_some())
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
    /// In a large object, which the journal names.
    KeptRows,
}

/// A document that cannot be read. It is left as it is, and whatever depends on it holds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{} cannot be read", self.what())]
pub struct Unreadable {
    pub kind: DocumentKind,
    /// What has the label, as SECURITY LABEL names it (`SCHEMA spock`); of kept rows the number of the large object.
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
            DocumentKind::KeptRows => format!("large object {object} with the rows that a recovery could not judge"),
        }
    }

    /// Its name among the checks of the health check.
    pub fn name(&self) -> String {
        match self.kind {
            DocumentKind::Journal => "journal".to_owned(),
            DocumentKind::RetentionRecord => "retention record".to_owned(),
            DocumentKind::SubscriptionLabel => format!("label of {}", self.object),
            DocumentKind::KeptRows => format!("large object {}", self.object),
        }
    }

    /// What holds until it can be read.
    pub fn holds(&self) -> &'static str {
        match self.kind {
            DocumentKind::Journal => {
                "No recovery begins or goes on here, suspended subscriptions stay disabled, recovery slots and clones hold, and no node is \
                 dropped."
            }
            DocumentKind::RetentionRecord => {
                "The recovery slot holds, nobody can be recovered from or on this node, and no node is dropped."
            }
            DocumentKind::SubscriptionLabel => {
                "The subscription counts as nobody's, the recovery slot holds, no recovery begins on this node, and no node is dropped."
            }
            DocumentKind::KeptRows => "They stay kept, and are not compared; the local node is not dropped.",
        }
    }

    /// How it is removed by hand.
    pub fn removal(&self) -> String {
        let object = &self.object;
        match self.kind {
            DocumentKind::KeptRows => format!("SELECT pg_catalog.lo_unlink({object});"),
            _ => format!("SECURITY LABEL FOR spock_recovery ON {object} IS NULL;"),
        }
    }

    /// What its removal loses.
    pub fn loss(&self) -> &'static str {
        match self.kind {
            DocumentKind::Journal => {
                "unfinished recoveries, the rows that they could not judge, and which subscriptions they have disabled are \
                 forgotten (enable those by hand), and clones made for other nodes are dropped"
            }
            DocumentKind::RetentionRecord => {
                "what the recovery slot has kept up to then counts as lost: nobody is recovered from it that failed before"
            }
            DocumentKind::SubscriptionLabel => {
                "the node that the subscription comes from is asked for its name again; where it does not answer, \
                 spock.sub_set_origin() says it"
            }
            DocumentKind::KeptRows => "these rows are not compared any more",
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
