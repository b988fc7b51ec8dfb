//! quick_health_check(), and the facts that it gathers for the judgement.
#![allow(unsafe_code)] // pg_extern generates the C entry points

use super::pin::held_pins;
use crate::document::Unreadable;
use crate::error::OrRaise;
use crate::health::judge::{
    self, Check, CloneHealth, ManagerFacts, PeerHealth, PinHealth, RecoveryHealth, ServerSettings, SlotHealth,
    UnknownOriginFacts,
};
use crate::health::kept::{self, KeptFacts};
use crate::health::{capacity, documents, version};
use crate::identity::DatabaseIdentity;
use crate::intent::document::{ComparisonRecord, Journal, Suspension};
use crate::intent::storage;
use crate::node::native::NativeProvider;
use crate::node::provider::{Origin, ReplicationProvider, Subscription};
use crate::node::{registry, servers};
use crate::node_name::NodeName;
use crate::pg::clock::Monotonic;
use crate::pg::text::Text;
use crate::pg::{catalog, large_object, process, role, setting, slot, transaction, wal};
use crate::quoted::literal;
use crate::recover::state::RecoveryState;
use crate::recover::strangers;
use crate::restore_point::list_storage;
use crate::shmem::{self, PeerEntry, PeerKey, PeerState, PinEntry};
use crate::slot::snapshot::{self, Snapshot};
use crate::slot::{budget, outgoing, saved_storage};
use crate::worker::clone_upkeep::{self, Hears};
use crate::{comparing, guc, reconcile};
use pgrx::datum::ToIsoString;
use pgrx::prelude::*;
use std::time::Duration;

/// Returns one row for each check, within milliseconds, because no peer is asked. There is one row if this
/// database is no node, or a copy of one, or if this server is a standby.
#[pg_extern(sql = false)]
fn quick_health_check() -> TableIterator<'static, (name!(check_name, Text), name!(status, String), name!(details, Text))>
{
    snapshot::require_reader("quick_health_check");
    let checks = gather();
    TableIterator::new(
        checks
            .into_iter()
            .map(|check| (Text::of_message(&check.name), check.status.to_string(), Text::of_message(&check.details))),
    )
}

/// A peer counts as silent after this many missed answers, but not before the least time.
const MISSED_POLLS: u32 = 3;
const LEAST_SILENCE: Duration = Duration::from_secs(60);

fn longest_silence() -> Duration {
    LEAST_SILENCE.max(MISSED_POLLS * (guc::recovery_poll_interval() + guc::peer_timeout()))
}

/// What several checks look at.
struct HealthFacts<'a> {
    servers: &'a [servers::NodeServer],
    local: &'a servers::NodeServer,
    snapshot: Option<&'a Snapshot>,
    /// The first object whose document cannot be read.
    in_the_way: Option<String>,
}

impl<'a> HealthFacts<'a> {
    fn entry_of(&self, key: PeerKey) -> Option<&'a PeerEntry> {
        self.snapshot?.peers.iter().map(|(peer, _)| peer).find(|peer| peer.key == key)
    }
}

fn gather() -> Vec<Check> {
    let servers = servers::servers().or_raise();
    if wal::is_in_recovery() {
        return vec![judge::standby()];
    }
    let Some(local) = servers.iter().find(|server| server.role == servers::Role::Local) else {
        let copy = servers.iter().find(|server| server.role == servers::Role::LocalElsewhere);
        return copy.map_or_else(|| vec![judge::no_node()], checks_of_copy);
    };
    let settings = settings();
    let snapshot = snapshot::snapshot();
    let unreadable = crate::slot::documents::unreadable().or_raise();
    let in_the_way = unreadable.first().map(Unreadable::name);
    let facts = HealthFacts { servers: &servers, local, snapshot: snapshot.as_ref(), in_the_way };
    let mut checks = checks_of_server(&settings, &facts);
    // If the journal cannot be read, nothing is known about what it contains, and nothing is reported.
    if let Ok(journal) = storage::read() {
        checks.extend(checks_of_recoveries(&journal));
    }
    checks.extend(pins());
    checks.extend(automatic_points());
    checks.extend(unreadable.iter().map(documents::unreadable));
    checks.extend(list_storage::unreadable().iter().map(documents::unreadable));
    checks.extend(catalog::extension_version().and_then(|sql| version::sql(&sql, env!("CARGO_PKG_VERSION"))));
    checks.extend(strangers(&servers));
    checks.extend(checks_of_peers(&facts));
    checks.extend(failing(snapshot.as_ref(), &servers));
    checks.extend(unknown_origins(&facts));
    checks
}

/// The checks of the slot, of the server's settings and limits, and of our own workers.
fn checks_of_server(settings: &ServerSettings, facts: &HealthFacts<'_>) -> Vec<Check> {
    let (snapshot, servers) = (facts.snapshot, facts.servers);
    let slot = SlotHealth { unreadable: facts.in_the_way.clone(), ..slot_facts(snapshot, servers) };
    vec![
        judge::slot(&slot),
        judge::retention(&slot),
        judge::vouching(&waiting(snapshot, servers)),
        judge::wal_level(settings),
        judge::invalidation(settings),
        judge::capacity(&capacities()),
        apply_workers(),
        judge::commit_timestamps(settings),
        judge::output_plugin(settings),
        judge::manager(&manager()),
    ]
}

/// The checks of recoveries, of what they have left behind, and of what else the journal names.
fn checks_of_recoveries(journal: &Journal) -> Vec<Check> {
    let mut checks = vec![judge::recovery(&recoveries(journal))];
    checks.extend(clones().iter().filter_map(judge::clone));
    checks.extend(returned(journal));
    checks.extend(kept_rows(journal));
    checks.extend(comparisons(journal));
    let kept = journal.intents.iter().filter_map(|intent| intent.kept_rows);
    checks.extend(kept.filter_map(reconcile::kept::unreadable_head).map(|found| documents::unreadable(&found)));
    checks.extend(saved_storage::unreadable_object().iter().map(documents::unreadable));
    let lists = journal.comparisons.iter().filter_map(comparing::storage::unreadable_list);
    checks.extend(lists.map(|found| documents::unreadable(&found)));
    checks
}

/// The checks of each peer: whether it answers, in the same protocol, and whether it can be the source of a recovery.
fn checks_of_peers(facts: &HealthFacts<'_>) -> Vec<Check> {
    let now = Monotonic::now();
    let longest_silence = longest_silence();
    let mut checks = Vec::new();
    for server in facts.servers.iter().filter(|server| server.role == servers::Role::Peer) {
        let entry = facts.entry_of(PeerKey::Node(server.id));
        let protocol = entry.map(|peer| peer.protocol).filter(|protocol| *protocol != 0);
        checks.extend(protocol.and_then(|protocol| version::peer(server.name.as_str(), protocol)));
        checks.push(judge::peer(&PeerHealth {
            name: server.name.to_string(),
            state: entry.map_or("unknown", |peer| peer.state.as_str()),
            answers: entry.is_some_and(|peer| peer.state == PeerState::Connected),
            knows_this_node: entry.is_none_or(|peer| peer.readiness.knows_this_node),
            local: facts.local.name.to_string(),
            error: entry.map_or_else(String::new, |peer| peer.error.as_str().to_owned()),
            longest_silence_s: longest_silence.as_secs(),
            unreadable: facts.in_the_way.clone(),
            silent_for_s: entry.filter(|peer| !peer.heard_at.is_never()).map(|peer| now.since(peer.heard_at).as_secs()),
        }));
        let has_said = |peer: &&PeerEntry| peer.state == PeerState::Connected && !peer.readiness.said_at.is_never();
        let said = entry.filter(has_said).map(|peer| (peer.readiness.lacks, peer.readiness.told()));
        checks.extend(judge::source(server.name.as_str(), said));
    }
    checks
}

/// The subscriptions of which it is not known from which node they receive.
fn unknown_origins(facts: &HealthFacts<'_>) -> Vec<Check> {
    let is_unknown = |subscription: &Subscription| subscription.origin.is_unknown();
    let check = |subscription: Subscription| {
        let said = facts.entry_of(PeerKey::Subscription(subscription.id));
        let says = said.map_or_else(String::new, |peer| peer.node_name.shown());
        let known = facts.servers.iter().find(|server| server.name.as_str() == says).and_then(|server| server.bound);
        judge::unknown_origin(&UnknownOriginFacts {
            local: facts.local.name.to_string(),
            conflict: known
                .zip(said.and_then(|peer| peer.said))
                .filter(|(known, found)| known != found)
                .map(|(known, found)| (known.to_string(), found.to_string())),
            holds: subscription.counts(),
            is_trusted: subscription.is_trusted,
            owner: subscription.owner,
            was: match subscription.origin {
                Origin::Doubted(was) => Some(was.to_string()),
                _ => None,
            },
            subscription: subscription.name,
            says,
        })
    };
    NativeProvider.subscriptions().or_raise().into_iter().filter(is_unknown).map(check).collect()
}

/// The checks of a database that is a copy of a node.
fn checks_of_copy(copy: &servers::NodeServer) -> Vec<Check> {
    let mut unreadable = crate::slot::documents::unreadable().or_raise();
    let unadoptable = registry::unadoptable_labels(copy.identity).or_raise();
    let name_of_first = |found: &[Unreadable]| found.first().map(Unreadable::name);
    let (refuses_creation, refuses_drop) = (name_of_first(&unadoptable), name_of_first(&unreadable));
    let mut checks = vec![judge::copy(copy.name.as_str(), refuses_creation.as_deref(), refuses_drop.as_deref())];
    unreadable.extend(unadoptable);
    unreadable.sort_by_key(Unreadable::name);
    unreadable.dedup();
    checks.extend(unreadable.iter().map(documents::unreadable));
    checks
}

/// The state of the manager, which it has left in shared memory.
fn manager() -> ManagerFacts {
    let entry = {
        let mut shared = shmem::lock();
        shared.index_of(process::my_database()).map(|index| shared.databases()[index])
    };
    let Some(entry) = entry else { return ManagerFacts::default() };
    let at = entry.manager.good_round_at;
    ManagerFacts {
        pid: entry.manager_pid,
        good_round_s: (!at.is_never()).then(|| Monotonic::now().since(at).as_secs()),
        interval_s: guc::manager_naptime().as_secs(),
        skips: entry.manager.skips,
        skipped: entry.manager.skipped.as_str().to_owned(),
    }
}

/// The restore points by spock.restore_point_interval, if they fail.
fn automatic_points() -> Option<Check> {
    let entry = {
        let mut shared = shmem::lock();
        let index = shared.index_of(process::my_database())?;
        shared.databases()[index].manager
    };
    judge::automatic_points(entry.points_failed, entry.point_failure.as_str())
}

fn settings() -> ServerSettings {
    ServerSettings {
        wal_level: setting::value(c"wal_level").unwrap_or_default(),
        track_commit_timestamp: setting::value(c"track_commit_timestamp").as_deref() == Some("on"),
        max_slot_wal_keep_size: setting::shown(c"max_slot_wal_keep_size"),
        idle_replication_slot_timeout: setting::shown(c"idle_replication_slot_timeout"),
        output_plugin_libraries: setting::value(c"output_plugin_libraries"),
    }
}

fn slot_facts(snapshot: Option<&Snapshot>, servers: &[servers::NodeServer]) -> SlotHealth {
    let mut facts = SlotHealth { is_enabled: guc::enable_recovery_slots(), ..SlotHealth::default() };
    let Some(snapshot) = snapshot else { return facts };
    let entry = &snapshot.slot;
    let found = slot::find_here(entry.name.as_str()).or_raise();
    facts.name = entry.name.as_str().to_owned();
    facts.exists = found.is_some();
    facts.is_invalid = found.as_ref().is_some_and(|found| found.is_invalid);
    facts.generation = entry.generation as i64;
    facts.error = entry.error.as_str().to_owned();
    facts.retained_bytes = found.as_ref().map_or(0, snapshot::retained_bytes);
    facts.budget_bytes = snapshot::budget_bytes();
    facts.blocked_reason = entry.blocked.as_str();
    facts.blocked_by = snapshot::blocking_peer(snapshot, servers);
    facts.unprotected = snapshot::unprotected_peers(snapshot, servers);
    if let Some(found) = &found {
        let outgoing = outgoing::beside(&found.name).or_raise();
        facts.slowest_outgoing = outgoing::slowest(&outgoing, None).map(|slot| slot.name.clone());
        let passed = outgoing::given_up(&outgoing, found.confirmed, budget::lowest(wal::flushed()));
        facts.passed_outgoing = passed.into_iter().collect();
    }
    facts
}

/// The origins whose transactions this node cannot supply yet.
fn waiting(snapshot: Option<&Snapshot>, servers: &[servers::NodeServer]) -> Vec<judge::WaitingFacts> {
    let origins = snapshot.map(|snapshot| snapshot.origins.as_slice()).unwrap_or_default();
    let named = |node| servers.iter().find(|server| server.id == node).map(|server| server.name.to_string());
    origins
        .iter()
        .filter(|origin| !origin.waits_since.is_never())
        .filter_map(|origin| {
            let since = TimestampWithTimeZone::from(origin.waits_since).to_iso_string();
            Some(judge::WaitingFacts { node: named(origin.node)?, since })
        })
        .collect()
}

/// The unfinished recoveries whose target is this node.
fn recoveries(journal: &Journal) -> Vec<RecoveryHealth> {
    journal
        .unfinished()
        .map(|intent| {
            let state = RecoveryState::of(intent);
            RecoveryHealth {
                title: intent.request.title(),
                abort: match intent.is_rebuild() {
                    true => "CALL spock.rebuild_abort();".to_owned(),
                    false => format!("CALL spock.recover_abort({});", literal(&state.failed_node)),
                },
                intent: state.intent_id,
                phase: state.phase,
                failure: state.error,
                blocked_by: state.blocked_by,
            }
        })
        .collect()
}

/// The snapshots that this node holds for rebuilds.
fn pins() -> Vec<Check> {
    let (now, next, limit) = (Monotonic::now(), transaction::next_id(), longest_silence());
    let facts = |pin: &PinEntry| PinHealth {
        target: pin.target_name.as_str().to_owned(),
        intent: pin.intent.to_string(),
        held_for_s: now.since(pin.held_at).as_secs(),
        silent_for_s: Some(pin.silent_for(now)).filter(|silent| *silent > limit).map(|silent| silent.as_secs()),
        age: next.wrapping_sub(pin.xmin),
        limit_s: guc::rebuild_pin_silence().as_secs(),
    };
    held_pins().iter().map(|pin| judge::pin(&facts(pin))).collect()
}

/// The nodes that are back and whose subscription must not be resumed.
fn returned(journal: &Journal) -> Vec<Check> {
    let subscriptions = NativeProvider.subscriptions().or_raise();
    let judged = |entry: &Suspension| {
        let found = subscriptions.iter().find(|known| known.id.to_u32() == entry.subscription);
        let name = found.map_or("…", |known| known.name.as_str());
        entry.verdict.as_ref().map(|verdict| judge::returned(&entry.origin, verdict, name))
    };
    journal.suspensions.iter().filter_map(judged).collect()
}

/// The rows that could not be compared yet and are lost.
fn kept_rows(journal: &Journal) -> Option<Check> {
    let there = large_object::present(&journal.kept_objects()).or_raise();
    let facts = journal.intents.iter().filter_map(|intent| {
        let counts = intent.reconciled.as_ref()?;
        Some(KeptFacts {
            failed: intent.request.failed.clone(),
            source: intent.request.source.clone(),
            lost: counts.lost(),
            removed: intent.kept_rows.filter(|object| !there.contains(object)).map(|object| (object, counts.kept())),
        })
    });
    kept::check_kept(&facts.collect::<Vec<_>>())
}

/// What the last comparisons of tables have found.
fn comparisons(journal: &Journal) -> Option<Check> {
    let has_ended = |record: &&ComparisonRecord| record.ended_at.is_some();
    let ended = journal.comparisons.iter().filter(has_ended).map(|record| judge::ComparisonHealth {
        other: record.other.clone(),
        id: record.id.to_string(),
        begun_at: TimestampWithTimeZone::from(record.begun_at).to_iso_string(),
        is_partial: record.is_partial,
        differing: record.differing,
        undecided: record.undecided,
        incomparable: record.incomparable,
    });
    judge::comparison(&ended.collect::<Vec<_>>(), guc::compare_interval().is_some())
}

/// The nodes that ask this node and are not its peers.
fn strangers(servers: &[servers::NodeServer]) -> Vec<Check> {
    let conflict = |name: &str, said: DatabaseIdentity| {
        let known = servers.iter().find(|server| server.name.as_str() == name)?;
        let known = known.bound.or((known.role == servers::Role::Local).then(servers::here))?;
        Some((known.to_string(), said.to_string()))
    };
    strangers::strangers(servers)
        .into_iter()
        .map(|asker| {
            judge::asker(&judge::AskerHealth {
                conflict: asker.said.and_then(|said| conflict(asker.name.as_str(), said)),
                name: asker.name.shown(),
                role: asker.role.as_str().replace(char::is_control, " "),
            })
        })
        .collect()
}

/// The subscriptions that keep failing although their providers answer.
fn failing(snapshot: Option<&Snapshot>, servers: &[servers::NodeServer]) -> Vec<Check> {
    let answers = |origin: &NodeName| {
        let server = servers.iter().find(|server| server.name == *origin);
        let peers = snapshot.iter().flat_map(|snapshot| &snapshot.peers).map(|(peer, _)| peer);
        let mut answering = peers.filter(|peer| peer.state == PeerState::Connected);
        server.is_some_and(|server| answering.any(|peer| peer.key == PeerKey::Node(server.id)))
    };
    let mut checks = Vec::new();
    for subscription in NativeProvider.subscriptions().or_raise() {
        if !subscription.is_enabled || !subscription.origin.node().is_some_and(answers) {
            continue;
        }
        let errors = role::as_superuser(|| capacity::errors_of_idle(subscription.id)).or_raise();
        if errors > 0 {
            let origin = subscription.origin.node().map(ToString::to_string);
            checks.push(judge::failing(&subscription.name, origin.as_deref(), errors));
        }
    }
    checks
}

fn apply_workers() -> Check {
    let (enabled, limit) = capacity::apply_workers().or_raise();
    judge::apply_workers(enabled, limit)
}

/// The clones on this node.
fn clones() -> Vec<CloneHealth> {
    clone_upkeep::registered()
        .or_raise()
        .into_iter()
        .map(|clone| CloneHealth {
            claimed_by: clone.record.target.zip(clone.record.intent.map(|intent| intent.to_string())),
            target_is_silent: clone.hears == Hears::Silence,
            is_invalid: clone.slot.as_ref().is_some_and(|slot| slot.is_invalid),
            retained_bytes: clone.slot.as_ref().map_or(0, snapshot::retained_bytes),
            slot: clone.record.slot,
        })
        .collect()
}

/// The limits of the server, and how much of each is in use.
fn capacities() -> Vec<judge::Capacity> {
    let server = role::as_superuser(capacity::of_server).or_raise();
    vec![server.slots, server.walsenders, server.workers, server.origins]
}
