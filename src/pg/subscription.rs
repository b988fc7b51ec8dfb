//! ALTER SUBSCRIPTION … ENABLE and DISABLE, by oid (commands/subscriptioncmds.h).

use super::compat::SUBSCRIPTION_RELATION_ID;
use super::{digest, guarded};
use pgrx::pg_sys::{self, Oid};
use std::ffi::CStr;

unsafe extern "C-unwind" {
    fn AlterSubscription(
        state: *mut pg_sys::ParseState,
        statement: *mut pg_sys::AlterSubscriptionStmt,
        is_top_level: bool,
    ) -> pg_sys::ObjectAddress;
}

/// The name of a subscription, if it exists. Needs a transaction.
pub fn name(subscription: Oid) -> Option<String> {
    // SAFETY: a palloc'd C string, or null; missing_ok.
    unsafe {
        let name = pg_sys::get_subscription_name(subscription, true);
        (!name.is_null()).then(|| super::text::to_utf8(CStr::from_ptr(name)))
    }
}

/// A digest of how a subscription connects (its connection string and its slot); None if it does not exist. The digest
/// contains a secret of this cluster, which its physical copies share, so that nobody can find the connection string by
/// trial. Needs a transaction.
pub fn connection_digest(subscription: Oid) -> Option<String> {
    // SAFETY: the tuple is read while it is held; values are copied; the nonce is of that length (pg_control.h).
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::SUBSCRIPTIONOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, subscription.into());
        if tuple.is_null() {
            return None;
        }
        let value = |column: &CStr| {
            let mut is_null = false;
            let number = pg_sys::get_attnum(SUBSCRIPTION_RELATION_ID, column.as_ptr());
            let value = pg_sys::SysCacheGetAttr(cache, tuple, number, &mut is_null);
            (!is_null).then_some(value)
        };
        let mut secret = std::slice::from_raw_parts(pg_sys::GetMockAuthenticationNonce().cast::<u8>(), NONCE).to_vec();
        if let Some(conninfo) = value(c"subconninfo") {
            secret.extend_from_slice(
                CStr::from_ptr(pg_sys::text_to_cstring(conninfo.cast_mut_ptr())).to_bytes_with_nul(),
            );
        }
        if let Some(slot) = value(c"subslotname") {
            secret.extend_from_slice(CStr::from_ptr(slot.cast_mut_ptr()).to_bytes_with_nul());
        }
        pg_sys::ReleaseSysCache(tuple);
        Some(digest::sha256_of(&secret))
    }
}

/// `MOCK_AUTH_NONCE_LEN` (catalog/pg_control.h).
const NONCE: usize = 32;

/// Enables or disables a subscription; returns false if it does not exist any more. Needs a transaction; its commit
/// notifies the subscription's workers.
pub fn set_enabled(subscription: Oid, is_enabled: bool) -> bool {
    // SAFETY: the statement is built like the parser's; everything is palloc'd in the transaction's context.
    unsafe {
        let name = pg_sys::get_subscription_name(subscription, true);
        if name.is_null() {
            return false;
        }
        let mut statement = pg_sys::AlterSubscriptionStmt {
            type_: pg_sys::NodeTag::T_AlterSubscriptionStmt,
            kind: pg_sys::AlterSubscriptionType::ALTER_SUBSCRIPTION_ENABLED,
            subname: name,
            ..Default::default()
        };
        let value = pg_sys::makeBoolean(is_enabled);
        let option = pg_sys::makeDefElem(c"enabled".as_ptr().cast_mut(), value.cast(), -1);
        statement.options = pg_sys::lappend(std::ptr::null_mut(), option.cast());
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        guarded!(AlterSubscription(state, &mut statement, true));
        pg_sys::free_parsestate(state);
        pg_sys::CommandCounterIncrement();
        true
    }
}
