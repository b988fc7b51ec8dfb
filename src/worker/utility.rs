//! What happens before a utility command: workers leave a database that is to be dropped, moved, renamed or copied, and
//! DROP EXTENSION is refused while nodes exist.

use crate::error::OrRaise;
use crate::node::registry;
use crate::pg::catalog;
use crate::pg::hooks::Utility;
use crate::stand_aside;
use pgrx::pg_sys::Oid;
use std::ffi::CStr;

/// Does what must be done before `utility` runs. A role that may not run the command gets core's refusal, and no worker
/// has left the database for it: the conditions are those of core's dropdb, movedb, RenameDatabase and createdb. Of
/// these commands only RENAME may run within a transaction block. `is_alone`: the command is not within one.
///
/// Raises an ERROR if the extension is to be dropped while nodes exist.
pub fn before(utility: Utility<'_>, is_alone: bool) {
    match utility {
        Utility::TouchDatabase(_) | Utility::CopyDatabase(_) if !is_alone => (),
        Utility::TouchDatabase(name) => free(name, catalog::owns_database),
        Utility::RenameDatabase(name) => {
            free(name, |database| catalog::owns_database(database) && catalog::may_create_databases())
        }
        Utility::CopyDatabase(name) => free(name, |database| {
            catalog::may_create_databases() && (catalog::is_template(database) || catalog::owns_database(database))
        }),
        Utility::DropExtension => {
            if catalog::extension_oid().is_some() {
                registry::refuse_drop_while_nodes_exist().or_raise();
            }
        }
    }
}

fn free(name: &CStr, is_allowed: impl Fn(Oid) -> bool) {
    if let Some(database) = catalog::database_oid(name)
        && is_allowed(database)
    {
        stand_aside::begin(database);
    }
}
