//! The closed server: it ends its recovery, says how far it has what, and becomes a server of its own.

use std::fs;
use std::thread;
use std::time::Duration;

use postgres::Client;
use spock_recovery_cluster::client::literal;
use spock_recovery_cluster::system_identifier;

use super::error::{Error, Result};
use super::settings::{Closed, LIBRARY};
use super::site::Site;
use crate::backup::program;
use crate::backup::wal::{History, Segment};
use crate::lsn::Lsn;
use crate::restore::server::{self, Watch};
use crate::restore::settings::without;
use crate::restore::site::write_bytes;

const LOOK: Duration = Duration::from_millis(50);

pub fn libraries_without_ours(site: &Site) -> String {
    without(&site.journal.libraries, LIBRARY)
}

/// The settings of the closed server; those for its command line are returned.
pub fn write(site: &Site, libraries: &str) -> Result<Vec<String>> {
    let (journal, paths) = (&site.journal, site.journal.paths());
    let own = fs::read_to_string(paths.settings()).map_err(Error::io("read", &paths.settings()))?;
    let socket_folder = paths.socket(&site.user)?;
    let hba = paths.hba();
    let closed = Closed { socket_folder: &socket_folder, hba: &hba, libraries };
    let rules = b"# spockctl node create: the folder of the socket is its owner's alone\nlocal all all trust\n";
    write_bytes(&hba, rules, &site.user)?;
    write_bytes(&journal.pgdata.join("postgresql.auto.conf"), closed.text(&own).as_bytes(), &site.user)?;
    let mut isolation = closed.isolation();
    isolation.push(("data_directory", journal.pgdata.display().to_string()));
    Ok([journal.options.clone(), server::arguments(&isolation)].concat())
}

/// Starts it where it does not run, and waits until it takes statements: it does once its recovery has ended.
pub fn start(site: &Site, libraries: &str) -> Result<Client> {
    let journal = &site.journal;
    let log = journal.paths().log();
    if server::running(&journal.pgdata).is_none() {
        let options = write(site, libraries)?;
        server::launch(journal, &site.user, &options, &log)?;
    }
    let failed = |what| Error::Closed { what, log: log.clone(), tail: server::log_tail(&log) };
    let mut watch = Watch::new();
    loop {
        if let Ok(mut client) = server::connect(journal, &site.user)
            && server::value(journal, &mut client, "SELECT pg_is_in_recovery()").is_ok_and(|recovers| recovers == "f")
        {
            return Ok(client);
        }
        if server::running(&journal.pgdata).is_none() {
            return Err(failed("has ended"));
        }
        if !watch.moves(format!(
            "{:?}{}",
            fs::metadata(journal.pgdata.join("global/pg_control")).map(|file| file.modified().ok()),
            server::log_tail(&log)
        )) {
            return Err(failed("does not come to the end of its recovery"));
        }
        thread::sleep(LOOK);
    }
}

pub fn stop(site: &Site) -> Result<()> {
    let journal = &site.journal;
    Ok(server::stop(&journal.name, &journal.bin_folder, &journal.pgdata, &site.user)?)
}

/// Ends the recovery, and reads where the living node's WAL ends here, and how far it had applied every provider at that place.
pub fn promote(site: &mut Site) -> Result<()> {
    let mut client = start(site, &libraries_without_ours(site))?;
    let journal = &site.journal;
    let timeline = server::value(journal, &mut client, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")?;
    let timeline = u32::from_str_radix(&timeline, 16).unwrap_or(0);
    let end = end_of_backup(site, timeline)?;
    let positions = "SELECT s.subname, coalesce(o.remote_lsn, '0/0') FROM pg_subscription s
                       JOIN pg_database d ON d.oid = s.subdbid AND d.datname = current_database()
                       LEFT JOIN pg_replication_origin_status o ON o.external_id = 'pg_' || s.oid";
    let mut vector = std::collections::BTreeMap::new();
    let rows = server::query(journal, &mut client, positions)?;
    for link in &journal.links {
        let Some(inherited) = &link.inherited else { continue };
        let found = rows.iter().find(|row| row.first().is_some_and(|name| name.as_ref() == Some(inherited)));
        let position = found.and_then(|row| row.get(1)?.as_ref()?.parse::<Lsn>().ok());
        let lost = || Error::Subscription { subscription: inherited.clone(), provider: link.peer.clone() };
        vector.insert(link.peer.clone(), position.ok_or_else(lost)?);
    }
    // The living node's own will come whole, for their commit lies behind the end of the backup.
    let prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()";
    for gid in server::query(journal, &mut client, prepared)?.into_iter().flatten().flatten() {
        server::query(journal, &mut client, &format!("ROLLBACK PREPARED {}", literal(&gid)))?;
    }
    site.say(format!("it has everything of node \"{}\" up to {end}", journal.source));
    (site.journal.end, site.journal.timeline, site.journal.vector) = (Some(end), timeline, vector);
    Ok(())
}

/// Where the timeline that the promotion began has left the living node's: exactly behind the last record that was replayed.
fn end_of_backup(site: &Site, timeline: u32) -> Result<Lsn> {
    let path = site.journal.pgdata.join("pg_wal").join(History::file_name(timeline));
    let text = fs::read_to_string(&path).unwrap_or_default();
    let history = History::parse(timeline, &text);
    history.and_then(|history| history.ancestors.last().map(|&(_, left)| left)).ok_or(Error::NoEnd)
}

/// Stops it, and gives it a system identifier of its own as pg_createsubscriber does: into pg_control, and then by pg_resetwal into WAL,
/// which begins beyond everything that anybody has of the replaced node.
pub fn identify(site: &Site) -> Result<()> {
    let journal = &site.journal;
    stop(site)?;
    let control = server::control(&journal.bin_folder, &journal.pgdata, &site.user)?;
    let is_clean = |text: &str| {
        text.lines().any(|line| {
            line.split_once(':')
                .is_some_and(|(name, state)| name == "Database cluster state" && state.trim() == "shut down")
        })
    };
    if !is_clean(&control) {
        // It was killed: WAL that it still needs must not go.
        drop(start(site, &libraries_without_ours(site))?);
        stop(site)?;
    }
    system_identifier::write(&journal.pgdata, journal.system_identifier)?;
    let past = journal.beyond.max(journal.end.unwrap_or_default());
    let segment = Segment::holding(journal.timeline, past, journal.segment_bytes).next();
    let mut command = site.user.command(&journal.bin_folder.join("pg_resetwal"));
    command.arg("--next-wal-file").arg(segment.file_name(journal.segment_bytes)).arg("--pgdata").arg(&journal.pgdata);
    program::run(command, || ())?;
    Ok(())
}
