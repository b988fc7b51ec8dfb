//! `spockctl restore start`: every node at its target, paused, to be looked at.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use postgres::Client;
use spock_recovery_cluster::{ServerUser, deadline};

use super::check::{self, Ground, Options, Prepared, Rates};
use super::error::{Error, Result};
use super::journal::{self, Journal, SavedSlot, Seen, Step, Subscription};
use super::pairs::{self, Verdict, Window};
use super::paths;
use super::plan::{Facts, Plan};
use super::server::{self, Watch};
use super::settings::{self, Closed};
use super::sources::Sources;
use super::target::{Moment, Stop};
use crate::backup::repository::{self, MeshNode};
use crate::backup::shell;
use crate::backup::take::size;
use crate::lsn::Lsn;
use crate::screen::Screen;
use crate::table;

/// How often a replay is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a program that was killed with its starter may go on writing.
const REMOVAL: Duration = Duration::from_secs(5);

/// How long a spockctl that was killed may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// One node of this machine, and its journal.
pub struct Site<'a> {
    pub ground: &'a Ground,
    pub node: &'a MeshNode,
    pub user: ServerUser,
    pub journal: Journal,
    pub screen: Screen,
    end_after: Option<Step>,
    begun: Instant,
    _lock: File,
}

impl<'a> Site<'a> {
    pub fn open(
        ground: &'a Ground,
        node: &'a MeshNode,
        journal: Journal,
        options: &Options,
        screen: &Screen,
    ) -> Result<Site<'a>> {
        let user = owner(ground, node, &journal.pgdata, journal.before.as_deref())?;
        let paths = journal.paths();
        if let Some(parent) = paths.folder.parent().filter(|_| journal.beside) {
            repository::make_folder(parent, &user)?;
        }
        if !paths.folder.is_dir() {
            user.make_folder(&paths.folder)?;
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(paths.lock());
        let lock = lock.map_err(Error::io("open", &paths.lock()))?;
        user.own(&paths.lock())?;
        // One that was killed may not be gone yet.
        let locked = deadline::poll(GONE, || lock.try_lock().is_ok().then_some(()));
        locked.ok_or_else(|| Error::Locked(node.name.clone()))?;
        // What it was when nobody held it may be old.
        let journal = match Journal::read(&journal.pgdata)? {
            Some(there) if !there.step.is_over() => there,
            _ => journal,
        };
        let end_after = options.end_after.as_ref().filter(|(name, _)| *name == node.name).map(|(_, step)| *step);
        Ok(Site { ground, node, user, journal, screen: screen.clone(), end_after, begun: Instant::now(), _lock: lock })
    }

    pub fn write(&self) -> Result<()> {
        self.journal.write(&self.user, Some(&self.ground.repository))
    }

    /// The step is done, and lasting.
    pub fn done(&mut self, step: Step) -> Result<()> {
        let name =
            serde_json::to_value(step).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        self.journal.seconds.insert(name.clone(), self.begun.elapsed().as_secs_f64());
        self.begun = Instant::now();
        self.journal.step = step;
        self.write()?;
        match self.end_after == Some(step) {
            true => Err(Error::Ended(name)),
            false => Ok(()),
        }
    }

    pub fn say(&self, text: impl AsRef<str>) {
        self.screen.line(format!("{}: {}", self.node.name, text.as_ref()));
    }

    pub fn folders(&self) -> Vec<PathBuf> {
        let original = if self.journal.beside { Some(self.node.pgdata.clone()) } else { self.journal.before.clone() };
        original.iter().map(|data| super::scan::pg_wal(data)).collect()
    }

    pub fn sources(&self) -> Result<Sources<'_>> {
        Sources::of(&*self.ground.driver, self.node, self.folders())
    }

    /// Archive first; then what was not archived yet.
    fn restore_command(&self) -> Result<String> {
        let mut command = self.ground.driver.restore_command(self.node)?;
        for folder in self.folders() {
            command.push_str(&format!(" || cp -- {}/%f \"%p\"", shell::setting_word(&folder)));
        }
        Ok(command)
    }

    /// The settings of the closed server, and those for its command line.
    pub fn close(&self, libraries: Option<&str>) -> Result<Vec<String>> {
        let (journal, paths) = (&self.journal, self.journal.paths());
        let target = journal.target.as_ref().ok_or_else(|| Error::None(format!(" for node \"{}\"", journal.node)))?;
        let own = fs::read_to_string(paths.settings()).map_err(Error::io("read", &paths.settings()))?;
        let socket_folder = paths.socket(&self.user)?;
        let closed = Closed {
            socket_folder: &socket_folder,
            hba: &paths.hba(),
            restore_command: &self.restore_command()?,
            target,
            sizes: &self.sizes()?,
            libraries,
        };
        write_file(
            &paths.hba(),
            "# spockctl restore: the folder of the socket is its owner's alone\nlocal all all trust\n",
            &self.user,
        )?;
        write_file(&journal.pgdata.join("postgresql.auto.conf"), &closed.text(&own), &self.user)?;
        let mut isolation = closed.isolation();
        isolation.push(("data_directory", journal.pgdata.display().to_string()));
        Ok([journal.options.clone(), server::arguments(&isolation)].concat())
    }

    /// What the server is configured with, but never less than it had when the WAL was written.
    fn sizes(&self) -> Result<Vec<(&'static str, u64)>> {
        let (journal, bin) = (&self.journal, &self.journal.bin_folder);
        let control = server::control(bin, &journal.pgdata, &self.user)?;
        let mut sizes = Vec::new();
        for (name, label) in settings::AT_LEAST {
            let then = settings::control_value(&control, label);
            let now = server::configured(bin, &journal.pgdata, &self.user, &journal.options, name)
                .and_then(|text| text.parse().ok());
            sizes.extend(then.max(now).map(|value| (name, value)));
        }
        Ok(sizes)
    }

    /// Starts it where it does not run, and waits until it stands at its target.
    pub fn pause(&self, options: &[String]) -> Result<Client> {
        let journal = &self.journal;
        if server::running(&journal.pgdata).is_none() {
            server::launch(journal, &self.user, options, &journal.paths().log())?;
        }
        self.await_pause()
    }

    fn await_pause(&self) -> Result<Client> {
        let (journal, log) = (&self.journal, self.journal.paths().log());
        let failed = |reason: String| Error::NotPaused { node: journal.node.clone(), reason, log: log.clone() };
        let (mut client, mut watch) = (None::<Client>, Watch::new());
        let (start, size) = self.journal.replays().unwrap_or_default();
        let step = self.screen.bar(format!("MB of WAL replayed on {}", journal.node), size >> 20);
        loop {
            let mut seen = self.traces();
            client = client.or_else(|| server::connect(journal, &self.user).ok());
            let question =
                "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END,
                                   pg_last_wal_replay_lsn()";
            match client.as_mut().map(|client| server::query(journal, client, question)) {
                Some(Ok(rows)) => match rows.first().map(Vec::as_slice) {
                    Some([Some(recovers), state, replayed]) => {
                        if recovers != "t" {
                            return Err(failed("it has ended its recovery".into()));
                        }
                        if state.as_deref() == Some("paused") {
                            let replayed = replayed.as_ref().and_then(|lsn| lsn.parse().ok()).unwrap_or_default();
                            self.judge_pause(replayed).map_err(failed)?;
                            return client.ok_or_else(|| failed("its connection is gone".into()));
                        }
                        let replayed = replayed.as_deref().unwrap_or_default();
                        step.set(replayed.parse::<Lsn>().unwrap_or_default().0.saturating_sub(start.0) >> 20);
                        seen.push_str(replayed);
                    }
                    _ => client = None,
                },
                // It is not consistent yet, or it was killed.
                Some(Err(_)) => client = None,
                None => {}
            }
            if server::running(&journal.pgdata).is_none() {
                return Err(failed(format!("it has ended\n{}", server::log_tail(&log))));
            }
            if !watch.moves(seen) {
                return Err(failed(format!("nothing moves\n{}", server::log_tail(&log))));
            }
            thread::sleep(LOOK);
        }
    }

    /// What changes while it replays, before anybody can ask it.
    fn traces(&self) -> String {
        let stamp = |path: PathBuf| fs::metadata(path).map(|file| (file.len(), file.modified().ok())).ok();
        let data = &self.journal.pgdata;
        format!(
            "{:?}{:?}{:?}",
            stamp(self.journal.paths().log()),
            stamp(data.join("global/pg_control")),
            stamp(data.join("pg_wal"))
        )
    }

    /// It may have paused for another reason: because hot standby needs larger settings.
    fn judge_pause(&self, replayed: Lsn) -> std::result::Result<(), String> {
        let Some(target) = &self.journal.target else { return Ok(()) };
        let reached = match target.stop {
            Stop::Point { end, .. } | Stop::After { end, .. } => replayed == end,
            Stop::Before { lsn } => {
                let log = fs::read(self.journal.paths().log()).unwrap_or_default();
                replayed <= lsn && String::from_utf8_lossy(&log).contains("recovery stopping before")
            }
        };
        let tail = || server::log_tail(&self.journal.paths().log());
        match reached {
            true => Ok(()),
            false => Err(format!("it has paused at {replayed}, and {} is wanted\n{}", target.stop.position(), tail())),
        }
    }
}

/// Whose the node's files are.
fn owner(ground: &Ground, node: &MeshNode, pgdata: &Path, before: Option<&Path>) -> Result<ServerUser> {
    let folder = ground.repository.node_folder(&node.name);
    let places = [Some(node.pgdata.as_path()), before, Some(pgdata), Some(&folder), pgdata.parent()];
    let place = places.into_iter().flatten().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let closed = || crate::backup::Error::Closed { node: node.name.clone(), pgdata: place.into() };
    Ok(ServerUser::owner_of(place)?.ok_or_else(closed)?)
}

fn write_file(path: &Path, text: &str, user: &ServerUser) -> Result<()> {
    write_bytes(path, text.as_bytes(), user)
}

/// Whoever reads finds the old file or the whole new one, also after a crash of the machine.
pub fn write_bytes(path: &Path, bytes: &[u8], user: &ServerUser) -> Result<()> {
    let partial = paths::beside(path, ".partial");
    let failed = || Error::io("write", &partial);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&partial).map_err(failed())?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed())?;
    user.own(&partial)?;
    fs::rename(&partial, path).map_err(Error::io("rename to", path))?;
    Ok(repository::sync_folder(path.parent().unwrap_or(Path::new("/")))?)
}

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
    remove_partial(&data)?;
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

/// What a fetch that was killed has left: the former data directory has another name by now.
fn remove_partial(data: &Path) -> Result<()> {
    if fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_none()) {
        // Perhaps a file system of its own, which cannot be removed.
        return Ok(());
    }
    let mut last = Ok(());
    let removed = deadline::poll(REMOVAL, || {
        last = match fs::remove_dir_all(data) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
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
    write_file(&data.join("recovery.signal"), "", &site.user)
}

/// Files that a configuration refers to lie beside it as a rule.
fn copy_configuration(from: &Path, to: &Path, user: &ServerUser) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        let is_ours = entry.file_name() == "postgresql.auto.conf";
        let extension = path.extension().and_then(std::ffi::OsStr::to_str);
        if path.is_file() && !is_ours && matches!(extension, Some("conf" | "crt" | "key" | "pem")) {
            let target = to.join(entry.file_name());
            // With its mode: a key that others may read is refused.
            fs::copy(&path, &target).map_err(Error::io("copy to", &target))?;
            user.own(&target)?;
        } else if path.is_dir() && entry.file_name() == "conf.d" {
            let mut command = user.command(Path::new("/bin/cp"));
            command.args(["-a", "--"]).arg(&path).arg(to);
            crate::backup::program::run(command, || ())?;
        }
    }
    Ok(())
}

const SUBSCRIPTIONS: &str =
    "SELECT s.subname, 'pg_' || s.oid, n.node_name, s.subslotname, s.subenabled, s.subtwophasestate <> 'd',
       coalesce((to_jsonb(s) ->> 'subfailover')::boolean, false), coalesce(o.remote_lsn, '0/0'), to_jsonb(s) ->> 'suborigin'
  FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
  LEFT JOIN spock.subscription v ON v.sub_id = s.oid LEFT JOIN spock.node n ON n.node_id = v.sub_origin
  LEFT JOIN pg_replication_origin_status o ON o.external_id = 'pg_' || s.oid
 ORDER BY 1";

const SLOT: &str =
    "SELECT slot_name, restart_lsn, confirmed_flush_lsn, snap_name FROM spock_internal.saved_recovery_slot()";

/// What the paused node says of itself.
pub fn look(journal: &Journal, client: &mut Client) -> Result<Seen> {
    let mut seen = Seen::default();
    for row in server::query(journal, client, SUBSCRIPTIONS)? {
        if let [
            Some(name),
            Some(origin),
            provider,
            slot,
            Some(enabled),
            Some(two_phase),
            Some(failover),
            Some(applied),
            origins,
        ] = row.as_slice()
        {
            seen.subscriptions.push(Subscription {
                name: name.clone(),
                origin: origin.clone(),
                provider: provider.clone(),
                slot: slot.clone(),
                enabled: enabled == "t",
                two_phase: two_phase == "t",
                failover: failover == "t",
                own_only: origins.as_deref() == Some("none"),
                applied: applied.parse().unwrap_or_default(),
            });
        }
    }
    for row in server::query(journal, client, SLOT)? {
        if let [Some(name), Some(restart), Some(confirmed), snap] = row.as_slice() {
            seen.slot = Some(SavedSlot {
                name: name.clone(),
                restart: restart.parse().unwrap_or_default(),
                confirmed: confirmed.parse().unwrap_or_default(),
                snap: snap.clone(),
            });
        }
    }
    Ok(seen)
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
    show_pairs(&verdict, screen);
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
    screen.line(format!("all nodes are paused, and fit together; spockctl restore finish --repo {repo} goes on, spockctl restore cancel --repo {repo} puts everything back"));
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
