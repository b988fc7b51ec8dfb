//! Shared catalogs, read without SPI: the launcher is connected to no database, where SPI is not available.

use super::text::to_server;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A row of pg_database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub oid: pg_sys::Oid,
    pub name: String,
    /// Whether connections are allowed, and it is not what an interrupted DROP DATABASE has left.
    pub is_connectable: bool,
    pub is_template: bool,
}

/// All databases of this server. Needs a transaction.
pub fn databases() -> Vec<Database> {
    let mut found = Vec::new();
    // SAFETY: a catalog scan as core does it; the tuple is read while the scan holds its buffer pinned.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::InvalidOid,
            false,
            std::ptr::null_mut(),
            0,
            std::ptr::null_mut(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let data = (*tuple).t_data;
            let row = &*data.cast::<u8>().add(usize::from((*data).t_hoff)).cast::<pg_sys::FormData_pg_database>();
            found.push(Database {
                oid: row.oid,
                name: super::text::to_utf8(CStr::from_ptr(row.datname.data.as_ptr())),
                is_connectable: row.datallowconn && row.datconnlimit != pg_sys::DATCONNLIMIT_INVALID_DB,
                is_template: row.datistemplate,
            });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    found
}

/// The oid of a database by name, if there is one. Needs a transaction.
pub fn database_oid(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: a NUL-terminated name; missing_ok.
    let oid = unsafe { pg_sys::get_database_oid(name.as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// Whether the current role owns the database, or is a superuser.
pub fn owns_database(database: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalog.
    unsafe { pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, pg_sys::GetUserId()) }
}

/// Whether every role with CREATEDB may copy this database (datistemplate). Needs a transaction.
pub fn is_template(database: pg_sys::Oid) -> bool {
    databases().iter().any(|candidate| candidate.oid == database && candidate.is_template)
}

/// Whether the current role may create databases.
pub fn may_create_databases() -> bool {
    // SAFETY: looks up the current role.
    unsafe { pg_sys::have_createdb_privilege() }
}

/// The extension's oid in this database, if it is installed.
pub fn extension_oid() -> Option<pg_sys::Oid> {
    // SAFETY: a static C string; missing_ok.
    let oid = unsafe { pg_sys::get_extension_oid(c"spock_recovery".as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The name of this session's database. Needs a transaction.
pub fn my_database_name() -> String {
    // SAFETY: a palloc'd C string, or null for a database that is gone.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() { String::new() } else { super::text::to_utf8(CStr::from_ptr(name)) }
    }
}

/// The version of the extension's SQL in this database. Needs a snapshot.
pub fn extension_version() -> Option<String> {
    let question = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'spock_recovery'";
    // Spi::get_one would assign a transaction id.
    pgrx::Spi::connect(|client| client.select(question, Some(1), &[])?.first().get_one()).ok().flatten()
}

/// The schema that contains the extension's objects; None if the extension is not installed. It is looked up by the
/// extension, because any user may own a schema with the expected name. Needs a transaction.
pub fn extension_schema() -> Option<pg_sys::Oid> {
    // SAFETY: looks up the catalog.
    let oid = unsafe { pg_sys::get_extension_schema(extension_oid()?) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The schema of the functions that only this extension's own code calls; None in an older version of its SQL.
pub fn internal_schema() -> Option<pg_sys::Oid> {
    // SAFETY: looks up the catalog; true: no error if there is no such schema.
    let oid = unsafe { pg_sys::get_namespace_oid(c"spock_internal".as_ptr(), true) };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// The name of a schema, if it exists. Needs a transaction.
pub fn schema_name(schema: pg_sys::Oid) -> Option<String> {
    // SAFETY: a palloc'd C string, or null for a schema that is gone.
    unsafe {
        let name = pg_sys::get_namespace_name(schema);
        (!name.is_null()).then(|| super::text::to_utf8(CStr::from_ptr(name)))
    }
}

/// An oid that has not been assigned recently.
pub fn new_object_id() -> pg_sys::Oid {
    // SAFETY: takes the next one from shared memory.
    unsafe { pg_sys::GetNewObjectId() }
}

/// Whether the relation has this schema and name. Needs a transaction.
pub fn is_named(relation: u32, schema: &str, name: &str) -> bool {
    let Some((schema, name)) = to_server(schema).zip(to_server(name)) else { return false };
    // SAFETY: look-ups in catalogs.
    let found = unsafe {
        let schema = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    found != pg_sys::InvalidOid && found.to_u32() == relation
}

/// The schema and the name of a relation; None: there is none. Needs a transaction.
pub fn table_name(table: pg_sys::Oid) -> Option<(String, String)> {
    let text = |name: *mut core::ffi::c_char| {
        // SAFETY: null, or a NUL-terminated copy in the current memory context.
        (!name.is_null()).then(|| super::text::to_utf8(unsafe { CStr::from_ptr(name) }))
    };
    // SAFETY: looks into the caches.
    unsafe {
        let name = text(pg_sys::get_rel_name(table))?;
        Some((text(pg_sys::get_namespace_name(pg_sys::get_rel_namespace(table)))?, name))
    }
}
