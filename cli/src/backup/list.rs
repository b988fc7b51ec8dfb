//! `spockctl backup list`: the complete backups, and what each can restore to.

use std::path::PathBuf;

use serde::Serialize;

use super::base::BaseBackup;
use super::driver;
use super::error::Result;
use super::repository::Repository;
use super::shell;
use super::take::size;
use super::wal::{Archive, Range};
use crate::screen::Screen;
use crate::table;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub repository: PathBuf,
    pub node: Option<String>,
    pub format: Format,
}

/// One object of the array `backups`: scripts rely on its names.
#[derive(Debug, Serialize)]
struct Entry {
    node: String,
    #[serde(flatten)]
    backup: BaseBackup,
    /// By timeline; the backup's own is the first.
    restorable: Vec<Range>,
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    driver: &'static str,
    repository: String,
    backups: &'a [Entry],
}

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let repository = Repository::open(&options.repository)?;
    if let Some(name) = &options.node {
        repository.node(name)?;
    }
    let driver = driver::open(&repository)?;
    let mut entries = Vec::new();
    for node in repository.nodes().iter().filter(|node| options.node.as_ref().is_none_or(|name| *name == node.name)) {
        let backups = driver.backups(node)?;
        let archive = if backups.is_empty() { Archive::new(node.wal_segment_bytes) } else { driver.archive(node)? };
        entries.extend(backups.into_iter().map(|backup| Entry {
            node: node.name.clone(),
            restorable: archive.ranges(backup.timeline, backup.stop_lsn),
            backup,
        }));
    }
    match options.format {
        Format::Json => {
            let document = Document {
                version: 1,
                driver: repository.mesh.driver.name(),
                repository: repository.path().display().to_string(),
                backups: &entries,
            };
            screen.line(serde_json::to_string_pretty(&document).unwrap_or_default());
        }
        Format::Table if entries.is_empty() => {
            screen.line(format!(
                "there is no complete backup; spockctl backup take --repo {} takes one",
                shell::typed(repository.path())
            ));
        }
        Format::Table => table::lines(&rows(&entries)).into_iter().for_each(|line| screen.line(line)),
    }
    Ok(())
}

fn rows(entries: &[Entry]) -> Vec<Vec<String>> {
    let heading = ["node", "backup", "kind", "size", "begun", "ended", "timeline", "restores to"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for Entry { node, backup, restorable } in entries {
        let ranges: Vec<String> = restorable
            .iter()
            .map(|range| match range.timeline == backup.timeline {
                true => format!("{} to {}", range.from, range.to),
                false => range.to_string(),
            })
            .collect();
        rows.push(vec![
            node.clone(),
            backup.label.clone(),
            backup.kind.name().into(),
            size(backup.bytes),
            to_the_second(&backup.begun_at),
            to_the_second(&backup.ended_at),
            backup.timeline.to_string(),
            ranges.join(", "),
        ]);
    }
    rows
}

fn to_the_second(time: &str) -> String {
    time.split('.').next().unwrap_or(time).replace('T', " ")
}
