//! Where every node is to stop, from which backup, and with which WAL: found with living servers or with dead ones.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use spock_recovery_cluster::ServerUser;

use super::cut::{self, Arrival};
use super::error::{Error, Result};
use super::instant::Instant;
use super::points::{Point, Points, Quality};
use super::scan;
use super::sources::Sources;
use super::target::{Moment, Stop, Target};
use crate::backup::base::BaseBackup;
use crate::backup::repository::{self, MeshNode, Repository};
use crate::backup::wal::History;
use crate::backup::{Driver, conninfo::Conninfo, nodes};
use crate::lsn::Lsn;

/// What a living server says, kept in the repository for the day on which it does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub timeline: u32,
    /// The ids of its replication origins, and the nodes they stand for.
    pub origins: BTreeMap<u32, String>,
    /// Every subscription of the mesh has one on its provider: names by provider.
    pub slots: Vec<(String, String)>,
    pub superuser: String,
    pub recovery_slot: Option<String>,
    /// From where that slot reads.
    #[serde(default)]
    pub slot_restart: Option<Lsn>,
    /// Names of all its logical slots.
    pub all_slots: Vec<String>,
    /// The names of all nodes that it knows, itself among them.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Its list of restore points, as it is stored.
    pub points: String,
}

const ORIGINS: &str = "SELECT o.roident, n.node_name, s.subslotname
  FROM pg_subscription s JOIN pg_replication_origin o ON o.roname = 'pg_' || s.oid
  JOIN spock.subscription v ON v.sub_id = s.oid JOIN spock.node n ON n.node_id = v.sub_origin
 WHERE s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())";

const SELF: &str = "SELECT (SELECT timeline_id FROM pg_control_checkpoint()),
       (SELECT rolname FROM pg_roles WHERE oid = 10), spock_internal.restore_point_list(),
       (SELECT slot_name FROM spock.get_recovery_slot_status() LIMIT 1),
       (SELECT restart_lsn FROM spock.get_recovery_slot_status() LIMIT 1)";

/// A server that answers, if it is the node of the repository.
pub fn ask(node: &MeshNode) -> std::result::Result<Facts, String> {
    let registered = nodes::Registered {
        name: node.name.clone(),
        conninfo: Conninfo::parse(&node.dsn).map_err(|error| error.to_string())?,
    };
    let mut live = nodes::Live::meet(&registered).map_err(|error| error.to_string())?;
    if live.node.system_identifier != node.system_identifier {
        return Err(format!("at its address answers the system {}", live.node.system_identifier));
    }
    let mut query = |statement: &str| live.query(statement).map_err(|error| error.to_string());
    let mut facts = Facts::default();
    let mut row = query(SELF)?.into_iter().flatten();
    let mut next = || row.next().flatten();
    facts.timeline = next().and_then(|text| text.parse().ok()).unwrap_or(1);
    facts.superuser = next().unwrap_or_else(|| "postgres".into());
    facts.points = next().unwrap_or_default();
    facts.recovery_slot = next();
    facts.slot_restart = next().and_then(|lsn| lsn.parse().ok());
    for row in query(ORIGINS)? {
        if let [Some(id), Some(name), slot] = row.as_slice() {
            facts.origins.insert(id.parse().unwrap_or(0), name.clone());
            facts.slots.extend(slot.iter().map(|slot| (name.clone(), slot.clone())));
        }
    }
    facts.nodes = query("SELECT node_name FROM spock.node ORDER BY 1")?.into_iter().flatten().flatten().collect();
    let slots = "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'logical' AND NOT temporary";
    facts.all_slots = query(slots)?.into_iter().flatten().flatten().collect();
    Ok(facts)
}

fn facts_file(repository: &Repository, node: &str) -> PathBuf {
    repository.node_folder(node).join("facts.json")
}

/// What is known of a node: by its own words, else by the last that were noted.
pub fn known(repository: &Repository, node: &MeshNode, asked: &std::result::Result<Facts, String>) -> Option<Facts> {
    match asked {
        Ok(facts) => Some(facts.clone()),
        Err(_) => repository::read_document(&facts_file(repository, &node.name)).ok(),
    }
}

/// Keeps what a server has said.
pub fn note(repository: &Repository, node: &str, facts: &Facts) {
    let folder = repository.node_folder(node);
    // Another host's part of the repository is not here.
    if let Ok(Some(owner)) = ServerUser::owner_of(&folder) {
        let _ = repository::write_document(&facts_file(repository, node), facts, &owner);
    }
}

/// By labels of base backups: from where the recovery slot read when each was begun. No saved slot of a later moment reads from earlier.
type SlotPositions = BTreeMap<String, Lsn>;

fn slots_file(repository: &Repository, node: &str) -> PathBuf {
    repository.node_folder(node).join("slot-positions.json")
}

pub fn note_slot(repository: &Repository, node: &str, label: &str, restart: Option<Lsn>) {
    let file = slots_file(repository, node);
    if let (Some(restart), Ok(Some(owner))) = (restart, ServerUser::owner_of(&repository.node_folder(node))) {
        let mut positions: SlotPositions = repository::read_document(&file).unwrap_or_default();
        positions.insert(label.to_owned(), restart);
        let _ = repository::write_document(&file, &positions, &owner);
    }
}

pub fn noted_slot(repository: &Repository, node: &str, label: &str) -> Option<Lsn> {
    let positions: SlotPositions = repository::read_document(&slots_file(repository, node)).ok()?;
    positions.get(label).copied()
}

/// A node with all that a restore is planned from.
pub struct Material<'a> {
    pub node: &'a MeshNode,
    pub facts: Option<Facts>,
    pub backups: Vec<BaseBackup>,
    pub sources: Sources<'a>,
    /// Whom programs run as that read its files.
    pub user: ServerUser,
}

impl<'a> Material<'a> {
    pub fn of(
        repository: &Repository,
        driver: &'a dyn Driver,
        node: &'a MeshNode,
        folders: Vec<PathBuf>,
        asked: &std::result::Result<Facts, String>,
    ) -> Result<Material<'a>> {
        let folder = repository.node_folder(&node.name);
        let closed = || crate::backup::Error::Closed { node: node.name.clone(), pgdata: folder.clone() };
        let user = match folder.is_dir() {
            true => ServerUser::owner_of(&folder)?.ok_or_else(closed)?,
            false => ServerUser::find()?,
        };
        Ok(Material {
            node,
            facts: known(repository, node, asked),
            backups: driver.backups(node)?,
            sources: Sources::of(driver, node, folders)?,
            user,
        })
    }

    fn timeline(&self) -> u32 {
        self.facts.as_ref().map_or_else(|| self.sources.newest_timeline(), |facts| facts.timeline)
    }

    fn history(&self, moment: &Moment, timeline: u32) -> Result<&History> {
        let missing = || format!("its archive has no {}", History::file_name(timeline));
        self.sources.history(timeline).ok_or_else(|| self.no_base(moment, missing()))
    }

    fn no_base(&self, moment: &Moment, reason: String) -> Error {
        Error::NoBase { node: self.node.name.clone(), moment: moment.to_string(), reason }
    }

    /// The last complete backup that had ended by a position of a timeline.
    fn base(&self, moment: &Moment, history: &History, position: Lsn) -> Result<&BaseBackup> {
        let fits =
            |backup: &&BaseBackup| backup.stop_lsn <= position && history.contains(backup.timeline, backup.stop_lsn);
        self.backups.iter().filter(fits).max_by_key(|backup| backup.stop_lsn).ok_or_else(|| {
            let first = self.backups.iter().filter(|backup| history.contains(backup.timeline, backup.stop_lsn)).min_by_key(|backup| backup.stop_lsn);
            let reason = match (first, self.backups.is_empty()) {
                (_, true) => "it has no base backup: leave it out of the mesh and make it anew from another node afterwards, or choose a moment after spockctl backup take".into(),
                (Some(first), _) => format!("its earliest base backup ends at {}, and that moment is at {position}: the earliest moment is {}", first.stop_lsn, first.ended_at),
                (None, _) => format!("none of its base backups leads to timeline {}", history.timeline),
            };
            self.no_base(moment, reason)
        })
    }
}

/// Where every node stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub version: u32,
    pub moment: Moment,
    /// None: computed, or not known.
    pub drained: bool,
    pub targets: BTreeMap<String, Target>,
    /// What was found out about the moment, for people.
    pub remarks: Vec<String>,
}

/// The layout of the file; a greater number is refused.
const VERSION: u32 = 1;

fn plan_file(repository: &Repository) -> PathBuf {
    repository.path().join("restore-plan.json")
}

impl Plan {
    /// The one that another host, or this one before it was killed, has begun with.
    pub fn under_way(repository: &Repository) -> Option<Plan> {
        repository::read_document(&plan_file(repository)).ok().filter(|plan: &Plan| plan.version <= VERSION)
    }

    pub fn write(&self, repository: &Repository, owner: &ServerUser) -> Result<()> {
        Ok(repository::write_document(&plan_file(repository), self, owner)?)
    }

    /// Once the restore is over.
    pub fn remove(repository: &Repository) {
        let _ = std::fs::remove_file(plan_file(repository));
    }

    pub fn cut(&self) -> BTreeMap<String, Lsn> {
        self.targets.iter().map(|(node, target)| (node.clone(), target.stop.position())).collect()
    }
}

/// All restore points that anybody knows.
pub fn points(materials: &[Material<'_>]) -> Points {
    let mut all = Points::default();
    for facts in materials.iter().filter_map(|material| material.facts.as_ref()) {
        if let Ok(points) = Points::parse(&facts.points) {
            all.merge(points);
        }
    }
    all
}

/// Plans a moment.
pub fn compute(materials: &[Material<'_>], moment: &Moment) -> Result<Plan> {
    let points = points(materials);
    match moment {
        Moment::Point(name) => match points.find(name) {
            Some(point) if point.quality > Quality::Loose && point.is_complete() => exact(materials, moment, point),
            found => loose(materials, moment, &points, name, found),
        },
        Moment::Time(text) => {
            let instant = Instant::parse(text).ok_or_else(|| Error::Time(text.clone()))?;
            computed(materials, moment, &points, Some(instant), &mut |material, history, from| {
                at_time(material, history, from, instant, moment)
            })
        }
        Moment::Latest => computed(materials, moment, &points, None, &mut |material, history, from| {
            let last = scan::last_commit(material.node, &material.sources, &material.user, history, from)?;
            let size = material.sources.segment_size();
            let last = last
                .ok_or_else(|| material.no_base(moment, "its WAL has no transaction since its last backup".into()))?;
            Ok(Stop::After { lsn: last.lsn, end: last.end(size) })
        }),
    }
}

/// A point of which it is proved that the nodes fit together.
fn exact(materials: &[Material<'_>], moment: &Moment, point: &Point) -> Result<Plan> {
    let mut targets = BTreeMap::new();
    for material in materials {
        let part = point.node(&material.node.name).and_then(|node| Some((node.lsn?, node.timeline?)));
        let reason = "it has no part in that restore point: the others would come back without it";
        let (end, timeline) = part.ok_or_else(|| material.no_base(moment, reason.into()))?;
        let history = material.history(moment, timeline)?;
        let base = material.base(moment, history, end)?;
        let stop = Stop::Point { name: point.name.clone(), end };
        targets.insert(material.node.name.clone(), Target { stop, timeline, base: base.label.clone() });
    }
    let drained = point.quality == Quality::Drained;
    let words =
        if drained { "drained: nothing was in flight" } else { "a cut: what was in flight arrives after the restore" };
    let remarks = vec![format!("restore point \"{}\" of {}, {words}", point.name, point.created_at())];
    Ok(Plan { version: VERSION, moment: moment.clone(), drained, targets, remarks })
}

/// A point of which that is not proved, or which nobody who answers knows: its records are in WAL.
fn loose(
    materials: &[Material<'_>],
    moment: &Moment,
    points: &Points,
    name: &str,
    found: Option<&Point>,
) -> Result<Plan> {
    if found.is_none() && materials.iter().any(|material| material.facts.is_some()) && !points.points.is_empty() {
        // Whoever answers has the whole list, but the last points of a server that is lost.
        let there = materials.iter().any(|material| seek(material, moment, name).ok().flatten().is_some());
        if !there {
            let nearest = points.nearest(name).iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            return Err(Error::UnknownPoint {
                name: name.into(),
                nearest: format!("; the nearest names are {nearest}"),
            });
        }
    }
    let created = found.map(Point::created_at);
    computed(materials, moment, points, created, &mut |material, history, from| {
        let known = found.and_then(|point| point.node(&material.node.name)?.lsn);
        let end = match known {
            Some(end) => Some(end),
            None => scan::find_point(material.node, &material.sources, &material.user, (history, from), name)?,
        };
        match (end, created) {
            (Some(end), _) => Ok(Stop::Point { name: name.into(), end }),
            (None, Some(created)) => at_time(material, history, from, created, moment),
            (None, None) => Err(Error::UnknownPoint {
                name: name.into(),
                nearest: format!(", in the WAL of node \"{}\"", material.node.name),
            }),
        }
    })
}

fn seek(material: &Material<'_>, moment: &Moment, name: &str) -> Result<Option<Lsn>> {
    let history = material.history(moment, material.timeline())?;
    let Some(first) = material.backups.iter().map(|backup| backup.start_lsn).min() else { return Ok(None) };
    scan::find_point(material.node, &material.sources, &material.user, (history, first), name)
}

/// Before the first commit that is later.
fn at_time(material: &Material<'_>, history: &History, from: Lsn, instant: Instant, moment: &Moment) -> Result<Stop> {
    let mut stop = None;
    let range = scan::Range { history, from, to: None, kinds: &scan::ARRIVALS[..1] };
    scan::scan(material.node, &material.sources, &material.user, &range, |record| {
        stop = record.commit.filter(|&time| time > instant).map(|_| Stop::Before { lsn: record.lsn });
        stop.is_none()
    })?;
    stop.ok_or_else(|| Error::Future { moment: moment.to_string(), node: material.node.name.clone() })
}

/// The wanted stop of a node, with its history, searched from a position.
type Wanted<'w> = &'w mut dyn FnMut(&Material<'_>, &History, Lsn) -> Result<Stop>;

/// A cut computed from the WAL of all nodes. `instant`: the moment, where it has one.
fn computed(
    materials: &[Material<'_>],
    moment: &Moment,
    points: &Points,
    instant: Option<Instant>,
    wanted: Wanted<'_>,
) -> Result<Plan> {
    // What was a cut once needs no proof before it.
    let proved = points.cut_before(instant.unwrap_or(Instant(i64::MAX)));
    let mut nodes = Vec::new();
    for material in materials {
        let timeline = material.timeline();
        let history = material.history(moment, timeline)?;
        let base = match instant {
            Some(instant) => {
                let ended =
                    |backup: &&BaseBackup| Instant::parse(&backup.ended_at).is_some_and(|ended| ended <= instant);
                let fitting =
                    material.backups.iter().filter(|backup| history.contains(backup.timeline, backup.stop_lsn));
                let last = fitting.filter(ended).max_by_key(|backup| backup.stop_lsn);
                match last {
                    Some(last) => last,
                    // The error with its reason.
                    None => material.base(moment, history, Lsn(0))?,
                }
            }
            None => material.base(moment, history, Lsn(u64::MAX))?,
        };
        let from = match proved.and_then(|point| point.node(&material.node.name)) {
            Some(node) => match (node.lsn, node.timeline) {
                (Some(lsn), Some(timeline)) if history.contains(timeline, lsn) => lsn.max(base.start_lsn),
                _ => base.start_lsn,
            },
            None => base.start_lsn,
        };
        let stop = wanted(material, history, from)?;
        nodes.push((material, history, base, from, stop));
    }
    let positions: BTreeMap<String, Lsn> =
        nodes.iter().map(|(material, .., stop)| (material.node.name.clone(), stop.position())).collect();
    let (mut arrivals, mut floors) = (BTreeMap::new(), BTreeMap::new());
    for (material, history, base, from, stop) in &nodes {
        let found = arrived(material, history, *from, stop.position())?;
        arrivals.insert(material.node.name.clone(), found);
        floors.insert(material.node.name.clone(), base.stop_lsn);
    }
    let settled = cut::settle(&positions, &arrivals, &floors).map_err(|early| {
        let material = nodes.iter().find(|(material, ..)| material.node.name == early.node).map(|(material, ..)| *material);
        let reason = format!("it would have to stop at {}, before its base backup has ended: choose a moment some seconds later, or one long before that backup", early.position);
        material.map_or(Error::NoBase { node: early.node.clone(), moment: moment.to_string(), reason: reason.clone() }, |material| material.no_base(moment, reason))
    })?;
    let mut remarks = vec![match instant {
        Some(instant) => format!("{moment}, {instant}: a cut computed from WAL in {} rounds", settled.rounds),
        None => format!("{moment}: a cut computed from WAL in {} rounds", settled.rounds),
    }];
    let mut targets = BTreeMap::new();
    for (material, history, base, _, stop) in nodes {
        let name = material.node.name.clone();
        let position = settled.positions.get(&name).copied().unwrap_or(stop.position());
        let stop = if position == stop.position() {
            stop
        } else {
            remarks.push(format!(
                "node \"{name}\" stops at {position}, not at {}: behind it is what a peer will not have",
                stop.position()
            ));
            Stop::Before { lsn: position }
        };
        let timeline = history.timeline_at(stop.needed());
        targets.insert(name, Target { stop, timeline, base: base.label.clone() });
    }
    Ok(Plan { version: VERSION, moment: moment.clone(), drained: false, targets, remarks })
}

/// What a node has got of others between two positions.
fn arrived(material: &Material<'_>, history: &History, from: Lsn, to: Lsn) -> Result<Vec<Arrival>> {
    let facts = material.facts.as_ref().ok_or_else(|| Error::NoOrigins(material.node.name.clone()))?;
    let mut found = Vec::new();
    let range = scan::Range { history, from, to: Some(to), kinds: &scan::ARRIVALS };
    scan::scan(material.node, &material.sources, &material.user, &range, |record| {
        if let Some((id, end)) = record.origin
            && let Some(of) = facts.origins.get(&id)
        {
            found.push(Arrival { at: record.lsn, of: of.clone(), end });
        }
        true
    })?;
    Ok(found)
}
