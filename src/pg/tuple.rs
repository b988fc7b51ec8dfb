//! Rows of a table, made of the columns that a sender has sent (the counterparts of worker.c's slot_store_data,
//! slot_modify_data and slot_fill_defaults; executor/tuptable.h).

use super::compat;
use super::logicalproto::Tuple;
use super::open_table::OpenTable;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys;

/// `LOGICALREP_COLUMN_…` (replication/logicalproto.h).
const UNCHANGED: u8 = b'u';
const TEXT: u8 = b't';
const BINARY: u8 = b'b';

/// One column as it was sent.
enum Column {
    Null,
    Unchanged,
    Value(pg_sys::Datum),
}

/// The input function that converts the text of a column to its value.
#[repr(C)]
pub struct Input {
    function: pg_sys::FmgrInfo,
    parameter: pg_sys::Oid,
}

/// How the columns that were sent are converted to those of the slot that is to be filled.
#[derive(Clone, Copy)]
pub struct TupleColumns {
    /// For each local column, the sender's column, or a negative number.
    pub map: *mut pg_sys::AttrMap,
    /// The types of the sender's columns, by the sender's oids.
    pub sent_types: *const pg_sys::Oid,
    /// None: the input functions are looked up for each value, as for a partition.
    pub inputs: Option<*mut Input>,
    /// A memory context that lives as long as `inputs`.
    pub context: pg_sys::MemoryContext,
}

/// Fills `slot` with the columns that were sent. The others become null.
///
/// # Safety
/// `slot` must belong to the columns' open table, and the tuple's message context must be alive. Values are allocated
/// in the current context.
pub unsafe fn store(slot: *mut pg_sys::TupleTableSlot, columns: TupleColumns, tuple: &Tuple) {
    // SAFETY: the caller's promise; `columns` visits the descriptor's attributes only.
    unsafe {
        pg_sys::ExecClearTuple(slot);
        let count = (*(*slot).tts_tupleDescriptor).natts as usize;
        for index in 0..count {
            let column = column(slot, columns, tuple, index);
            let (value, is_null) = match column {
                Some(Column::Value(value)) => (value, false),
                // The sender never sends an unchanged column in a tuple that is to be found or inserted.
                Some(Column::Null | Column::Unchanged) | None => (pg_sys::Datum::from(0), true),
            };
            *(*slot).tts_values.add(index) = value;
            *(*slot).tts_isnull.add(index) = is_null;
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
}

/// Fills `slot` with the row in `existing`, in which the columns that were sent are replaced. The others point into
/// `existing`.
///
/// # Safety
/// As [`store`]; both slots must be of the same table.
pub unsafe fn modify(
    slot: *mut pg_sys::TupleTableSlot,
    existing: *mut pg_sys::TupleTableSlot,
    columns: TupleColumns,
    tuple: &Tuple,
) {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::ExecClearTuple(slot);
        pg_sys::slot_getallattrs(existing);
        let count = (*(*slot).tts_tupleDescriptor).natts as usize;
        for index in 0..count {
            let (value, is_null) = match column(slot, columns, tuple, index) {
                Some(Column::Value(value)) => (value, false),
                Some(Column::Null) => (pg_sys::Datum::from(0), true),
                Some(Column::Unchanged) | None => {
                    (*(*existing).tts_values.add(index), *(*existing).tts_isnull.add(index))
                }
            };
            *(*slot).tts_values.add(index) = value;
            *(*slot).tts_isnull.add(index) = is_null;
        }
        pg_sys::ExecStoreVirtualTuple(slot);
    }
}

/// Sets the columns that exist only here to their defaults.
///
/// # Safety
/// `slot` must be of the open table.
pub(super) unsafe fn fill_defaults(slot: *mut pg_sys::TupleTableSlot, table: &mut OpenTable) {
    // SAFETY: the caller's promise; expressions are evaluated in the executor state's per-tuple context.
    unsafe {
        let (entry, estate) = (table.entry, table.estate);
        if (*(*slot).tts_tupleDescriptor).natts == (*entry).remoterel.natts {
            return;
        }
        let context = per_tuple_context(estate);
        let defaults = table.defaults.get_or_insert_with(|| {
            let previous = pg_sys::MemoryContextSwitchTo((*estate).es_query_cxt);
            let descriptor = (*slot).tts_tupleDescriptor;
            let mut defaults = Vec::new();
            for index in 0..(*descriptor).natts {
                let attribute = compat::attribute(descriptor, index);
                let is_sent = *(*(*entry).attrmap).attnums.add(index as usize) >= 0;
                if is_sent || (*attribute).attisdropped || (*attribute).attgenerated != 0 {
                    continue;
                }
                let default = pg_sys::build_column_default((*entry).localrel, index + 1);
                if !default.is_null() {
                    let expression = pg_sys::expression_planner(default.cast());
                    defaults.push((index as usize, pg_sys::ExecInitExpr(expression, std::ptr::null_mut())));
                }
            }
            pg_sys::MemoryContextSwitchTo(previous);
            defaults
        });
        for (index, state) in defaults {
            let value = pg_sys::ExecEvalExpr(*state, context, (*slot).tts_isnull.add(*index));
            *(*slot).tts_values.add(*index) = value;
        }
    }
}

/// The columns that an update has changed, in the executor's numbering.
///
/// # Safety
/// As [`store`].
pub unsafe fn changed_columns(
    slot: *mut pg_sys::TupleTableSlot,
    map: *mut pg_sys::AttrMap,
    tuple: &Tuple,
) -> *mut pg_sys::Bitmapset {
    let mut changed = std::ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe {
        let descriptor = (*slot).tts_tupleDescriptor;
        for index in 0..(*descriptor).natts {
            let sent = *(*map).attnums.add(index as usize);
            if (*compat::attribute(descriptor, index)).attisdropped || sent < 0 {
                continue;
            }
            if status(tuple, sent) != UNCHANGED {
                let number = index + 1 - pg_sys::FirstLowInvalidHeapAttributeNumber;
                changed = pg_sys::bms_add_member(changed, number);
            }
        }
    }
    changed
}

/// `GetPerTupleExprContext`, which is a macro in C.
///
/// # Safety
/// `estate` must be alive.
pub unsafe fn per_tuple_context(estate: *mut pg_sys::EState) -> *mut pg_sys::ExprContext {
    // SAFETY: the caller's promise.
    unsafe {
        if (*estate).es_per_tuple_exprcontext.is_null() {
            pg_sys::MakePerTupleExprContext(estate)
        } else {
            (*estate).es_per_tuple_exprcontext
        }
    }
}

fn status(tuple: &Tuple, sent: i16) -> u8 {
    if i32::from(sent) >= tuple.0.ncols {
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
            format!("column {} was not sent: only {} columns were received", sent + 1, tuple.0.ncols)
        );
    }
    // SAFETY: below the count of columns.
    unsafe { *tuple.0.colstatus.add(sent as usize) as u8 }
}

/// The value that was sent for local column `index`; None if none was sent.
unsafe fn column(
    slot: *mut pg_sys::TupleTableSlot,
    columns: TupleColumns,
    tuple: &Tuple,
    index: usize,
) -> Option<Column> {
    // SAFETY: the caller guarantees an attribute of the descriptor, whose map has as many entries.
    unsafe {
        let attribute = compat::attribute((*slot).tts_tupleDescriptor, index as i32);
        let sent = *(*columns.map).attnums.add(index);
        if (*attribute).attisdropped || sent < 0 {
            return None;
        }
        let status = status(tuple, sent);
        let value = tuple.0.colvalues.add(sent as usize);
        let (mut function, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        Some(match status {
            TEXT => {
                let (of, modifier) = ((*attribute).atttypid, (*attribute).atttypmod);
                // The input function of a type that a user has created may change at any time, so it is not cached.
                let input = columns.inputs.filter(|_| of.to_u32() < pg_sys::FirstNormalObjectId);
                let Some(input) = input.map(|inputs| inputs.add(index)) else {
                    pg_sys::getTypeInputInfo(of, &mut function, &mut parameter);
                    let datum = pg_sys::OidInputFunctionCall(function, (*value).data, parameter, modifier);
                    return Some(Column::Value(datum));
                };
                if (*input).function.fn_oid == pg_sys::InvalidOid {
                    pg_sys::getTypeInputInfo(of, &mut function, &mut (*input).parameter);
                    pg_sys::fmgr_info_cxt(function, &mut (*input).function, columns.context);
                }
                let parameter = (*input).parameter;
                Column::Value(pg_sys::InputFunctionCall(&mut (*input).function, (*value).data, parameter, modifier))
            }
            BINARY => {
                require_same_type(*columns.sent_types.add(sent as usize), attribute);
                // The same tuple may be read twice.
                (*value).cursor = 0;
                pg_sys::getTypeBinaryInputInfo((*attribute).atttypid, &mut function, &mut parameter);
                let datum = pg_sys::OidReceiveFunctionCall(function, value, parameter, (*attribute).atttypmod);
                if (*value).cursor != (*value).len {
                    pgrx::ereport!(
                        ERROR,
                        PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION,
                        format!("incorrect binary data in column {}", sent + 1)
                    );
                }
                Column::Value(datum)
            }
            UNCHANGED => Column::Unchanged,
            _ => Column::Null,
        })
    }
}

/// Raises an ERROR if the local column has another type than the sent one. A binary value can be read only as its own
/// type, whereas text might be read as any type. The sender's type is built in, or a domain over bytea
/// (src/plugin/large_row.rs).
unsafe fn require_same_type(sent: pg_sys::Oid, attribute: pg_sys::Form_pg_attribute) {
    // SAFETY: the caller guarantees a column of an open table.
    unsafe {
        let sent = if sent.to_u32() < pg_sys::FirstGenbkiObjectId { sent } else { pg_sys::BYTEAOID };
        if pg_sys::getBaseType((*attribute).atttypid) == sent {
            return;
        }
        let [sent, ours] = [sent, (*attribute).atttypid]
            .map(|of| super::text::to_utf8(std::ffi::CStr::from_ptr(pg_sys::format_type_be(of))));
        let name = super::text::to_utf8(std::ffi::CStr::from_ptr((*attribute).attname.data.as_ptr()));
        pgrx::ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{name}\" is of type {ours}, and was sent as {sent} in binary form"),
            "Its text would have been longer than a message may be."
        );
    }
}
