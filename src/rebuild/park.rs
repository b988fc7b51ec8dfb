//! Parked tables: while a table is being copied, the users' writes to it are refused.
//!
//! They could not be kept: the copy begins with an empty table, and whatever a user writes meanwhile would meet the
//! source's row of the same key, with nothing to tell which of both is later until the copy is complete. To let the users
//! wait would be to let them wait for hours. So they get an error at once, and read what is there.
//!
//! Triggers refuse, because they hold on every path that writes rows, and are gone with the commit that makes the table
//! ready. Those for statements also refuse an UPDATE or DELETE of rows that are not there yet, which would find nothing
//! to do. They fire for users and not for a replica, which the workers that copy and core's apply workers are.

use crate::node::error::RegistryError;
use crate::node::incomplete::ROWS;
use crate::pg::text::Text;
use crate::pg::{role, spi_text};
use pgrx::Spi;
use pgrx::pg_sys::Oid;

/// The name of the triggers for statements.
const STATEMENTS: &str = "spock_parked_statements";

/// A table and all its partitions, with whether each is a partition.
fn tree(table: Oid) -> Result<Vec<(String, bool)>, RegistryError> {
    let question = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), c.oid <> $1
                      FROM (SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1) UNION SELECT $1) t(oid)
                      JOIN pg_catalog.pg_class c ON c.oid = t.oid AND c.relkind IN ('r', 'p')
                      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                     ORDER BY c.oid <> $1, c.oid";
    Ok(Spi::connect(|client| {
        let rows = client.select(question, None, &[table.into()])?;
        rows.map(|row| Ok((row.get::<Text>(1)?.unwrap_or_default().to_utf8(), row.get::<bool>(2)?.unwrap_or(false))))
            .collect::<Result<Vec<_>, pgrx::spi::Error>>()
    })?)
}

fn triggers_of(table: &str, name: &str) -> Result<bool, RegistryError> {
    let question = "SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger
                                    WHERE tgrelid = $1::pg_catalog.regclass AND tgname = $2)";
    Ok(Spi::get_one_with_args(question, &[Text::of_message(table).into(), name.into()])?.unwrap_or(false))
}

/// Refuses the users' writes to the tables from the commit of this transaction on. When this returns, no transaction that
/// has written to them is open. A table that is parked stays so.
///
/// # Errors
/// If the catalogs cannot be read. Core's errors pass by, such as a lock that is not available.
pub fn park(tables: &[Oid]) -> Result<(), RegistryError> {
    role::as_superuser(|| {
        for table in tables {
            for (name, is_partition) in tree(*table)? {
                // Partitions get the trigger for rows with that of the whole table.
                if !is_partition && !triggers_of(&name, ROWS)? {
                    spi_text::run(&format!(
                        "CREATE TRIGGER {ROWS} BEFORE INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW \
                         EXECUTE FUNCTION spock_internal.refuse_writes()"
                    ));
                }
                if !triggers_of(&name, STATEMENTS)? {
                    spi_text::run(&format!(
                        "CREATE TRIGGER {STATEMENTS} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {name} FOR EACH STATEMENT \
                         EXECUTE FUNCTION spock_internal.refuse_writes()"
                    ));
                }
            }
        }
        Ok(())
    })
}

/// Lets the users write again from the commit of this transaction on. A table that is not parked is not even locked: DROP
/// TRIGGER IF EXISTS would lock out readers.
///
/// # Errors
/// As [`park`].
pub fn unpark(tables: &[Oid]) -> Result<(), RegistryError> {
    role::as_superuser(|| {
        for table in tables {
            for (name, is_partition) in tree(*table)? {
                if !is_partition && triggers_of(&name, ROWS)? {
                    spi_text::run(&format!("DROP TRIGGER {ROWS} ON {name}"));
                }
                if triggers_of(&name, STATEMENTS)? {
                    spi_text::run(&format!("DROP TRIGGER {STATEMENTS} ON {name}"));
                }
            }
        }
        Ok(())
    })
}
