//! What the workers and the registry do round a utility command.

use super::stand_aside::StandAside;
use crate::error::OrRaise;
use crate::node::registry;
use crate::pg::catalog;
use crate::pg::hooks::Utility;

/// Runs the command between its preparation and clean-up. Who may not run it gets core's refusal, and no worker has
/// moved for him.
pub fn around(utility: Utility<'_>, run: &mut dyn FnMut()) {
    let _aside = match utility {
        Utility::TouchDatabase(name) => catalog::database_oid(name)
            .filter(|database| catalog::owns_database(*database))
            .map(StandAside::new),
        Utility::CopyDatabase(template) => catalog::database_oid(template)
            .filter(|_| catalog::may_create_databases())
            .map(StandAside::new),
        Utility::DropExtension => {
            if catalog::extension_oid().is_some() {
                registry::refuse_drop_while_nodes_exist().or_raise();
            }
            None
        }
    };
    run();
}
