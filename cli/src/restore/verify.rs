//! What must hold once all nodes are open: nothing is in flight, the same rows everywhere, and a healthy extension.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use spock_recovery_cluster::client::{identifier, literal};

use super::check::Ground;
use super::error::{Error, Result};
use super::intents;
use super::journal::Journal;
use super::plan;
use super::points::Points;
use super::server::Watch;
use super::target::Moment;
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::{Live, Registered};
use crate::backup::take::size;
use crate::lsn::Lsn;
use crate::screen::Screen;

const LOOK: Duration = Duration::from_millis(200);

/// How long workers, pollers and slots may take until the health check has nothing to say.
const HEALTH: Duration = Duration::from_secs(120);

/// Rows of that many bytes are read on every node; more takes longer than somebody wants to wait for a restore's end.
const COMPARED: u64 = 2 << 30;

/// How often tables are compared that differ: they may be written.
const TRIES: u32 = 3;

pub fn all(ground: &Ground, journals: &BTreeMap<String, Journal>, screen: &Screen) -> Result<()> {
    let mut nodes = Vec::new();
    for node in ground.repository.nodes().iter().filter(|node| journals.contains_key(&node.name)) {
        nodes.push(meet(&node.name, &Conninfo::parse(&node.dsn)?)?);
    }
    let mut findings = Vec::new();
    for live in &mut nodes {
        if let Some(journal) = journals.get(live.name()) {
            intents::await_end(live, journal, screen)?;
        }
        let prepared = live.query("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")?;
        let prepared: Vec<String> = prepared.into_iter().flatten().flatten().collect();
        if !prepared.is_empty() {
            screen.line(format!(
                "{}: prepared transactions wait as they did then: {}",
                live.name(),
                prepared.join(", ")
            ));
        }
    }
    let step = screen.spinner("what was in flight arrives");
    drain(&mut nodes)?;
    drop(step);
    screen.line("every node has passed every other one: nothing is in flight");
    note_point(ground, journals, &mut nodes, screen);
    compare(&mut nodes, screen, &mut findings)?;
    for live in &mut nodes {
        health(live, screen, &mut findings)?;
    }
    match findings.is_empty() {
        true => Ok(()),
        false => Err(Error::Verification(findings.join("; "))),
    }
}

/// Somebody may have to authenticate anew, and the server has just been started.
pub fn meet(name: &str, conninfo: &Conninfo) -> Result<Live> {
    let registered = Registered { name: name.to_owned(), conninfo: conninfo.clone() };
    let begun = Instant::now();
    loop {
        match Live::meet(&registered) {
            Ok(live) => return Ok(live),
            Err(error) if begun.elapsed() > super::server::ANSWERS => return Err(error.into()),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// At the moment of a point, the lists of its nodes do not say yet what has come of it.
fn note_point(ground: &Ground, journals: &BTreeMap<String, Journal>, nodes: &mut [Live], screen: &Screen) {
    let Some(Moment::Point(name)) = journals.values().next().map(|journal| &journal.moment) else { return };
    let nobody = Err("it was restored".to_owned());
    let noted = |node| plan::known(&ground.repository, node, &nobody).map(|facts| facts.points);
    let lists: Vec<String> = ground.repository.nodes().iter().filter_map(noted).collect();
    let Some(words) = Points::words_of(lists.iter().map(String::as_str), name) else { return };
    let argument = format!(r#"{{"point":{words},"kept":{}}}"#, u32::MAX);
    let record = format!("SELECT spock_internal.restore_point_step('record'::text, {}::text)", literal(&argument));
    for live in nodes {
        if let Err(error) = live.query(&record) {
            screen.line(format!("{}: its list says of the restore point that it is loose: {error}", live.name()));
        }
    }
}

/// What every provider has written until now has arrived at every enabled subscription.
pub fn drain(nodes: &mut [Live]) -> Result<()> {
    let mut ends = BTreeMap::new();
    for live in nodes.iter_mut() {
        live.query("SELECT pg_logical_emit_message(true, 'spockctl', '')")?;
        ends.insert(live.name().to_owned(), live.value("SELECT pg_current_wal_flush_lsn()")?);
    }
    let mut waited: BTreeSet<(String, String)> = BTreeSet::new();
    for live in nodes.iter_mut() {
        let slots =
            "SELECT n.node_name, s.subslotname FROM pg_subscription s JOIN spock.subscription v ON v.sub_id = s.oid
                       JOIN spock.node n ON n.node_id = v.sub_origin WHERE s.subenabled AND s.subslotname IS NOT NULL";
        for row in live.query(slots)? {
            if let [Some(provider), Some(slot)] = row.as_slice() {
                waited.insert((provider.clone(), slot.clone()));
            }
        }
    }
    let mut watch = Watch::new();
    loop {
        let (mut seen, mut behind) = (String::new(), Vec::new());
        for live in nodes.iter_mut() {
            let end: Lsn = ends.get(live.name()).and_then(|end| end.parse().ok()).unwrap_or_default();
            let rows = live
                .query("SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE slot_type = 'logical'")?;
            let confirmed: BTreeMap<String, Lsn> = rows
                .into_iter()
                .filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.as_ref()?.parse().ok()?)))
                .collect();
            for (_, slot) in waited.iter().filter(|(provider, _)| *provider == live.name()) {
                let at = confirmed.get(slot).copied().unwrap_or_default();
                if at < end {
                    seen.push_str(&at.to_string());
                    behind.push(format!("slot \"{slot}\" of node \"{}\" is at {at} and not at {end}", live.name()));
                }
            }
        }
        if behind.is_empty() {
            return Ok(());
        }
        if !watch.moves(seen) {
            return Err(Error::Verification(format!(
                "not everything arrives: {}; the servers' logs say why",
                behind.join("; ")
            )));
        }
        thread::sleep(LOOK);
    }
}

/// Schema and name of a table, and its published columns in order.
type Table = (String, String, Vec<String>);

fn tables(live: &mut Live) -> Result<BTreeSet<Table>> {
    let published = "SELECT DISTINCT p.schemaname, p.tablename, (SELECT string_agg(quote_ident(a), ',' ORDER BY a) FROM unnest(p.attnames) a)
                       FROM pg_publication_tables p WHERE p.rowfilter IS NULL";
    let rows = live.query(published)?;
    let table = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        let (schema, name, columns) = (row.next()??, row.next()??, row.next()??);
        Some((schema, name, vec![columns]))
    };
    Ok(rows.into_iter().filter_map(table).collect())
}

fn compare(nodes: &mut [Live], screen: &Screen, findings: &mut Vec<String>) -> Result<()> {
    let mut common: Option<BTreeSet<Table>> = None;
    for live in nodes.iter_mut() {
        let own = tables(live)?;
        common = Some(common.map_or(own.clone(), |common| common.intersection(&own).cloned().collect()));
    }
    let (mut compared, mut rows_compared) = (0, 0_u64);
    for table in common.unwrap_or_default() {
        match same(nodes, &table)? {
            Verdict::Same(rows) => (compared, rows_compared) = (compared + 1, rows_compared + rows),
            Verdict::Large(bytes) => screen.line(format!("{}.{}: {}, not compared", table.0, table.1, size(bytes))),
            Verdict::Written => screen.line(format!("{}.{}: is being written, not compared", table.0, table.1)),
            Verdict::Differs(how) => findings.push(format!("table {}.{} differs: {how}", table.0, table.1)),
        }
    }
    screen.line(format!("{rows_compared} rows in {compared} tables are the same on {} nodes", nodes.len()));
    Ok(())
}

enum Verdict {
    Same(u64),
    Large(u64),
    Written,
    Differs(String),
}

fn same(nodes: &mut [Live], (schema, name, columns): &Table) -> Result<Verdict> {
    let relation = format!("{}.{}", identifier(schema), identifier(name));
    let columns = columns.join(",");
    let bytes = format!("SELECT pg_table_size({}::regclass)", literal(&relation));
    let mut last = String::new();
    for attempt in 0..TRIES {
        let mut found = Vec::new();
        for live in nodes.iter_mut() {
            let bytes: u64 = live.value(&bytes)?.parse().unwrap_or(0);
            if bytes > COMPARED {
                return Ok(Verdict::Large(bytes));
            }
            live.query("SET datestyle = ISO; SET intervalstyle = postgres; SET timezone = 'UTC'; SET extra_float_digits = 1; SET bytea_output = hex")?;
            let sum = format!(
                "SELECT count(*) || ' rows, sum ' || coalesce(sum(hashtextextended(ROW({columns})::text, 0)), 0) FROM {relation}"
            );
            found.push((live.name().to_owned(), live.value(&sum)?));
        }
        if found.windows(2).all(|pair| pair[0].1 == pair[1].1) {
            let rows = found.first().and_then(|(_, text)| text.split(' ').next()?.parse().ok()).unwrap_or(0);
            return Ok(Verdict::Same(rows));
        }
        let text = found.iter().map(|(node, sum)| format!("{node} has {sum}")).collect::<Vec<_>>().join(", ");
        if attempt + 1 == TRIES && text != last {
            return Ok(Verdict::Written);
        }
        last = text;
        drain(nodes)?;
    }
    Ok(Verdict::Differs(last))
}

pub fn health(live: &mut Live, screen: &Screen, findings: &mut Vec<String>) -> Result<()> {
    let question = "SELECT check_name || ': ' || status || ': ' || details FROM spock.quick_health_check() WHERE status <> 'HEALTHY'";
    let begun = Instant::now();
    loop {
        let rows: Vec<String> = live.query(question)?.into_iter().flatten().flatten().collect();
        if rows.is_empty() {
            screen.line(format!("{}: spock.quick_health_check() finds everything HEALTHY", live.name()));
            return Ok(());
        }
        if begun.elapsed() > HEALTH {
            findings.extend(rows.iter().map(|row| format!("health check of node \"{}\": {row}", live.name())));
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}
