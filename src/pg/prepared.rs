//! Statements that a process runs repeatedly: they are parsed and planned once (executor/spi.h). Core plans again if a
//! change of the catalogs has invalidated a plan.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiResult, SpiTupleTable};
use std::cell::RefCell;
use std::collections::HashMap;

thread_local! {
    /// The plans, by the statement's text and by whether the transaction may have written something, which the
    /// statement must see then. Their number is fixed by the code, and they live as long as the process.
    static PLANS: RefCell<HashMap<(String, bool), &'static OwnedPreparedStatement>> = RefCell::default();
}

/// Runs a query that only reads, like [`SpiClient::select`]. `query` must be one of a fixed set.
pub fn select<'c>(
    client: &SpiClient<'c>,
    query: &str,
    limit: Option<core::ffi::c_long>,
    arguments: &[DatumWithOid<'_>],
) -> SpiResult<SpiTupleTable<'c>> {
    // SAFETY: reads this transaction's state.
    let has_written = unsafe { pg_sys::GetTopTransactionIdIfAny() } != pg_sys::InvalidTransactionId;
    let key = (query.to_owned(), has_written);
    let known = PLANS.with_borrow(|plans| plans.get(&key).copied());
    let plan = match known {
        Some(plan) => plan,
        None => {
            let types: Vec<pg_sys::PgOid> = arguments.iter().map(|argument| argument.oid().into()).collect();
            let plan =
                if has_written { client.prepare_mut(query, &types)? } else { client.prepare(query, &types)? }.keep();
            let plan: &'static OwnedPreparedStatement = Box::leak(Box::new(plan));
            PLANS.with_borrow_mut(|plans| plans.insert(key, plan));
            plan
        }
    };
    client.select(plan, limit, arguments)
}
