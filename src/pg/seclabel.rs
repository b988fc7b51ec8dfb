//! The security label provider of this library (commands/seclabel.c).

use super::transaction;
use pgrx::pg_sys;
use std::ffi::{CStr, CString};

pub const PROVIDER: &CStr = c"spock_recovery";

/// The object that has a label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelTarget {
    Subscription(pg_sys::Oid),
    Database(pg_sys::Oid),
    Schema(pg_sys::Oid),
    Other,
}

/// Checks whether a label may be set; the text is None if the label is removed. Raises an ERROR to refuse it.
pub type LabelCheck = fn(LabelTarget, Option<&str>);

static CHECK: std::sync::OnceLock<LabelCheck> = std::sync::OnceLock::new();

/// Registers the provider. Called once, in the postmaster.
pub fn register(check: LabelCheck) {
    if CHECK.set(check).is_ok() {
        // SAFETY: both live as long as the process.
        unsafe { pg_sys::register_label_provider(PROVIDER.as_ptr(), Some(check_label)) };
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check_label(object: *const pg_sys::ObjectAddress, label: *const core::ffi::c_char) {
    // SAFETY: core passes the object's address and a NUL-terminated text, or null.
    let (object, text) = unsafe { (&*object, (!label.is_null()).then(|| CStr::from_ptr(label))) };
    let target = match object.classId {
        super::compat::SUBSCRIPTION_RELATION_ID => LabelTarget::Subscription(object.objectId),
        pg_sys::DatabaseRelationId => LabelTarget::Database(object.objectId),
        pg_sys::NamespaceRelationId => LabelTarget::Schema(object.objectId),
        _ => LabelTarget::Other,
    };
    if let Some(check) = CHECK.get() {
        // A document is ASCII. Bytes that are not UTF-8 become replacement characters, so the check refuses them.
        check(target, text.map(CStr::to_string_lossy).as_deref());
    }
}

/// The label of an object, if it has one.
pub fn label(target: LabelTarget) -> Option<String> {
    let address = address(target)?;
    // SAFETY: the provider's name is static; the result is palloc'd text or null.
    unsafe {
        let label = pg_sys::GetSecurityLabel(&address, PROVIDER.as_ptr());
        (!label.is_null()).then(|| CStr::from_ptr(label).to_string_lossy().into_owned())
    }
}

/// Takes the lock that SECURITY LABEL takes on the object, until the transaction ends. It serialises writers.
pub fn lock(target: LabelTarget) {
    let Some(address) = address(target) else { return };
    let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the lock is released at the transaction's end.
    unsafe {
        match target {
            LabelTarget::Schema(_) => pg_sys::LockDatabaseObject(address.classId, address.objectId, 0, mode),
            _ => pg_sys::LockSharedObject(address.classId, address.objectId, 0, mode),
        }
    }
}

/// Like [`lock`] for a schema, but without waiting. Returns false if another session holds the lock.
pub fn try_lock_schema(schema: pg_sys::Oid) -> bool {
    let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: the lock is released at the transaction's end.
    unsafe { pg_sys::ConditionalLockDatabaseObject(pg_sys::NamespaceRelationId, schema, 0, mode) }
}

/// Sets or removes the label of an object, under the lock that SECURITY LABEL takes. The object may have been dropped:
/// its label then remains in the catalog until it is removed here.
pub fn set_label(target: LabelTarget, label: Option<&str>) {
    let Some(address) = address(target) else { return };
    let text = label.and_then(|label| CString::new(label).ok());
    lock(target);
    transaction::commit_locally_if_alone();
    // SAFETY: strings outlive the call.
    unsafe {
        pg_sys::SetSecurityLabel(
            &address,
            PROVIDER.as_ptr(),
            text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()),
        );
        pg_sys::CommandCounterIncrement();
    }
}

/// None for an object that has no label of this provider.
fn address(target: LabelTarget) -> Option<pg_sys::ObjectAddress> {
    let (class, object) = match target {
        LabelTarget::Subscription(oid) => (super::compat::SUBSCRIPTION_RELATION_ID, oid),
        LabelTarget::Database(oid) => (pg_sys::DatabaseRelationId, oid),
        LabelTarget::Schema(oid) => (pg_sys::NamespaceRelationId, oid),
        LabelTarget::Other => return None,
    };
    Some(pg_sys::ObjectAddress { classId: class, objectId: object, objectSubId: 0 })
}
