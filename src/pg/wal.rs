//! This server's WAL: where it ends, and how much of it is on disk (access/xlog.h, storage/procarray.h).

use super::guarded;
use crate::lsn::LocalLsn;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// `SizeOfXLogShortPHD` and `SizeOfXLogLongPHD` (access/xlog_internal.h), in bytes: the headers of a WAL page, and of
/// the first page of a segment.
const SHORT_PAGE_HEADER: u64 = 24;
const LONG_PAGE_HEADER: u64 = 40;

/// The position up to which WAL is on disk.
pub fn flushed() -> LocalLsn {
    // SAFETY: reads shared memory; no timeline is asked for.
    LocalLsn(unsafe { pg_sys::GetFlushRecPtr(std::ptr::null_mut()) })
}

/// The end of the last record that was written into WAL buffers.
pub fn inserted() -> LocalLsn {
    // SAFETY: reads shared memory; the segment size is fixed at start-up.
    let (position, segment) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size as u64) };
    LocalLsn(end_of_last_record(position, u64::from(pg_sys::XLOG_BLCKSZ), segment))
}

/// GetXLogInsertRecPtr returns where the next record starts. If that is directly after a page's header, the header is
/// not written yet, and a flush up to there would fail. The last record then ends where the page begins.
fn end_of_last_record(next_record: u64, page: u64, segment: u64) -> u64 {
    let header = if next_record % segment < page { LONG_PAGE_HEADER } else { SHORT_PAGE_HEADER };
    if next_record % page == header { next_record - header } else { next_record }
}

/// Flushes all WAL that was inserted before the call, including that of asynchronous commits. Does nothing if it is on
/// disk already.
pub fn flush() {
    flush_to(inserted());
}

/// Flushes WAL up to `end`, the end of a record that was inserted.
pub fn flush_to(end: LocalLsn) {
    if flushed() < end {
        // SAFETY: `end` is the end of a record that was inserted.
        unsafe { pg_sys::XLogFlush(end.0) };
    }
}

/// Writes the record of a restore point and returns its end, which is not on disk yet. The name has at most 63 bytes.
pub fn write_restore_point(name: &str) -> LocalLsn {
    let name = super::text::to_server(name).unwrap_or_default();
    // SAFETY: a NUL-terminated string, of which at most MAXFNAMELEN bytes are copied.
    LocalLsn(unsafe { pg_sys::XLogRestorePoint(name.as_ptr()) })
}

pub fn timeline() -> u32 {
    // SAFETY: reads shared memory; only called when recovery is over.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}

/// Where this run of the server began to write WAL. This is known only directly after its start: it is where the replay
/// ended, or, if there was no replay, the checkpoint of the last shutdown.
pub fn start_position() -> LocalLsn {
    let mut is_sound = false;
    // SAFETY: reads shared memory, and pg_control, whose copy is palloc'd.
    unsafe {
        let replayed = pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut());
        if replayed != 0 {
            return LocalLsn(replayed);
        }
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut is_sound);
        let checkpoint = if is_sound { (*control).checkPoint } else { 0 };
        pg_sys::pfree(control.cast());
        LocalLsn(checkpoint)
    }
}

/// `TimeLineHistoryEntry` (access/timeline.h).
#[repr(C)]
struct TimeLineHistoryEntry {
    timeline: pg_sys::TimeLineID,
    begin: pg_sys::XLogRecPtr,
    end: pg_sys::XLogRecPtr,
}

unsafe extern "C-unwind" {
    fn readTimeLineHistory(timeline: pg_sys::TimeLineID) -> *mut pg_sys::List;
}

/// The present timeline and those that led to it, the present one first, each with the position where it forked from
/// its parent.
pub fn timeline_history() -> Vec<(u32, LocalLsn)> {
    // SAFETY: a list of palloc'd entries, never empty.
    unsafe {
        let history = guarded!(readTimeLineHistory(timeline()));
        (0..(*history).length as usize)
            .map(|index| {
                let entry = (*(*history).elements.add(index)).ptr_value.cast::<TimeLineHistoryEntry>();
                ((*entry).timeline, LocalLsn((*entry).begin))
            })
            .collect()
    }
}

pub fn is_in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Waits until every transaction that is between its commit record and the advance of its replication origin (xact.c,
/// RecordTransactionCommit) has finished that. Returns false if one has not within `limit`.
pub fn wait_for_commits_in_progress(limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let kind = pg_sys::DELAY_CHKPT_START as i32;
    let mut count = 0;
    // SAFETY: the array is palloc'd and has `count` elements.
    unsafe {
        let ids = pg_sys::GetVirtualXIDsDelayingChkpt(&mut count, kind);
        while count > 0 && pg_sys::HaveVirtualXIDsDelayingChkpt(ids, count, kind) {
            if Instant::now() >= deadline {
                return false;
            }
            super::interrupts::check();
            // The time between commit record and advance is a few microseconds; core's checkpointer waits in the same
            // way.
            pg_sys::pg_usleep(100);
        }
        pg_sys::pfree(ids.cast());
    }
    true
}

/// Whether the server that is just starting was shut down cleanly when it last ran; false after a crash of one process
/// or of all. Must be called in the postmaster, before the start-up process has recorded that the server is running.
pub fn was_shut_down() -> bool {
    let mut is_sound = false;
    // SAFETY: the path of the data directory is set before libraries are loaded; the copy is palloc'd.
    unsafe {
        let control = pg_sys::get_controlfile(pg_sys::DataDir, &mut is_sound);
        is_sound
            && matches!((*control).state, pg_sys::DBState::DB_SHUTDOWNED | pg_sys::DBState::DB_SHUTDOWNED_IN_RECOVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 8192;
    const SEGMENT: u64 = 16 << 20;

    #[test]
    fn behind_a_page_header_the_last_record_ended_with_the_page_before() {
        let second_page = SEGMENT + PAGE;
        assert_eq!(end_of_last_record(second_page + SHORT_PAGE_HEADER, PAGE, SEGMENT), second_page);
        assert_eq!(end_of_last_record(SEGMENT + LONG_PAGE_HEADER, PAGE, SEGMENT), SEGMENT);
    }

    #[test]
    fn elsewhere_it_ended_where_the_next_one_starts() {
        for position in [SEGMENT + 100, SEGMENT + PAGE + LONG_PAGE_HEADER, SEGMENT + SHORT_PAGE_HEADER, SEGMENT + PAGE]
        {
            assert_eq!(end_of_last_record(position, PAGE, SEGMENT), position);
        }
    }
}
