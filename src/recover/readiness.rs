//! What this node would need as the source if the asking node were to be recovered, and whether it
//! knows that node.

use super::error::RecoverError;
use super::facts;
use super::strangers::knows;
use crate::identity::DatabaseIdentity;
use crate::node::servers::{self, Role};
use crate::node_name::NodeName;
use crate::pg::name::Name;
use crate::pg::{process, role, wal};
use crate::plan::facts::AskerFacts;
use crate::plan::readiness::Readiness;
use crate::shmem;
use pgrx::prelude::*;

/// The most tables that are named to the asking node.
const MAX_UNREADABLE: i64 = 50;

/// What a node needs to know of this one before another node fails. None if this database is not a node, and on a
/// standby. `asker`: the node that asks, if a node asks.
///
/// # Errors
/// If a catalog cannot be read.
pub fn readiness(asker: Option<(NodeName, DatabaseIdentity)>) -> Result<Option<Readiness>, RecoverError> {
    if wal::is_in_recovery() {
        return Ok(None);
    }
    let asked_by = AskerFacts {
        role: role::current_name(),
        is_superuser: process::is_superuser(),
        may_replicate: role::may_use_slots(),
    };
    let servers = servers::servers()?;
    let Some(local) = servers.iter().find(|server| server.role == Role::Local) else { return Ok(None) };
    let knows_asker = asker.as_ref().is_none_or(|(name, identity)| knows(&servers, name.as_str(), *identity));
    if let Some((name, identity)) = asker.filter(|_| !knows_asker) {
        let mut shared = shmem::lock();
        if let Some(index) = shared.index_of(process::my_database()) {
            shared.databases()[index].note_asker(name.as_str(), identity, &asked_by.role);
        }
    }
    // PostgreSQL hides from other roles what processes do and hold.
    role::as_superuser(|| {
        Ok(Some(Readiness {
            node: local.name.to_string(),
            extension: env!("CARGO_PKG_VERSION").to_owned(),
            settings: facts::settings(),
            capacity: facts::capacity()?,
            unreadable: unreadable(&asked_by)?,
            asked_by,
            knows_asker,
        }))
    })
}

/// The tables of this database's subscriptions that the role may not read.
fn unreadable(asker: &AskerFacts) -> Result<Vec<String>, spi::Error> {
    if asker.is_superuser {
        return Ok(Vec::new());
    }
    Spi::connect(|client| {
        let rows = client.select(
            "SELECT DISTINCT n.nspname, c.relname
               FROM pg_catalog.pg_subscription s
               JOIN pg_catalog.pg_subscription_rel r ON r.srsubid = s.oid
               JOIN pg_catalog.pg_class c ON c.oid = r.srrelid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE s.subdbid = $3
                AND NOT (pg_catalog.has_schema_privilege($1, n.oid, 'USAGE')
                         AND pg_catalog.has_table_privilege($1, c.oid, 'SELECT'))
              ORDER BY n.nspname, c.relname LIMIT $2",
            None,
            &[Name(asker.role.clone()).into(), MAX_UNREADABLE.into(), process::my_database().into()],
        )?;
        let mut tables = Vec::new();
        for row in rows {
            if let (Some(schema), Some(table)) = (row.get::<Name>(1)?, row.get::<Name>(2)?) {
                tables.push(format!("{}.{}", schema.0, table.0));
            }
        }
        Ok(tables)
    })
}
