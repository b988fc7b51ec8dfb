//! How a rebuild of which this node is the target stands at this moment: the journal says what is durable, shared
//! memory what the rescue worker has done since with the table that it is at.

use crate::intent::document::Intent;
use crate::intent::rebuild::{Method, Table, TablePhase};
use crate::pg::clock::Monotonic;
use crate::shmem::{FillingEntry, RescueEntry};
use serde::Serialize;

/// One table of a rebuild, as the view rebuild_progress shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct TableState {
    pub oid: u32,
    pub method: Option<Method>,
    pub phase: &'static str,
    pub chunks_done: u64,
    pub chunks_total: u64,
    pub rows: u64,
    pub differing: u64,
    pub bytes: u64,
    pub seconds_left: Option<f64>,
}

/// What is told of all tables together.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RebuildState {
    pub tables: usize,
    pub ready: usize,
    /// The table that is being rebuilt.
    pub table: Option<String>,
    pub chunks_done: u64,
    pub chunks_total: u64,
    pub rows: u64,
    pub differing: u64,
    pub bytes: u64,
}

/// The tables of a rebuild. `live`: what its worker says.
pub fn tables(intent: &Intent, live: Option<&RescueEntry>) -> Vec<TableState> {
    let filling = live.filter(|live| live.worker_pid != 0).map(|live| live.filling);
    let tables = intent.rebuild.as_ref().map(|rebuild| rebuild.tables.as_slice()).unwrap_or_default();
    tables.iter().map(|table| of_table(table, filling.filter(|filling| filling.table == table.oid))).collect()
}

fn of_table(table: &Table, filling: Option<FillingEntry>) -> TableState {
    let known = TableState {
        oid: table.oid,
        method: table.method,
        phase: table.phase.name(),
        chunks_done: 0,
        chunks_total: 0,
        rows: table.rows,
        differing: table.differing,
        bytes: table.bytes,
        seconds_left: None,
    };
    let Some(filling) = filling.filter(|_| table.phase != TablePhase::Ready) else { return known };
    let is_copy = table.phase == TablePhase::Copying;
    let seconds = Monotonic::now().since(filling.since).as_secs_f64();
    let left = filling.chunks_total.saturating_sub(filling.chunks_done) as f64;
    TableState {
        method: Some(if is_copy { Method::Copy } else { Method::Compare }),
        phase: if is_copy { "copying" } else { "comparing" },
        chunks_done: filling.chunks_done,
        chunks_total: filling.chunks_total,
        rows: filling.rows,
        differing: filling.differing,
        bytes: filling.bytes,
        seconds_left: (filling.chunks_done > 0).then(|| seconds / filling.chunks_done as f64 * left),
        ..known
    }
}

impl RebuildState {
    /// None: the intent is no rebuild.
    pub fn of(intent: &Intent, live: Option<&RescueEntry>) -> Option<RebuildState> {
        if !intent.is_rebuild() {
            return None;
        }
        let states = tables(intent, live);
        let sum = |of: fn(&TableState) -> u64| states.iter().map(of).sum();
        let names = intent.rebuild.as_ref().map(|rebuild| rebuild.tables.as_slice()).unwrap_or_default();
        let at = live.filter(|live| live.worker_pid != 0).map_or(0, |live| live.filling.table);
        Some(RebuildState {
            tables: states.len(),
            ready: names.iter().filter(|table| table.phase == TablePhase::Ready).count(),
            table: names.iter().find(|table| table.oid == at).map(Table::shown),
            chunks_done: sum(|table| table.chunks_done),
            chunks_total: sum(|table| table.chunks_total),
            rows: sum(|table| table.rows),
            differing: sum(|table| table.differing),
            bytes: sum(|table| table.bytes),
        })
    }
}
