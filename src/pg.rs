//! Safe wrappers round PostgreSQL's C functions. Most of the crate's `unsafe` is in this folder.
//!
//! Names are PostgreSQL's own in snake_case. A wrapper checks what the C function assumes, or its `SAFETY` comment says
//! why that holds.
#![allow(unsafe_code)]

pub mod apply_as;
pub mod catalog;
pub mod clock;
pub mod column_text;
pub mod commit_ts;
pub mod compat;
pub mod copy_from;
mod copy_to;
pub mod digest;
pub mod dsm;
pub mod error_context;
pub mod executor;
mod find;
pub mod foreign_server;
mod guarded;
mod held;
pub mod hooks;
pub mod interrupts;
pub mod json;
pub mod key_condition;
pub mod large_object;
pub mod last_error;
pub mod latch;
pub mod logicalproto;
pub mod logicalrep;
pub mod lsn;
pub mod lwlock;
pub mod memory;
pub mod name;
pub mod open_table;
pub mod origin;
pub mod owned_table;
pub mod pinned;
pub mod prepared;
pub mod process;
pub mod random;
pub mod references;
pub mod relation_files;
pub mod relation_name;
pub mod role;
pub mod row_slots;
pub mod row_text;
pub mod seclabel;
pub mod setting;
mod silent_triggers;
pub mod slot;
pub mod slot_files;
pub mod spi_text;
pub mod spill;
pub mod subscription;
mod table_kind;
pub mod text;
pub mod timeout;
pub mod transaction;
pub mod truncate;
mod tuple;
pub mod unique;
mod unlocked;
pub mod untrusted_user;
pub mod wal;
pub mod walreceiver;

pub(crate) use guarded::guarded;
