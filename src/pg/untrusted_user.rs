//! Running as another user for the duration of a change (utils/usercontext.h, miscadmin.h).
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

/// Makes this session one of the subscription's owner, as core's apply worker connects. Triggers see that session user,
/// and triggers that are deferred to the commit run as that user. Needs a transaction.
pub fn enter_session_of(owner: Oid) {
    // SAFETY: outside of any change of user.
    unsafe { pg_sys::SetSessionAuthorization(owner, pg_sys::superuser_arg(owner)) };
}

pub fn is_session_of(owner: Oid) -> bool {
    // SAFETY: reads this process's state.
    unsafe { pg_sys::GetSessionUserId() == owner }
}

/// Makes this session one of the bootstrap superuser again, as which the worker has connected. Must be called outside a
/// transaction.
pub fn leave_session() {
    // SAFETY: no change of user is in effect between transactions.
    unsafe { pg_sys::SetSessionAuthorization(pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID), true) };
}

/// Prevents SET ROLE and SET SESSION AUTHORIZATION until the transaction ends. These commands check the user who has
/// connected, who is a superuser, and would therefore allow any role. In the session of a superuser nothing is
/// restricted.
pub fn confine_transaction() {
    change_context(|context| context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as core::ffi::c_int);
}

/// Removes the restriction after the commit. An abort removes it by itself.
pub fn release_session() {
    change_context(|_| 0);
}

fn change_context(change: impl FnOnce(core::ffi::c_int) -> core::ffi::c_int) {
    let mut before = (pg_sys::InvalidOid, 0);
    // SAFETY: the current user does not change.
    unsafe {
        if pg_sys::GetSessionUserIsSuperuser() {
            return;
        }
        pg_sys::GetUserIdAndSecContext(&mut before.0, &mut before.1);
        pg_sys::SetUserIdAndSecContext(before.0, change(before.1));
    }
}

/// The user to whom `end` switches back.
pub struct AppliesAs {
    before: (Oid, core::ffi::c_int),
    table_owner: Option<UserContext>,
}

impl AppliesAs {
    /// Switches to the subscription's owner, and then to the table's owner unless run_as_owner is set, as core's apply
    /// worker does. Raises an ERROR if the former may not become the latter.
    pub fn begin(apply_as: ApplyAs, table_owner: Oid) -> AppliesAs {
        let mut before = (pg_sys::InvalidOid, 0);
        // SAFETY: within a transaction; `end` undoes both.
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
