//! The current role and its rights (utils/acl.h, catalog/pg_authid.h).

use pgrx::pg_sys;

/// Whether the current role is a superuser, has REPLICATION, or is a member of pg_monitor. Functions that are granted
/// to PUBLIC check this, because a right cannot be granted to a role attribute.
pub fn may_read_positions() -> bool {
    // SAFETY: looks up the current role in the catalogs.
    unsafe {
        let role = pg_sys::GetUserId();
        pg_sys::superuser()
            || pg_sys::has_rolreplication(role)
            || pg_sys::has_privs_of_role(role, pg_sys::Oid::from_u32(pg_sys::ROLE_PG_MONITOR))
    }
}

/// Whether the current role is a superuser or has REPLICATION, and may therefore create and move slots.
pub fn may_use_slots() -> bool {
    // SAFETY: looks up the current role in the catalogs; a superuser has every attribute.
    unsafe { pg_sys::has_rolreplication(pg_sys::GetUserId()) }
}

/// The name of the current role.
pub fn current_name() -> String {
    // SAFETY: a palloc'd C string; the current role exists.
    unsafe { super::text::to_utf8(std::ffi::CStr::from_ptr(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false))) }
}

/// Runs `f`, which may execute nothing but this library's queries on catalogs, as the bootstrap superuser: other roles
/// cannot see what processes do and hold, and would count it as nothing. After an ERROR the abort of the transaction
/// restores the role.
pub fn as_superuser<T>(f: impl FnOnce() -> T) -> T {
    let (mut role, mut context) = (pg_sys::InvalidOid, 0);
    let superuser = pg_sys::Oid::from_u32(pg_sys::BOOTSTRAP_SUPERUSERID);
    // SAFETY: as core does for a SECURITY DEFINER function; restored below.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut role, &mut context);
        let inner = context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32;
        pg_sys::SetUserIdAndSecContext(superuser, inner);
    }
    let value = f();
    // SAFETY: restores what was read above.
    unsafe { pg_sys::SetUserIdAndSecContext(role, context) };
    value
}
