//! `spockctl backup setup`: the repository, and what the servers need in order to archive into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use spock_recovery_cluster::client::{self, literal};
use spock_recovery_cluster::{ServerUser, deadline};

use super::archiving::{self, Archiving, Current, Foreign};
use super::command::Templates;
use super::driver::{self, Driver};
use super::error::{Error, Result};
use super::nodes::{self, Found, Live, Place, Registered};
use super::program;
use super::repository::{self, DriverName, Repository};
use super::shell;
use crate::screen::Screen;

#[derive(Debug, Clone)]
pub struct Options {
    pub dsn: String,
    pub repository: PathBuf,
    /// None: that of the repository which is there, else `dir`.
    pub driver: Option<DriverName>,
    /// This one alone; without it all that are on this machine.
    pub node: Option<String>,
    /// Archive by a shell command where the module basic_archive could do it.
    pub by_command: bool,
    pub archive_timeout: Option<String>,
    /// With the driver `command`, the first time or to replace those that are there.
    pub command: Option<Templates>,
}

/// How long a server may take to read its configuration.
const RELOAD: Duration = Duration::from_secs(10);

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    if let Some(templates) = &options.command {
        templates.validate()?;
    }
    let Found { database, nodes } = nodes::find_all(&options.dsn)?;
    let chosen = choose(nodes, options.node.as_deref())?;
    let mut repository = Repository::open_or_new(&options.repository, options.driver, &database)?;
    let former = driver::open(&repository).ok();
    repository.mesh.command = options.command.clone().or(repository.mesh.command);
    let driver = driver::open(&repository)?;
    let (mut here, mut findings) = (Vec::new(), Vec::new());
    for registered in &chosen {
        match Live::meet(registered) {
            Ok(live) => {
                repository.note(&live.node)?;
                here.push(live);
            }
            Err(error) => findings.push(error.to_string()),
        }
    }
    let owner = here.iter().find_map(|live| live.user().ok().cloned());
    let Some(owner) = owner else {
        let reason = here.iter().find_map(|live| live.user().err());
        super::judge(&findings, screen)?;
        return Err(reason.unwrap_or(Error::NotANode { database }));
    };
    repository::make_folder(repository.path(), &owner)?;
    repository.write(&owner)?;
    let (mut restarts, mut ready) = (Vec::new(), false);
    for live in &mut here {
        match (&live.place, &options.node) {
            (Place::Elsewhere, None) => {
                screen.line(format!("{}: left out; spockctl backup setup is run on its own host", live.name()));
            }
            _ => match one(live, (&*driver, former.as_deref()), options, screen) {
                Ok(restart) if restart.is_empty() => ready = true,
                Ok(restart) => restarts.push(format!("  {}: {}", live.name(), restart.join(", "))),
                Err(error) => findings.push(error.to_string()),
            },
        }
    }
    if ready || !restarts.is_empty() {
        conclude(&restarts, &repository, screen);
    }
    super::judge(&findings, screen)
}

fn conclude(restarts: &[String], repository: &Repository, screen: &Screen) {
    let path = shell::typed(repository.path());
    match restarts {
        [] => screen.line(format!("No server must be restarted. Now: spockctl backup take --repo {path}")),
        restarts => {
            screen.line("These servers must be restarted before they archive:");
            restarts.iter().for_each(|line| screen.line(line));
            screen.line(format!("Then: spockctl backup take --repo {path}"));
        }
    }
}

pub fn choose(nodes: Vec<Registered>, name: Option<&str>) -> Result<Vec<Registered>> {
    let Some(name) = name else { return Ok(nodes) };
    let known: Vec<String> = nodes.iter().map(|node| format!("\"{}\"", node.name)).collect();
    let chosen: Vec<Registered> = nodes.into_iter().filter(|node| node.name == name).collect();
    match chosen.is_empty() {
        true => Err(Error::UnknownNode { name: name.into(), known: known.join(", ") }),
        false => Ok(chosen),
    }
}

/// For what the server must be restarted.
fn one(
    live: &mut Live,
    (driver, former): (&dyn Driver, Option<&dyn Driver>),
    options: &Options,
    screen: &Screen,
) -> Result<Vec<String>> {
    let user = live.user()?.clone();
    driver.prepare(&live.node, &user)?;
    let has_module = !options.by_command && live.library_folder.join("basic_archive.so").exists();
    let wanted = driver.archiving(&live.node, has_module)?;
    // What an earlier setup has set may be replaced.
    let drivers = [Some(driver), former].into_iter().flatten();
    let ours = drivers.flat_map(|driver| [true, false].map(|module| driver.archiving(&live.node, module)));
    let ours: Vec<Archiving> = ours.collect::<Result<_>>()?;
    let plan = archiving::plan(&current(live)?, &wanted, &ours, options.archive_timeout.as_deref());
    let plan = plan.map_err(|Foreign { name, value }| Error::ForeignArchiving {
        node: live.name().into(),
        name: name.into(),
        value,
    })?;
    let loaded = live.value("SELECT pg_conf_load_time()")?;
    for (name, value) in &plan.changes {
        live.query(&format!("ALTER SYSTEM SET {name} = {}", literal(value)))?;
    }
    if !plan.changes.is_empty() {
        live.query("SELECT pg_reload_conf()")?;
        // A session takes this time over from the postmaster, with the settings.
        deadline::poll(RELOAD, || {
            let reloaded = live.reconnect().and_then(|()| live.value("SELECT pg_conf_load_time()"));
            reloaded.is_ok_and(|time| time != loaded).then_some(())
        });
    }
    let set: Vec<String> = plan.changes.iter().map(|(name, value)| format!("{name} = {}", literal(value))).collect();
    let set = if set.is_empty() { "everything is set already".into() } else { set.join(", ") };
    screen.line(format!("{}: {set}", live.name()));
    replication(live, &user)?;
    Ok(plan.restart)
}

/// Why the server does not archive into this repository; None: it does.
pub fn unsettled(live: &mut Live, driver: &dyn Driver) -> Result<Option<String>> {
    if live.value("SHOW archive_mode")? == "off" {
        return Ok(Some("archive_mode is off: restart its server".into()));
    }
    let current = current(live)?;
    let wanted = [driver.archiving(&live.node, true)?, driver.archiving(&live.node, false)?];
    let settled = wanted.iter().any(|archiving| {
        let plan = archiving::plan(&current, archiving, &[], None);
        plan.is_ok_and(|plan| plan.changes.iter().all(|(name, _)| !archiving::is_way(name)))
    });
    Ok((!settled).then(|| {
        let now = ["archive_command", "archive_library"]
            .map(|name| format!("{name} = {}", literal(current.settings.get(name).map_or("", String::as_str))));
        format!("its settings lead elsewhere ({}): run spockctl backup setup again", now.join(", "))
    }))
}

fn current(live: &mut Live) -> Result<Current> {
    let names = "'archive_mode', 'archive_command', 'archive_library', 'basic_archive.archive_directory', 'archive_timeout', 'wal_level',
                 'max_wal_senders', 'summarize_wal'";
    let pairs = |rows: client::Rows| -> BTreeMap<String, String> {
        let pair = |row: Vec<Option<String>>| {
            let mut row = row.into_iter();
            Some((row.next()??, row.next()?.unwrap_or_default()))
        };
        rows.into_iter().filter_map(pair).collect()
    };
    let mut settings = pairs(live.query(&format!("SELECT name, setting FROM pg_settings WHERE name IN ({names})"))?);
    // archive_mode = off hides the command, and a module's settings are unknown where it is not loaded.
    let files = format!(
        "SELECT DISTINCT ON (name) name, setting FROM pg_file_settings WHERE name IN ({names}) ORDER BY name, seqno DESC"
    );
    let files = pairs(live.query(&files)?);
    for name in ["archive_command", "basic_archive.archive_directory"] {
        if settings.get(name).is_none_or(|value| value == "(disabled)") {
            settings.insert(name.into(), files.get(name).cloned().unwrap_or_default());
        }
    }
    // A folder without the module that uses it is in nobody's way.
    if settings.get("archive_library").is_none_or(|library| library != "basic_archive") {
        settings.remove("basic_archive.archive_directory");
    }
    let senders = live.value("SELECT count(*) FROM pg_stat_replication")?;
    Ok(Current { major: live.major, settings, senders_in_use: senders.parse().unwrap_or(0) })
}

/// A backup comes over a replication connection, for which pg_hba.conf needs lines of their own.
pub fn replication(live: &Live, user: &ServerUser) -> Result<()> {
    let psql = live.node.bin_folder.join("psql");
    if !psql.exists() {
        return Ok(());
    }
    let conninfo = format!("{} replication=true", live.conninfo.without_password());
    let mut command = user.command(&psql);
    command.args(["-XAtq", "--no-password", "-c", "IDENTIFY_SYSTEM", "-d", &conninfo]);
    program::with_password(&mut command, &live.conninfo);
    program::run(command, || ()).map(drop).map_err(|error| Error::NoReplication {
        node: live.name().into(),
        reason: program::last_line(&error.to_string()),
    })
}

/// Whether the server's user gets there.
pub fn require_writable(node: &str, folder: &Path, user: &ServerUser) -> Result<()> {
    let mut command = user.command(Path::new("/bin/sh"));
    command.args(["-c", "test -w \"$0\" && test -x \"$0\""]).arg(folder);
    let unwritable = |_| Error::Unwritable { node: node.into(), user: user.name().into(), folder: folder.into() };
    program::run(command, || ()).map(drop).map_err(unwritable)
}
