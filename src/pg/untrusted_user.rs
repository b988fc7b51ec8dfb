//! Running as another user for the length of a change (utils/usercontext.h, miscadmin.h).
//!
//! Nothing is undone while an ERROR unwinds: the abort of the transaction restores user and settings.

use super::apply_as::ApplyAs;
use super::guarded;
use pgrx::pg_sys::{self, Oid};

/// `UserContext` (utils/usercontext.h).
#[repr(C)]
struct UserContext {
    user: Oid,
    security_context: core::ffi::c_int,
    nest_level: core::ffi::c_int,
}

unsafe extern "C-unwind" {
    fn SwitchToUntrustedUser(user: Oid, context: *mut UserContext);
    fn RestoreUserContext(context: *mut UserContext);
}

/// Makes the session that of the subscription's owner, as core's apply worker connects: what triggers see of it, and as
/// whom those run that wait for the commit. Needs a transaction.
pub fn enter_session_of(owner: Oid) {
    // SAFETY: outside of any change of user.
    unsafe { pg_sys::SetSessionAuthorization(owner, pg_sys::superuser_arg(owner)) };
}

pub fn is_session_of(owner: Oid) -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::GetSessionUserId() == owner }
}

/// The bootstrap superuser's session again, as the worker has connected. Outside a transaction.
pub fn leave_session() {
    // SAFETY: no change of user is in effect between transactions.
    unsafe { pg_sys::SetSessionAuthorization(pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID), true) };
}

/// Until the transaction ends, nothing that it runs can become another role by SET ROLE or SET SESSION AUTHORIZATION: who
/// has connected is a superuser still, and would be asked. A superuser's session may.
pub fn confine_transaction() {
    change_context(|context| context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as core::ffi::c_int);
}

/// After the commit: the next transaction begins without restrictions. An abort does so itself.
pub fn release_session() {
    change_context(|_| 0);
}

fn change_context(change: impl FnOnce(core::ffi::c_int) -> core::ffi::c_int) {
    let mut before = (pg_sys::InvalidOid, 0);
    // SAFETY: the current user stays who it is.
    unsafe {
        if pg_sys::GetSessionUserIsSuperuser() {
            return;
        }
        pg_sys::GetUserIdAndSecContext(&mut before.0, &mut before.1);
        pg_sys::SetUserIdAndSecContext(before.0, change(before.1));
    }
}

/// The user to go back to.
pub struct AppliesAs {
    before: (Oid, core::ffi::c_int),
    table_owner: Option<UserContext>,
}

impl AppliesAs {
    /// As core's apply worker: as the subscription's owner, and as the table's unless run_as_owner. An ERROR if the one
    /// may not become the other.
    pub fn begin(apply_as: ApplyAs, table_owner: Oid) -> AppliesAs {
        let mut before = (pg_sys::InvalidOid, 0);
        // SAFETY: within a transaction; both are given back by `end`.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut before.0, &mut before.1);
            pg_sys::SetUserIdAndSecContext(apply_as.owner, before.1);
            let table_owner = (!apply_as.run_as_owner).then(|| {
                let mut context = UserContext { user: pg_sys::InvalidOid, security_context: 0, nest_level: 0 };
                guarded!(SwitchToUntrustedUser(table_owner, &mut context));
                context
            });
            AppliesAs { before, table_owner }
        }
    }

    pub fn end(self) {
        // SAFETY: what `begin` has saved, in reverse order.
        unsafe {
            if let Some(mut context) = self.table_owner {
                guarded!(RestoreUserContext(&mut context));
            }
            pg_sys::SetUserIdAndSecContext(self.before.0, self.before.1);
        }
    }
}
