//! Who has how much of whom: what each node of a cluster says of itself, and of one that does not answer what others last heard.

use std::collections::BTreeMap;

use postgres::types::PgLsn;
use spock_recovery_cluster::client;

use crate::cluster::DATABASE;
use crate::error::Result;
use crate::record::Kept;
use crate::screen::Screen;
use crate::table;

/// A node that hangs keeps nobody waiting longer.
const PATIENCE: &str = "-c statement_timeout=5s";

const OWN: &str = "SELECT origin_node, applied_lsn FROM spock.node_positions() WHERE applied_lsn IS NOT NULL";
const HEARD: &str = "SELECT receiver_name, origin_name, commit_lsn FROM spock.lag_tracker WHERE commit_lsn IS NOT NULL";
const SLOT: &str = "SELECT CASE WHEN active THEN pg_size_pretty(retained_bytes) ELSE 'none' END,
       coalesce(blocked_reason, '-') FROM spock.get_recovery_slot_status()";
const HEALTH: &str = "SELECT count(*) FROM spock.quick_health_check() WHERE status <> 'HEALTHY'";
const SUSPENDED: &str = "SELECT sub_name FROM spock.subscription WHERE sub_rescue_suspended ORDER BY sub_name";
const RECOVERIES: &str = "SELECT format('recovers node \"%s\" from node \"%s\": %s, %s transactions, %s', failed_node, source_node,
       phase, transactions, coalesce('at ' || current_lsn || ' of ' || stop_lsn, 'not begun')) FROM spock.recovery_progress";

/// A position, and whether the node itself has said it just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    lsn: PgLsn,
    is_own: bool,
}

/// By receiver and origin.
type Positions = BTreeMap<(String, String), Position>;

/// What one node answered.
#[derive(Debug, Default)]
struct Answer {
    slot: String,
    blocked: String,
    findings: String,
    own: Vec<(String, PgLsn)>,
    heard: Vec<(String, String, PgLsn)>,
    stories: Vec<String>,
}

pub fn show(screen: &Screen, kept: &Kept) {
    screen.line(format!("{} in {}, database {DATABASE}", kept.record.version, kept.folder.display()));
    let mut nodes = vec![row(["node", "port", "state", "its slot keeps", "held by", "health findings"])];
    let mut positions = Positions::new();
    let mut stories = Vec::new();
    for (name, port) in &kept.record.nodes {
        let port_text = port.to_string();
        if kept.postmaster(name).is_none() {
            nodes.push(row([name.as_str(), &port_text, "down", "-", "-", "-"]));
            continue;
        }
        match ask(kept, name, *port) {
            Ok(answer) => {
                nodes.push(row([
                    name.as_str(),
                    &port_text,
                    "running",
                    &answer.slot,
                    &answer.blocked,
                    &answer.findings,
                ]));
                stories.extend(answer.stories.iter().map(|story| format!("  {name} {story}")));
                note(&mut positions, name, &answer);
            }
            Err(error) => {
                nodes.push(row([name.as_str(), &port_text, "no answer", "-", "-", "-"]));
                stories.push(format!("  {name}: {error}"));
            }
        }
    }
    table::lines(&nodes).into_iter().for_each(|line| screen.line(line));
    let names: Vec<&str> = kept.record.nodes.iter().map(|(name, _)| name.as_str()).collect();
    screen.line("how far each node (column) has applied each origin (row), and how many bytes of its WAL it is behind the furthest:");
    table::lines(&matrix(&names, &positions)).into_iter().for_each(|line| screen.line(line));
    if positions.values().any(|position| !position.is_own) {
        screen.line("  ( ): the node does not answer; what another one last heard of it");
    }
    stories.into_iter().for_each(|story| screen.line(story));
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}

fn ask(kept: &Kept, name: &str, port: u16) -> Result<Answer> {
    let mut client = client::connect(name, kept.config(port).options(PATIENCE))?;
    let mut ask = |statement: &str| -> Result<Vec<Vec<String>>> {
        let rows = client::query(name, &mut client, statement)?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect())
    };
    let mut answer = Answer { slot: "none".into(), blocked: "-".into(), ..Answer::default() };
    if let [row] = ask(SLOT)?.as_slice()
        && let [keeps, reason] = row.as_slice()
    {
        (answer.slot, answer.blocked) = (keeps.clone(), reason.clone());
    }
    answer.findings = ask(HEALTH)?.into_iter().flatten().collect();
    for row in ask(OWN)? {
        if let [origin, lsn] = row.as_slice()
            && let Ok(lsn) = lsn.parse()
        {
            answer.own.push((origin.clone(), lsn));
        }
    }
    for row in ask(HEARD)? {
        if let [receiver, origin, lsn] = row.as_slice()
            && let Ok(lsn) = lsn.parse()
        {
            answer.heard.push((receiver.clone(), origin.clone(), lsn));
        }
    }
    answer.stories = ask(RECOVERIES)?.into_iter().flatten().collect();
    answer.stories.extend(
        ask(SUSPENDED)?
            .into_iter()
            .flatten()
            .map(|name| format!("keeps subscription {name} suspended after a recovery")),
    );
    Ok(answer)
}

/// What a node says of itself wins over what others have heard of it; among those the furthest is the latest.
fn note(positions: &mut Positions, name: &str, answer: &Answer) {
    for (origin, lsn) in &answer.own {
        positions.insert((name.to_owned(), origin.clone()), Position { lsn: *lsn, is_own: true });
    }
    for (receiver, origin, lsn) in answer.heard.iter().filter(|(receiver, ..)| receiver != name) {
        let known = positions.entry((receiver.clone(), origin.clone()));
        let known = known.or_insert(Position { lsn: *lsn, is_own: false });
        if !known.is_own {
            known.lsn = known.lsn.max(*lsn);
        }
    }
}

fn matrix(names: &[&str], positions: &Positions) -> Vec<Vec<String>> {
    let mut rows = vec![[""].iter().chain(names).map(|&name| name.to_owned()).collect::<Vec<String>>()];
    for origin in names {
        let of = |receiver: &str| positions.get(&(receiver.to_owned(), (*origin).to_owned())).copied();
        let furthest = names.iter().filter_map(|receiver| of(receiver)).map(|position| u64::from(position.lsn)).max();
        let mut cells = vec![format!("of {origin}")];
        cells.extend(names.iter().map(|receiver| match of(receiver) {
            None => "-".to_owned(),
            Some(position) => {
                let behind = match furthest.map(|furthest| furthest - u64::from(position.lsn)) {
                    None | Some(0) => String::new(),
                    Some(bytes) => format!(" -{bytes}"),
                };
                let text = format!("{}{behind}", position.lsn);
                if position.is_own { text } else { format!("({text})") }
            }
        }));
        rows.push(cells);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::{Answer, Positions, matrix, note};

    #[test]
    fn the_gap_is_counted_to_the_furthest_and_own_words_win_over_hearsay() {
        let mut positions = Positions::new();
        let heard =
            vec![("n2".to_owned(), "n1".to_owned(), 0x50.into()), ("n1".to_owned(), "n2".to_owned(), 0x10.into())];
        note(&mut positions, "n3", &Answer { own: vec![("n1".into(), 0x90.into())], heard, ..Answer::default() });
        note(&mut positions, "n2", &Answer { own: vec![("n1".into(), 0x60.into())], ..Answer::default() });
        let rows = matrix(&["n1", "n2", "n3"], &positions);
        assert_eq!(rows[0], ["", "n1", "n2", "n3"]);
        assert_eq!(rows[1], ["of n1", "-", "0/60 -48", "0/90"]);
        assert_eq!(rows[2], ["of n2", "(0/10)", "-", "-"]);
    }
}
