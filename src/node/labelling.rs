//! Writes into a subscription's security label which node the subscription comes from.

use super::error::RegistryError;
use super::label::{SetBy, SubscriptionLabel};
use super::provider::Subscription;
use super::servers::here;
use crate::document::{DocumentError, DocumentKind, Stored, Unreadable};
use crate::node_name::NodeName;
use crate::pg::seclabel::{self, LabelTarget};
use crate::pg::subscription;
use pgrx::pg_sys::Oid;

/// Records the new connection of a superuser's subscription in its label, so that the label stays valid for it. Needs a
/// transaction.
pub fn note_connection(subscription: &Subscription) -> Result<(), RegistryError> {
    let target = LabelTarget::Subscription(subscription.id);
    let text = seclabel::label(target);
    let Stored::Own(label) = SubscriptionLabel::read(text.as_deref(), here()) else { return Ok(()) };
    let now = subscription::connection_digest(subscription.id);
    if label.connection != now {
        set_label(subscription.id, &SubscriptionLabel { connection: now, ..label })?;
    }
    Ok(())
}

/// Writes into the label which node a subscription comes from; None for no node of the mesh.
pub fn write_label(subscription: Oid, origin: Option<&NodeName>, set_by: SetBy) -> Result<(), RegistryError> {
    let connection = subscription::connection_digest(subscription);
    let label = SubscriptionLabel { identity: here(), origin: origin.cloned(), set_by, connection };
    set_label(subscription, &label)
}

/// Overwrites a subscription's label.
///
/// # Errors
/// The present label is unreadable; it is left unchanged.
pub fn set_label(subscription: Oid, label: &SubscriptionLabel) -> Result<(), RegistryError> {
    let target = LabelTarget::Subscription(subscription);
    seclabel::lock(target);
    let before = seclabel::label(target);
    let written = label.written_over(before.as_deref());
    let text = written.map_err(|error| {
        let name = subscription::name(subscription).unwrap_or_default();
        unreadable_label(&name, error)
    })?;
    seclabel::set_label(target, Some(&text));
    Ok(())
}

/// Describes the label of a subscription that cannot be read.
pub fn unreadable_label(subscription: &str, error: DocumentError) -> Unreadable {
    let object = format!("SUBSCRIPTION {}", pgrx::spi::quote_identifier(subscription));
    Unreadable { kind: DocumentKind::SubscriptionLabel, object, error }
}
