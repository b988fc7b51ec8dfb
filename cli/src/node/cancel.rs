//! `spockctl node cancel`: a node that is not open yet leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};

use spock_recovery_cluster::client::literal;

use super::create::{Options, owner};
use super::error::{Error, Result};
use super::facts::Facts;
use super::journal::{Journal, Step};
use super::site::Site;
use super::{clear, closed, fetch};
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
        site.journal.cancelled_at = Some(site.journal.step);
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

/// On every node; what was removed of a replaced node stays removed.
fn take_back(site: &Site) -> Result<()> {
    let journal = &site.journal;
    let at = journal.cancelled_at.unwrap_or(Step::Planned);
    if journal.replaces.is_some() && at < Step::Clearing {
        return Ok(());
    }
    // Before that, what has the new node's name may be the replaced one's.
    let is_ours = at >= Step::Cleared || journal.replaces.as_ref() != Some(&journal.name);
    let mut mesh = site.mesh()?;
    for link in &journal.links {
        let live = mesh.node(&link.peer)?;
        if is_ours {
            clear::drop_slot(live, &link.slot)?;
        }
        if Facts::ask(live)?.to(&journal.name).next().is_none() {
            live.query(&format!("SELECT spock.node_drop({}, true)", literal(&journal.name)))?;
        }
    }
    Ok(())
}
