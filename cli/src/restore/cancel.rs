//! `spockctl restore cancel`: the old data directories come back, as long as no node was promoted.

use std::fs;
use std::path::Path;

use super::check::{Ground, Options};
use super::error::{Error, Result};
use super::journal::Step;
use super::paths;
use super::plan::Plan;
use super::server;
use super::site::Site;
use super::start::{active, everybody, for_each};
use crate::backup::repository::sync_folder;
use crate::screen::Screen;

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let ground = Ground::open(&options.repository)?;
    let under_way = active(&ground, options)?;
    if under_way.is_empty() {
        return Err(Error::None(String::new()));
    }
    // Of every node: one that goes back while others go on would never fit again.
    for journal in everybody(&ground, options)?.values() {
        if journal.step >= Step::Promoting && journal.step < Step::Done {
            return Err(Error::Promoted(journal.node.clone()));
        }
    }
    let mut sites = Vec::new();
    for (name, journal) in &under_way {
        sites.push(Site::open(&ground, ground.repository.node(name)?, journal.clone(), options, screen)?);
    }
    for_each(&mut sites, put_back)?;
    Plan::remove(&ground.repository);
    Ok(())
}

fn put_back(site: &mut Site<'_>) -> Result<()> {
    if site.journal.step != Step::Cancelling {
        site.journal.seen = None;
        site.done(Step::Cancelling)?;
    }
    let (journal, label) = (site.journal.clone(), site.journal.moment.label());
    let parent = journal.pgdata.parent().unwrap_or(Path::new("/"));
    match &journal.before {
        Some(before) if before.exists() => {
            server::stop(&journal.node, &journal.bin_folder, &journal.pgdata, &site.user)?;
            if journal.pgdata.exists() {
                let aside = paths::free(&journal.pgdata, "cancelled", &label);
                fs::rename(&journal.pgdata, &aside).map_err(Error::io("rename", &journal.pgdata))?;
                sync_folder(parent)?;
                site.say(format!("what was restored is kept as \"{}\"", aside.display()));
            }
            fs::rename(before, &journal.pgdata).map_err(Error::io("rename", before))?;
            sync_folder(parent)?;
        }
        // Renamed back already, or not renamed yet.
        Some(_) => {}
        None => {
            server::stop(&journal.node, &journal.bin_folder, &journal.pgdata, &site.user)?;
            if journal.pgdata.exists() {
                let aside = paths::free(&journal.pgdata, "cancelled", &label);
                fs::rename(&journal.pgdata, &aside).map_err(Error::io("rename", &journal.pgdata))?;
                sync_folder(parent)?;
                site.say(format!("what was restored is kept as \"{}\"", aside.display()));
            }
        }
    }
    if journal.was_running && !journal.beside && server::running(&journal.pgdata).is_none() {
        open(site)?;
        site.say("its data directory is back, and it runs");
    }
    site.done(Step::Cancelled)
}

/// Starts a node as it was started before, and waits until it takes connections.
pub fn open(site: &Site<'_>) -> Result<()> {
    let journal = &site.journal;
    let log =
        journal.log.clone().filter(|log| server::is_writable(log, &site.user)).unwrap_or_else(|| journal.paths().log());
    server::open(journal, &site.user, &journal.options, &log)
}
