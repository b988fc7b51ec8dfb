//! Writing rows into a table by COPY FROM, as core's initial copy does (commands/copy.h; tablesync.c, copy_table): text
//! format, UTF-8, with indexes, constraints, triggers, generated columns and partitions.

use super::relation_name::name_of;
use super::silent_triggers;
use super::spi_text;
use super::text::to_server;
use crate::error::SqlError;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::{self, Oid};
use std::cell::Cell;

/// Why nothing can be copied into a table.
#[derive(Debug, thiserror::Error)]
pub enum CopyIntoError {
    #[error("relation \"{0}\" does not exist")]
    Missing(String),
    #[error("\"{0}\" is not a table")]
    NoTable(String),
    #[error("the owner of table {0} may not insert into it")]
    NotWritable(String),
    #[error("table {0} has got another owner meanwhile")]
    OtherOwner(String),
    #[error("row security would apply to what is copied into table {0}")]
    RowSecurity(String),
}

impl SqlError for CopyIntoError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::Missing(_) => PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            Self::NoTable(_) => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            Self::OtherOwner(_) => PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            Self::NotWritable(_) | Self::RowSecurity(_) => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotWritable(_) => Some("Its owner grants INSERT on it to itself.".to_owned()),
            Self::RowSecurity(_) => Some("ALTER TABLE … NO FORCE ROW LEVEL SECURITY;".to_owned()),
            Self::OtherOwner(_) => Some("Try again.".to_owned()),
            Self::Missing(_) | Self::NoTable(_) => None,
        }
    }
}

/// Fills the buffer with what comes next, with at least one byte. Returns how many; zero: there is nothing more.
pub type Source<'a> = dyn FnMut(&mut [u8]) -> usize + 'a;

thread_local! {
    static SOURCE: Cell<Option<*mut Source<'static>>> = const { Cell::new(None) };
}

/// The options of both directions.
pub(super) fn options() -> *mut pg_sys::List {
    // SAFETY: allocated in the current context; the names are static.
    unsafe {
        let utf8 = pg_sys::makeString(pg_sys::pstrdup(c"UTF8".as_ptr()));
        let option = pg_sys::makeDefElem(pg_sys::pstrdup(c"encoding".as_ptr()), utf8.cast(), -1);
        list_of(option.cast())
    }
}

unsafe fn list_of(first: *mut core::ffi::c_void) -> *mut pg_sys::List {
    // SAFETY: the caller guarantees a node.
    unsafe { pg_sys::lappend(std::ptr::null_mut(), first) }
}

/// Copies rows into these columns of a table, as the table's owner, whose session this must be; triggers fire as the session's replication role says.
/// Needs a transaction with a snapshot. Returns the number of rows that were copied.
///
/// # Errors
/// If it is not a table that its owner may fill. Whatever else fails is an ERROR of core.
pub fn rows(schema: &str, name: &str, columns: &[String], source: &mut Source<'_>) -> Result<u64, CopyIntoError> {
    as_owner(schema, name, pg_sys::RowExclusiveLock, |table| {
        let source: *mut Source<'_> = source;
        // SAFETY: the source lives until this ends; an ERROR leaves the pointer behind, and the next COPY replaces it.
        SOURCE.set(Some(unsafe { std::mem::transmute::<*mut Source<'_>, *mut Source<'static>>(source) }));
        // SAFETY: a locked table, which is closed here or by the abort.
        let copied = unsafe {
            let relation = pg_sys::table_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
            silent_triggers::overlook(relation);
            let copied = copy(relation, columns);
            pg_sys::table_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
            copied
        };
        SOURCE.set(None);
        copied
    })
}

/// Removes all rows of a table, as its owner. A table to which others refer is not truncated: that would need these tables
/// too. Needs a transaction with a snapshot.
///
/// # Errors
/// As [`rows`].
pub fn empty(schema: &str, name: &str) -> Result<(), CopyIntoError> {
    as_owner(schema, name, pg_sys::AccessExclusiveLock, |oid| {
        let table = pgrx::spi::quote_qualified_identifier(schema, name);
        let command = if is_referred_to(oid) { format!("DELETE FROM {table}") } else { format!("TRUNCATE {table}") };
        spi_text::run(&command);
    })
}

/// Whether a foreign key of another table refers to the table or to a partition of it.
fn is_referred_to(table: Oid) -> bool {
    let question = "WITH tree AS (SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1) UNION SELECT $1)
                    SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint c
                                    WHERE c.contype = 'f' AND c.confrelid IN (SELECT relid FROM tree)
                                      AND c.conrelid NOT IN (SELECT relid FROM tree))";
    pgrx::Spi::get_one_with_args(question, &[table.into()]).ok().flatten().unwrap_or(true)
}

/// The owner of a table. Needs a transaction; the table stays locked until that ends.
///
/// # Errors
/// As [`rows`].
pub fn owner_of(schema: &str, name: &str) -> Result<Oid, CopyIntoError> {
    let table = lock(schema, name, pg_sys::AccessShareLock)?;
    // SAFETY: a locked table, which is closed here or by the abort.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let (owner, fillable) = ((*(*relation).rd_rel).relowner, require_fillable(relation));
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        fillable.map(|()| owner)
    }
}

/// Locks a table by its name.
fn lock(schema: &str, name: &str, mode: u32) -> Result<Oid, CopyIntoError> {
    let missing = || CopyIntoError::Missing(format!("{schema}.{name}"));
    let [schema_name, table_name] = [schema, name].map(to_server);
    let (schema_name, table_name) = (schema_name.ok_or_else(missing)?, table_name.ok_or_else(missing)?);
    // SAFETY: within a transaction; names are copied.
    unsafe {
        let names = [schema_name, table_name].map(|name| pg_sys::pstrdup(name.as_ptr()));
        let range = pg_sys::makeRangeVar(names[0], names[1], -1);
        let (flags, mode) = (pg_sys::RVROption::RVR_MISSING_OK, mode as pg_sys::LOCKMODE);
        let table = pg_sys::RangeVarGetRelidExtended(range, mode, flags, None, std::ptr::null_mut());
        if table == Oid::INVALID { Err(missing()) } else { Ok(table) }
    }
}

/// Locks a table, and runs `f` as its owner, whose session this must be (untrusted_user.rs). What is deferred to the commit
/// runs before this ends, and settings that code of the owner has changed are restored: what follows is this library's
/// own work.
fn as_owner<T>(schema: &str, name: &str, mode: u32, f: impl FnOnce(Oid) -> T) -> Result<T, CopyIntoError> {
    let table = lock(schema, name, mode)?;
    // SAFETY: within a transaction; what is not undone here is undone by the abort.
    unsafe {
        let relation = pg_sys::relation_open(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        let fillable = require_fillable(relation);
        let is_owner = (*(*relation).rd_rel).relowner == pg_sys::GetUserId();
        let named = name_of(relation);
        // It must not be in use when a command empties it.
        pg_sys::relation_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        fillable?;
        if !is_owner {
            return Err(CopyIntoError::OtherOwner(named));
        }
        let nest_level = pg_sys::NewGUCNestLevel();
        let done = f(table);
        pg_sys::AfterTriggerFireDeferred();
        pg_sys::AtEOXact_GUC(false, nest_level);
        Ok(done)
    }
}

unsafe fn require_fillable(relation: pg_sys::Relation) -> Result<(), CopyIntoError> {
    // SAFETY: the caller guarantees an open relation.
    unsafe {
        let (form, oid) = ((*relation).rd_rel, (*relation).rd_id);
        let (kind, owner) = ((*form).relkind as u8, (*form).relowner);
        if kind != pg_sys::RELKIND_RELATION && kind != pg_sys::RELKIND_PARTITIONED_TABLE {
            return Err(CopyIntoError::NoTable(name_of(relation)));
        }
        if pg_sys::pg_class_aclcheck(oid, owner, pg_sys::ACL_INSERT.into()) != pg_sys::AclResult::ACLCHECK_OK {
            return Err(CopyIntoError::NotWritable(name_of(relation)));
        }
        if pg_sys::check_enable_rls(oid, owner, true) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32 {
            return Err(CopyIntoError::RowSecurity(name_of(relation)));
        }
        Ok(())
    }
}

unsafe fn copy(relation: pg_sys::Relation, columns: &[String]) -> u64 {
    // SAFETY: the caller guarantees an open, locked table and a source.
    unsafe {
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        let mode = pg_sys::AccessShareLock as core::ffi::c_int;
        pg_sys::addRangeTableEntryForRelation(state, relation, mode, std::ptr::null_mut(), false, false);
        let mut names = std::ptr::null_mut();
        for column in columns {
            let Some(column) = to_server(column) else { pgrx::error!("a column name with a null byte") };
            names = pg_sys::lappend(names, pg_sys::makeString(pg_sys::pstrdup(column.as_ptr())).cast());
        }
        let none = std::ptr::null_mut();
        let copy = pg_sys::BeginCopyFrom(state, relation, none, std::ptr::null(), false, Some(read), names, options());
        let copied = pg_sys::CopyFrom(copy);
        pg_sys::EndCopyFrom(copy);
        pg_sys::free_parsestate(state);
        copied
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn read(
    buffer: *mut core::ffi::c_void,
    _least: core::ffi::c_int,
    most: core::ffi::c_int,
) -> core::ffi::c_int {
    let Some(source) = SOURCE.get() else { return 0 };
    // SAFETY: `rows` is running, so the source lives; core passes a buffer of this length.
    unsafe {
        let buffer = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), most.max(0) as usize);
        (*source)(buffer) as core::ffi::c_int
    }
}
