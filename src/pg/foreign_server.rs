//! Foreign servers and their user mappings through core's own commands (commands/foreigncmds.c).
//!
//! SPI is not used, because a connection string in a nested statement would appear in the CONTEXT of errors and in
//! pg_stat_statements. Strings are in this database's encoding.

use super::transaction;
use pgrx::pg_sys;
use std::ffi::CStr;

/// `BOOTSTRAP_SUPERUSERID` (catalog/pg_authid.dat).
pub const BOOTSTRAP_SUPERUSER: pg_sys::Oid = pg_sys::Oid::from_u32(10);

/// Prevents other sessions from changing servers of the wrapper until the transaction ends. Core takes no such lock,
/// and the second of two concurrent changes would fail with "tuple concurrently updated".
pub fn lock_servers_of(wrapper: &CStr) {
    // SAFETY: within a transaction; missing_ok.
    unsafe {
        let wrapper = pg_sys::get_foreign_data_wrapper_oid(wrapper.as_ptr(), true);
        let mode = pg_sys::ShareUpdateExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockDatabaseObject(pg_sys::ForeignDataWrapperRelationId, wrapper, 0, mode);
    }
}

/// CREATE SERVER. Needs a superuser. Returns the server's oid.
pub fn create_server(name: &CStr, wrapper: &CStr, options: &[(&CStr, &CStr)]) -> pg_sys::Oid {
    transaction::commit_locally_if_alone();
    // SAFETY: every string is copied into the current memory context before the command sees it.
    unsafe {
        let mut statement: pg_sys::CreateForeignServerStmt = std::mem::zeroed();
        statement.type_ = pg_sys::NodeTag::T_CreateForeignServerStmt;
        statement.servername = pg_sys::pstrdup(name.as_ptr());
        statement.fdwname = pg_sys::pstrdup(wrapper.as_ptr());
        statement.options = option_list(options);
        let address = pg_sys::CreateForeignServer(&mut statement);
        pg_sys::CommandCounterIncrement();
        address.objectId
    }
}

/// What ALTER SERVER … OPTIONS does with each named option.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OptionAction {
    Add,
    Set,
    /// The option's value is ignored.
    Drop,
}

/// ALTER SERVER … OPTIONS.
pub fn alter_server_options(name: &CStr, options: &[(&CStr, &CStr)], action: OptionAction) {
    transaction::commit_locally_if_alone();
    // SAFETY: as in `create_server`.
    unsafe {
        let mut statement: pg_sys::AlterForeignServerStmt = std::mem::zeroed();
        statement.type_ = pg_sys::NodeTag::T_AlterForeignServerStmt;
        statement.servername = pg_sys::pstrdup(name.as_ptr());
        statement.options = option_list(options);
        for option in options_of(statement.options) {
            (*option).defaction = match action {
                OptionAction::Add => pg_sys::DefElemAction::DEFELEM_ADD,
                OptionAction::Set => pg_sys::DefElemAction::DEFELEM_SET,
                OptionAction::Drop => pg_sys::DefElemAction::DEFELEM_DROP,
            };
        }
        pg_sys::AlterForeignServer(&mut statement);
        pg_sys::CommandCounterIncrement();
    }
}

/// The role to which a user mapping belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MappingFor {
    Public,
    /// The bootstrap superuser, as which the workers connect.
    Workers,
}

/// CREATE USER MAPPING. Only superusers and the server's owner can read the mapping (view pg_user_mappings).
pub fn create_mapping(server: &CStr, whose: MappingFor, options: &[(&CStr, &CStr)]) -> pg_sys::Oid {
    transaction::commit_locally_if_alone();
    // SAFETY: as in `create_server`.
    unsafe {
        let mut statement: pg_sys::CreateUserMappingStmt = std::mem::zeroed();
        statement.type_ = pg_sys::NodeTag::T_CreateUserMappingStmt;
        statement.user = role(whose);
        statement.servername = pg_sys::pstrdup(server.as_ptr());
        statement.options = option_list(options);
        let address = pg_sys::CreateUserMapping(&mut statement);
        pg_sys::CommandCounterIncrement();
        address.objectId
    }
}

/// DROP USER MAPPING IF EXISTS.
pub fn drop_mapping(server: &CStr, whose: MappingFor) {
    transaction::commit_locally_if_alone();
    // SAFETY: as in `create_server`.
    unsafe {
        let mut statement: pg_sys::DropUserMappingStmt = std::mem::zeroed();
        statement.type_ = pg_sys::NodeTag::T_DropUserMappingStmt;
        statement.user = role(whose);
        statement.servername = pg_sys::pstrdup(server.as_ptr());
        statement.missing_ok = true;
        pg_sys::RemoveUserMapping(&mut statement);
        pg_sys::CommandCounterIncrement();
    }
}

/// The options of the server with that name, in the catalog's form (`name=value`), if it belongs to that wrapper. Needs
/// a transaction, but no snapshot.
pub fn server_options(name: &CStr, wrapper: &CStr) -> Option<Vec<String>> {
    // SAFETY: catalog entries copied into the current memory context, or null where there is none.
    unsafe {
        let server = pg_sys::GetForeignServerByName(name.as_ptr(), true);
        if server.is_null() {
            return None;
        }
        let of = pg_sys::GetForeignDataWrapper((*server).fdwid);
        if CStr::from_ptr((*of).fdwname) != wrapper {
            return None;
        }
        let option = |element: *mut pg_sys::DefElem| {
            let name = CStr::from_ptr((*element).defname).to_string_lossy();
            let value = CStr::from_ptr(pg_sys::defGetString(element)).to_string_lossy();
            format!("{name}={value}")
        };
        Some(options_of((*server).options).map(option).collect())
    }
}

/// DROP SERVER … CASCADE, by oid: removes the server with its user mappings.
pub fn drop_server(server: pg_sys::Oid) {
    transaction::commit_locally_if_alone();
    let address = pg_sys::ObjectAddress { classId: pg_sys::ForeignServerRelationId, objectId: server, objectSubId: 0 };
    // SAFETY: the address is complete; performDeletion locks the object itself.
    unsafe {
        pg_sys::performDeletion(&address, pg_sys::DropBehavior::DROP_CASCADE, 0);
        pg_sys::CommandCounterIncrement();
    }
}

unsafe fn role(whose: MappingFor) -> *mut pg_sys::RoleSpec {
    // SAFETY: a node of the right size in the current memory context.
    unsafe {
        let role = pg_sys::palloc0(size_of::<pg_sys::RoleSpec>()).cast::<pg_sys::RoleSpec>();
        (*role).type_ = pg_sys::NodeTag::T_RoleSpec;
        match whose {
            MappingFor::Public => (*role).roletype = pg_sys::RoleSpecType::ROLESPEC_PUBLIC,
            MappingFor::Workers => {
                (*role).roletype = pg_sys::RoleSpecType::ROLESPEC_CSTRING;
                (*role).rolename = pg_sys::GetUserNameFromId(BOOTSTRAP_SUPERUSER, false);
            }
        }
        (*role).location = -1;
        role
    }
}

unsafe fn option_list(options: &[(&CStr, &CStr)]) -> *mut pg_sys::List {
    let mut list = std::ptr::null_mut();
    for (name, value) in options {
        // SAFETY: both strings are copied.
        unsafe {
            let name = pg_sys::pstrdup(name.as_ptr());
            let value = pg_sys::makeString(pg_sys::pstrdup(value.as_ptr()));
            let element = pg_sys::makeDefElem(name, value.cast(), -1);
            list = pg_sys::lappend(list, element.cast());
        }
    }
    list
}

unsafe fn options_of(list: *mut pg_sys::List) -> impl Iterator<Item = *mut pg_sys::DefElem> {
    // SAFETY: made by `option_list`: a list of DefElem, or null.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length } };
    (0..length).map(move |index| unsafe {
        // SAFETY: the index is within the list.
        pg_sys::list_nth(list, index).cast::<pg_sys::DefElem>()
    })
}
