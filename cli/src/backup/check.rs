//! `spockctl backup check`: whether a restore would find what it needs. A line for each finding.

use std::collections::BTreeSet;
use std::path::PathBuf;

use spock_recovery_cluster::ServerUser;

use super::base::{self, BaseBackup};
use super::driver::{self, Driver};
use super::error::Result;
use super::nodes::{Live, Place};
use super::repository::{MeshNode, Repository};
use super::say::counted;
use super::setup;
use super::take;
use super::wal::{Archive, History, Segment};
use crate::lsn::Lsn;
use crate::screen::Screen;

#[derive(Debug, Clone)]
pub struct Options {
    pub repository: PathBuf,
    pub dsn: Option<String>,
    pub node: Option<String>,
}

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let repository = Repository::open(&options.repository)?;
    if let Some(name) = &options.node {
        repository.node(name)?;
    }
    let driver = driver::open(&repository)?;
    let mut findings = Vec::new();
    let found = take::find(&repository, options.dsn.as_deref());
    if let Err(error) = &found {
        findings.push(format!("the servers could not be asked whether they archive: {error}"));
    }
    let nodes = found.map_or(Vec::new(), |found| found.nodes);
    for node in repository.nodes().iter().filter(|node| options.node.as_ref().is_none_or(|name| *name == node.name)) {
        let registered = nodes.iter().find(|registered| registered.name == node.name);
        let live = registered.map(Live::meet);
        if let Some(Ok(Live { place: Place::Elsewhere, .. })) = live {
            screen.line(format!("{}: left out; spockctl backup check is run on its own host", node.name));
            continue;
        }
        let before = findings.len();
        match live {
            Some(Ok(mut live)) => {
                let said = server(&mut live, &*driver).unwrap_or_else(|error| vec![error.to_string()]);
                findings.extend(said.into_iter().map(|text| format!("{}: {text}", node.name)));
            }
            Some(Err(error)) => findings.push(error.to_string()),
            None => {}
        }
        match stored(node, &*driver, &repository, &mut findings, screen) {
            Ok(summary) if findings.len() == before => screen.line(format!("{}: {summary}", node.name)),
            Ok(_) => {}
            Err(error) => findings.push(format!("{}: {error}", node.name)),
        }
    }
    for registered in nodes.iter().filter(|registered| repository.node(&registered.name).is_err()) {
        findings.push(super::Error::NotSetUp(registered.name.clone()).to_string());
    }
    super::judge(&findings, screen)
}

/// Backups and archive of a node; what is fine in one line.
fn stored(
    node: &MeshNode,
    driver: &dyn Driver,
    repository: &Repository,
    findings: &mut Vec<String>,
    screen: &Screen,
) -> Result<String> {
    let mut find = |text: String| findings.push(format!("{}: {text}", node.name));
    if !repository.node_folder(&node.name).is_dir() {
        find("its folder is not in the repository: where it is on another host, run spockctl backup check there; else spockctl backup setup".into());
        return Ok(String::new());
    }
    let user = ServerUser::owner_of(&repository.node_folder(&node.name))?
        .ok_or_else(|| super::Error::Closed { node: node.name.clone(), pgdata: repository.node_folder(&node.name) })?;
    driver.complaints(node, &user)?.into_iter().for_each(&mut find);
    let backups = driver.backups(node)?;
    for backup in &backups {
        let _step = screen.spinner(format!("{}: verifying backup {}", node.name, backup.label));
        match base::chain(&backups, &backup.label) {
            None => find(format!(
                "backup {} is incremental, and what it refers to is not there: take a full one",
                backup.label
            )),
            Some(chain) => {
                if let Err(error) = driver.verify(node, &chain, &user) {
                    find(format!("backup {} does not verify: {error}; take a new one", backup.label));
                }
            }
        }
    }
    let Some(oldest) = backups.iter().min_by_key(|backup| backup.start_lsn) else {
        find(format!("it has no complete backup: spockctl backup take --node {} takes one", node.name));
        return Ok(String::new());
    };
    let archive = driver.archive(node)?;
    let _step = screen.spinner(format!("{}: looking at its archive", node.name));
    for finding in gaps(&archive, oldest) {
        find(finding.say(archive.segment_size));
    }
    let newest = archive.segments.keys().max_by_key(|segment| (segment.number, segment.timeline)).copied();
    for &segment in archive.segments.keys().filter(|&&segment| archive.has(segment)) {
        let file = segment.file_name(archive.segment_size);
        if let Err(error) = driver.verify_segment(node, &file, Some(segment) == newest, &user) {
            find(format!("segment {file} cannot be read: {error}"));
        }
    }
    let end = newest.map_or("nothing".into(), |segment| segment.end(archive.segment_size).to_string());
    Ok(format!(
        "{} {}, and the archive has everything from {} to {end}",
        counted(backups.len() as u64, "backup"),
        if backups.len() == 1 { "verifies" } else { "verify" },
        oldest.start_lsn
    ))
}

/// Something that a replay from the oldest backup on would lack.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    /// From one segment to another of a timeline, both missing.
    Missing(Segment, Segment),
    Short(Segment, u64),
    NoHistory(u32),
}

impl Gap {
    fn say(&self, size: u64) -> String {
        match self {
            Gap::Missing(first, last) if first == last => {
                format!(
                    "segment {} is missing: no backup from before it reaches beyond it; take a new one",
                    first.file_name(size)
                )
            }
            Gap::Missing(first, last) => format!(
                "segments {} to {} are missing: no backup from before them reaches beyond them; take a new one",
                first.file_name(size),
                last.file_name(size)
            ),
            Gap::Short(segment, bytes) => {
                format!("segment {} has {bytes} bytes and not {size}; take a new backup", segment.file_name(size))
            }
            Gap::NoHistory(timeline) => format!(
                "{} is missing: copy it from the server's pg_wal, or nothing of timeline {timeline} can be restored",
                History::file_name(*timeline)
            ),
        }
    }
}

/// From the start of a backup to the archive's end, on each timeline that goes through that start.
fn gaps(archive: &Archive, oldest: &BaseBackup) -> Vec<Gap> {
    let size = archive.segment_size;
    let mut missing = BTreeSet::new();
    let mut found = BTreeSet::new();
    let timelines: BTreeSet<u32> = archive.segments.keys().map(|segment| segment.timeline).collect();
    for &timeline in timelines.iter().filter(|&&timeline| timeline >= oldest.timeline) {
        let own = History { timeline, ancestors: Vec::new() };
        let history = match archive.histories.get(&timeline) {
            Some(history) => history,
            None => {
                found.insert(Gap::NoHistory(timeline));
                &own
            }
        };
        let last = archive.segments.keys().rfind(|segment| segment.timeline == timeline);
        let end = last.map_or(Lsn(0), |segment| segment.end(size));
        if history.contains(oldest.timeline, oldest.start_lsn) && end > oldest.start_lsn {
            missing.extend(archive.missing(history, oldest.start_lsn, end));
        }
    }
    // The backup's own timeline may have nothing in the archive at all.
    let own = Segment::holding(oldest.timeline, oldest.start_lsn, size);
    if !archive.has(own) {
        missing.insert(own);
    }
    let mut run: Option<(Segment, Segment)> = None;
    for segment in missing {
        if let Some(&Some(bytes)) = archive.segments.get(&segment) {
            found.insert(Gap::Short(segment, bytes));
            continue;
        }
        run = match run {
            Some((first, last)) if last.next() == segment => Some((first, segment)),
            _ => {
                found.extend(run.map(|(first, last)| Gap::Missing(first, last)));
                Some((segment, segment))
            }
        };
    }
    found.extend(run.map(|(first, last)| Gap::Missing(first, last)));
    found.into_iter().collect()
}

/// What the server says of its archiving.
fn server(live: &mut Live, driver: &dyn Driver) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    if let Some(reason) = setup::unsettled(live, driver)? {
        findings.push(format!("it does not archive into the repository: {reason}"));
        return Ok(findings);
    }
    let failing = "SELECT format('archiving of %s fails since %s, after %s failures: the server''s log has the reason', last_failed_wal,
                   last_failed_time, failed_count)
              FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, '-infinity')";
    findings.extend(live.query(failing)?.into_iter().flatten().flatten());
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::super::kind::tests::backup;
    use super::*;

    const MB: u64 = 1 << 20;

    fn archive(segments: &[(u32, u64)]) -> Archive {
        let mut archive = Archive::new(MB);
        let segments = segments.iter().map(|&(timeline, number)| (Segment { timeline, number }, Some(MB)));
        archive.segments.extend(segments);
        archive
    }

    fn segment(timeline: u32, number: u64) -> Segment {
        Segment { timeline, number }
    }

    #[test]
    fn an_unbroken_archive_has_no_gap_and_what_is_older_than_the_backup_does_not_count() {
        assert_eq!(gaps(&archive(&[(1, 1), (1, 4), (1, 5), (1, 6)]), &backup("a", None, 4 * MB + 40)), []);
    }

    #[test]
    fn neighbouring_segments_that_are_missing_are_one_finding() {
        let there = archive(&[(1, 4), (1, 8), (1, 10)]);
        let found = gaps(&there, &backup("a", None, 4 * MB));
        assert_eq!(found, [Gap::Missing(segment(1, 5), segment(1, 7)), Gap::Missing(segment(1, 9), segment(1, 9))]);
        assert!(found[0].say(MB).contains("000000010000000000000005 to 000000010000000000000007"));
    }

    #[test]
    fn an_empty_archive_lacks_the_backups_own_segment() {
        assert_eq!(gaps(&archive(&[]), &backup("a", None, 4 * MB)), [Gap::Missing(segment(1, 4), segment(1, 4))]);
    }

    #[test]
    fn a_segment_that_is_cut_short_is_told_with_its_bytes() {
        let mut there = archive(&[(1, 4), (1, 5)]);
        there.segments.insert(segment(1, 5), Some(8192));
        assert_eq!(gaps(&there, &backup("a", None, 4 * MB)), [Gap::Short(segment(1, 5), 8192)]);
    }

    #[test]
    fn a_later_timeline_needs_its_history_and_the_segments_before_it_left() {
        let mut there = archive(&[(1, 4), (2, 6), (2, 7)]);
        let oldest = backup("a", None, 4 * MB);
        assert_eq!(gaps(&there, &oldest), [Gap::NoHistory(2)]);
        there.histories.insert(2, History { timeline: 2, ancestors: vec![(1, Lsn(6 * MB + 9))] });
        assert_eq!(gaps(&there, &oldest), [Gap::Missing(segment(1, 5), segment(1, 5))]);
    }
}
