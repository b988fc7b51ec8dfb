//! The settings (GUCs). The default of each is justified here and nowhere else. The names differ from those of the
//! extension `spock`, and the prefix `spock` is not reserved, because both libraries may be loaded.

use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::{CStr, CString};
use std::time::Duration;

/// `spock.rescue_conflict_resolution`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PostgresGucEnum)]
pub enum Policy {
    #[name = c"last_update_wins"]
    LastUpdateWins,
    /// The failed node's change is applied, however old it is.
    #[name = c"apply_remote"]
    ApplyRemote,
    /// The row that another node has written here is kept, however old it is.
    #[name = c"keep_local"]
    KeepLocal,
    /// The rescue waits at the first conflict.
    #[name = c"error"]
    Error,
}

/// `spock.manager_naptime`: how long a manager or the launcher sleeps when nothing wakes it. Users' commands wake both
/// at once; one second bounds the delay of changes without a notification, such as a subscription that a restore has
/// changed.
static MANAGER_NAPTIME: GucSetting<i32> = GucSetting::<i32>::new(1_000);

/// `spock.recovery_poll_interval`: how often a poller asks its peer. Two seconds keep the slot's horizon within seconds
/// of what the peers have applied, at the cost of one small query per peer.
static RECOVERY_POLL_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(2_000);

/// `spock.peer_timeout`: how long a peer may take to accept a connection or to answer. Five seconds are far above a
/// healthy answer over a wide-area network and below what a person is willing to wait at a prompt.
static PEER_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5_000);

/// `spock.max_databases`: shared memory is laid out for this many databases with the extension. Sixteen take about 3 MB
/// with the default of `spock.max_peers`; the size grows with the square of that setting, because it holds each peer's
/// progress for each origin.
static MAX_DATABASES: GucSetting<i32> = GucSetting::<i32>::new(16);

/// `spock.max_peers`: shared memory is laid out for this many peers per database. A mesh of more than 32 nodes is
/// beyond what native replication can carry: each node would run an apply worker for every other node.
static MAX_PEERS: GucSetting<i32> = GucSetting::<i32>::new(32);

/// `spock.enable_recovery_slots`: on, because only a slot that existed before a node was lost has the WAL to recover
/// from.
static ENABLE_RECOVERY_SLOTS: GucSetting<bool> = GucSetting::<bool>::new(true);

/// `spock.recovery_slot_advance_interval`: the least time between two moves of the slot. Each move writes the retention
/// record, a small catalog row, and decodes the WAL that it passes; ten seconds of WAL are little to retain.
static RECOVERY_SLOT_ADVANCE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// `spock.recovery_slot_max_wal`: no limit by default, because giving up a peer is the administrator's decision.
static RECOVERY_SLOT_MAX_WAL: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `spock.recovery_slot_failover`: off, because moving a failover slot waits for the standbys to which it is
/// synchronised.
static RECOVERY_SLOT_FAILOVER: GucSetting<bool> = GucSetting::<bool>::new(false);

/// `spock.rescue_clone_ttl`: a clone made by hand retains WAL, and no recovery would ever drop it. A day is time enough
/// to begin the rescue that it was made for.
static RESCUE_CLONE_TTL: GucSetting<i32> = GucSetting::<i32>::new(24 * HOUR_MS);

/// `spock.rescue_lock_timeout`: while a recovery waits for a lock, the subscriptions to running peers are suspended.
/// Thirty seconds are far longer than ordinary transactions hold a lock, and shorter than the time for which a
/// walsender waits for a busy receiver (wal_sender_timeout, one minute).
static RESCUE_LOCK_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(30_000);

/// `spock.rebuild_pin_silence`: a snapshot that is held for another node keeps VACUUM from removing dead rows. Ten minutes
/// are far longer than a node takes to restart, and short enough for a node that was lost in the middle of its rebuild.
static REBUILD_PIN_SILENCE: GucSetting<i32> = GucSetting::<i32>::new(600_000);

/// `spock.rebuild_streams`: two keep the source's and the target's processors busy at the same time. Each stream takes a
/// process on both nodes, which the mesh's work must be able to spare.
static REBUILD_STREAMS: GucSetting<i32> = GucSetting::<i32>::new(2);

/// The most of them: each needs a replication origin and a place in shared memory.
pub const MOST_REBUILD_STREAMS: usize = 8;

/// `spock.rescue_conflict_resolution`: the later commit wins, because all survivors then reach the same rows
/// independently.
static RESCUE_CONFLICT_RESOLUTION: GucSetting<Policy> = GucSetting::<Policy>::new(Policy::LastUpdateWins);

/// `spock.restore_point_interval`: off, because a restore point holds back commits for some milliseconds, on every node:
/// the administrator decides how often.
static RESTORE_POINT_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `spock.restore_points_kept`: at one point a minute, a hundred reach back further than it takes to notice a mistake.
/// Each takes some hundred bytes in a catalog row that is written with every point.
static RESTORE_POINTS_KEPT: GucSetting<i32> = GucSetting::<i32>::new(100);

/// `spock.compare_interval`: off, because a comparison reads all tables of both nodes.
static COMPARE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(0);

/// `spock.compare_pace`: a tenth of what one process reads and hashes, or less; a table of 100 GB takes three hours.
static COMPARE_PACE: GucSetting<i32> = GucSetting::<i32>::new(10);

/// The session settings of the output plugin. They have no defaults: the plugin refuses to stream without those it
/// needs.
static RESCUE_ORIGIN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_SKIP_LSN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_STOP_LSN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_STOP_TIMESTAMP: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_TABLES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_KEY_CHANGES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_RECONCILED_BY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_PACKED: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_GIVEN_UP: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static RESCUE_ANNOUNCED: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

const HOUR_MS: i32 = 3_600_000;

pub fn manager_naptime() -> Duration {
    milliseconds(&MANAGER_NAPTIME)
}

pub fn recovery_poll_interval() -> Duration {
    milliseconds(&RECOVERY_POLL_INTERVAL)
}

pub fn peer_timeout() -> Duration {
    milliseconds(&PEER_TIMEOUT)
}

pub fn max_databases() -> usize {
    MAX_DATABASES.get().unsigned_abs() as usize
}

pub fn max_peers() -> usize {
    MAX_PEERS.get().unsigned_abs() as usize
}

pub fn enable_recovery_slots() -> bool {
    ENABLE_RECOVERY_SLOTS.get()
}

pub fn recovery_slot_advance_interval() -> Duration {
    milliseconds(&RECOVERY_SLOT_ADVANCE_INTERVAL)
}

/// The WAL that the slot may retain, in bytes; None means no limit.
pub fn recovery_slot_max_wal() -> Option<u64> {
    let megabytes = u64::from(RECOVERY_SLOT_MAX_WAL.get().unsigned_abs());
    (megabytes > 0).then_some(megabytes << 20)
}

pub fn recovery_slot_failover() -> bool {
    RECOVERY_SLOT_FAILOVER.get()
}

pub fn rescue_clone_ttl() -> Duration {
    milliseconds(&RESCUE_CLONE_TTL)
}

pub fn rebuild_pin_silence() -> Duration {
    milliseconds(&REBUILD_PIN_SILENCE)
}

/// None means no limit.
pub fn rescue_lock_timeout() -> Option<Duration> {
    Some(milliseconds(&RESCUE_LOCK_TIMEOUT)).filter(|limit| !limit.is_zero())
}

/// How many workers copy a table at the same time.
pub fn rebuild_streams() -> u64 {
    u64::from(REBUILD_STREAMS.get().unsigned_abs())
}

pub fn rescue_conflict_resolution() -> Policy {
    RESCUE_CONFLICT_RESOLUTION.get()
}

/// None: no restore points are made automatically.
pub fn restore_point_interval() -> Option<Duration> {
    u64::try_from(RESTORE_POINT_INTERVAL.get()).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

pub fn restore_points_kept() -> u32 {
    RESTORE_POINTS_KEPT.get().unsigned_abs()
}

/// None: no comparison begins automatically.
pub fn compare_interval() -> Option<Duration> {
    u64::try_from(COMPARE_INTERVAL.get()).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

/// In MB per second; 0: no limit.
pub fn compare_pace() -> u32 {
    COMPARE_PACE.get().unsigned_abs()
}

/// The value of a setting of the output plugin in this session; empty if it is not set.
fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

pub fn rescue_origin() -> String {
    text(&RESCUE_ORIGIN)
}

pub fn rescue_skip_lsn() -> String {
    text(&RESCUE_SKIP_LSN)
}

pub fn rescue_stop_lsn() -> String {
    text(&RESCUE_STOP_LSN)
}

pub fn rescue_stop_timestamp() -> String {
    text(&RESCUE_STOP_TIMESTAMP)
}

pub fn rescue_tables() -> String {
    text(&RESCUE_TABLES)
}

pub fn rescue_key_changes() -> String {
    text(&RESCUE_KEY_CHANGES)
}

pub fn rescue_reconciled_by() -> String {
    text(&RESCUE_RECONCILED_BY)
}

pub fn rescue_packed() -> String {
    text(&RESCUE_PACKED)
}

pub fn rescue_given_up() -> String {
    text(&RESCUE_GIVEN_UP)
}

pub fn rescue_announced() -> String {
    text(&RESCUE_ANNOUNCED)
}

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::from(setting.get().unsigned_abs()))
}

pub fn register() {
    register_plugin_settings();
    GucRegistry::define_bool_guc(
        c"spock.enable_recovery_slots",
        c"Keeps a recovery slot in each database that is a node.",
        c"If it is off, the slots are dropped, and this server cannot be the source of a recovery.",
        &ENABLE_RECOVERY_SLOTS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"spock.recovery_slot_advance_interval",
        c"Least time between two moves of a recovery slot.",
        c"",
        &RECOVERY_SLOT_ADVANCE_INTERVAL,
        100,
        HOUR_MS,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.recovery_slot_max_wal",
        c"WAL that a recovery slot may keep before it gives up its slowest peer.",
        c"Zero means no limit.",
        &RECOVERY_SLOT_MAX_WAL,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MB,
    );
    GucRegistry::define_bool_guc(
        c"spock.recovery_slot_failover",
        c"Creates recovery slots as failover slots, which are synchronised to physical standbys.",
        c"Applies to slots created afterwards.",
        &RECOVERY_SLOT_FAILOVER,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"spock.rescue_clone_ttl",
        c"Time after which a clone of the recovery slot that no recovery has claimed is dropped.",
        c"",
        &RESCUE_CLONE_TTL,
        100,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.rebuild_pin_silence",
        c"Time after which a snapshot that is held for the rebuild of another node is released if that node is silent.",
        c"",
        &REBUILD_PIN_SILENCE,
        1_000,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.rebuild_streams",
        c"Number of workers that copy a table at the same time in a rebuild of this node.",
        c"",
        &REBUILD_STREAMS,
        1,
        MOST_REBUILD_STREAMS as i32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"spock.rescue_lock_timeout",
        c"Longest time that an attempt of a recovery waits for a lock.",
        c"After that the subscriptions to the other survivors run, until the next attempt. Zero means no limit.",
        &RESCUE_LOCK_TIMEOUT,
        0,
        HOUR_MS,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.restore_point_interval",
        c"Time between two restore points that the node with the lowest name makes.",
        c"Zero makes none.",
        &RESTORE_POINT_INTERVAL,
        0,
        i32::MAX / 1000,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"spock.restore_points_kept",
        c"How many of these restore points are listed.",
        c"The oldest are dropped. Those that a person has made stay until they are dropped.",
        &RESTORE_POINTS_KEPT,
        1,
        10_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"spock.compare_interval",
        c"Time between two comparisons of this node's tables with those of another node.",
        c"Each compares all tables with the next node's. Zero: none begins automatically.",
        &COMPARE_INTERVAL,
        0,
        i32::MAX / 1000,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"spock.compare_pace",
        c"How much of a table these comparisons read per second, on each node.",
        c"In MB. Zero sets no limit.",
        &COMPARE_PACE,
        0,
        100_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_enum_guc(
        c"spock.rescue_conflict_resolution",
        c"What a rescue does if a change conflicts with a row that another node has written.",
        c"With \"error\" the rescue waits at the first conflict.",
        &RESCUE_CONFLICT_RESOLUTION,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"spock.manager_naptime",
        c"Longest sleep of the manager of a database and of the launcher.",
        c"Commands on nodes and subscriptions wake them at once.",
        &MANAGER_NAPTIME,
        100,
        HOUR_MS,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.recovery_poll_interval",
        c"Time between two polls of a peer.",
        c"",
        &RECOVERY_POLL_INTERVAL,
        100,
        HOUR_MS,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.peer_timeout",
        c"Longest time that a peer may take to accept a connection or to answer.",
        c"",
        &PEER_TIMEOUT,
        100,
        HOUR_MS,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    GucRegistry::define_int_guc(
        c"spock.max_databases",
        c"Number of databases of this server that may be nodes.",
        c"",
        &MAX_DATABASES,
        1,
        1024,
        GucContext::Postmaster,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"spock.max_peers",
        c"Number of peers that a node may have.",
        c"",
        &MAX_PEERS,
        1,
        128,
        GucContext::Postmaster,
        GucFlags::default(),
    );
}

fn register_plugin_settings() {
    let settings: [(&'static CStr, &'static CStr, &'static GucSetting<Option<CString>>); 10] = [
        (c"spock.rescue_origin", c"Replication origin that the output plugin sends, by its id.", &RESCUE_ORIGIN),
        (c"spock.rescue_skip_lsn", c"Position at the origin after which the output plugin begins.", &RESCUE_SKIP_LSN),
        (c"spock.rescue_stop_lsn", c"Position at the origin up to which the output plugin sends.", &RESCUE_STOP_LSN),
        (
            c"spock.rescue_stop_timestamp",
            c"Commit time after which the output plugin ends, in microseconds since 2000.",
            &RESCUE_STOP_TIMESTAMP,
        ),
        (c"spock.rescue_tables", c"Tables that the output plugin sends, by their oids.", &RESCUE_TABLES),
        (
            c"spock.rescue_key_changes",
            c"Makes the output plugin send the updates that change a key, of all origins except spock.rescue_origin.",
            &RESCUE_KEY_CHANGES,
        ),
        (
            c"spock.rescue_reconciled_by",
            c"Replication origin of which the output plugin sends all changes, not only those of keys, by its id.",
            &RESCUE_RECONCILED_BY,
        ),
        (
            c"spock.rescue_packed",
            c"Makes the output plugin pack many messages of a transaction into one.",
            &RESCUE_PACKED,
        ),
        (
            c"spock.rescue_given_up",
            c"Positions at the origin of transactions that the output plugin sends without their changes.",
            &RESCUE_GIVEN_UP,
        ),
        (
            c"spock.rescue_announced",
            c"Makes the output plugin send the position of each transaction before it reads the transaction's \
              changes.",
            &RESCUE_ANNOUNCED,
        ),
    ];
    for (name, description, setting) in settings {
        GucRegistry::define_string_guc(
            name,
            description,
            c"Set by the target of a rescue on its replication connection.",
            setting,
            GucContext::Userset,
            GucFlags::NO_SHOW_ALL,
        );
    }
}
