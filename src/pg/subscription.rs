//! ALTER SUBSCRIPTION … ENABLE and DISABLE, by oid (commands/subscriptioncmds.h).

use super::guarded;
use pgrx::pg_sys::{self, Oid};

unsafe extern "C-unwind" {
    fn AlterSubscription(
        state: *mut pg_sys::ParseState,
        statement: *mut pg_sys::AlterSubscriptionStmt,
        is_top_level: bool,
    ) -> pg_sys::ObjectAddress;
}

/// Enables or disables a subscription; false if it does not exist any more. Needs a transaction, with whose commit the
/// subscription's workers are told.
pub fn set_enabled(subscription: Oid, is_enabled: bool) -> bool {
    // SAFETY: the statement as the parser makes it; all is palloc'd in the transaction's context.
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
