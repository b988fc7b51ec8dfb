//! `spockctl node create`: from nothing to a node that everybody receives from.

use std::path::PathBuf;

use spock_recovery_cluster::ServerUser;

use super::check;
use super::error::{Error, Result};
use super::journal::{Journal, Step, paths};
use super::site::Site;
use super::{clear, closed, fetch, join, providers, wire};
use crate::backup::conninfo::Conninfo;
use crate::backup::take::size;
use crate::backup::{nodes, shell};
use crate::screen::Screen;

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A living node.
    pub from: String,
    pub pgdata: PathBuf,
    pub name: String,
    /// The lost node whose place the new one takes.
    pub replaces: Option<String>,
    /// How the others reach the new node.
    pub dsn: Option<String>,
    pub port: Option<u16>,
    pub socket: Option<PathBuf>,
    pub listen: Option<String>,
    pub bin_folder: Option<PathBuf>,
    pub config_file: Option<PathBuf>,
    pub log: Option<PathBuf>,
    pub tablespaces: Vec<(String, PathBuf)>,
    pub settings: Vec<(String, String)>,
    pub subscription_names: Option<String>,
    pub slot_names: Option<String>,
    /// For tests: end as if killed once this step is done.
    pub end_after: Option<Step>,
}

/// Looks at everything, and changes nothing.
///
/// # Errors
/// There are findings, each of which was shown, or the living node does not answer.
pub fn check(options: &Options, screen: &Screen) -> Result<Journal> {
    if let Some(journal) = Journal::read(&options.pgdata)?.filter(|journal| !journal.step.is_over()) {
        return Err(under_way(&journal));
    }
    let prepared = prepare(options, screen)?;
    screen.line("everything is there; the same command without --check begins");
    Ok(prepared.journal)
}

fn prepare(options: &Options, screen: &Screen) -> Result<check::Prepared> {
    let step = screen.spinner("looking at the mesh");
    let prepared = check::prepare(options);
    drop(step);
    let prepared = prepared?;
    prepared.remarks.iter().for_each(|remark| screen.line(remark));
    prepared.findings.iter().for_each(|finding| screen.line(finding));
    if !prepared.findings.is_empty() {
        return Err(Error::Findings(prepared.findings.len()));
    }
    let journal = &prepared.journal;
    screen.line(format!(
        "{}: from a base backup of node \"{}\", about {}; the others will reach it at {}",
        journal.name,
        journal.source,
        size(prepared.bytes),
        journal.dsn
    ));
    for link in &journal.links {
        screen.line(format!(
            "{}: subscription \"{}\" to node \"{}\" by slot \"{}\"; subscription \"{}\" of that node by slot \"{}\"",
            journal.name, link.subscription, link.peer, link.slot, link.their_subscription, link.their_slot
        ));
    }
    Ok(prepared)
}

fn under_way(journal: &Journal) -> Error {
    Error::Other {
        name: journal.name.clone(),
        replaces: journal.replaces.as_ref().map_or(String::new(), |old| format!(" in the place of node \"{old}\"")),
        source_node: journal.source.clone(),
        pgdata: journal.pgdata.clone(),
    }
}

/// Begins, or goes on where an earlier call has ended.
///
/// # Errors
/// What hinders the present step, with what to do; the same call then goes on with it.
pub fn run(options: &Options, screen: &Screen) -> Result<Journal> {
    let absolute = std::path::absolute(&options.pgdata).map_err(Error::io("look at", &options.pgdata))?;
    let options = &Options { pgdata: absolute, ..options.clone() };
    let there = Journal::read(&options.pgdata)?.filter(|journal| !journal.step.is_over());
    let (mut site, dsn) = match there {
        Some(journal) => {
            if journal.step == Step::Cancelling || journal.name != options.name || journal.replaces != options.replaces
            {
                return Err(under_way(&journal));
            }
            let dsn = address(options, &journal)?;
            let user = owner(&journal)?;
            (Site::open(journal, user, options, screen)?, dsn)
        }
        None => {
            let prepared = prepare(options, screen)?;
            let mut site = Site::open(prepared.journal, prepared.user, options, screen)?;
            site.done(Step::Planned)?;
            (site, prepared.dsn)
        }
    };
    before_the_backup(&mut site, &dsn)?;
    closed_steps(&mut site, &dsn)?;
    open_steps(&mut site, &dsn)?;
    let journal = site.journal;
    screen.line(format!(
        "{}: a node of the mesh, in {:.0} s. It archives nothing yet: give it backups with spockctl backup setup. If a service manager starts your servers, \
         stop it with {} stop -D {}, and start it by the service manager",
        journal.name,
        journal.seconds.values().sum::<f64>(),
        shell::typed(&journal.bin_folder.join("pg_ctl")),
        shell::typed(&journal.pgdata)
    ));
    Ok(journal)
}

/// Whose the files of a node are that is being made.
pub fn owner(journal: &Journal) -> Result<ServerUser> {
    let folder = paths(&journal.pgdata).folder;
    let closed = || crate::backup::Error::Closed { node: journal.name.clone(), pgdata: folder.clone() };
    Ok(ServerUser::owner_of(&folder)?.ok_or_else(closed)?)
}

/// How the others reach the new node: the password is in no journal, but where the mesh knows it.
fn address(options: &Options, journal: &Journal) -> Result<Conninfo> {
    if let Some(dsn) = &options.dsn {
        return Ok(Conninfo::parse(dsn)?);
    }
    let members = nodes::members(&options.from).map(|(_, members)| members).unwrap_or_default();
    let known = |name: &str| members.iter().find(|member| member.name == name)?.conninfo.clone();
    let known = known(&journal.name).or_else(|| known(journal.replaces.as_deref()?));
    Ok(known.map_or_else(|| Conninfo::parse(&journal.dsn), Ok)?)
}

/// On the living nodes.
fn before_the_backup(site: &mut Site, dsn: &Conninfo) -> Result<()> {
    if site.journal.step < Step::Cleared && site.journal.replaces.is_some() {
        if site.journal.step < Step::Clearing {
            site.done(Step::Clearing)?;
        }
        clear::clear(site, dsn)?;
        site.done(Step::Cleared)?;
    }
    if site.journal.step < Step::Slots {
        providers::make_slots(site, dsn)?;
        site.done(Step::Slots)?;
    }
    if site.journal.step < Step::Passed {
        providers::pass(site)?;
        site.done(Step::Passed)?;
    }
    Ok(())
}

fn closed_steps(site: &mut Site, dsn: &Conninfo) -> Result<()> {
    if site.journal.step < Step::Fetched {
        let bytes = site.mesh()?.source()?.value("SELECT sum(pg_database_size(oid)) FROM pg_database")?;
        fetch::fetch(site, bytes.parse().unwrap_or(0))?;
        site.done(Step::Fetched)?;
    }
    if site.journal.step < Step::Configured {
        fetch::configure(site)?;
        site.done(Step::Configured)?;
    }
    if site.journal.step < Step::Promoted {
        if let Err(error) = closed::promote(site) {
            if matches!(error, Error::NoEnd) {
                closed::stop(site)?;
                site.done(Step::Passed)?;
            }
            return Err(error);
        }
        site.done(Step::Promoted)?;
    }
    if site.journal.step < Step::Identified {
        closed::identify(site)?;
        site.done(Step::Identified)?;
    }
    if site.journal.step < Step::Wired {
        wire::wire(site, dsn)?;
        site.done(Step::Wired)?;
    }
    Ok(())
}

fn open_steps(site: &mut Site, dsn: &Conninfo) -> Result<()> {
    if site.journal.step < Step::Settled {
        join::settle(site)?;
        site.done(Step::Settled)?;
    }
    let new = join::open(site, dsn)?;
    if site.journal.step < Step::Open {
        site.say("open");
        site.done(Step::Open)?;
    }
    if site.journal.step < Step::Joined {
        join::join(site, dsn)?;
        site.done(Step::Joined)?;
    }
    join::verify(site, new)?;
    site.done(Step::Done)
}
