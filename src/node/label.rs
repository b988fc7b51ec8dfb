//! The document in a subscription's security label: which node the subscription comes from (pure).

use crate::document::{self, DocumentError, Stored};
use crate::error::SqlError;
use crate::identity::DatabaseIdentity;
use crate::node_name::NodeName;
use pgrx::PgSqlErrorCode;
use serde::{Deserialize, Serialize};

/// Who has said from which node a subscription comes. What a user has said is kept; what was discovered is looked up
/// again if it turns out to be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetBy {
    /// The manager has asked the provider for its name.
    Discovery,
    /// A user has called sub_set_origin().
    User,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionLabel {
    pub identity: DatabaseIdentity,
    /// None: the subscription comes from no node of the mesh. Only a user can say so.
    pub origin: Option<NodeName>,
    pub set_by: SetBy,
    /// A digest of the connection that the subscription had when the label was written. If the subscription's owner is
    /// not a superuser, the label is valid for that connection only.
    pub connection: Option<String>,
}

/// The document in its written form. Everybody can read labels, so nothing secret may enter it.
#[derive(Serialize, Deserialize)]
struct LabelDocument {
    version: u32,
    system_identifier: u64,
    database: u32,
    origin: Option<String>,
    set_by: SetBy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
}

impl document::Document for LabelDocument {
    const VERSION: u32 = 1;
}

#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub enum LabelError {
    #[error("only a superuser can set a spock_recovery label")]
    NotSuperuser,
    #[error("spock_recovery labels are not supported on this kind of object")]
    WrongObject,
    #[error("invalid spock_recovery label")]
    Invalid { reason: String },
}

impl SubscriptionLabel {
    /// Reads the document in the label of a subscription.
    pub fn read(text: Option<&str>, here: DatabaseIdentity) -> Stored<SubscriptionLabel> {
        document::read(text, here).and_then(|document: LabelDocument| {
            let invalid = |reason: String| DocumentError::Malformed(reason);
            let origin = document.origin.as_deref().map(NodeName::parse).transpose();
            let origin = origin.map_err(|error| invalid(error.to_string()))?;
            if origin.is_none() && document.set_by != SetBy::User {
                return Err(invalid("an origin is missing".to_owned()));
            }
            let identity =
                DatabaseIdentity { system_identifier: document.system_identifier, database: document.database };
            Ok(SubscriptionLabel { identity, origin, set_by: document.set_by, connection: document.connection })
        })
    }

    /// The text that is to overwrite the present label.
    ///
    /// # Errors
    /// The present label is unreadable.
    pub fn written_over(&self, before: Option<&str>) -> Result<String, DocumentError> {
        SubscriptionLabel::read(before, self.identity).own()?;
        document::written_over(before, &self.document(), self.identity)
    }

    fn document(&self) -> LabelDocument {
        LabelDocument {
            version: <LabelDocument as document::Document>::VERSION,
            system_identifier: self.identity.system_identifier,
            database: self.identity.database,
            origin: self.origin.as_ref().map(ToString::to_string),
            set_by: self.set_by,
            connection: self.connection.clone(),
        }
    }
}

impl SqlError for LabelError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            LabelError::NotSuperuser => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            LabelError::WrongObject => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            LabelError::Invalid { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            LabelError::Invalid { reason } => Some(format!("The document does not validate: {reason}.")),
            LabelError::NotSuperuser => Some("These labels are the state of the extension spock_recovery.".to_owned()),
            LabelError::WrongObject => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LabelError::WrongObject => None,
            LabelError::NotSuperuser | LabelError::Invalid { .. } => {
                Some("Use spock.sub_set_origin() to say which node a subscription comes from.".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: DatabaseIdentity = DatabaseIdentity { system_identifier: 7_612_345_678_901_234_567, database: 5 };

    fn label() -> SubscriptionLabel {
        SubscriptionLabel {
            identity: HERE,
            origin: Some(NodeName::parse("n'1\"").expect("a legal name")),
            set_by: SetBy::Discovery,
            connection: Some("00ff".to_owned()),
        }
    }

    fn text(label: &SubscriptionLabel) -> String {
        label.written_over(None).expect("nothing was there")
    }

    fn read(text: &str) -> Stored<SubscriptionLabel> {
        SubscriptionLabel::read(Some(text), HERE)
    }

    #[test]
    fn a_label_survives_being_written_and_read() {
        assert_eq!(read(&text(&label())), Stored::Own(label()));
    }

    #[test]
    fn that_a_subscription_is_none_of_the_mesh_is_for_a_user_to_say() {
        let foreign = SubscriptionLabel { origin: None, set_by: SetBy::User, ..label() };
        assert_eq!(read(&text(&foreign)), Stored::Own(foreign));
        let discovered = SubscriptionLabel { origin: None, ..label() };
        assert!(matches!(read(&text(&discovered)), Stored::Unreadable(_)));
    }

    #[test]
    fn a_label_is_ascii_whatever_the_name_is() {
        let origin = Some(NodeName::parse("Zürich 日本 😀").expect("a legal name"));
        let label = SubscriptionLabel { origin, ..label() };
        assert!(text(&label).is_ascii());
        assert_eq!(read(&text(&label)), Stored::Own(label));
    }

    #[test]
    fn a_label_of_another_server_or_database_is_inert() {
        let elsewhere = [
            DatabaseIdentity { system_identifier: HERE.system_identifier + 1, ..HERE },
            DatabaseIdentity { database: HERE.database + 1, ..HERE },
        ];
        for other in elsewhere {
            assert_eq!(SubscriptionLabel::read(Some(&text(&label())), other), Stored::Foreign);
        }
        assert_eq!(SubscriptionLabel::read(None, HERE), Stored::Absent);
    }

    #[test]
    fn documents_that_do_not_validate_cannot_be_read_and_are_not_written_over() {
        let valid: serde_json::Value = serde_json::from_str(&text(&label())).expect("valid");
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut document = valid.clone();
            change(&mut document);
            document.to_string()
        };
        let unreadable = [
            String::new(),
            "n1".to_owned(),
            "{}".to_owned(),
            changed(&|document| document["version"] = 2.into()),
            changed(&|document| document["origin"] = "".into()),
            changed(&|document| document["origin"] = "x".repeat(100).into()),
            changed(&|document| document["origin"] = "Zürich".into()),
            changed(&|document| document["set_by"] = "somebody".into()),
            changed(&|document| document["system_identifier"] = "1".into()),
            changed(&|document| document["database"] = (-1).into()),
        ];
        for text in unreadable {
            assert!(matches!(read(&text), Stored::Unreadable(_)), "accepted: {text}");
            assert!(label().written_over(Some(&text)).is_err(), "written over: {text}");
        }
        let newer = changed(&|document| document["extra"] = true.into());
        assert_eq!(read(&newer), Stored::Own(label()));
        assert!(label().written_over(Some(&newer)).is_ok_and(|text| text.contains("\"extra\":true")));
    }
}
