//! `spockctl node cancel`: a node that is not open yet leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::client::literal;

use super::create::{Options, owner};
use super::error::{Error, Result};
use super::journal::{Journal, Step};
use super::site::Site;
use super::{clear, closed, fetch};
use crate::backup::nodes;
use crate::screen::Screen;

/// `from`: a living node; without it the one that was given to create, which must then be reachable without a password.
pub fn run(pgdata: &Path, from: Option<&str>, end_after: Option<Step>, screen: &Screen) -> Result<Journal> {
    let pgdata: PathBuf = std::path::absolute(pgdata).map_err(Error::io("look at", pgdata))?;
    let journal = Journal::read(&pgdata)?.filter(|journal| !journal.step.is_over());
    let journal = journal.ok_or_else(|| Error::None(pgdata.clone()))?;
    let from = from.map_or_else(|| journal.from.clone(), str::to_owned);
    let options = Options { from, pgdata, end_after, ..Options::default() };
    let user = owner(&journal)?;
    let mut site = Site::open(journal, user, &options, screen)?;
    if (Step::Open..Step::Cancelling).contains(&site.journal.step) || was_opened(&site) {
        return Err(Error::Open(site.journal.name));
    }
    if site.journal.step != Step::Cancelling {
        site.done(Step::Cancelling)?;
    }
    closed::stop(&site)?;
    take_back(&site)?;
    fetch::empty(&site.journal.pgdata)?;
    for (_, folder) in &site.journal.tablespaces {
        fetch::empty(folder)?;
    }
    let _ = fs::remove_dir(&site.journal.pgdata);
    site.say("taken back: its slots are gone, and its data directory is empty");
    site.done(Step::Cancelled)?;
    Ok(site.journal)
}

/// Started with its own settings, and killed before that was noted.
fn was_opened(site: &Site) -> bool {
    let pid = crate::restore::server::running(&site.journal.pgdata);
    site.journal.step == Step::Settled && pid.is_some()
}

/// On every node that answers; what was removed of a replaced node stays removed.
fn take_back(site: &Site) -> Result<()> {
    let mut mesh = site.mesh()?;
    let (name, old) = (literal(&site.journal.name), site.journal.replaces.as_ref());
    for link in &site.journal.links {
        let live = mesh.node(&link.peer)?;
        // Not yet removed, and not yet ours.
        let is_old = site.journal.old_slots.get(&link.peer) == Some(&link.slot) && link.begins.is_none();
        if !is_old {
            clear::drop_slot(live, &link.slot)?;
        }
        if old.is_none_or(|old| *old != site.journal.name) || link.begins.is_some() {
            live.query(&format!("SELECT spock.node_drop({name}, true)"))?;
        }
    }
    // Whoever does not know how it is reached would miss it.
    drop(nodes::members(&site.from)?);
    Ok(())
}
