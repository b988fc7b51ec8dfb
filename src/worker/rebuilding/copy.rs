//! Rebuilding a table by copying. Before the snapshot is taken the users' writes to the table are refused and core's apply
//! leaves it alone: from then on it is incomplete until it is ready.

use super::super::copy::Copy;
use super::super::rescue::{Rescue, goes_on, with_entry};
use super::super::trouble::Trouble;
use super::tables::Filled;
use crate::error::SqlError;
use crate::failpoint::{self, names};
use crate::intent::document::Intent;
use crate::intent::rebuild::{Cut, Method, Pinned, Table, TablePhase};
use crate::pg::clock::Timestamp;
use crate::pg::{process, transaction, wal};
use crate::rebuild::copy::error::CopyError;
use crate::rebuild::copy::manifest::{self, Manifest};
use crate::rebuild::copy::stream::CopyJob;
use crate::rebuild::park;
use crate::recover::error::RecoverError;
use crate::recover::rebuild_error::RebuildError;
use crate::recover::{rebuild, rebuild_apart};
use pgrx::pg_sys::Oid;
use std::time::{Duration, Instant};

/// How many workers copy a table.
const STREAMS: u64 = 2;
/// The time between two looks at how much is there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Rescue {
    /// Sets aside, before there is a snapshot, the tables of which it is known already that they will be copied.
    pub(super) fn park_first(&mut self, intent: &Intent) -> Result<(), Trouble> {
        let state = self.intent().rebuild.clone().unwrap_or_default();
        let method = intent.request.rebuild.as_ref().map(|wanted| wanted.method);
        if state.pinned.is_some() || method == Some(Method::Compare) {
            return Ok(());
        }
        let waiting = state.tables.into_iter().filter(|table| table.phase == TablePhase::Waiting);
        let mut tables: Vec<Table> = waiting.collect();
        if method != Some(Method::Copy) {
            let copied = transaction::run(|| rebuild::to_copy(&tables))?;
            tables.retain(|table| copied.contains(&table.oid));
        }
        if tables.is_empty() { Ok(()) } else { self.park(intent, &tables, None) }
    }

    /// Refuses the users' writes to these tables, and has core's apply leave them alone. `under`: the pin of the
    /// present snapshot.
    pub(super) fn park(&mut self, intent: &Intent, tables: &[Table], under: Option<&str>) -> Result<(), Trouble> {
        process::report_activity("setting tables aside");
        let oids: Vec<Oid> = tables.iter().map(|table| Oid::from_u32(table.oid)).collect();
        self.write(|journal, _| {
            park::park(&oids)?;
            for oid in &oids {
                rebuild::set_aside(oid.to_u32())?;
            }
            Ok(journal.rebuild(intent.id, |state| {
                for oid in &oids {
                    if let Some(table) = state.table(oid.to_u32()) {
                        (table.phase, table.method) = (TablePhase::Copying, Some(Method::Copy));
                        table.parked_under = under.map(str::to_owned);
                    }
                }
            })?)
        })?;
        failpoint::hit(names::REBUILD_PARKED);
        Ok(())
    }

    /// Copies a table that was set aside, or goes on with that, and makes it ready.
    pub(super) fn rebuild_by_copying(
        &mut self,
        intent: &Intent,
        table: &Table,
        (pinned, _): (&Pinned, &Cut),
    ) -> Result<(), Trouble> {
        let source = &intent.request.source;
        let name = (table.schema.clone(), table.name.clone());
        let job = CopyJob {
            intent: intent.id,
            source: source.clone(),
            table: name.clone(),
            pin: pinned.pin.clone(),
            snapshot: pinned.snapshot.clone(),
            publications: transaction::run(|| rebuild::publications_from(source))?,
            streams: STREAMS,
            written_at: pinned.at.unwrap_or(Timestamp::NEVER),
        };
        let (index, mut looked) = (self.index, Instant::now());
        let copied = Copy::new(job).run(|| {
            if looked.elapsed() >= LOOK_INTERVAL {
                looked = Instant::now();
                if let Ok(manifest) = transaction::run(|| manifest::read(intent.id)) {
                    show(index, &manifest, &name);
                }
            }
            goes_on(index)
        });
        match copied {
            Err(CopyError::Stopped) => return Err(Trouble::MustStop),
            Err(error) => return Err(RecoverError::from(not_copied(table, &error)).into()),
            Ok(_) => (),
        }
        // The chunks are on disk before the table is told to be complete.
        wal::flush();
        let manifest = transaction::run(|| manifest::read(intent.id)).map_err(|error| not_copied(table, &error));
        let (_, rows, bytes) = counts(&manifest.map_err(RecoverError::from)?, &name);
        let done = Filled { method: Method::Copy, rows, differing: 0, bytes };
        failpoint::hit(names::REBUILD_COPIED);
        let going_on = self.going_on();
        Ok(self.write(|journal, _| {
            park::unpark(&[Oid::from_u32(table.oid)])?;
            rebuild_apart::set_done(table.oid, &pinned.vector, &going_on)?;
            Self::enter_ready(journal, intent.id, table.oid, &done)
        })?)
    }
}

fn not_copied(table: &Table, error: &CopyError) -> RebuildError {
    RebuildError::NotCopied {
        table: table.shown(),
        sqlstate: error.sqlstate(),
        message: error.to_string(),
        detail: error.detail(),
        hint: error.hint(),
    }
}

/// How many chunks of a table are there, with how many rows and bytes.
fn counts(manifest: &Manifest, table: &(String, String)) -> (u64, u64, u64) {
    let chunks = manifest.tables.get(table).map(|copy| copy.chunks.values()).into_iter().flatten();
    chunks.fold((0, 0, 0), |(chunks, rows, bytes), chunk| (chunks + 1, rows + chunk.rows, bytes + chunk.bytes))
}

fn show(index: usize, manifest: &Manifest, table: &(String, String)) {
    let total = manifest.tables.get(table).map_or(0, |copy| copy.begun.layout.chunks());
    let (chunks, rows, bytes) = counts(manifest, table);
    with_entry(index, |entry| {
        let filling = &mut entry.filling;
        (filling.chunks_done, filling.chunks_total, filling.rows, filling.bytes) = (chunks, total, rows, bytes);
    });
}
