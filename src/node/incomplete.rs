//! Tables of this node that are incomplete: a copy of them is under way, or was ended before it was complete
//! (src/rebuild/park.rs). They lack rows, refuse the users' writes, and core's apply leaves them alone, until they are
//! rebuilt. So what they contain must not be taken for what this node has.
//!
//! Two things tell it, each of which outlives every process: the state that core's apply looks at, and the trigger that
//! refuses writes. Whoever drops one of them still leaves the other.

use super::error::RegistryError;
use crate::pg::name::Name;
use crate::pg::text::Text;
use crate::quoted::literal;
use pgrx::Spi;

/// The trigger that refuses the users' writes to rows.
pub const ROWS: &str = "spock_parked_rows";

/// A condition on a row `r` of pg_subscription_rel. `SUBREL_STATE_SYNCDONE` at this position: core's apply leaves the
/// table alone (catalog/pg_subscription_rel.h).
pub const SET_ASIDE: &str = "r.srsubstate = 's' AND r.srsublsn = 'FFFFFFFF/FFFFFFFF'::pg_catalog.pg_lsn";

/// What errors say of it.
pub const DETAIL: &str = "A copy of it there is under way, or was ended before it was complete.";

/// What can be done if a node is not taken as the source of a table. `table`: its qualified name as SQL has it.
pub fn hint(node: &str, table: &str) -> String {
    format!(
        "Name another source node, or rebuild the table there first: CALL spock.rebuild_run({}, tables := \
         ARRAY[{}::regclass]); on that node.",
        literal(node),
        literal(table)
    )
}

/// A table that is incomplete.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Incomplete {
    pub schema: String,
    pub name: String,
    /// Its qualified name as SQL has it.
    pub quoted: String,
}

/// The trigger of our own extension; another of that name says nothing.
fn trigger() -> String {
    format!(
        "g.tgname = '{ROWS}' AND g.tgfoid = (SELECT p.oid FROM pg_catalog.pg_proc p
            WHERE p.proname = 'refuse_writes' AND p.pronargs = 0
              AND p.pronamespace = pg_catalog.to_regnamespace('spock_internal'))"
    )
}

/// A condition in SQL: one of these tables, or one of their partitions, or a table that they are partitions of, is
/// incomplete. `tables`: an expression for an array of oids.
pub fn any_of(tables: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_catalog.unnest({tables}) t(oid),
                        LATERAL (SELECT t.oid AS relid
                                  UNION SELECT p.relid FROM pg_catalog.pg_partition_tree(t.oid) p
                                  UNION SELECT a.relid FROM pg_catalog.pg_partition_ancestors(t.oid) a(relid)) x
                  WHERE EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r WHERE r.srrelid = x.relid AND {SET_ASIDE})
                     OR EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = x.relid AND {}))",
        trigger()
    )
}

/// All incomplete tables of this database, by name; of a partitioned one that is copied as a whole the whole.
///
/// # Errors
/// If the catalogs cannot be read.
pub fn list() -> Result<Vec<Incomplete>, RegistryError> {
    let question = format!(
        "SELECT n.nspname, c.relname, pg_catalog.format('%I.%I', n.nspname, c.relname)
           FROM (SELECT r.srrelid FROM pg_catalog.pg_subscription_rel r WHERE {SET_ASIDE}
                  UNION SELECT g.tgrelid FROM pg_catalog.pg_trigger g WHERE g.tgparentid = 0 AND {}) t(oid)
           JOIN pg_catalog.pg_class c ON c.oid = t.oid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          ORDER BY 1, 2",
        trigger()
    );
    Ok(Spi::connect(|client| {
        let name = |value: Option<Name>| value.map_or_else(String::new, |name| name.0);
        let rows = client.select(&question, None, &[])?;
        rows.map(|row| {
            let quoted = row.get::<Text>(3)?.map_or_else(String::new, |text| text.to_utf8());
            Ok(Incomplete { schema: name(row.get(1)?), name: name(row.get(2)?), quoted })
        })
        .collect::<Result<Vec<_>, pgrx::spi::Error>>()
    })?)
}

/// The place of the first of these tables that is incomplete.
///
/// # Errors
/// If the catalogs cannot be read.
pub fn first(tables: &[u32]) -> Result<Option<usize>, RegistryError> {
    for (place, table) in tables.iter().enumerate() {
        let is_incomplete = any_of(&format!("ARRAY[{table}]::pg_catalog.oid[]"));
        if Spi::get_one::<bool>(&format!("SELECT {is_incomplete}"))?.unwrap_or(false) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}
