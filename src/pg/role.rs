//! Who the current role is (utils/acl.h, catalog/pg_authid.h).

use pgrx::pg_sys;

/// Superusers, roles with REPLICATION and members of pg_monitor: role attributes cannot receive grants, so functions that
/// are granted to PUBLIC ask this.
pub fn may_read_positions() -> bool {
    // SAFETY: looks up the current role in the catalogs.
    unsafe {
        let role = pg_sys::GetUserId();
        pg_sys::superuser()
            || pg_sys::has_rolreplication(role)
            || pg_sys::has_privs_of_role(role, pg_sys::Oid::from_u32(pg_sys::ROLE_PG_MONITOR))
    }
}
