//! The output plugin `spock_recovery`. On the source of a rescue it turns the recovery slot's clone into a stream of
//! exactly the failed node's missing transactions, in pgoutput's wire format (core counterpart: pgoutput.c).
//!
//! The plugin sends the tables of an explicit list and ignores publications: a publication that is younger than the WAL
//! makes pgoutput fail on 17 and lose rows on 18, and this server's row filters would drop rows of the failed node.
//! Transactions of other origins are filtered before their changes are queued, and those outside (skip, stop] before
//! they are sent. Every transaction carries the origin message. Unfinished transactions are not streamed; prepared ones
//! are sent at their commit.
//!
//! The plugin is safe in a walsender. Its start-up runs outside a transaction and looks at no catalog. What belongs to
//! a stream is freed with the decoding context, because nothing tells a plugin that decoding has failed.
#![allow(unsafe_code)]

mod large_row;
pub mod parameters;
mod place;
mod relation;
mod row_change;

use crate::error::OrRaise;
use crate::failpoint::{self, names};
use crate::guc;
use crate::lsn::OriginLsn;
use crate::pg::{compat, origin};
use parameters::{Parameters, Settings};
use pgrx::{PgMemoryContexts, pg_sys};
use row_change::RowChange;

/// A pack of messages is sent when it has this length in bytes. The last pack of a transaction is sent with its commit.
const PACK_BYTES: core::ffi::c_int = 32 * 1024;

/// The most bytes that stay allocated for a pack; the memory that a large row took beyond that is given back.
const KEPT_BYTES: core::ffi::c_int = 8 * PACK_BYTES;

/// The state of one stream, in `output_plugin_private`.
struct PluginStream {
    parameters: Parameters,
    /// The memory context of one change, reset after it.
    change_context: pg_sys::MemoryContext,
    /// Messages of the present transaction that have yet to be sent.
    pack: pg_sys::StringInfo,
    /// Whether a transaction later than the stop timestamp was met: nothing after it is sent either.
    is_over: bool,
    /// Whether the present transaction's changes are to be sent.
    is_wanted: bool,
    /// Whether BEGIN was sent for the present transaction. It is sent with the first change, so that nothing is sent
    /// for an empty transaction.
    is_begun: bool,
    /// Makes ERRORs stop reporting this stream's place when the stream is freed.
    _place: place::StreamGuard,
}

impl PluginStream {
    /// Whether this server wrote the transaction while reconciling its own recovery.
    unsafe fn is_reconciled(&self, txn: *mut pg_sys::ReorderBufferTXN) -> bool {
        // SAFETY: the caller's promise: the transaction at hand.
        self.parameters.reconciled_by == Some(unsafe { (*txn).origin_id })
    }

    /// Whether a change has something to send to this receiver.
    unsafe fn wants_change(
        &self,
        txn: *mut pg_sys::ReorderBufferTXN,
        change: *mut pg_sys::ReorderBufferChange,
    ) -> bool {
        // SAFETY: the caller's promise: a row change of the transaction at hand.
        unsafe {
            let (old, new) = ((*change).data.tp.oldtuple, (*change).data.tp.newtuple);
            let is_update = (*change).action == pg_sys::ReorderBufferChangeType::REORDER_BUFFER_CHANGE_UPDATE;
            // PostgreSQL logs an old key if it has changed, and always for a table with REPLICA IDENTITY FULL.
            if self.parameters.wants_key_changes && (!is_update || old.is_null()) && !self.is_reconciled(txn) {
                return false;
            }
            is_delete(change) || !new.is_null()
        }
    }
}

#[pgrx::pg_guard]
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn _PG_output_plugin_init(callbacks: *mut pg_sys::OutputPluginCallbacks) {
    // SAFETY: core gives a zeroed struct. Without prepare and stream callbacks there is neither two-phase nor
    // streaming.
    let callbacks = unsafe { &mut *callbacks };
    callbacks.startup_cb = Some(startup);
    callbacks.filter_by_origin_cb = Some(filter_by_origin);
    callbacks.begin_cb = Some(begin);
    callbacks.change_cb = Some(change);
    callbacks.truncate_cb = Some(truncate);
    callbacks.commit_cb = Some(commit);
}

/// The settings as they stand in this session.
fn settings() -> Settings {
    Settings {
        origin: guc::rescue_origin(),
        skip_lsn: guc::rescue_skip_lsn(),
        stop_lsn: guc::rescue_stop_lsn(),
        stop_timestamp: guc::rescue_stop_timestamp(),
        tables: guc::rescue_tables(),
        key_changes: guc::rescue_key_changes(),
        reconciled_by: guc::rescue_reconciled_by(),
        packed: guc::rescue_packed(),
        given_up: guc::rescue_given_up(),
        announced: guc::rescue_announced(),
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup(
    context: *mut pg_sys::LogicalDecodingContext,
    options: *mut pg_sys::OutputPluginOptions,
    is_init: bool,
) {
    // SAFETY: core gives both; the stream lives as long as the context.
    unsafe {
        (*options).output_type = pg_sys::OutputPluginOutputType::OUTPUT_PLUGIN_BINARY_OUTPUT;
        // The slot is being created or copied: nothing is streamed.
        if is_init {
            return;
        }
        let parameters = Parameters::read(&settings()).or_raise();
        relation::watch_invalidations();
        relation::forget_all();
        let change_context = pg_sys::AllocSetContextCreateInternal(
            (*context).context,
            c"spock_recovery plugin change".as_ptr(),
            pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        );
        let previous = pg_sys::MemoryContextSwitchTo((*context).context);
        let pack = pg_sys::makeStringInfo();
        pg_sys::MemoryContextSwitchTo(previous);
        let _place = place::begin_stream();
        let stream = PluginStream {
            parameters,
            change_context,
            pack,
            is_over: false,
            is_wanted: false,
            is_begun: false,
            _place,
        };
        let stream = PgMemoryContexts::For((*context).context).leak_and_drop_on_delete(stream);
        (*context).output_plugin_private = stream.cast();
    }
}

/// # Safety
/// `context` must be that of a stream, after its start-up.
unsafe fn stream<'a>(context: *mut pg_sys::LogicalDecodingContext) -> Option<&'a mut PluginStream> {
    // SAFETY: the pointer is null while a slot is created, and else set in `startup`. One callback at a time uses it.
    unsafe { (*context).output_plugin_private.cast::<PluginStream>().as_mut() }
}

/// Core calls this while it reads WAL, with nothing but the origin's id.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn filter_by_origin(
    context: *mut pg_sys::LogicalDecodingContext,
    origin_id: pg_sys::RepOriginId,
) -> bool {
    // SAFETY: core's contract of a callback.
    match unsafe { stream(context) } {
        Some(stream) => (origin_id != stream.parameters.origin_id) != stream.parameters.wants_key_changes,
        None => false,
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn begin(context: *mut pg_sys::LogicalDecodingContext, txn: *mut pg_sys::ReorderBufferTXN) {
    // SAFETY: core's contract of a callback. The commit time is known, because transactions arrive at their commit.
    unsafe {
        let Some(stream) = stream(context) else { return };
        stream.is_begun = false;
        if stream.parameters.wants_key_changes {
            stream.is_wanted = true;
            return;
        }
        stream.is_wanted = !stream.is_over && stream.parameters.wants(OriginLsn((*txn).origin_lsn));
        if stream.is_wanted && stream.parameters.ends_before((*txn).xact_time.commit_time) {
            stream.is_over = true;
            stream.is_wanted = false;
            // The receiver must know that something was left out, because that decides where it sets the origin.
            write(context, stream, |out| {
                let (xid, lsn) = (pg_sys::InvalidTransactionId, (*txn).final_lsn);
                let prefix = c"spock_recovery".as_ptr();
                pg_sys::logicalrep_write_message(out, xid, lsn, false, prefix, 0, c"".as_ptr());
            });
            send(context, stream);
        }
        if stream.is_wanted {
            let origin_lsn = OriginLsn((*txn).origin_lsn);
            place::enter(origin_lsn);
            let is_given_up = stream.parameters.given_up.contains(&origin_lsn);
            if is_given_up || stream.parameters.is_announced {
                send_begin(context, txn, stream);
                send(context, stream);
            }
            // The receiver has given up this transaction's changes. It is told where the transaction ends, for its own
            // progress.
            stream.is_wanted = !is_given_up;
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn commit(
    context: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    commit_lsn: pg_sys::XLogRecPtr,
) {
    // SAFETY: core's contract of a callback.
    unsafe {
        let Some(stream) = stream(context) else { return };
        let is_begun = std::mem::take(&mut stream.is_begun);
        // A receiver to which nothing was sent for long must hear that this process is alive, and which position it has
        // reached.
        pg_sys::OutputPluginUpdateProgress(context, !is_begun);
        if is_begun {
            write(context, stream, |out| pg_sys::logicalrep_write_commit(out, txn, commit_lsn));
            // The pack is sent before the receiver can hear of a position beyond it.
            send(context, stream);
        }
        place::leave();
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn change(
    context: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    changed: pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: core's contract of a callback: a transaction with a historic snapshot, an open relation, a row change.
    unsafe {
        let Some(stream) = stream(context) else { return };
        if !stream.is_wanted {
            return;
        }
        let known = relation::of(changed, &stream.parameters);
        let Some(sent_as) = known.sent_as else { return };
        let (old, new) = ((*change).data.tp.oldtuple, (*change).data.tp.newtuple);
        if !stream.wants_change(txn, change) {
            return;
        }
        failpoint::hit(names::PLUGIN_CHANGE);
        let previous = pg_sys::MemoryContextSwitchTo(stream.change_context);
        let oid = (*changed).rd_id;
        let target = if sent_as == oid { changed } else { pg_sys::RelationIdGetRelation(sent_as) };
        if target.is_null() {
            pgrx::error!("could not open relation with OID {}", sent_as.to_u32());
        }
        send_begin(context, txn, stream);
        if !known.is_told {
            send_columns(context, stream, target);
            relation::note_told(oid);
        }
        let is_delete_without_key = is_delete(change) && old.is_null();
        let (mut old, new) = (slot_of(changed, target, old), slot_of(changed, target, new));
        if is_delete_without_key {
            old = pg_sys::MakeSingleTupleTableSlot((*target).rd_att, &pg_sys::TTSOpsVirtual);
            pg_sys::ExecStoreAllNullTuple(old);
        }
        let row = RowChange { action: (*change).action, target, old, new };
        if large_row::is_large(old) || large_row::is_large(new) {
            send_alone(context, stream, &row);
        } else {
            write(context, stream, |out| row.write_text(out));
        }
        for slot in [old, new] {
            if !slot.is_null() {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
        }
        if target != changed {
            pg_sys::RelationClose(target);
        }
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextReset(stream.change_context);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn truncate(
    context: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    count: core::ffi::c_int,
    relations: *mut pg_sys::Relation,
    change: *mut pg_sys::ReorderBufferChange,
) {
    // SAFETY: core's contract of a callback: `count` open relations.
    unsafe {
        let Some(stream) = stream(context) else { return };
        if !stream.is_wanted || stream.parameters.wants_key_changes {
            return;
        }
        let previous = pg_sys::MemoryContextSwitchTo(stream.change_context);
        let mut sent: Vec<pg_sys::Oid> = Vec::new();
        for index in 0..count as usize {
            let truncated = *relations.add(index);
            let known = relation::of(truncated, &stream.parameters);
            // The truncation of a partition alone says nothing about its ancestor's other rows. Like pgoutput, the
            // plugin sends the truncation of the table that was named.
            if known.sent_as != Some((*truncated).rd_id) {
                continue;
            }
            send_begin(context, txn, stream);
            if !known.is_told {
                send_columns(context, stream, truncated);
                relation::note_told((*truncated).rd_id);
            }
            sent.push((*truncated).rd_id);
        }
        if !sent.is_empty() {
            let options = (*change).data.truncate;
            write(context, stream, |out| {
                pg_sys::logicalrep_write_truncate(
                    out,
                    pg_sys::InvalidTransactionId,
                    sent.len() as core::ffi::c_int,
                    sent.as_mut_ptr(),
                    options.cascade,
                    options.restart_seqs,
                )
            });
        }
        pg_sys::MemoryContextSwitchTo(previous);
        pg_sys::MemoryContextReset(stream.change_context);
    }
}

/// Sends BEGIN and the origin message before a transaction's first change.
unsafe fn send_begin(
    context: *mut pg_sys::LogicalDecodingContext,
    txn: *mut pg_sys::ReorderBufferTXN,
    stream: &mut PluginStream,
) {
    if std::mem::replace(&mut stream.is_begun, true) {
        return;
    }
    // SAFETY: the caller's promise. No catalog is needed, because the origin's name is not looked up: the receiver
    // knows the failed node's origin, and only distinguishes the name of the other one.
    unsafe {
        let name = if stream.is_reconciled(txn) { origin::RECONCILE } else { c"spock_recovery" };
        write(context, stream, |out| pg_sys::logicalrep_write_begin(out, txn));
        write(context, stream, |out| {
            pg_sys::logicalrep_write_origin(out, name.as_ptr(), (*txn).origin_lsn);
        });
    }
}

/// Sends the types and columns of a table before its first row.
unsafe fn send_columns(
    context: *mut pg_sys::LogicalDecodingContext,
    stream: &mut PluginStream,
    table: pg_sys::Relation,
) {
    // SAFETY: the caller's promise: an open relation; attributes are laid out by its descriptor.
    unsafe {
        let descriptor = (*table).rd_att;
        for index in 0..(*descriptor).natts {
            let attribute = compat::attribute(descriptor, index);
            if (*attribute).attisdropped
                || (*attribute).attgenerated != 0
                || (*attribute).atttypid.to_u32() < pg_sys::FirstGenbkiObjectId
            {
                continue;
            }
            write(context, stream, |out| {
                pg_sys::logicalrep_write_typ(out, pg_sys::InvalidTransactionId, (*attribute).atttypid);
            });
        }
        write(context, stream, |out| compat::logicalrep_write_rel(out, table));
    }
}

/// Adds one message to the pack, and sends the pack at once if it is full or messages are not packed.
unsafe fn write(
    context: *mut pg_sys::LogicalDecodingContext,
    stream: &mut PluginStream,
    message: impl FnOnce(pg_sys::StringInfo),
) {
    message(stream.pack);
    // SAFETY: the caller's promise: in a callback of the stream's context.
    unsafe {
        if !stream.parameters.is_packed || (*stream.pack).len >= PACK_BYTES {
            send(context, stream);
        }
    }
}

/// Sends a large row by itself, because together with others it might not fit.
unsafe fn send_alone(context: *mut pg_sys::LogicalDecodingContext, stream: &mut PluginStream, row: &RowChange) {
    // SAFETY: the caller's promise: in a callback of the stream's context, with rows of an open relation.
    unsafe {
        send(context, stream);
        pg_sys::OutputPluginPrepareWrite(context, false);
        let out = (*context).out;
        let begun = (*out).len;
        if large_row::fitting(|| row.write_text(out)).is_none() {
            (*out).len = begun;
            row.write_binary(out);
        }
        pg_sys::OutputPluginWrite(context, false);
    }
}

/// Sends the pack, if there is anything in it. Each sending costs a system call here, and two and a wake-up at the
/// receiver.
unsafe fn send(context: *mut pg_sys::LogicalDecodingContext, stream: &mut PluginStream) {
    // SAFETY: the caller's promise: in a callback of the stream's context.
    unsafe {
        let pack = stream.pack;
        if (*pack).len > 0 {
            pg_sys::OutputPluginPrepareWrite(context, false);
            pg_sys::appendBinaryStringInfo((*context).out, (*pack).data.cast(), (*pack).len);
            pg_sys::OutputPluginWrite(context, false);
            if (*pack).maxlen > KEPT_BYTES {
                pg_sys::pfree((*pack).data.cast());
                let previous = pg_sys::MemoryContextSwitchTo((*context).context);
                pg_sys::initStringInfo(pack);
                pg_sys::MemoryContextSwitchTo(previous);
            } else {
                pg_sys::resetStringInfo(pack);
            }
        }
    }
}

unsafe fn is_delete(change: *mut pg_sys::ReorderBufferChange) -> bool {
    // SAFETY: the caller's promise: a row change.
    unsafe { (*change).action == pg_sys::ReorderBufferChangeType::REORDER_BUFFER_CHANGE_DELETE }
}

/// A row of `changed` in the columns of `target`; null if there is no row.
unsafe fn slot_of(
    changed: pg_sys::Relation,
    target: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
) -> *mut pg_sys::TupleTableSlot {
    if tuple.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the caller's promise: the tuple is one of `changed`; slots live until they are dropped after the message.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot((*changed).rd_att, &pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        if changed == target {
            return slot;
        }
        let map = pg_sys::build_attrmap_by_name_if_req((*changed).rd_att, (*target).rd_att, false);
        if map.is_null() {
            return slot;
        }
        let converted = pg_sys::MakeSingleTupleTableSlot((*target).rd_att, &pg_sys::TTSOpsVirtual);
        pg_sys::execute_attr_map_slot(map, slot, converted)
    }
}
