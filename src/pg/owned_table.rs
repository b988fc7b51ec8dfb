//! Reading a user's table as its owner (utils/usercontext.h; commands/matview.c and similar commands restrict
//! themselves in the same way).
//!
//! A query on a user's table runs code of users: planning it folds the constants of index expressions, reading a
//! literal of a domain runs its checks, and any user may have written the output functions and operators of its types.
//! Therefore the query is planned, run and read as the table's owner, in a security-restricted operation, and a view in
//! the table's place is refused.
//!
//! Nothing is undone while an ERROR unwinds: the abort of the transaction restores user and settings.

use super::column_text::Known;
use super::compat;
use super::copy_to;
use super::key_condition::{Comparison, OrderOperators};
use super::process;
use super::relation_name::name_of;
use super::spi_text::{self, TextRow};
use super::text::{to_server, to_utf8};
use crate::error::SqlError;
use pgrx::pg_sys::{self, Oid};
use pgrx::spi::{quote_identifier, quote_qualified_identifier};
use pgrx::{PgLogLevel, PgSqlErrorCode};
use std::ffi::CStr;

/// Why a table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OwnedTableError {
    #[error("relation \"{0}\" does not exist")]
    Missing(String),
    #[error("\"{0}\" is not a table")]
    NoTable(String),
    #[error("permission denied for table {0}")]
    NotReadable(String),
    #[error("row security would hide rows of table {0}")]
    RowSecurity(String),
    #[error("column \"{column}\" of table {table} does not exist")]
    NoColumn { table: String, column: String },
    #[error("column \"{column}\" of table {table} has no equality operator")]
    NoEquality { table: String, column: String },
    #[error("column \"{column}\" of table {table} has no order")]
    NoOrder { table: String, column: String },
    #[error("a key of table {0} is not valid text in UTF-8")]
    KeyNotText(String),
}

impl SqlError for OwnedTableError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Missing(_) => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            Self::NoTable(_) => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            Self::NotReadable(_) | Self::RowSecurity(_) => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::NoColumn { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            Self::NoEquality { .. } | Self::NoOrder { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
            Self::KeyNotText(_) => PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotReadable(_) => Some("Its owner grants SELECT on it.".to_owned()),
            Self::RowSecurity(_) => Some("Use a role with BYPASSRLS, or a superuser.".to_owned()),
            _ => None,
        }
    }
}

/// An open and locked table, for a query on it.
pub struct OwnedTable {
    relation: pg_sys::Relation,
    schema: String,
    name: String,
}

impl OwnedTable {
    /// The table as it is written in FROM. Children by inheritance are separate tables.
    pub fn quoted(&self) -> String {
        // SAFETY: open.
        let is_partitioned = unsafe { (*(*self.relation).rd_rel).relkind } as u8 == pg_sys::RELKIND_PARTITIONED_TABLE;
        let name = quote_qualified_identifier(&self.schema, &self.name);
        if is_partitioned { name } else { format!("ONLY {name}") }
    }

    /// The conditions of its partitions on all levels, which say which rows each can contain, on columns without the
    /// name of the table. None: it is not partitioned. Needs a transaction with a snapshot.
    pub fn partition_conditions(&self) -> Option<Vec<String>> {
        // SAFETY: open.
        let (kind, oid) = unsafe { ((*(*self.relation).rd_rel).relkind as u8, (*self.relation).rd_id) };
        if kind != pg_sys::RELKIND_PARTITIONED_TABLE {
            return None;
        }
        let question = format!(
            "SELECT pg_catalog.pg_get_partition_constraintdef(p.relid) FROM pg_catalog.pg_partition_tree({}) p WHERE p.isleaf",
            oid.to_u32()
        );
        // A default partition without siblings can contain every row.
        let condition =
            |row: Vec<Option<String>>| row.into_iter().next().flatten().unwrap_or_else(|| "true".to_owned());
        // A partitioned table without partitions is a leaf in its own tree, and has no condition either.
        let leaves = spi_text::rows(&format!("{question} AND p.relid <> {}", oid.to_u32()));
        Some(leaves.into_iter().map(condition).collect())
    }

    /// The error for a column whose type has no order.
    pub fn no_order(&self, column: &str) -> OwnedTableError {
        OwnedTableError::NoOrder { table: format!("{}.{}", self.schema, self.name), column: column.to_owned() }
    }

    pub fn oid(&self) -> u32 {
        // SAFETY: open.
        unsafe { (*self.relation).rd_id }.to_u32()
    }

    /// Makes values be written as text in one style, until the query on this table has ended. Only for `query` of
    /// [`each_row`].
    pub fn write_alike(&self) {
        // SAFETY: `each_row` has opened a nest level of settings.
        process::STYLE_OF_TEXT.iter().for_each(|(name, value)| unsafe { set_locally(name, value) });
    }

    /// Makes the planner find rows by an index if there is one, also for a part of the table for which it would choose
    /// to read and sort all of it. Only for `query` of [`each_row`].
    pub fn prefer_index(&self, is_sorted: bool) {
        let mut settings =
            vec![(c"enable_seqscan", c"off"), (c"jit", c"off"), (c"max_parallel_workers_per_gather", c"0")];
        if is_sorted {
            settings.extend([(c"enable_sort", c"off"), (c"enable_bitmapscan", c"off")]);
        }
        // SAFETY: `each_row` has opened a nest level of settings.
        settings.into_iter().for_each(|(name, value)| unsafe { set_locally(name, value) });
    }

    /// The type of its rows.
    pub fn row_type(&self) -> String {
        quote_qualified_identifier(&self.schema, &self.name)
    }

    /// A column as it is written in a query of the table `t`. Other names are refused, because they would be taken for
    /// a function of the row.
    pub fn column(&self, column: &str) -> Result<String, OwnedTableError> {
        // SAFETY: the table is open.
        let number =
            to_server(column).map_or(0, |name| unsafe { pg_sys::get_attnum((*self.relation).rd_id, name.as_ptr()) });
        match number > 0 {
            true => Ok(format!("t.{}", quote_identifier(column))),
            false => Err(OwnedTableError::NoColumn {
                table: format!("{}.{}", self.schema, self.name),
                column: column.to_owned(),
            }),
        }
    }

    /// Whether a column is an integer of any width, or a domain over one.
    pub fn is_integer(&self, column: &str) -> bool {
        // SAFETY: the table is open.
        to_server(column).is_some_and(|name| unsafe {
            let number = pg_sys::get_attnum((*self.relation).rd_id, name.as_ptr());
            let type_of = |number| (*compat::attribute((*self.relation).rd_att, i32::from(number) - 1)).atttypid;
            number > 0 && Known::of(type_of(number)) == Some(Known::Integer)
        })
    }

    /// How a column is compared, by the equality of its type, independent of the search path.
    pub fn comparison(&self, column: &str) -> Result<Comparison, OwnedTableError> {
        let table = || format!("{}.{}", self.schema, self.name);
        let no_column = || OwnedTableError::NoColumn { table: table(), column: column.to_owned() };
        let name = to_server(column).ok_or_else(no_column)?;
        // SAFETY: the table is open; what the caches return is copied.
        unsafe {
            let number = pg_sys::get_attnum((*self.relation).rd_id, name.as_ptr());
            if number <= 0 {
                return Err(no_column());
            }
            let attribute = compat::attribute((*self.relation).rd_att, i32::from(number) - 1);
            let base = pg_sys::getBaseType((*attribute).atttypid);
            let wanted = pg_sys::TYPECACHE_EQ_OPR | pg_sys::TYPECACHE_BTREE_OPFAMILY;
            let known = pg_sys::lookup_type_cache(base, wanted as i32);
            let ordered_by = |strategy: u32| {
                let (family, of) = ((*known).btree_opf, (*known).btree_opintype);
                if family == Oid::INVALID {
                    return None;
                }
                operator(pg_sys::get_opfamily_member(family, of, of, strategy as i16)).map(|(name, _)| name)
            };
            let order = ordered_by(pg_sys::BTGreaterStrategyNumber)
                .zip(ordered_by(pg_sys::BTLessEqualStrategyNumber))
                .map(|(greater, at_most)| OrderOperators { greater, at_most });
            let (equal, [left, right]) = operator((*known).eq_opr)
                .ok_or_else(|| OwnedTableError::NoEquality { table: table(), column: column.to_owned() })?;
            // If the operator is polymorphic, as for arrays, enums and ranges, the actual type takes the place of the
            // declared one.
            let declared = |of: Oid| if pg_sys::get_typtype(of) as u8 == pg_sys::TYPTYPE_PSEUDO { base } else { of };
            let (left, right) = (declared(left), declared(right));
            let casts = |from: Oid, to: Oid| match from == to {
                true => format!("::{}", type_name(from)),
                false => format!("::{}::{}", type_name(from), type_name(to)),
            };
            let arrays = [base, right].map(|of| pg_sys::get_array_type(of));
            Ok(Comparison {
                column: format!("t.{}::{}", quote_identifier(column), type_name(left)),
                equal,
                casts: casts(base, right),
                array_casts: (!arrays.contains(&Oid::INVALID)).then(|| casts(arrays[0], arrays[1])),
                order,
            })
        }
    }
}

/// Passes the rows of the query that `query` makes for a table to `see`, one after the other; `see` returns whether it
/// wants the next one. The query is planned, run and read as the table's owner. The caller must be allowed to read the
/// table. Needs a transaction with a snapshot; the table stays locked until that ends.
///
/// # Errors
/// The table is missing, is not a table, or must not be read by the caller, or `query` has failed.
pub fn each_row(
    schema: &str,
    name: &str,
    query: impl FnOnce(&OwnedTable) -> Result<String, OwnedTableError>,
    see: impl FnMut(TextRow<'_>) -> bool,
) -> Result<(), OwnedTableError> {
    let reading = |table: &OwnedTable| query(table).map(|query| spi_text::each_row(&query, see));
    // SAFETY: the relation is open.
    as_owner(schema, name, |relation| unsafe { require_readable(relation, pg_sys::GetUserId()) }, reading)
}

/// Runs the query that `query` makes for a table, and passes each row to `line` as COPY TO writes it (copy_to.rs). It
/// runs as the table's owner, who must be able to read all rows. The caller's own rights are the caller's business.
///
/// # Errors
/// As [`each_row`].
pub fn copy_lines(
    schema: &str,
    name: &str,
    query: impl FnOnce(&OwnedTable) -> Result<String, OwnedTableError>,
    line: &mut dyn FnMut(&[u8]),
) -> Result<(), OwnedTableError> {
    let reading = |table: &OwnedTable| query(table).map(|query| copy_to::each_line(&query, line));
    // SAFETY: the relation is open.
    let allowed = |relation: pg_sys::Relation| unsafe { require_readable(relation, (*(*relation).rd_rel).relowner) };
    as_owner(schema, name, allowed, reading)
}

/// Whether the caller may read all rows of a table. Returns its oid. Needs a transaction; the table stays locked until that
/// ends.
///
/// # Errors
/// If not.
pub fn readable(schema: &str, name: &str) -> Result<Oid, OwnedTableError> {
    // SAFETY: the relation is open.
    let allowed = |relation: pg_sys::Relation| unsafe { require_readable(relation, pg_sys::GetUserId()) };
    // SAFETY: as above.
    as_owner(schema, name, allowed, |table| Ok(unsafe { (*table.relation).rd_id }))
}

/// Opens and locks a table, and runs `read` as its owner, restricted to reading.
fn as_owner<T>(
    schema: &str,
    name: &str,
    allowed: impl FnOnce(pg_sys::Relation) -> Result<(), OwnedTableError>,
    read: impl FnOnce(&OwnedTable) -> Result<T, OwnedTableError>,
) -> Result<T, OwnedTableError> {
    let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
    let missing = || OwnedTableError::Missing(format!("{schema}.{name}"));
    let [schema_name, table_name] = [schema, name].map(to_server);
    let (schema_name, table_name) = (schema_name.ok_or_else(missing)?, table_name.ok_or_else(missing)?);
    // SAFETY: within a transaction; the relation is closed here or by the abort. Neither opening a relation nor the
    // catalog look-ups before the change of user run code of users.
    unsafe {
        let names = [schema_name, table_name].map(|name| pg_sys::pstrdup(name.as_ptr()));
        let range = pg_sys::makeRangeVar(names[0], names[1], -1);
        let flags = pg_sys::RVROption::RVR_MISSING_OK;
        let oid = pg_sys::RangeVarGetRelidExtended(range, lock, flags, None, std::ptr::null_mut());
        if oid == Oid::INVALID {
            return Err(missing());
        }
        let relation = pg_sys::relation_open(oid, pg_sys::NoLock as pg_sys::LOCKMODE);
        let table = OwnedTable { relation, schema: schema.to_owned(), name: name.to_owned() };
        let answer = allowed(relation).and_then(|()| {
            let owner = Owner::begin((*(*relation).rd_rel).relowner);
            // Code of the owner that runs here must only read. An abort, also that of a subtransaction, restores this
            // as well (access/xact.c).
            let was_read_only = pg_sys::XactReadOnly;
            pg_sys::XactReadOnly = true;
            let answer = read(&table);
            pg_sys::XactReadOnly = was_read_only;
            owner.end();
            answer
        });
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        answer
    }
}

unsafe fn require_readable(relation: pg_sys::Relation, user: Oid) -> Result<(), OwnedTableError> {
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        let name = || name_of(relation);
        let kind = (*(*relation).rd_rel).relkind as u8;
        if kind != pg_sys::RELKIND_RELATION && kind != pg_sys::RELKIND_PARTITIONED_TABLE {
            return Err(OwnedTableError::NoTable(name()));
        }
        let oid = (*relation).rd_id;
        if pg_sys::pg_class_aclcheck(oid, user, pg_sys::ACL_SELECT.into()) != pg_sys::AclResult::ACLCHECK_OK {
            return Err(OwnedTableError::NotReadable(name()));
        }
        if pg_sys::check_enable_rls(oid, user, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
            return Err(OwnedTableError::RowSecurity(name()));
        }
        Ok(())
    }
}

/// The user and the settings that are restored at the end.
pub(super) struct Owner {
    before: (Oid, core::ffi::c_int),
    nest_level: core::ffi::c_int,
}

impl Owner {
    pub(super) fn begin(owner: Oid) -> Owner {
        let mut before = (Oid::INVALID, 0);
        let restricted = pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_LOCAL_USERID_CHANGE;
        // SAFETY: within a transaction; `end` or the abort restores both.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut before.0, &mut before.1);
            pg_sys::SetUserIdAndSecContext(owner, before.1 | restricted as core::ffi::c_int);
            let nest_level = pg_sys::NewGUCNestLevel();
            pg_sys::RestrictSearchPath();
            // Raises an error instead of hiding rows if policies apply to the owner as well.
            set_locally(c"row_security", c"off");
            Owner { before, nest_level }
        }
    }

    pub(super) fn end(self) {
        // SAFETY: what `begin` has saved, in reverse order.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.nest_level);
            pg_sys::SetUserIdAndSecContext(self.before.0, self.before.1);
        }
    }
}

/// Changes a setting until the present nest level of settings ends.
unsafe fn set_locally(name: &CStr, value: &CStr) {
    // SAFETY: the caller guarantees a nest level. Every user may change the setting.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            PgLogLevel::ERROR as core::ffi::c_int,
            false,
        );
    }
}

/// `OPERATOR(schema.name)`, and the types of its operands; None if there is no such operator.
unsafe fn operator(operator: Oid) -> Option<(String, [Oid; 2])> {
    // SAFETY: the caller guarantees a transaction. The row is read before it is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::OPEROID as i32, operator.into());
        if row.is_null() {
            return None;
        }
        let form = pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_operator>();
        let name = to_utf8(CStr::from_ptr((*form).oprname.data.as_ptr()));
        let types = [(*form).oprleft, (*form).oprright];
        let schema = pg_sys::get_namespace_name((*form).oprnamespace);
        let schema = (!schema.is_null()).then(|| to_utf8(CStr::from_ptr(schema)));
        pg_sys::ReleaseSysCache(row);
        Some((format!("OPERATOR({}.{name})", quote_identifier(schema?)), types))
    }
}

/// The type's name with its schema and without a length: `character` and `bit` alone would have length 1.
unsafe fn type_name(oid: Oid) -> String {
    let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: the caller guarantees an existing type, within a transaction.
    unsafe { to_utf8(CStr::from_ptr(pg_sys::format_type_extended(oid, -1, flags as u16))) }
}
