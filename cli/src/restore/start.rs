//! `spockctl restore start`: every node at its target, paused, to be looked at.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spock_recovery_cluster::{ServerUser, deadline};

use super::check::{self, Ground, Options, Prepared, Rates};
use super::error::{Error, Result};
use super::journal::{self, Journal, Step};
use super::look::look;
use super::pairs::{self, Verdict, Window};
use super::paths;
use super::plan::{Facts, Plan};
use super::server;
use super::site::{Site, owner, write_file};
use super::sources::Sources;
use super::target::Moment;
use crate::backup::repository::{self, MeshNode};
use crate::backup::shell;
use crate::backup::take::size;
use crate::screen::Screen;
use crate::table;

/// How long a program that was killed with its starter may go on writing.
const REMOVAL: Duration = Duration::from_secs(5);

/// Journals of a restore that is under way.
pub fn active(ground: &Ground, options: &Options) -> Result<BTreeMap<String, Journal>> {
    let mut found = BTreeMap::new();
    for node in ground.chosen(options.node.as_deref())? {
        if let Some(journal) = Journal::read(&ground.data_of(&node, options.into.as_deref()))?
            && !journal.step.is_over()
        {
            found.insert(node.name.clone(), journal);
        }
    }
    Ok(found)
}

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let ground = Ground::open(&options.repository)?;
    let chosen = ground.chosen(options.node.as_deref())?;
    let under_way = active(&ground, options)?;
    let moment = under_way.values().next().map(|journal| journal.moment.clone()).or_else(|| options.moment.clone());
    let moment = moment.ok_or(Error::NoMoment)?;
    under_way.values().try_for_each(|journal| journal.require_same(options.moment.as_ref()))?;
    if let Some(journal) = under_way.values().find(|journal| journal.step == Step::Cancelling) {
        return Err(Error::Other { under_way: format!("{}, which is being put back,", journal.moment) });
    }
    let mut prepared = None;
    if chosen.iter().any(|node| !under_way.contains_key(&node.name)) {
        if under_way.is_empty() && options.node.is_none() {
            Plan::remove(&ground.repository);
        }
        let found = check::prepare(&ground, options, &moment, screen)?;
        check::judge(&found.findings, screen)?;
        prepared = Some(found);
    }
    let mut sites = Vec::new();
    for node in &chosen {
        let journal = match under_way.get(&node.name) {
            Some(journal) => journal.clone(),
            None => new_journal(&ground, node, options, &moment, prepared.as_ref())?,
        };
        sites.push(Site::open(&ground, node, journal, options, screen)?);
    }
    for site in sites.iter_mut().filter(|site| !under_way.contains_key(&site.node.name)) {
        site.done(Step::Planned)?;
    }
    for site in sites.iter_mut().filter(|site| site.journal.step < Step::Stopped) {
        stop(site)?;
    }
    settle_plan(&ground, &mut sites, options, &moment, prepared.map(|prepared| prepared.plan))?;
    for_each(&mut sites, bring)?;
    note_rates(&ground, &sites);
    drop(sites);
    conclude(&ground, options, screen)
}

fn new_journal(
    ground: &Ground,
    node: &MeshNode,
    options: &Options,
    moment: &Moment,
    prepared: Option<&Prepared>,
) -> Result<Journal> {
    let pgdata = ground.data_of(node, options.into.as_deref());
    let beside = options.into.is_some();
    let facts = prepared.and_then(|prepared| prepared.facts.get(&node.name)).cloned().unwrap_or_default();
    let pid = server::running(&node.pgdata);
    let (arguments, log) = server::started_with(&node.pgdata, pid);
    // Also what a broken disk has left of it.
    let is_there = fs::read_dir(&node.pgdata).is_ok_and(|mut entries| entries.next().is_some());
    let all: BTreeMap<String, Facts> = prepared.map(|prepared| prepared.facts.clone()).unwrap_or_default();
    let superuser = if facts.superuser.is_empty() { "postgres".into() } else { facts.superuser };
    Ok(Journal {
        version: journal::VERSION,
        node: node.name.clone(),
        moment: moment.clone(),
        step: Step::Planned,
        before: (is_there && !beside).then(|| paths::free(&pgdata, "before", &moment.label())),
        pgdata,
        beside,
        was_running: pid.is_some(),
        options: arguments,
        log,
        superuser,
        database: ground.repository.mesh.database.clone(),
        port: node.port,
        bin_folder: node.bin_folder.clone(),
        target: None,
        drained: false,
        cut: BTreeMap::new(),
        seen: None,
        libraries: String::new(),
        foreign_slots: check::foreign_slots(&node.name, &all),
        fetching: false,
        begun_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        seconds: BTreeMap::new(),
        bytes: 0,
        replay_from: None,
    })
}

fn stop(site: &mut Site<'_>) -> Result<()> {
    if !site.journal.beside {
        let (_, data) = (&site.journal, site.node.pgdata.clone());
        server::stop(&site.node.name, &site.journal.bin_folder, &data, &site.user)?;
    }
    site.done(Step::Stopped)
}

/// The targets, which are the same for every host: computed once all are stopped, for what is the latest is known only then.
fn settle_plan(
    ground: &Ground,
    sites: &mut [Site<'_>],
    options: &Options,
    moment: &Moment,
    prepared: Option<Plan>,
) -> Result<()> {
    if sites.iter().all(|site| site.journal.target.is_some()) {
        return Ok(());
    }
    let there = Plan::under_way(&ground.repository).filter(|plan| plan.moment == *moment);
    let plan = match (there, prepared, moment) {
        (Some(plan), ..) => plan,
        (None, Some(plan), Moment::Point(_) | Moment::Time(_)) => plan,
        _ => {
            let asked = sites.iter().map(|site| (site.node.name.clone(), Err(String::new()))).collect();
            super::plan::compute(&check::materials(ground, options.into.as_deref(), &asked)?, moment)?
        }
    };
    if let Some(site) = sites.first() {
        plan.write(&ground.repository, &site.user)?;
    }
    for site in sites.iter_mut().filter(|site| site.journal.target.is_none()) {
        site.journal.target = plan.targets.get(&site.node.name).cloned();
        site.journal.cut = plan.cut();
        site.journal.drained = plan.drained;
        site.write()?;
    }
    Ok(())
}

/// All nodes at the same time. The first error is told once all have ended.
pub fn for_each(sites: &mut [Site<'_>], act: impl Fn(&mut Site<'_>) -> Result<()> + Sync) -> Result<()> {
    let act = &act;
    let ended: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = sites.iter_mut().map(|site| scope.spawn(move || act(site))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    ended.into_iter().collect()
}

/// From stopped to paused; each step may have been begun before.
fn bring(site: &mut Site<'_>) -> Result<()> {
    if site.journal.step < Step::Renamed {
        rename(site)?;
        site.done(Step::Renamed)?;
    }
    if site.journal.step < Step::Fetched {
        fetch(site)?;
        site.done(Step::Fetched)?;
    }
    if site.journal.step < Step::Configured {
        configure(site)?;
        site.done(Step::Configured)?;
    }
    if site.journal.step < Step::Paused {
        let begun = Instant::now();
        let options = site.close(None)?;
        let mut client = site.pause(&options)?;
        site.journal.seen = Some(look(&site.journal, &mut client)?);
        let position = site.journal.position().unwrap_or_default();
        site.say(format!("paused at {position} after {:.1} s", begun.elapsed().as_secs_f64()));
        site.done(Step::Paused)?;
    }
    Ok(())
}

fn rename(site: &Site<'_>) -> Result<()> {
    let (pgdata, Some(before)) = (&site.journal.pgdata, &site.journal.before) else { return Ok(()) };
    if !before.exists() {
        if let Some(pid) = server::running(pgdata) {
            let reason = "somebody has started it again".into();
            return Err(Error::StillRunning { node: site.node.name.clone(), pid, data: pgdata.clone(), reason });
        }
        fs::rename(pgdata, before).map_err(Error::io("rename", pgdata))?;
    }
    repository::sync_folder(pgdata.parent().unwrap_or(Path::new("/")))?;
    site.say(format!("the data directory is kept as \"{}\"", before.display()));
    Ok(())
}

fn fetch(site: &mut Site<'_>) -> Result<()> {
    let begun = Instant::now();
    let (node, data) = (site.node, site.journal.pgdata.clone());
    let Some(target) = site.journal.target.clone() else { return Ok(()) };
    if site.journal.fetching {
        remove_partial(&data)?;
    } else {
        require_free(&data)?;
        site.journal.fetching = true;
        site.write()?;
    }
    if let Some(parent) = data.parent().filter(|_| site.journal.beside) {
        repository::make_folder(parent, &site.user)?;
    }
    let last = std::cell::Cell::new(0);
    let backups = site.ground.driver.backups(node)?;
    let expected =
        backups.iter().find(|backup| backup.label == target.base).map_or(0, |base| check::bytes_of(&backups, base));
    let step = site.screen.bar(format!("MB of {}'s base backup", node.name), expected >> 20);
    site.ground.driver.fetch_base(node, &target.base, &data, &site.user, &|bytes| {
        step.set(bytes >> 20);
        last.set(bytes);
    })?;
    drop(step);
    site.journal.bytes = last.get();
    site.journal.replay_from = backups.iter().find(|backup| backup.label == target.base).map(|base| base.start_lsn);
    let seconds = begun.elapsed().as_secs_f64();
    site.say(format!("base backup {} fetched, {} in {seconds:.1} s", target.base, size(last.get())));
    Ok(())
}

/// Nothing that no restore has made is ever removed.
fn require_free(data: &Path) -> Result<()> {
    match fs::read_dir(data).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Ok(false) => Err(Error::InTheWay(data.into())),
        Err(error) => Err(Error::io("read the folder", data)(error)),
    }
}

/// What a fetch of this restore that was killed has left.
fn remove_partial(data: &Path) -> Result<()> {
    if fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_none()) {
        // Perhaps a file system of its own, which cannot be removed.
        return Ok(());
    }
    let mut last = Ok(());
    let removed = deadline::poll(REMOVAL, || {
        last = match fs::remove_dir_all(data) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        };
        last.is_ok().then_some(())
    });
    removed.map_or_else(|| last.map_err(Error::io("remove the folder", data)), Ok)
}

/// What is configuration and not data is that of the last days, not of the backup.
fn configure(site: &Site<'_>) -> Result<()> {
    let (data, paths) = (&site.journal.pgdata, site.journal.paths());
    let original = if site.journal.beside { Some(&site.node.pgdata) } else { site.journal.before.as_ref() };
    if let Some(original) = original {
        copy_configuration(original, data, &site.user)?;
    }
    let own = match original {
        Some(original) => fs::read_to_string(original.join("postgresql.auto.conf")).ok(),
        None => None,
    };
    let own = match own {
        Some(own) => own,
        // Once only: the second time it is ours.
        None if paths.settings().exists() => {
            fs::read_to_string(paths.settings()).map_err(Error::io("read", &paths.settings()))?
        }
        None => fs::read_to_string(data.join("postgresql.auto.conf")).unwrap_or_default(),
    };
    write_file(&paths.settings(), &own, &site.user)?;
    for leftover in ["standby.signal", "postmaster.pid"] {
        let _ = fs::remove_file(data.join(leftover));
    }
    write_file(&data.join("recovery.signal"), "", &site.user)?;
    // What was copied must be there after a crash of the machine, as the journal will say.
    let mut command = site.user.command(Path::new("/bin/sync"));
    command.args(["--file-system", "--"]).arg(data);
    Ok(crate::backup::program::run(command, || ()).map(drop)?)
}

/// Files that a configuration refers to lie beside it as a rule. They are copied by the account that owns them, and a
/// link as a link: what that account may not read, this program must not read for it.
fn copy_configuration(from: &Path, to: &Path, user: &ServerUser) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name() == "postgresql.auto.conf";
        let extension = path.extension().and_then(std::ffi::OsStr::to_str);
        let is_file = path.is_file() && !is_ours && matches!(extension, Some("conf" | "crt" | "key" | "pem"));
        if is_file || path.is_dir() && entry.file_name() == "conf.d" {
            let mut command = user.command(Path::new("/bin/cp"));
            // With its mode: a key that others may read is refused.
            command.args(["-a", "--remove-destination", "--"]).arg(&path).arg(to);
            crate::backup::program::run(command, || ())?;
        }
    }
    Ok(())
}

fn note_rates(ground: &Ground, sites: &[Site<'_>]) {
    let mut rates = Rates::read(&ground.repository);
    for journal in sites.iter().map(|site| &site.journal) {
        let seconds = |step: &str| journal.seconds.get(step).copied().filter(|seconds| *seconds > 0.0);
        // A copy of some MB says nothing of one of many GB.
        if let Some(fetched) = seconds("fetched").filter(|_| journal.bytes > 64 << 20) {
            (rates.copy, rates.measured) = (journal.bytes as f64 / fetched, true);
        }
        let replayed = journal.replays().map_or(0, |(_, bytes)| bytes);
        if let Some(paused) = seconds("paused").filter(|_| replayed > 64 << 20) {
            (rates.replay, rates.measured) = (replayed as f64 / paused, true);
        }
    }
    if rates.measured {
        rates.write(&ground.repository);
    }
}

/// The journals of all nodes of the restore: those of other hosts from the repository.
pub fn everybody(ground: &Ground, options: &Options) -> Result<BTreeMap<String, Journal>> {
    let mut all = BTreeMap::new();
    for node in ground.repository.nodes() {
        let own = Journal::read(&ground.data_of(node, options.into.as_deref()))?;
        if let Some(journal) = own.or(Journal::of_repository(&ground.repository, &node.name)?) {
            all.insert(node.name.clone(), journal);
        }
    }
    Ok(all)
}

/// What is wrong with the nodes together, once all of them are paused. None: some are not yet.
pub fn verdict(ground: &Ground, journals: &BTreeMap<String, Journal>) -> Result<Option<Verdict>> {
    let Some(first) = journals.values().next() else { return Ok(None) };
    let mut seen = BTreeMap::new();
    for node in first.cut.keys() {
        let journal = journals.get(node).filter(|journal| journal.step >= Step::Paused && !journal.step.is_over());
        let Some(own) = journal.and_then(|journal| journal.seen.clone()) else { return Ok(None) };
        seen.insert(node.clone(), own);
    }
    let mut verdict = pairs::judge(&seen, &first.cut, first.drained, true);
    if !first.drained {
        for (node, _) in seen.iter().filter(|(_, seen)| seen.slot.is_none()) {
            let reason = "nothing is saved".into();
            verdict.findings.push(Error::NoSlot { node: node.clone(), reason }.to_string());
        }
    }
    for window in verdict.windows.clone() {
        let lost = match journals.get(&window.provider) {
            Some(journal) => is_lost(ground, journal, &window),
            None => Ok(true),
        };
        match lost {
            Ok(false) => {}
            Ok(true) => verdict.findings.push(window.finding()),
            Err(error) => {
                verdict.findings.push(format!("{}; whether that is so cannot be seen: {error}", window.finding()))
            }
        }
    }
    Ok(Some(verdict))
}

/// Whether something lies in a window.
fn is_lost(ground: &Ground, journal: &Journal, window: &Window) -> Result<bool> {
    let node = ground.repository.node(&journal.node)?;
    let folders = [Some(&journal.pgdata), journal.before.as_ref()].into_iter().flatten();
    let sources = Sources::of(&*ground.driver, node, folders.map(|data| super::scan::pg_wal(data)).collect())?;
    let user = owner(ground, node, &journal.pgdata, journal.before.as_deref())?;
    let Some(target) = &journal.target else { return Ok(true) };
    let Some(history) = sources.history(target.timeline) else { return Ok(true) };
    let backups = ground.driver.backups(node)?;
    let base = backups.iter().find(|backup| backup.label == target.base);
    let from = base.map_or(window.applied, |backup| backup.start_lsn);
    super::scan::would_lose(node, &sources, &user, (history, from), window)
}

fn conclude(ground: &Ground, options: &Options, screen: &Screen) -> Result<()> {
    let journals = everybody(ground, options)?;
    let Some(verdict) = verdict(ground, &journals)? else {
        let waiting: Vec<&str> = journals
            .values()
            .flat_map(|journal| journal.cut.keys())
            .filter(|node| journals.get(*node).is_none_or(|journal| journal.step < Step::Paused))
            .map(String::as_str)
            .collect();
        screen.line(format!("not paused yet: {}; run spockctl restore start on their hosts", waiting.join(", ")));
        return Ok(());
    };
    if !journals.values().all(|journal| journal.drained) {
        show_pairs(&verdict, screen);
    }
    for journal in journals.values().filter(|journal| journal.paths().folder.is_dir()) {
        let user = owner(ground, ground.repository.node(&journal.node)?, &journal.pgdata, journal.before.as_deref())?;
        let folder = journal.paths().socket(&user)?;
        screen.line(format!(
            "{}: look, as {}: {} -h {} -p {} -U {} {}",
            journal.node,
            user.name(),
            shell::typed(&journal.bin_folder.join("psql")),
            shell::typed(&folder),
            journal.port,
            journal.superuser,
            journal.database
        ));
        if !journal.foreign_slots.is_empty() {
            screen.line(format!(
                "{}: slots of others are not restored: {}",
                journal.node,
                journal.foreign_slots.join(", ")
            ));
        }
    }
    if !verdict.findings.is_empty() {
        verdict.findings.iter().for_each(|finding| screen.line(finding));
        return Err(Error::NotACut(String::new()));
    }
    let repo = shell::typed(ground.repository.path());
    screen.line(match &options.into {
        None => format!("all nodes are paused, and fit together; spockctl restore finish --repo {repo} goes on, spockctl restore cancel --repo {repo} puts everything back"),
        Some(_) => format!("all nodes are paused, and fit together, for looking only; spockctl restore cancel --repo {repo}{} ends it", options.into_typed()),
    });
    Ok(())
}

fn show_pairs(verdict: &Verdict, screen: &Screen) {
    let behind: Vec<Vec<String>> = verdict
        .behind
        .iter()
        .map(|(node, provider, bytes)| {
            let words = if *bytes == 0 { "nothing".to_owned() } else { format!("what is in {} of WAL", size(*bytes)) };
            vec![node.clone(), provider.clone(), words]
        })
        .collect();
    if !behind.is_empty() {
        let heading = ["node", "lacks of", "at the most"].map(str::to_owned).to_vec();
        table::lines(&[vec![heading], behind].concat()).into_iter().for_each(|line| screen.line(line));
    }
}
