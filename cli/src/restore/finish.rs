//! `spockctl restore finish`: from paused to verified.
//!
//! The order is what keeps everything: no node is promoted before every node has its recovery slot back; no subscription's worker
//! starts before its slot is there; our own workers, which advance slots, start with the workers of the subscriptions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use postgres::Client;
use spock_recovery_cluster::client::{identifier, literal};

use super::cancel;
use super::check::{Ground, Options};
use super::error::{Error, Result};
use super::intents;
use super::journal::{Journal, Step, Subscription};
use super::plan::Plan;
use super::server::{self, Watch};
use super::settings;
use super::site::{Site, write_bytes};
use super::start::{active, everybody, for_each, verdict};
use super::verify;
use crate::backup::repository::{make_folder, sync_folder};
use crate::backup::{program, shell};
use crate::lsn::Lsn;
use crate::screen::Screen;

const LOOK: Duration = Duration::from_millis(50);

/// More than any node can be behind what its peers have seen of it after a cut; each switch is a segment.
const SWITCHES: u32 = 1000;

pub fn run(options: &Options, screen: &Screen) -> Result<()> {
    let ground = Ground::open(&options.repository)?;
    let under_way = active(&ground, options)?;
    if under_way.is_empty() {
        return Err(Error::None(String::new()));
    }
    let mut sites = Vec::new();
    for (name, journal) in &under_way {
        let site = Site::open(&ground, ground.repository.node(name)?, journal.clone(), options, screen)?;
        require(&site.journal)?;
        sites.push(site);
    }
    for_each(&mut sites, make_ready)?;
    if let Some(waiting) = waiting(&ground, options, Step::Ready)? {
        screen.line(format!("ready here; promoted once the others are ready as well: {waiting}. Run spockctl restore finish on their hosts, then here again"));
        return Ok(());
    }
    let journals = everybody(&ground, options)?;
    if journals.values().all(|journal| journal.step < Step::Promoting) {
        judge(&ground, &journals, screen)?;
    }
    for_each(&mut sites, |site| promote(site, &journals))?;
    for_each(&mut sites, |site| wire(site, &journals))?;
    for_each(&mut sites, open)?;
    if let Some(waiting) = waiting(&ground, options, Step::Open)? {
        screen.line(format!("open here; verified once the others are open as well: {waiting}. Run spockctl restore finish on their hosts, then here again"));
        return Ok(());
    }
    verify::all(&ground, &journals, screen)?;
    for_each(&mut sites, |site| site.done(Step::Done))?;
    Plan::remove(&ground.repository);
    for site in &sites {
        if let Some(before) = &site.journal.before {
            site.say(format!(
                "the former data directory stays in \"{}\": remove it once it is needed no more",
                before.display()
            ));
        }
    }
    screen.line(format!(
        "restored to {}. The nodes have new timelines: take new base backups now, spockctl backup take --repo {}",
        sites.first().map_or(String::new(), |site| site.journal.moment.to_string()),
        shell::typed(ground.repository.path())
    ));
    Ok(())
}

fn require(journal: &Journal) -> Result<()> {
    if journal.beside {
        return Err(Error::Beside);
    }
    if journal.step == Step::Cancelling {
        return Err(Error::Other { under_way: format!("{}, which is being put back,", journal.moment) });
    }
    if journal.step < Step::Paused {
        let step = journal.step.words().into();
        return Err(Error::NotYet { node: journal.node.clone(), step, wanted: "finish", command: "start" });
    }
    Ok(())
}

/// Nodes of the restore, on other hosts, that have not come to a step.
fn waiting(ground: &Ground, options: &Options, step: Step) -> Result<Option<String>> {
    let journals = everybody(ground, options)?;
    let all = journals.values().find(|journal| !journal.step.is_over() && !journal.cut.is_empty());
    let names: Vec<&str> = all
        .iter()
        .flat_map(|journal| journal.cut.keys())
        .filter(|node| {
            journals
                .get(*node)
                .is_none_or(|journal| journal.step < step || journal.step.is_over() && journal.step != Step::Done)
        })
        .map(String::as_str)
        .collect();
    Ok((!names.is_empty()).then(|| names.join(", ")))
}

fn judge(ground: &Ground, journals: &BTreeMap<String, Journal>, screen: &Screen) -> Result<()> {
    let verdict =
        verdict(ground, journals)?.ok_or_else(|| Error::NotACut(": some node has not been looked at".into()))?;
    match verdict.findings.is_empty() {
        true => Ok(()),
        false => {
            verdict.findings.iter().for_each(|finding| screen.line(finding));
            Err(Error::NotACut(String::new()))
        }
    }
}

/// From paused to paused with the recovery slot.
fn make_ready(site: &mut Site<'_>) -> Result<()> {
    if site.journal.step < Step::SlotSaved {
        save_slot(site)?;
        site.done(Step::SlotSaved)?;
    }
    if site.journal.step < Step::Installed {
        server::stop(&site.node.name, &site.journal.bin_folder, &site.journal.pgdata, &site.user)?;
        install_slot(site)?;
        site.done(Step::Installed)?;
    }
    if site.journal.step < Step::Ready {
        let mut client = pause_with_slot(site)?;
        check_slot(site, &mut client)?;
        site.done(Step::Ready)?;
    }
    Ok(())
}

/// The slot's files come out of the database; the server may have been killed since it was paused.
fn save_slot(site: &mut Site<'_>) -> Result<()> {
    let options = site.close(None)?;
    let mut client = site.pause(&options)?;
    let libraries = server::value(&site.journal, &mut client, "SHOW shared_preload_libraries")?;
    site.journal.libraries = settings::without(&libraries, settings::LIBRARY);
    let folder = site.journal.paths().slot();
    let _ = fs::remove_dir_all(&folder);
    let Some(slot) = site.journal.seen.as_ref().and_then(|seen| seen.slot.clone()) else { return Ok(()) };
    let files = "SELECT encode(state, 'hex'), encode(snap, 'hex') FROM spock_internal.saved_recovery_slot()";
    let row = server::query(&site.journal, &mut client, files)?.into_iter().next().unwrap_or_default();
    let [state, snap] = [0, 1].map(|column| row.get(column).cloned().flatten().and_then(|text| unhex(&text)));
    let failed = |reason: &str| Error::NoSlot { node: site.node.name.clone(), reason: reason.into() };
    make_folder(&folder, &site.user)?;
    write_bytes(&folder.join("state"), &state.ok_or_else(|| failed("its state file is missing"))?, &site.user)?;
    if let Some(name) = &slot.snap {
        // Without it the slot would silently leave out what had begun before.
        write_bytes(&folder.join(name), &snap.ok_or_else(|| failed("its snapshot file is missing"))?, &site.user)?;
    }
    Ok(())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?) as u8);
    text.as_bytes().chunks(2).map(pair).collect()
}

/// Into the data directory of the stopped server: the slot's state and its snapshot, and the WAL from which it reads.
fn install_slot(site: &Site<'_>) -> Result<()> {
    let (journal, data) = (&site.journal, &site.journal.pgdata);
    let Some(slot) = journal.seen.as_ref().and_then(|seen| seen.slot.as_ref()) else { return Ok(()) };
    install_wal(site, slot.restart)?;
    let saved = journal.paths().slot();
    let read = |name: &str| fs::read(saved.join(name)).map_err(Error::io("read", &saved.join(name)));
    // First: a state without its snapshot must not be there for a moment.
    if let Some(name) = &slot.snap {
        let snapshots = data.join("pg_logical/snapshots");
        make_folder(&snapshots, &site.user)?;
        write_bytes(&snapshots.join(name), &read(name)?, &site.user)?;
    }
    let folder = data.join("pg_replslot").join(&slot.name);
    make_folder(&folder, &site.user)?;
    write_bytes(&folder.join("state"), &read("state")?, &site.user)?;
    sync_folder(&data.join("pg_replslot")).map_err(Into::into)
}

/// Decoding reads pg_wal alone, never the archive.
fn install_wal(site: &Site<'_>, from: Lsn) -> Result<()> {
    let journal = &site.journal;
    let Some(target) = &journal.target else { return Ok(()) };
    let sources = site.sources()?;
    let size = sources.segment_size();
    let history = sources.history(target.timeline).cloned();
    let history = history.unwrap_or(crate::backup::wal::History { timeline: target.timeline, ancestors: Vec::new() });
    let folder = super::scan::pg_wal(&journal.pgdata);
    for segment in history.segments(from, target.stop.position(), size) {
        let name = segment.file_name(size);
        if fs::metadata(folder.join(&name)).is_ok_and(|file| file.len() == size) {
            continue;
        }
        let before = journal.before.clone().unwrap_or_else(|| journal.pgdata.clone());
        sources.fetch(segment, &folder, &site.user).map_err(|error| match error {
            Error::Backup(crate::backup::Error::NoWal { .. }) => {
                Error::NoSlotWal { node: journal.node.clone(), file: name, before }
            }
            other => other,
        })?;
    }
    Ok(())
}

fn pause_with_slot(site: &Site<'_>) -> Result<Client> {
    let options = site.close(Some(&site.journal.libraries))?;
    site.pause(&options)
}

fn check_slot(site: &Site<'_>, client: &mut Client) -> Result<()> {
    let journal = &site.journal;
    let Some(slot) = journal.seen.as_ref().and_then(|seen| seen.slot.as_ref()) else { return Ok(()) };
    let failed = |reason: String| Error::NoSlot { node: journal.node.clone(), reason };
    let question = format!(
        "SELECT restart_lsn, coalesce(to_jsonb(s) ->> 'invalidation_reason', CASE WHEN to_jsonb(s) ->> 'conflicting' = 'true' THEN 'conflict' END,
                CASE wal_status WHEN 'lost' THEN 'wal_removed' END)
           FROM pg_replication_slots s WHERE slot_name = {}",
        literal(&slot.name)
    );
    let rows = server::query(journal, client, &question)?;
    match rows.first().map(Vec::as_slice) {
        Some([Some(restart), None]) if restart.parse() == Ok(slot.restart) => Ok(()),
        Some([restart, reason]) => Err(failed(format!(
            "installed, it is not usable: {}, at {}",
            reason.as_deref().unwrap_or("it stands elsewhere"),
            restart.as_deref().unwrap_or("no position")
        ))),
        _ => Err(failed("the server does not take it".into())),
    }
}

/// A node of its own from here on.
fn promote(site: &mut Site<'_>, journals: &BTreeMap<String, Journal>) -> Result<()> {
    if site.journal.step >= Step::Promoted {
        return Ok(());
    }
    if site.journal.step < Step::Promoting {
        // It may have been killed since; what is promoted must stand at its target, with its slot.
        let mut client = pause_with_slot(site)?;
        check_slot(site, &mut client)?;
        site.done(Step::Promoting)?;
    }
    let mut client = end_recovery(site)?;
    let seen = journals
        .values()
        .filter_map(|journal| journal.seen.as_ref())
        .flat_map(|seen| &seen.subscriptions)
        .filter(|subscription| subscription.provider.as_deref() == Some(site.node.name.as_str()))
        .map(|subscription| subscription.applied)
        .max()
        .unwrap_or_default();
    bump(site, &mut client, seen)?;
    site.done(Step::Promoted)
}

/// Starts it where it was killed, at whatever point of its promotion.
pub fn end_recovery(site: &Site<'_>) -> Result<Client> {
    let journal = &site.journal;
    let log = journal.paths().log();
    if server::running(&journal.pgdata).is_none() {
        let options = site.close(Some(&journal.libraries))?;
        server::launch(journal, &site.user, &options, &log)?;
    }
    let mut watch = Watch::new();
    loop {
        if let Ok(mut client) = server::connect(journal, &site.user) {
            let state = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE 'ended' END";
            match server::value(journal, &mut client, state).as_deref() {
                Ok("ended") => return Ok(client),
                // It may end between the two statements.
                Ok("paused") => drop(server::query(journal, &mut client, "SELECT pg_wal_replay_resume()")),
                _ => {}
            }
        }
        let tail = server::log_tail(&log);
        if server::running(&journal.pgdata).is_none() || !watch.moves(tail.clone()) {
            return Err(Error::Started {
                node: journal.node.clone(),
                reason: format!("it was not promoted\n{tail}"),
                log,
            });
        }
        thread::sleep(LOOK);
    }
}

/// What is written from now on must be beyond whatever peers have seen, or they take it for what they have.
fn bump(site: &Site<'_>, client: &mut Client, seen: Lsn) -> Result<()> {
    for _ in 0..SWITCHES {
        let insert: Lsn =
            server::value(&site.journal, client, "SELECT pg_current_wal_insert_lsn()")?.parse().unwrap_or_default();
        if insert >= seen {
            return Ok(());
        }
        server::query(&site.journal, client, "SELECT pg_logical_emit_message(false, 'spockctl', ''), pg_switch_wal()")?;
    }
    let reason = format!("its WAL does not come beyond {seen}, which peers have seen");
    Err(Error::Started { node: site.node.name.clone(), reason, log: site.journal.paths().log() })
}

/// A slot for every subscription that receives from this node, which begins where the subscription stands.
fn wire(site: &mut Site<'_>, journals: &BTreeMap<String, Journal>) -> Result<()> {
    if site.journal.step >= Step::Wired {
        return Ok(());
    }
    let mut client = end_recovery(site)?;
    for subscription in
        journals.values().filter_map(|journal| journal.seen.as_ref()).flat_map(|seen| &seen.subscriptions)
    {
        if let (Some(slot), true) =
            (&subscription.slot, subscription.provider.as_deref() == Some(site.node.name.as_str()))
        {
            make_slot(site, &mut client, slot, subscription)?;
        }
    }
    for subscription in site.journal.seen.iter().flat_map(|seen| &seen.subscriptions) {
        if subscription.two_phase {
            roll_back_copies(site, &mut client, subscription)?;
        }
        let position = subscription.provider.as_ref().and_then(|provider| site.journal.cut.get(provider));
        if let Some(position) = position.filter(|_| subscription.applied == Lsn(0) && site.journal.drained) {
            // Nothing was in flight: it begins where the provider ends.
            let (origin, position) = (literal(&subscription.origin), literal(&position.to_string()));
            server::query(
                &site.journal,
                &mut client,
                &format!("SELECT pg_replication_origin_advance({origin}, {position})"),
            )?;
        }
    }
    site.done(Step::Wired)
}

fn make_slot(site: &Site<'_>, client: &mut Client, slot: &str, subscription: &Subscription) -> Result<()> {
    let journal = &site.journal;
    let there = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = {}", literal(slot));
    if server::value(journal, client, &there)? != "0" {
        return Ok(());
    }
    let name = literal(slot);
    let make = match journal.seen.as_ref().and_then(|seen| seen.slot.as_ref()) {
        Some(saved) => {
            format!("SELECT pg_copy_logical_replication_slot({}, {name}, false, 'pgoutput')", literal(&saved.name))
        }
        // Of a drained point: nothing is in flight that a new slot would miss.
        None => format!("SELECT pg_create_logical_replication_slot({name}, 'pgoutput', false)"),
    };
    server::query(journal, client, &make)?;
    if subscription.two_phase {
        make_two_phase(site, client, &name, subscription)?;
    }
    if subscription.failover {
        make_failover(site, slot);
    }
    Ok(())
}

/// Copies lose it. Decoding that is asked for it gives it back, from where the slot then stands: what was prepared before is sent whole
/// when it is committed. The subscriber's copies of that are rolled back, see `wire`.
fn make_two_phase(site: &Site<'_>, client: &mut Client, name: &str, subscription: &Subscription) -> Result<()> {
    let position = format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = {name}");
    let at: Lsn = server::value(&site.journal, client, &position)?.parse().unwrap_or_default();
    if at < subscription.applied {
        let to = literal(&subscription.applied.to_string());
        server::query(&site.journal, client, &format!("SELECT pg_replication_slot_advance({name}, {to})"))?;
    }
    let peek = format!(
        "SELECT count(*) FROM pg_logical_slot_peek_binary_changes({name}, ({position}), 1, 'proto_version', '3', 'two_phase', 'on',
                'publication_names', (SELECT quote_ident(pubname) FROM pg_publication LIMIT 1))"
    );
    server::query(&site.journal, client, &peek).map(drop)
}

/// Copies of what providers had prepared: they are sent again, whole.
fn roll_back_copies(site: &Site<'_>, client: &mut Client, subscription: &Subscription) -> Result<()> {
    let copies = format!(
        "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, {})",
        literal(&format!("pg_gid_{}_", subscription.origin.trim_start_matches("pg_")))
    );
    for gid in server::query(&site.journal, client, &copies)?.into_iter().flatten().flatten() {
        server::query(&site.journal, client, &format!("ROLLBACK PREPARED {}", literal(&gid)))?;
    }
    Ok(())
}

/// Copies lose it, and only the replication protocol can give it back.
fn make_failover(site: &Site<'_>, slot: &str) {
    let journal = &site.journal;
    let altered = journal.paths().socket(&site.user).and_then(|folder| {
        let conninfo = format!(
            "host={} port={} user={} dbname={} replication=database",
            quoted(&folder.display().to_string()),
            journal.port,
            quoted(&journal.superuser),
            quoted(&journal.database)
        );
        let mut command = site.user.command(&journal.bin_folder.join("psql"));
        command.args(["-XAtq", "--no-password", "-d", &conninfo, "-c"]);
        command.arg(format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", identifier(slot)));
        Ok(program::run(command, || ())?)
    });
    if let Err(error) = altered {
        site.say(format!(
            "slot \"{slot}\" is no failover slot any more ({}): disable its subscription, ALTER SUBSCRIPTION … SET (failover = true), enable it",
            program::last_line(&error.to_string())
        ));
    }
}

fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// The settings of before, and everything that was kept from running.
fn open(site: &mut Site<'_>) -> Result<()> {
    if site.journal.step < Step::Settled {
        let paths = site.journal.paths();
        server::stop(&site.node.name, &site.journal.bin_folder, &site.journal.pgdata, &site.user)?;
        intents::ask_to_end(site)?;
        let own = fs::read(paths.settings()).map_err(Error::io("read", &paths.settings()))?;
        write_bytes(&site.journal.pgdata.join("postgresql.auto.conf"), &own, &site.user)?;
        remove_signals(&site.journal.pgdata);
        site.done(Step::Settled)?;
    }
    // Where it runs, nothing; it may have been killed since.
    cancel::open(site)?;
    if site.journal.step < Step::Open {
        site.say("open");
        site.done(Step::Open)?;
    }
    Ok(())
}

fn remove_signals(data: &Path) {
    for name in ["recovery.signal", "standby.signal"] {
        let _ = fs::remove_file(data.join(name));
    }
}
