//! The failpoints' names, used by the code and by the tests alike (tests/cluster includes this file).

/// In a manager, after it took its entry in shared memory and before its first look at the catalogs.
pub const MANAGER_START: &str = "manager_start";
/// In a manager, at the head of each round.
pub const MANAGER_TICK: &str = "manager_tick";
/// In a manager, in a loop that never waits, to show that the postmaster's death ends it all the same.
pub const MANAGER_BUSY: &str = "manager_busy";
/// In a manager that has found out why it must leave, before it does.
pub const MANAGER_LEAVING: &str = "manager_leaving";
/// In a poller, between its connection and its first question.
pub const POLLER_CONNECTED: &str = "poller_connected";
/// In node_create, after the server was made and before its user mapping.
pub const NODE_CREATE_BEFORE_MAPPING: &str = "node_create_before_mapping";
/// In a slot worker, before and after its job: the retention record is written, the slot is not, or is, moved.
pub const SLOT_JOB_BEFORE: &str = "slot_job_before";
pub const SLOT_JOB_AFTER: &str = "slot_job_after";
/// In a manager, after its transaction with the retention record was committed and before the job is begun.
pub const MANAGER_RECORD_WRITTEN: &str = "manager_record_written";
/// In a rescue worker that has written down that it begins, before it does anything.
pub const RESCUE_BEGUN: &str = "rescue_begun";
/// In a rescue worker: the source has made a clone, which is not written down here; it is claimed on the source, nothing written down yet; subscriptions disabled, their processes may still
/// run; replaying, before and after a commit; all replayed, before and after the origin is set to its end; subscriptions
/// enabled again, the intent not yet closed; and after it was closed.
pub const RESCUE_CLONE_MADE: &str = "rescue_clone_made";
pub const RESCUE_CLAIMED: &str = "rescue_claimed";
pub const RESCUE_SUSPENDED: &str = "rescue_suspended";
pub const RESCUE_BEFORE_COMMIT: &str = "rescue_before_commit";
pub const RESCUE_AFTER_COMMIT: &str = "rescue_after_commit";
pub const RESCUE_REPLAYED: &str = "rescue_replayed";
pub const RESCUE_ORIGIN_SET: &str = "rescue_origin_set";
pub const RESCUE_RESUMED: &str = "rescue_resumed";
pub const RESCUE_RECONCILING: &str = "rescue_reconciling";
/// In a rescue worker: what was touched is compared, and what was to be written is.
pub const RESCUE_RECONCILED: &str = "rescue_reconciled";
/// In a rescue worker: all is done, and neither the rows that are kept nor that it has ended is written down.
pub const RESCUE_CLOSING: &str = "rescue_closing";
/// In a rescue worker that looks again at rows that are kept, before it asks anybody; and when it has written what was to be,
/// which is not written down yet.
pub const RESCUE_JUDGING_AGAIN: &str = "rescue_judging_again";
pub const RESCUE_JUDGED_AGAIN: &str = "rescue_judged_again";
pub const RESCUE_COMPLETED: &str = "rescue_completed";
/// In a walsender that sends a recovery: a change of a row is about to be sent.
pub const PLUGIN_CHANGE: &str = "plugin_change";
/// In clone_recovery_slot, after the slot was copied and before the copy is registered.
pub const CLONE_COPIED: &str = "clone_copied";
