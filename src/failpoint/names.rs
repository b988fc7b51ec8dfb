//! The names of the failpoints, which the code and the tests share (tests/cluster includes this file).

/// In a manager, after it has taken its entry in shared memory and before it first reads the catalogs.
pub const MANAGER_START: &str = "manager_start";
/// In a manager, at the head of each round.
pub const MANAGER_TICK: &str = "manager_tick";
/// In a manager, in a loop that never waits, to show that the death of the postmaster ends the manager there as well.
pub const MANAGER_BUSY: &str = "manager_busy";
/// In a manager that has found a reason to end, before it does.
pub const MANAGER_LEAVING: &str = "manager_leaving";
/// In a poller, between its connection and its first query.
pub const POLLER_CONNECTED: &str = "poller_connected";
/// In node_create(), after the foreign server was created and before its user mapping.
pub const NODE_CREATE_BEFORE_MAPPING: &str = "node_create_before_mapping";
/// In a slot worker, before its job: the retention record is committed, and the slot has not been moved.
pub const SLOT_JOB_BEFORE: &str = "slot_job_before";
/// In a slot worker, after its job: the slot has been moved.
pub const SLOT_JOB_AFTER: &str = "slot_job_after";
/// In a manager, after the transaction with the retention record was committed and before the job is begun.
pub const MANAGER_RECORD_WRITTEN: &str = "manager_record_written";
/// In a rescue worker that has recorded the beginning of an attempt, before it does anything.
pub const RESCUE_BEGUN: &str = "rescue_begun";
/// In a rescue worker: the source has created a clone, which is not recorded here yet.
pub const RESCUE_CLONE_MADE: &str = "rescue_clone_made";
/// In a rescue worker: the clone belongs to the recovery, and nothing that follows is recorded yet.
pub const RESCUE_CLAIMED: &str = "rescue_claimed";
/// In a rescue worker: the subscriptions are disabled, but their processes may still be running.
pub const RESCUE_SUSPENDED: &str = "rescue_suspended";
/// In a rescue worker that replays, before it commits a transaction.
pub const RESCUE_BEFORE_COMMIT: &str = "rescue_before_commit";
/// In a rescue worker that replays, after it has committed a transaction.
pub const RESCUE_AFTER_COMMIT: &str = "rescue_after_commit";
/// In a rescue worker: everything is replayed, and the origin is not set to the end of the range yet.
pub const RESCUE_REPLAYED: &str = "rescue_replayed";
/// In a rescue worker: everything is replayed, and the origin is set to the end of the range.
pub const RESCUE_ORIGIN_SET: &str = "rescue_origin_set";
/// In a rescue worker: the subscriptions are enabled again, and the intent is not closed yet.
pub const RESCUE_RESUMED: &str = "rescue_resumed";
/// In a rescue worker: the reconciling phase is recorded, and no row is compared yet.
pub const RESCUE_RECONCILING: &str = "rescue_reconciling";
/// In a rescue worker: changes of keys are read from the WAL of the source, and the rows with the new keys are not compared yet.
pub const RESCUE_MOVES_READ: &str = "rescue_moves_read";
/// In a rescue worker: the touched rows are compared, and all resulting changes are made.
pub const RESCUE_RECONCILED: &str = "rescue_reconciled";
/// In a rescue worker: everything is done, but neither the kept rows nor the end of the recovery is recorded.
pub const RESCUE_CLOSING: &str = "rescue_closing";
/// In a rescue worker that compares kept rows again, before it asks any node.
pub const RESCUE_JUDGING_AGAIN: &str = "rescue_judging_again";
/// In a rescue worker that has compared kept rows again and made the resulting changes, before it records that.
pub const RESCUE_JUDGED_AGAIN: &str = "rescue_judged_again";
/// In a rescue worker: the intent is closed, and the clone is not released yet.
pub const RESCUE_COMPLETED: &str = "rescue_completed";
/// In a walsender that sends the stream of a recovery, before it sends a change of a row.
pub const PLUGIN_CHANGE: &str = "plugin_change";
/// In clone_recovery_slot(), after the slot was copied and before the copy is registered.
pub const CLONE_COPIED: &str = "clone_copied";
/// In the process that has closed the gate of the commit barrier, before it waits for the commits under way.
pub const BARRIER_CLOSED: &str = "barrier_closed";
/// In a worker that makes a restore point: it is in the lists, and no gate is closed yet.
pub const RESTORE_POINT_PREPARED: &str = "restore_point_prepared";
/// The same: all gates are closed, and no record is written.
pub const RESTORE_POINT_CLOSED: &str = "restore_point_closed";
/// The same: all records are written, and all gates are closed.
pub const RESTORE_POINT_MARKED: &str = "restore_point_marked";
/// The same: all gates are open, and the lists do not say what has come of the point.
pub const RESTORE_POINT_OPENED: &str = "restore_point_opened";
/// In the process that does a step of a restore point on a node, before it does it.
pub const RESTORE_POINT_STEP: &str = "restore_point_step";
/// In a rescue worker that rebuilds: a slot that takes a lost one's place is recorded, and not made yet.
pub const REBUILD_BEFORE_HOLDER: &str = "rebuild_before_holder";
/// In a rescue worker that rebuilds: that slot is made, and where it begins is not recorded yet.
pub const REBUILD_HOLDER_MADE: &str = "rebuild_holder_made";
/// In a rescue worker that rebuilds: the cut is recorded, and the source has not pinned anything yet.
pub const REBUILD_BEFORE_PIN: &str = "rebuild_before_pin";
/// In a rescue worker that rebuilds: the source has pinned its snapshot, which is not recorded yet.
pub const REBUILD_PINNED: &str = "rebuild_pinned";
/// In a rescue worker that rebuilds, within the transaction that makes a table ready, before its commit.
pub const REBUILD_BEFORE_READY: &str = "rebuild_before_ready";
/// In a rescue worker that rebuilds, after a table was made ready.
pub const REBUILD_TABLE_READY: &str = "rebuild_table_ready";
/// In a rescue worker that rebuilds: all tables are ready, and no origin is moved yet.
pub const REBUILD_FILLED: &str = "rebuild_filled";
/// In a rescue worker that rebuilds: the origins are moved, and lost slots are not replaced yet.
pub const REBUILD_ORIGINS_SET: &str = "rebuild_origins_set";
/// In a rescue worker that rebuilds: lost slots are replaced, and the subscriptions are still suspended.
pub const REBUILD_SLOTS_MADE: &str = "rebuild_slots_made";
/// In a worker that takes a snapshot for a rebuild: the tables are locked, and the gate is not closed yet.
pub const PIN_LOCKED: &str = "pin_locked";
/// The same: the gate is closed, and the snapshot is not taken yet.
pub const PIN_CLOSED: &str = "pin_closed";
/// In a worker that compares tables, after it has looked closer at keys that seemed to differ, before it commits that.
pub const COMPARISON_NOTING: &str = "comparison_noting";
/// On the source of a copy: a byte that is sent differs from the one that was summed up.
pub const COPY_CHANGED: &str = "copy_changed";
/// In a worker that copies a table: a piece of a chunk has arrived, and is not written yet.
pub const COPY_PIECE: &str = "copy_piece";
/// The same: all rows of a chunk are written and verified, and nothing is committed.
pub const COPY_BEFORE_COMMIT: &str = "copy_before_commit";
/// The same: a chunk is committed.
pub const COPY_AFTER_COMMIT: &str = "copy_after_commit";
/// In a rescue worker that rebuilds some tables: what comes for them is held on the other nodes, and nothing is set apart.
pub const REBUILD_APART_HELD: &str = "rebuild_apart_held";
/// In a rescue worker that rebuilds some tables: the subscriptions go on with the others.
pub const REBUILD_SET_APART: &str = "rebuild_set_apart";
/// In a rescue worker that rebuilds: tables are set aside for a copy, and nothing of them is changed yet.
pub const REBUILD_PARKED: &str = "rebuild_parked";
/// In a rescue worker that rebuilds: all chunks of a table are there, and the table is not ready yet.
pub const REBUILD_COPIED: &str = "rebuild_copied";
