//! Core's hooks that this library uses: object access, utility commands, a transaction's commit and its end. src/worker
//! and src/barrier.rs decide what they mean; this file only installs them, and each calls the previous hook.
//!
//! An ERROR that is raised inside a hook is not this library's. A Rust frame that guards the call would catch core's
//! ERROR and raise it anew without its context, position, constraint, table and column. Therefore the hooks of this
//! file that call on are bare functions without anything to drop, over which an ERROR jumps as over a C frame. The code
//! of this library is in a guarded function of its own, which has returned before.

use crate::lsn::LocalLsn;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::OnceLock;

/// A catalog change that concerns the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CatalogChange {
    /// A database was created, altered or dropped.
    Database,
    /// An extension, subscription, foreign server or user mapping of this database was created, altered or dropped.
    ThisDatabase,
}

/// A utility command about which the workers must be told before it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Utility<'a> {
    /// DROP or SET TABLESPACE of a database, to which no process may be connected.
    TouchDatabase(&'a CStr),
    /// RENAME of a database. It has the same condition, and needs CREATEDB as well.
    RenameDatabase(&'a CStr),
    /// CREATE DATABASE from this template, to which no process may be connected.
    CopyDatabase(&'a CStr),
    /// DROP EXTENSION spock_recovery without CASCADE.
    DropExtension,
}

/// The functions of src/worker that the hooks call.
pub struct Callbacks {
    pub on_change: fn(CatalogChange),
    /// Called after the commit (true) or abort (false) of every transaction, when other sessions see it. Must not raise
    /// an ERROR.
    pub on_transaction_end: fn(bool),
    /// Called when a subtransaction commits (true) or aborts (false), with its nesting level (1 is the transaction
    /// itself). Must not raise an ERROR.
    pub on_subtransaction_end: fn(bool, i32),
    /// Called before the command runs. If it raises an ERROR, the command does not run. The second argument is true if
    /// the command is the only one in its transaction.
    pub on_utility: fn(Utility<'_>, bool),
    /// Called before a transaction that has an id commits or prepares, and before COMMIT PREPARED or ROLLBACK PREPARED
    /// runs. May wait. If it raises an ERROR, the transaction is aborted.
    pub before_commit: fn(),
    /// Called when that is over, with the end of the record that was written, and at the abort of any transaction. Must
    /// not raise an ERROR.
    pub after_commit: fn(Option<LocalLsn>),
}

thread_local! {
    /// COMMIT PREPARED or ROLLBACK PREPARED is running.
    static ENDS_PREPARED: Cell<bool> = const { Cell::new(false) };
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();
static PREVIOUS_ACCESS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();
static PREVIOUS_UTILITY: OnceLock<pg_sys::ProcessUtility_hook_type> = OnceLock::new();

/// Installs the hooks. Called once, in the postmaster.
pub fn install(callbacks: Callbacks) {
    if CALLBACKS.set(callbacks).is_err() {
        return;
    }
    // SAFETY: single-threaded; the previous hooks are kept and called.
    unsafe {
        let _ = PREVIOUS_ACCESS.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(object_access);
        let _ = PREVIOUS_UTILITY.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(process_utility);
        pg_sys::RegisterResourceReleaseCallback(Some(resources_released), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), std::ptr::null_mut());
        pg_sys::RegisterXactCallback(Some(transaction_event), std::ptr::null_mut());
    }
}

/// Not guarded, see the head of this file.
#[allow(ffi_unwind_calls, reason = "nothing of this frame is lost when an ERROR jumps over it")]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: core::ffi::c_int,
    arg: *mut core::ffi::c_void,
) {
    if let Some(Some(previous)) = PREVIOUS_ACCESS.get() {
        // SAFETY: the same arguments.
        unsafe { previous(access, class, object, sub, arg) };
    }
    // SAFETY: the function guards itself.
    unsafe { note_access(access, class) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_access(access: pg_sys::ObjectAccessType::Type, class: pg_sys::Oid) {
    use pg_sys::ObjectAccessType::{OAT_DROP, OAT_POST_ALTER, OAT_POST_CREATE};
    if !matches!(access, OAT_POST_CREATE | OAT_POST_ALTER | OAT_DROP) {
        return;
    }
    let change = match class {
        pg_sys::DatabaseRelationId => CatalogChange::Database,
        pg_sys::ExtensionRelationId | pg_sys::ForeignServerRelationId | pg_sys::UserMappingRelationId => {
            CatalogChange::ThisDatabase
        }
        super::compat::SUBSCRIPTION_RELATION_ID => CatalogChange::ThisDatabase,
        _ => return,
    };
    if let Some(callbacks) = CALLBACKS.get() {
        (callbacks.on_change)(change);
    }
}

/// Called at the end of a transaction, when other sessions see it. An XactCallback comes too early: it is called before
/// the invalidation messages are sent and before locks are released, so that a worker which is woken there may still
/// find the old state in its caches (that of pg_extension on 18).
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn resources_released(
    phase: pg_sys::ResourceReleasePhase::Type,
    is_commit: bool,
    is_top_level: bool,
    _arg: *mut core::ffi::c_void,
) {
    if phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS
        && is_top_level
        && let Some(callbacks) = CALLBACKS.get()
    {
        (callbacks.on_transaction_end)(is_commit);
    }
}

/// Called at the points of a transaction's end (access/xact.c, CommitTransaction and PrepareTransaction). At COMMIT
/// core has noted the end of the commit record; at PREPARE it has not, and the end of WAL, which may be further, stands
/// for it. A transaction without an id passes by.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    let Some(callbacks) = CALLBACKS.get() else { return };
    // SAFETY: reads this process's transaction state.
    let has_id = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    match event {
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE if has_id => (callbacks.before_commit)(),
        // SAFETY: a variable of this process.
        XACT_EVENT_COMMIT => (callbacks.after_commit)(Some(LocalLsn(unsafe { pg_sys::XactLastCommitEnd }))),
        XACT_EVENT_PREPARE => (callbacks.after_commit)(Some(super::wal::inserted())),
        // COMMIT PREPARED may have written its record before something failed.
        XACT_EVENT_ABORT if ENDS_PREPARED.take() => (callbacks.after_commit)(Some(super::wal::inserted())),
        XACT_EVENT_ABORT => (callbacks.after_commit)(None),
        _ => (),
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    if let (SUBXACT_EVENT_ABORT_SUB | SUBXACT_EVENT_COMMIT_SUB, Some(callbacks)) = (event, CALLBACKS.get()) {
        // SAFETY: reads this process's transaction state; the subtransaction that ends is still the current one.
        let level = unsafe { pg_sys::GetCurrentTransactionNestLevel() };
        (callbacks.on_subtransaction_end)(event == SUBXACT_EVENT_COMMIT_SUB, level);
    }
}

unsafe extern "C-unwind" {
    /// Core's function without a guard; the bindings' function of this name guards it.
    #[link_name = "standard_ProcessUtility"]
    fn core_process_utility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const core::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Not guarded, see the head of this file.
#[allow(clippy::too_many_arguments, reason = "core's signature")]
#[allow(ffi_unwind_calls, reason = "nothing of this frame is lost when an ERROR jumps over it")]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const core::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: note_utility guards itself; core passes a planned utility statement, and the arguments are passed on
    // unchanged.
    unsafe {
        let ends_prepared = note_utility(statement, context);
        match PREVIOUS_UTILITY.get() {
            Some(Some(previous)) => {
                previous(statement, query, read_only_tree, context, params, environment, destination, completion)
            }
            _ => core_process_utility(
                statement,
                query,
                read_only_tree,
                context,
                params,
                environment,
                destination,
                completion,
            ),
        }
        if ends_prepared {
            note_prepared_ended();
        }
    }
}

/// After an ERROR in the command this is not called: the abort of its transaction says that it is over.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_prepared_ended() {
    ENDS_PREPARED.set(false);
    if let Some(callbacks) = CALLBACKS.get() {
        (callbacks.after_commit)(Some(super::wal::inserted()));
    }
}

/// Returns whether the command ends a prepared transaction: that passes XACT_EVENT_PRE_COMMIT without an id.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn note_utility(
    statement: *mut pg_sys::PlannedStmt,
    context: pg_sys::ProcessUtilityContext::Type,
) -> bool {
    // SAFETY: the caller guarantees a planned utility statement.
    let utility = unsafe { classify((*statement).utilityStmt) };
    if let (Some(utility), Some(callbacks)) = (utility, CALLBACKS.get()) {
        // The same conditions as in PreventInTransactionBlock (access/xact.c).
        // SAFETY: reads this process's transaction state.
        let is_within = unsafe { pg_sys::IsTransactionBlock() || pg_sys::IsSubTransaction() };
        let is_alone = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL && !is_within;
        (callbacks.on_utility)(utility, is_alone);
    }
    // SAFETY: as above.
    let ends_prepared = unsafe { ends_prepared((*statement).utilityStmt) };
    if let (true, Some(callbacks)) = (ends_prepared, CALLBACKS.get()) {
        ENDS_PREPARED.set(true);
        (callbacks.before_commit)();
    }
    ends_prepared
}

unsafe fn ends_prepared(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT_PREPARED, TRANS_STMT_ROLLBACK_PREPARED};
    // SAFETY: a node's tag says which struct it is.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_TransactionStmt
            && matches!(
                (*node.cast::<pg_sys::TransactionStmt>()).kind,
                TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED
            )
    }
}

/// What the command means for the workers; None for almost all commands.
unsafe fn classify<'a>(node: *mut pg_sys::Node) -> Option<Utility<'a>> {
    // SAFETY: a node's tag says which struct it is; its strings are NUL-terminated or null.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_DropdbStmt => {
                name((*node.cast::<pg_sys::DropdbStmt>()).dbname).map(Utility::TouchDatabase)
            }
            pg_sys::NodeTag::T_RenameStmt => {
                let statement = &*node.cast::<pg_sys::RenameStmt>();
                (statement.renameType == pg_sys::ObjectType::OBJECT_DATABASE)
                    .then(|| name(statement.subname).map(Utility::RenameDatabase))
                    .flatten()
            }
            pg_sys::NodeTag::T_AlterDatabaseStmt => {
                let statement = &*node.cast::<pg_sys::AlterDatabaseStmt>();
                option(statement.options, c"tablespace")
                    .and_then(|_| name(statement.dbname).map(Utility::TouchDatabase))
            }
            pg_sys::NodeTag::T_CreatedbStmt => {
                let statement = &*node.cast::<pg_sys::CreatedbStmt>();
                let template = option(statement.options, c"template")
                    .filter(|element| !(**element).arg.is_null())
                    .and_then(|element| name(pg_sys::defGetString(element)))
                    .unwrap_or(c"template1");
                Some(Utility::CopyDatabase(template))
            }
            pg_sys::NodeTag::T_DropStmt => {
                let statement = &*node.cast::<pg_sys::DropStmt>();
                let ours = statement.removeType == pg_sys::ObjectType::OBJECT_EXTENSION
                    && statement.behavior == pg_sys::DropBehavior::DROP_RESTRICT
                    && strings(statement.objects).any(|extension| extension == c"spock_recovery");
                ours.then_some(Utility::DropExtension)
            }
            _ => None,
        }
    }
}

unsafe fn name<'a>(text: *const core::ffi::c_char) -> Option<&'a CStr> {
    // SAFETY: null or NUL-terminated, in the statement's memory context, which outlives the command.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

unsafe fn elements<T>(list: *mut pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: a list of pointers, or null.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length } };
    (0..length).map(move |index| unsafe { pg_sys::list_nth(list, index) }.cast::<T>())
}

unsafe fn strings<'a>(list: *mut pg_sys::List) -> impl Iterator<Item = &'a CStr> {
    // SAFETY: a list of String nodes.
    unsafe { elements::<pg_sys::String>(list).filter_map(|string| name((*string).sval)) }
}

unsafe fn option(options: *mut pg_sys::List, wanted: &CStr) -> Option<*mut pg_sys::DefElem> {
    // SAFETY: a list of DefElem nodes.
    unsafe { elements::<pg_sys::DefElem>(options).find(|element| name((**element).defname) == Some(wanted)) }
}
