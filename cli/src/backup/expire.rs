//! `spockctl backup expire`: what is older than the backups that are kept goes, and nothing that they need.

use std::collections::BTreeSet;
use std::path::PathBuf;

use spock_recovery_cluster::ServerUser;

use super::base::{self, BaseBackup};
use super::driver::{self, Driver};
use super::error::{Error, Result};
use super::repository::{MeshNode, Repository};
use super::say::{are, counted};
use super::take::size;
use crate::restore::plan;
use crate::screen::Screen;

#[derive(Debug, Clone)]
pub struct Options {
    pub repository: PathBuf,
    pub node: Option<String>,
    /// At least one.
    pub keep: usize,
    pub dry_run: bool,
}

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let repository = Repository::open(&options.repository)?;
    if let Some(name) = &options.node {
        repository.node(name)?;
    }
    let driver = driver::open(&repository)?;
    for node in repository.nodes().iter().filter(|node| options.node.as_ref().is_none_or(|name| *name == node.name)) {
        // On another host, or never backed up.
        if repository.node_folder(&node.name).is_dir() {
            one(node, &repository, &*driver, options, screen)?;
        }
    }
    Ok(())
}

fn one(
    node: &MeshNode,
    repository: &Repository,
    driver: &dyn Driver,
    options: &Options,
    screen: &Screen,
) -> Result<()> {
    let folder = repository.node_folder(&node.name);
    let closed = || Error::Closed { node: node.name.clone(), pgdata: folder.clone() };
    let user = ServerUser::owner_of(&folder)?.ok_or_else(closed)?;
    let _lock = repository.lock(&node.name, &user)?;
    let backups = driver.backups(node)?;
    let plan = chosen(&backups, options.keep);
    let would = if options.dry_run { "would remove" } else { "removed" };
    for backup in &plan.remove {
        if !options.dry_run {
            driver.remove_backup(node, &backup.label, &user)?;
        }
        screen.line(format!(
            "{}: {would} {} backup {}, {}",
            node.name,
            backup.kind.name(),
            backup.label,
            size(backup.bytes)
        ));
    }
    if let Some(oldest) = plan.oldest {
        let noted = plan::noted_slot(repository, &node.name, &oldest.label);
        let number = noted.map_or(oldest.start_lsn, |slot| slot.min(oldest.start_lsn)).0 / node.wal_segment_bytes;
        let removed = driver.remove_wal_before(node, number, &user, options.dry_run)?;
        let wal = removed.map_or("the WAL that only they need".into(), |(files, bytes)| {
            format!("{} of WAL, {}", counted(files, "file"), size(bytes))
        });
        let kept = (backups.len() - plan.remove.len()) as u64;
        screen.line(format!(
            "{}: {would} {wal}; {} kept, the oldest is {}",
            node.name,
            are(kept, "backup"),
            oldest.label
        ));
    } else {
        screen.line(format!("{}: there is no complete backup, and nothing is removed", node.name));
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Plan<'a> {
    /// In this order: none while another one refers to it.
    remove: Vec<&'a BaseBackup>,
    /// Of those that are kept, the one with the earliest start: WAL before it goes. None: nothing is known to be needed, nothing goes.
    oldest: Option<&'a BaseBackup>,
}

/// Keeps the newest ones, and what they refer to. The oldest backup is the first.
fn chosen(backups: &[BaseBackup], keep: usize) -> Plan<'_> {
    let newest = &backups[backups.len().saturating_sub(keep.max(1))..];
    let mut kept = BTreeSet::new();
    for backup in newest {
        kept.insert(backup.label.as_str());
        kept.extend(base::chain(backups, &backup.label).into_iter().flatten().map(|parent| parent.label.as_str()));
    }
    let is_kept = |backup: &&BaseBackup| kept.contains(backup.label.as_str());
    Plan {
        // Whatever refers to another one is younger.
        remove: backups.iter().rev().filter(|backup| !is_kept(backup)).collect(),
        oldest: backups.iter().filter(is_kept).min_by_key(|backup| backup.start_lsn),
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind::tests::backup;
    use super::*;

    fn labels(backups: &[BaseBackup], keep: usize) -> (String, Option<&str>) {
        let plan = chosen(backups, keep);
        let removed = plan.remove.iter().map(|backup| backup.label.as_str()).collect();
        (removed, plan.oldest.map(|backup| backup.label.as_str()))
    }

    #[test]
    fn what_a_kept_one_refers_to_is_kept_and_children_go_before_their_parents() {
        let there = [
            backup("a", None, 1),
            backup("b", Some("a"), 2),
            backup("c", None, 3),
            backup("d", Some("c"), 4),
            backup("e", Some("d"), 5),
        ];
        assert_eq!(labels(&there, 9), (String::new(), Some("a")));
        assert_eq!(labels(&there, 4), (String::new(), Some("a")));
        assert_eq!(labels(&there, 3), ("ba".into(), Some("c")));
        assert_eq!(labels(&there, 1), ("ba".into(), Some("c")));
        assert_eq!(labels(&there[..3], 1), ("ba".into(), Some("c")));
    }

    #[test]
    fn nothing_goes_where_there_is_no_backup_and_the_last_one_never() {
        assert_eq!(labels(&[], 1), (String::new(), None));
        assert_eq!(labels(&[backup("a", None, 1)], 0), (String::new(), Some("a")));
    }
}
