//! `spockctl restore check`: would it work, from what, and how long. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
use super::journal::{Journal, Step};
use super::plan::{self, Facts, Material, Plan};
use super::scan;
use super::server;
use super::target::Moment;
use crate::backup::base::{self, BaseBackup};
use crate::backup::nodes::{self, Place};
use crate::backup::repository::{self, MeshNode, Repository};
use crate::backup::take::size;
use crate::backup::{Driver, driver, shell};
use crate::screen::Screen;
use crate::table;

#[derive(Debug, Clone)]
pub struct Options {
    pub repository: PathBuf,
    /// This one alone.
    pub node: Option<String>,
    pub moment: Option<Moment>,
    /// Where restored nodes go that are to stand beside the living ones.
    pub into: Option<PathBuf>,
    /// For tests: end as if killed once a node has come to this step.
    pub end_after: Option<(String, Step)>,
}

impl Options {
    /// As it is typed behind other options.
    pub fn into_typed(&self) -> String {
        self.into.as_ref().map_or(String::new(), |into| format!(" --into {}", shell::typed(into)))
    }
}

/// Bytes per second, as the last restore into this repository measured them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    pub copy: f64,
    pub replay: f64,
    #[serde(default)]
    pub measured: bool,
}

impl Rates {
    fn file(repository: &Repository) -> PathBuf {
        repository.path().join("restore-rates.json")
    }

    pub fn read(repository: &Repository) -> Rates {
        // Without a measurement: an ordinary disk, and a replay that reads from memory.
        let guessed = Rates { copy: 150e6, replay: 40e6, measured: false };
        repository::read_document(&Rates::file(repository)).unwrap_or(guessed)
    }

    pub fn write(self, repository: &Repository) {
        if let Ok(Some(owner)) = spock_recovery_cluster::ServerUser::owner_of(repository.path()) {
            let _ = repository::write_document(&Rates::file(repository), &self, &owner);
        }
    }
}

/// Repository, driver, and where each node's files are.
pub struct Ground {
    pub repository: Repository,
    pub driver: Box<dyn Driver>,
}

impl Ground {
    pub fn open(path: &Path) -> Result<Ground> {
        let repository = Repository::open(path)?;
        let driver = driver::open(&repository)?;
        Ok(Ground { repository, driver })
    }

    /// Those that were named.
    pub fn chosen(&self, node: Option<&str>) -> Result<Vec<MeshNode>> {
        match node {
            Some(name) => Ok(vec![self.repository.node(name)?.clone()]),
            None => Ok(self.repository.nodes().to_vec()),
        }
    }

    /// Where the restored node is to be.
    pub fn data_of(&self, node: &MeshNode, into: Option<&Path>) -> PathBuf {
        into.map_or_else(|| node.pgdata.clone(), |into| into.join(&node.name))
    }
}

/// Of each node; an archive that is all wrong would fill the screen.
const MOST_TOLD: usize = 5;

/// Everything that is known before anything is touched.
pub struct Prepared {
    pub plan: Plan,
    pub facts: BTreeMap<String, Facts>,
    pub findings: Vec<String>,
}

/// The pg_wal folders in which a node's unarchived WAL may be.
pub fn wal_folders(node: &MeshNode, into: Option<&Path>) -> Vec<PathBuf> {
    let journal = match into {
        Some(_) => None,
        None => Journal::read(&node.pgdata).ok().flatten().filter(|journal| !journal.step.is_over()),
    };
    match journal {
        Some(journal) if journal.step >= Step::Renamed => {
            journal.before.iter().map(|before| scan::pg_wal(before)).collect()
        }
        Some(journal) => {
            [Some(node.pgdata.clone()), journal.before].into_iter().flatten().map(|data| scan::pg_wal(&data)).collect()
        }
        None => vec![scan::pg_wal(&node.pgdata)],
    }
}

pub fn materials<'a>(
    ground: &'a Ground,
    into: Option<&Path>,
    asked: &BTreeMap<String, std::result::Result<Facts, String>>,
) -> Result<Vec<Material<'a>>> {
    let nobody = Err("nobody has asked it".to_owned());
    let mut materials = Vec::new();
    for node in ground.repository.nodes() {
        let answer = asked.get(&node.name).unwrap_or(&nobody);
        materials.push(Material::of(&ground.repository, &*ground.driver, node, wal_folders(node, into), answer)?);
    }
    Ok(materials)
}

/// Asks every node, and notes what it says.
pub fn ask_all(ground: &Ground) -> BTreeMap<String, std::result::Result<Facts, String>> {
    let mut asked = BTreeMap::new();
    for node in ground.repository.nodes() {
        let answer = plan::ask(node);
        if let Ok(facts) = &answer {
            plan::note(&ground.repository, &node.name, facts);
        }
        asked.insert(node.name.clone(), answer);
    }
    asked
}

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let ground = Ground::open(&options.repository)?;
    let moment = options.moment.clone().ok_or(Error::NoMoment)?;
    let chosen = ground.chosen(options.node.as_deref())?;
    for node in &chosen {
        if let Some(journal) = Journal::read(&ground.data_of(node, options.into.as_deref()))? {
            journal.require_same(Some(&moment))?;
        }
    }
    let prepared = prepare(&ground, options, &moment, screen)?;
    judge(&prepared.findings, screen)?;
    let (repo, moment) = (shell::typed(ground.repository.path()), moment.typed());
    let into = options.into_typed();
    screen.line(format!("everything is there; spockctl restore start --repo {repo} {moment}{into} begins it"));
    Ok(())
}

/// Shows a line for each finding; any is a failure.
pub fn judge(findings: &[String], screen: &Screen) -> Result<()> {
    findings.iter().for_each(|finding| screen.line(finding));
    match findings.len() {
        0 => Ok(()),
        count => Err(Error::Findings(count)),
    }
}

/// Plans, and says of each node what the restore will take.
pub fn prepare(ground: &Ground, options: &Options, moment: &Moment, screen: &Screen) -> Result<Prepared> {
    let asked = ask_all(ground);
    let materials = materials(ground, options.into.as_deref(), &asked)?;
    let step = screen.spinner("looking at backups and WAL");
    let plan = plan::compute(&materials, moment);
    drop(step);
    let plan = plan?;
    plan.remarks.iter().for_each(|remark| screen.line(remark));
    let rates = Rates::read(&ground.repository);
    let mut findings = Vec::new();
    let heading = ["node", "stops at", "timeline", "base backup", "to copy", "to replay", "about"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let chosen = ground.chosen(options.node.as_deref())?;
    for material in materials.iter().filter(|material| chosen.iter().any(|node| node.name == material.node.name)) {
        rows.push(one(ground, material, &plan, options, rates, &asked, &mut findings)?);
    }
    table::lines(&rows).into_iter().for_each(|line| screen.line(line));
    if !rates.measured {
        screen.line("  seconds are guessed until the first restore has measured them");
    }
    let facts: BTreeMap<String, Facts> =
        materials.into_iter().filter_map(|material| Some((material.node.name.clone(), material.facts?))).collect();
    let names: BTreeSet<&String> = facts.values().flat_map(|facts| &facts.nodes).collect();
    for name in names.into_iter().filter(|name| ground.repository.node(name).is_err()) {
        findings.push(format!(
            "{name}: it is a node of the mesh and has no backups: what the others lose by the restore it would keep; take it out of the mesh \
             (spock.node_drop) and make it anew afterwards, or choose a moment after spockctl backup setup and take"
        ));
    }
    for node in ground.repository.nodes() {
        let foreign = foreign_slots(&node.name, &facts);
        if !foreign.is_empty() {
            screen.line(format!(
                "{}: slots of others ({}) cannot be had: their consumers are ahead of the restored node, and must begin anew",
                node.name,
                foreign.join(", ")
            ));
        }
    }
    Ok(Prepared { plan, facts, findings })
}

/// What nobody in the mesh makes again.
pub fn foreign_slots(node: &str, facts: &BTreeMap<String, Facts>) -> Vec<String> {
    let Some(own) = facts.get(node) else { return Vec::new() };
    let ours: Vec<&String> = facts
        .values()
        .flat_map(|facts| &facts.slots)
        .filter(|(provider, _)| provider == node)
        .map(|(_, slot)| slot)
        .collect();
    let is_ours = |slot: &&String| {
        ours.contains(slot)
            || own.recovery_slot.as_ref() == Some(*slot)
            || slot.starts_with("spk_")
            || slot.contains("_sync_")
    };
    own.all_slots.iter().filter(|slot| !is_ours(slot)).cloned().collect()
}

fn one(
    ground: &Ground,
    material: &Material<'_>,
    plan: &Plan,
    options: &Options,
    rates: Rates,
    asked: &BTreeMap<String, std::result::Result<Facts, String>>,
    findings: &mut Vec<String>,
) -> Result<Vec<String>> {
    let node = material.node;
    let target = &plan.targets[&node.name];
    let position = target.stop.position();
    let base = material.backups.iter().find(|backup| backup.label == target.base);
    let (start, stop) = base.map_or((position, position), |backup| (backup.start_lsn, backup.stop_lsn));
    let copy = base.map_or(0, |backup| bytes_of(&material.backups, backup));
    let replay = position.0.saturating_sub(start.0);
    if let Some(history) = material.sources.history(target.timeline) {
        let missing = material.sources.missing(history, stop, target.stop.needed().max(stop));
        if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
            let which = if missing.len() == 1 {
                first.clone()
            } else {
                format!("{} segments, {first} to {last}", missing.len())
            };
            findings.push(format!(
                "{}: WAL is missing, neither in the archive nor in \"{}\": {which}; choose a moment before it, or after a later base backup",
                node.name,
                scan::pg_wal(&node.pgdata).display()
            ));
        }
    }
    if let Some(history) = material.sources.history(target.timeline) {
        let unsound = material.sources.unsound(history, start, target.stop.needed().max(stop), &material.user);
        findings.extend(unsound.iter().take(MOST_TOLD).map(|what| format!("{}: {what}", node.name)));
    }
    let slot = plan::noted_slot(&ground.repository, &node.name, &target.base).unwrap_or(start);
    let unread = material.sources.history(target.timeline).filter(|_| slot < start);
    if let Some(first) = unread.and_then(|history| material.sources.missing(history, slot, start).into_iter().next()) {
        findings.push(format!(
            "{}: the recovery slot may read from {slot} on, and {first} is missing: choose a moment after a later base backup",
            node.name
        ));
    }
    let data = ground.data_of(node, options.into.as_deref());
    place(node, options, asked.get(&node.name).is_some_and(std::result::Result::is_ok), findings)?;
    room(&node.name, &data, copy + replay.min(1 << 30), findings);
    let seconds = copy as f64 / rates.copy + replay as f64 / rates.replay + 2.0;
    Ok(vec![
        node.name.clone(),
        position.to_string(),
        target.timeline.to_string(),
        target.base.clone(),
        size(copy),
        size(replay),
        format!("{} s", seconds.ceil()),
    ])
}

/// What a backup has when it is fetched: of an incremental one about what its full one has.
pub fn bytes_of(backups: &[BaseBackup], backup: &BaseBackup) -> u64 {
    base::chain(backups, &backup.label).into_iter().flatten().map(|part| part.bytes).max().unwrap_or(backup.bytes)
}

/// Whether the files of the node can be changed from here.
fn place(node: &MeshNode, options: &Options, answers: bool, findings: &mut Vec<String>) -> Result<()> {
    if let Some(into) = &options.into {
        let there = into.join(&node.name);
        // The journal of a restore that is over says nothing of what is there now.
        let is_ours = Journal::read(&there)?.is_some_and(|journal| journal.beside && !journal.step.is_over());
        if there.symlink_metadata().is_ok() && !is_ours {
            findings.push(format!("{}: {}", node.name, Error::InTheWay(there)));
        }
        return Ok(());
    }
    match nodes::place(&node.pgdata, &node.system_identifier)? {
        Place::Here(_) => {
            if answers && server::running(&node.pgdata).is_none() {
                findings.push(format!(
                    "{}: a server with its system identifier answers, and none runs in \"{}\": stop it where it runs, or run spockctl there",
                    node.name,
                    node.pgdata.display()
                ));
            }
        }
        Place::Closed => findings.push(format!(
            "{}: {}",
            node.name,
            crate::backup::Error::Closed { node: node.name.clone(), pgdata: node.pgdata.clone() }
        )),
        Place::Elsewhere if node.pgdata.join("global/pg_control").exists() => findings.push(format!(
            "{}: \"{}\" holds another server (its system identifier is not {}): move it away, or run spockctl on the node's own host",
            node.name,
            node.pgdata.display(),
            node.system_identifier
        )),
        // Lost, or on another host; who names it says that it is to be here.
        Place::Elsewhere if options.node.is_some() || Journal::read(&node.pgdata)?.is_some() => {}
        Place::Elsewhere => {
            findings.push(Error::Elsewhere { node: node.name.clone(), pgdata: node.pgdata.clone() }.to_string());
        }
    }
    Ok(())
}

fn room(node: &str, data: &Path, needed: u64, findings: &mut Vec<String>) {
    let Some(parent) = data.ancestors().skip(1).find(|parent| parent.is_dir()) else { return };
    // What cannot be asked is found out by the copy itself.
    let Ok(file_system) = statvfs(parent) else { return };
    let free = file_system.blocks_available() * file_system.fragment_size();
    if free < needed {
        findings.push(format!(
            "{node}: \"{}\" has {} free, and the restored data directory beside the old one needs about {}: make room",
            parent.display(),
            size(free),
            size(needed)
        ));
    }
}
