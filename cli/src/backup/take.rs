//! `spockctl backup take`: a verified base backup of every node that is on this machine.

use std::cell::RefCell;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::{ServerUser, deadline};

use super::base::{BaseBackup, Kind};
use super::driver::{self, Driver, Order};
use super::error::{Error, Result};
use super::kind::{self, Choice, Facts};
use super::nodes::{self, Found, Live, Place};
use super::program;
use super::repository::Repository;
use super::setup;
use super::wal::Segment;
use crate::restore::plan;
use crate::screen::Screen;

#[derive(Debug, Clone)]
pub struct Options {
    pub repository: PathBuf,
    /// Any node; without it those that the repository knows are tried.
    pub dsn: Option<String>,
    pub node: Option<String>,
    pub kind: Option<Kind>,
}

/// How long the segment in which a backup ends may take into the archive. The server has just closed it.
const ARCHIVED: Duration = Duration::from_secs(60);

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let mut repository = Repository::open(&options.repository)?;
    let Found { nodes, .. } = find(&repository, options.dsn.as_deref())?;
    let chosen = setup::choose(nodes.clone(), options.node.as_deref())?;
    let driver = driver::open(&repository)?;
    let (mut findings, mut label) = (Vec::new(), None);
    let (mut taken, mut answering) = (Vec::new(), Vec::new());
    for registered in &chosen {
        if repository.node(&registered.name).is_err() {
            findings.push(Error::NotSetUp(registered.name.clone()).to_string());
            continue;
        }
        let mut live = match Live::meet(registered) {
            Ok(live) => live,
            Err(error) => {
                findings.push(error.to_string());
                continue;
            }
        };
        if matches!(live.place, Place::Elsewhere) && options.node.is_none() {
            screen.line(format!("{}: left out; spockctl backup take is run on its own host", live.name()));
            answering.push(live);
            continue;
        }
        let ended = live.user().cloned().and_then(|user| {
            // Rarely: other hosts may write the same file.
            if repository.note(&live.node)? {
                repository.write(&user)?;
            }
            if label.is_none() {
                label = Some(label_of(&live.now()?));
            }
            let label = label.as_deref().unwrap_or_default();
            let (driver, repository, live) = (&*driver, &repository, &mut live);
            Job { live, driver, repository, user, asked: options.kind, label, screen }.run()
        });
        match ended {
            Ok(backup) => taken.push((registered.name.clone(), backup)),
            Err(error) => findings.push(format!("{}: {error}", registered.name)),
        }
        answering.push(live);
    }
    let others = nodes.iter().filter(|node| !chosen.iter().any(|chosen| chosen.name == node.name));
    // A node that does not answer learns of the next backup.
    answering.extend(others.filter_map(|registered| Live::meet(registered).ok()));
    note(&taken, &mut answering, screen);
    super::judge(&findings, screen)
}

/// Every node knows the backups of all, for spock.restore_points().
fn note(taken: &[(String, BaseBackup)], answering: &mut [Live], screen: &Screen) {
    const KNOWN: &str =
        "SELECT to_regprocedure('spock_internal.note_base_backup(name, timestamptz, pg_lsn)') IS NOT NULL";
    for live in answering {
        // A node of an earlier version of the extension has no such list.
        if !live.value(KNOWN).is_ok_and(|known| known == "t") {
            continue;
        }
        for (node, backup) in taken {
            let (node, begun_at) = (literal(node), literal(&backup.begun_at));
            let note = format!("SELECT spock_internal.note_base_backup({node}, {begun_at}, '{}')", backup.stop_lsn);
            if let Err(error) = live.query(&note) {
                screen.line(format!("{}: spock.restore_points() does not learn of the backup: {error}", live.name()));
            }
        }
    }
}

/// By --dsn, else by the first node of the repository that answers.
pub fn find(repository: &Repository, dsn: Option<&str>) -> Result<Found> {
    if let Some(dsn) = dsn {
        return nodes::find_all(dsn);
    }
    let mut reasons = Vec::new();
    for node in repository.nodes() {
        match nodes::find_all(&node.dsn) {
            Ok(found) => return Ok(found),
            // What to do is said once for all.
            Err(Error::Connection { conninfo, reason, .. }) => {
                reasons.push(format!("{}: {reason} ({conninfo})", node.name));
            }
            Err(error) => reasons.push(format!("{}: {error}", node.name)),
        }
    }
    Err(Error::NobodyAnswers(reasons.join("; ")))
}

/// `20261126T233412`
fn label_of(now: &str) -> String {
    now.split('.').next().unwrap_or(now).chars().filter(char::is_ascii_alphanumeric).collect()
}

/// The backup of one node, under its lock.
struct Job<'a> {
    live: &'a mut Live,
    driver: &'a dyn Driver,
    repository: &'a Repository,
    user: ServerUser,
    asked: Option<Kind>,
    label: &'a str,
    screen: &'a Screen,
}

impl Job<'_> {
    fn run(&mut self) -> Result<BaseBackup> {
        let node = self.live.node.clone();
        if let Some(reason) = setup::unsettled(self.live, self.driver)? {
            return Err(Error::NotArchiving { node: node.name, reason });
        }
        let _lock = self.repository.lock(&node.name, &self.user)?;
        self.driver.sweep(&node)?;
        let facts = plan::ask(&node);
        let taken = if self.driver.decides_kind() { self.take(&[], None) } else { self.choose_and_take() }?;
        if let Ok(facts) = facts {
            // For the day on which no server answers; and so that WAL is kept from which the recovery slot reads.
            plan::note(self.repository, &node.name, &facts);
            plan::note_slot(self.repository, &node.name, &taken.label, facts.slot_restart);
        }
        await_archived(self.live, self.driver, &taken)?;
        Ok(taken)
    }

    fn choose_and_take(&mut self) -> Result<BaseBackup> {
        let backups = self.driver.backups(&self.live.node)?;
        let choice = kind::choose(self.asked, &backups, &facts(self.live)?);
        let node = self.live.name().to_owned();
        let Choice { chain, reason } = choice.map_err(|reason| Error::NoIncremental { node, reason })?;
        match self.take(&chain, reason.as_deref()) {
            // The server knows best which summaries it has.
            Err(error) if self.asked.is_none() && !chain.is_empty() && error.to_string().contains("WAL summar") => {
                self.take(&[], Some(&program::last_line(&error.to_string())))
            }
            taken => taken,
        }
    }

    /// The label of this take, or if this node has a backup of that second already, one of a later second.
    fn free_label(&mut self, kind: char) -> Result<String> {
        let mut label = format!("{}{kind}", self.label);
        let backups = self.driver.backups(&self.live.node)?;
        while backups.iter().any(|backup| backup.label == label) {
            thread::sleep(Duration::from_millis(200));
            label = format!("{}{kind}", label_of(&self.live.now()?));
        }
        Ok(label)
    }

    /// `reason`: why it is full.
    fn take(&mut self, chain: &[&BaseBackup], reason: Option<&str>) -> Result<BaseBackup> {
        let (node, conninfo) = (self.live.node.clone(), self.live.conninfo.clone());
        let kind = if chain.is_empty() { Kind::Full } else { Kind::Incremental };
        if !self.driver.restores_tablespaces() {
            refuse_tablespaces(self.live)?;
        }
        let label = self.free_label(if kind == Kind::Full { 'F' } else { 'I' })?;
        let expected = self.live.value("SELECT sum(pg_database_size(oid)) FROM pg_database")?.parse().unwrap_or(0);
        let begun_at = self.live.now()?;
        let step = if self.driver.decides_kind() {
            self.screen.spinner(format!("{}: a backup is taken", node.name))
        } else if kind == Kind::Full {
            require_room(&node.name, self.repository, expected)?;
            self.screen.bar(format!("MB {}: full backup {label}", node.name), expected >> 20)
        } else {
            self.screen.spinner(format!("{}: incremental backup {label}", node.name))
        };
        let (user, asked) = (&self.user, self.asked);
        let order = Order { node: &node, conninfo: &conninfo, user, label: &label, chain, begun_at: &begun_at, asked };
        let live = RefCell::new(&mut *self.live);
        let taken = self.driver.take(&order, &mut || live.borrow_mut().now(), &|bytes| step.set(bytes >> 20));
        drop(step);
        let taken = taken.map_err(|error| match error.to_string().contains("No space left on device") {
            true => Error::DiskFull {
                folder: self.repository.path().into(),
                reason: program::last_line(&error.to_string()),
            },
            false => error,
        })?;
        let because = reason.map_or(String::new(), |reason| format!(" ({reason})"));
        let verified = if taken.verified_at.is_some() { ", verified" } else { ", which nothing has verified" };
        let BaseBackup { label, bytes, start_lsn, stop_lsn, .. } = &taken;
        self.screen.line(format!(
            "{}: {} backup {label}{because}: {}, {start_lsn} to {stop_lsn}{verified}",
            node.name,
            taken.kind.name(),
            size(*bytes)
        ));
        Ok(taken)
    }
}

fn facts(live: &mut Live) -> Result<Facts> {
    let timeline = live.value("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")?;
    let timeline = u32::from_str_radix(&timeline, 16).unwrap_or(1);
    let (mut summarizes, mut summarized_from) = (false, None);
    if live.major >= 17 {
        summarizes = live.value("SHOW summarize_wal")? == "on";
        let oldest = format!("SELECT min(start_lsn) FROM pg_available_wal_summaries() WHERE tli = {timeline}");
        summarized_from = live.value(&oldest)?.parse().ok();
    }
    Ok(Facts { major: live.major, summarizes, timeline, summarized_from })
}

/// pg_basebackup would write them to where they are.
fn refuse_tablespaces(live: &mut Live) -> Result<()> {
    let outside = "SELECT string_agg(quote_literal(pg_tablespace_location(oid)), ', ') FROM pg_tablespace
                    WHERE pg_tablespace_location(oid) LIKE '/%'";
    let locations = live.value(outside)?;
    match locations.is_empty() {
        true => Ok(()),
        false => Err(Error::Tablespaces { node: live.name().into(), locations }),
    }
}

fn require_room(node: &str, repository: &Repository, needed: u64) -> Result<()> {
    let folder = repository.node_folder(node);
    // What cannot be asked is found out by the backup itself.
    let Ok(file_system) = statvfs(&folder) else { return Ok(()) };
    let free = file_system.blocks_available() * file_system.fragment_size();
    match free < needed {
        true => Err(Error::NoRoom { node: node.into(), folder, free: size(free), needed: size(needed) }),
        false => Ok(()),
    }
}

/// Without the WAL after it a backup restores to its own end alone.
fn await_archived(live: &mut Live, driver: &dyn Driver, backup: &BaseBackup) -> Result<()> {
    let archive = driver.archive(&live.node)?;
    let last = Segment::holding(backup.timeline, backup.stop_lsn.before(), archive.segment_size);
    if archive.has(last) {
        return Ok(());
    }
    let file = last.file_name(archive.segment_size);
    let archived = format!("SELECT left(last_archived_wal, 24) >= '{file}' FROM pg_stat_archiver");
    deadline::poll(ARCHIVED, || live.value(&archived).is_ok_and(|archived| archived == "t").then_some(()));
    if driver.archive(&live.node)?.has(last) {
        return Ok(());
    }
    Err(Error::NotArchived { node: live.name().into(), file, label: backup.label.clone() })
}

/// `12 MB`
pub fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} kB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::{label_of, size};

    #[test]
    fn a_label_is_the_time_to_the_second() {
        assert_eq!(label_of("2026-11-26T23:34:12.123456Z"), "20261126T233412");
    }

    #[test]
    fn sizes_have_two_digits_at_least() {
        let sizes = [5, 10_240, 25 << 20, 11 << 30].map(size);
        assert_eq!(sizes, ["5 B", "10 kB", "25 MB", "11 GB"]);
    }
}
