//! The document in a subscription's security label: which node the subscription comes from (pure).

use super::identity::DatabaseIdentity;
use super::name::NodeName;
use crate::document;
use crate::error::SqlError;
use pgrx::PgSqlErrorCode;
use serde::{Deserialize, Serialize};

/// The only version there is. A document of another one is refused when it is set, and inert when it is found.
const VERSION: u32 = 1;

/// Who said so. What a person said is kept; what was found out is looked up again when it turns out wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetBy {
    /// The manager asked the provider its name.
    Discovery,
    /// sub_set_origin().
    User,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubscriptionLabel {
    pub identity: DatabaseIdentity,
    /// None: from no node of the mesh, as only a user says.
    pub origin: Option<NodeName>,
    pub set_by: SetBy,
    /// A digest of how the subscription connected when that was said: to an owner who is no superuser it holds for no other
    /// connection.
    pub connection: Option<String>,
}

/// The document as it is written. Labels are world-readable: nothing secret ever enters it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    system_identifier: u64,
    database: u32,
    origin: Option<String>,
    set_by: SetBy,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
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
    pub fn parse(text: &str) -> Result<SubscriptionLabel, LabelError> {
        let invalid = |reason: String| LabelError::Invalid { reason };
        let document: Document = document::parse(text).map_err(|error| invalid(error.to_string()))?;
        if document.version != VERSION {
            return Err(invalid(format!("version {} is not {VERSION}", document.version)));
        }
        let origin = document.origin.as_deref().map(NodeName::parse).transpose();
        let origin = origin.map_err(|error| invalid(error.to_string()))?;
        if origin.is_none() && document.set_by != SetBy::User {
            return Err(invalid("an origin is missing".to_owned()));
        }
        let identity = DatabaseIdentity { system_identifier: document.system_identifier, database: document.database };
        Ok(SubscriptionLabel { identity, origin, set_by: document.set_by, connection: document.connection })
    }

    /// The document for the label.
    pub fn to_text(&self) -> String {
        document::to_text(&Document {
            version: VERSION,
            system_identifier: self.identity.system_identifier,
            database: self.identity.database,
            origin: self.origin.as_ref().map(ToString::to_string),
            set_by: self.set_by,
            connection: self.connection.clone(),
        })
    }

    /// The label, if it was written in this database of this server.
    pub fn parse_local(text: &str, here: DatabaseIdentity) -> Option<SubscriptionLabel> {
        SubscriptionLabel::parse(text).ok().filter(|label| label.identity == here)
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

    #[test]
    fn a_label_survives_being_written_and_read() {
        assert_eq!(SubscriptionLabel::parse(&label().to_text()), Ok(label()));
    }

    #[test]
    fn that_a_subscription_is_none_of_the_mesh_is_for_a_user_to_say() {
        let foreign = SubscriptionLabel { origin: None, set_by: SetBy::User, ..label() };
        assert_eq!(SubscriptionLabel::parse(&foreign.to_text()), Ok(foreign));
        assert!(SubscriptionLabel::parse(&SubscriptionLabel { origin: None, ..label() }.to_text()).is_err());
    }

    #[test]
    fn a_label_is_ascii_whatever_the_name_is() {
        let origin = Some(NodeName::parse("Zürich 日本 😀").expect("a legal name"));
        let label = SubscriptionLabel { origin, ..label() };
        assert!(label.to_text().is_ascii());
        assert_eq!(SubscriptionLabel::parse(&label.to_text()), Ok(label));
    }

    #[test]
    fn a_label_of_another_server_or_database_is_inert() {
        let text = label().to_text();
        assert_eq!(SubscriptionLabel::parse_local(&text, HERE), Some(label()));
        let elsewhere = [
            DatabaseIdentity { system_identifier: HERE.system_identifier + 1, ..HERE },
            DatabaseIdentity { database: HERE.database + 1, ..HERE },
        ];
        for other in elsewhere {
            assert_eq!(SubscriptionLabel::parse_local(&text, other), None);
        }
    }

    #[test]
    fn documents_that_do_not_validate_are_refused() {
        let valid: serde_json::Value = serde_json::from_str(&label().to_text()).expect("valid");
        let changed = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut document = valid.clone();
            change(&mut document);
            document.to_string()
        };
        let refused = [
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
            changed(&|document| document["extra"] = true.into()),
        ];
        for text in refused {
            assert!(SubscriptionLabel::parse(&text).is_err(), "accepted: {text}");
        }
    }
}
