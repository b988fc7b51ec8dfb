//! spock_recovery: recovers a cluster of nodes in logical replication from the loss of one of them.
//!
//! The modules that matter first: `node` is the registry of nodes, `worker` holds the background workers, `remote` asks
//! a peer, `shmem` is the shared memory of these processes, and `pg` wraps PostgreSQL. docs/design/architecture.md
//! describes the whole.
#![deny(unsafe_code, unsafe_op_in_unsafe_fn, ffi_unwind_calls)]
#![warn(missing_debug_implementations)]

mod apply;
mod backoff;
mod barrier;
mod compare;
mod comparing;
mod counted;
mod document;
#[cfg(test)]
mod document_tests;
mod error;
mod failpoint;
mod guc;
mod health;
mod identity;
mod intent;
mod intent_id;
#[cfg(test)]
mod layers;
mod lsn;
mod node;
mod node_name;
mod older_copy;
mod pg;
mod plan;
mod plugin;
mod protocol;
mod quoted;
mod rebuild;
mod reconcile;
mod recover;
mod refused;
mod remote;
mod restore_point;
mod shmem;
mod slot;
mod sql;
mod stand_aside;
mod tally;
mod wake;
mod worker;

#[cfg(feature = "pg_test")]
mod pg_tests;

::pgrx::pg_module_magic!(name, version);

pgrx::extension_sql_file!("../sql/registry.sql", name = "registry");
pgrx::extension_sql_file!("../sql/slot.sql", name = "slot", requires = ["registry"]);
pgrx::extension_sql_file!("../sql/recovery.sql", name = "recovery", requires = ["slot"]);
pgrx::extension_sql_file!("../sql/plan.sql", name = "plan", requires = ["recovery"]);
pgrx::extension_sql_file!("../sql/recover.sql", name = "recover", requires = ["plan"]);
pgrx::extension_sql_file!("../sql/restore_point.sql", name = "restore_point", requires = ["recover"]);
pgrx::extension_sql_file!("../sql/compare.sql", name = "compare", requires = ["restore_point"]);
pgrx::extension_sql_file!("../sql/rebuild.sql", name = "rebuild", requires = ["compare"]);
pgrx::extension_sql_file!("../sql/rebuild_run.sql", name = "rebuild_run", requires = ["rebuild"]);
pgrx::extension_sql_file!(
    "../sql/names_shared_with_spock.sql",
    name = "names_shared_with_spock",
    requires =
        ["registry", "slot", "recovery", "plan", "recover", "rebuild_run", "restore_point", "compare", "rebuild"]
);

pgrx::extension_sql_file!("../sql/asked_by_0_1_0.sql", name = "asked_by_0_1_0", requires = ["names_shared_with_spock"]);

/// PostgreSQL calls this function when it loads the library.
#[allow(unsafe_code)] // a symbol that PostgreSQL looks up by name
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if !pg::process::is_preloading() {
        error::raise(&error::NotPreloaded);
    }
    guc::register();
    shmem::register();
    pg::seclabel::register(sql::node::check_label);
    pg::hooks::install(pg::hooks::Callbacks {
        on_change: wake::note,
        on_transaction_end: wake::on_transaction_end,
        on_subtransaction_end: stand_aside::end_of_subtransaction,
        on_utility: worker::utility::before,
        before_commit: barrier::before_commit,
        after_commit: barrier::after_commit,
    });
    // The servers that pg_upgrade starts must be left unchanged.
    if !pg::process::in_binary_upgrade() {
        worker::start::register_launcher();
    }
}

/// What `cargo pgrx test` requires. `make test` runs the same tests through tests/pg_tests.rs, which needs no sudo.
#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'spock_recovery'"]
    }
}
