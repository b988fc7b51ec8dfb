//! Recoveries and rebuilds that were under way at the moment to which a node was restored. Their workers would go on as if nothing had
//! happened since, so that they are told to end them before any worker runs.

use std::time::Duration;

use postgres::Client;
use spock_recovery_cluster::client::{Rows, literal};
use spock_recovery_cluster::deadline;

use super::error::Result;
use super::finish::end_recovery;
use super::journal::Journal;
use super::server;
use super::settings;
use super::site::Site;
use crate::backup::nodes::Live;
use crate::screen::Screen;

/// A rebuild has no failed node.
const UNFINISHED: &str = "SELECT DISTINCT failed_node FROM spock.recovery_intents() WHERE ended_at IS NULL ORDER BY 1";

/// How long the workers may take to end them.
const ENDED: Duration = Duration::from_secs(120);

/// Asks a paused node for them: the failed node of each.
pub fn look(journal: &Journal, client: &mut Client) -> Result<Vec<String>> {
    Ok(names(server::query(journal, client, UNFINISHED)?))
}

/// Tells the workers of a promoted node, which do not run yet, to end them. Its server is stopped afterwards.
///
/// The extension's functions need its library, and with the library come its workers: the server gets no place for any.
pub fn ask_to_end(site: &Site<'_>) -> Result<()> {
    let journal = &site.journal;
    if journal.seen.as_ref().is_none_or(|seen| seen.intents.is_empty()) {
        return Ok(());
    }
    let libraries = settings::with(&journal.libraries, settings::LIBRARY);
    let options = [site.close(Some(&libraries))?, server::arguments(&[("max_worker_processes", "0".into())])].concat();
    server::launch(journal, &site.user, &options, &journal.paths().log())?;
    let mut client = end_recovery(site)?;
    for failed in look(journal, &mut client)? {
        let ask = match failed.as_str() {
            "" => "SELECT spock_internal.ask_to_abort_rebuild()".to_owned(),
            failed => format!("SELECT spock_internal.ask_to_abort({})", literal(failed)),
        };
        server::query(journal, &mut client, &ask)?;
    }
    drop(client);
    server::stop(&site.node.name, &journal.bin_folder, &journal.pgdata, &site.user)
}

/// Waits until the workers of the open node have ended them, and says so.
pub fn await_end(live: &mut Live, journal: &Journal, screen: &Screen) -> Result<()> {
    let asked = journal.seen.as_ref().map(|seen| seen.intents.as_slice()).unwrap_or_default();
    if asked.is_empty() {
        return Ok(());
    }
    let mut left = Vec::new();
    let ended = deadline::poll(ENDED, || match live.query(UNFINISHED) {
        Ok(rows) => {
            left = names(rows);
            (!left.iter().any(|failed| asked.contains(failed))).then_some(Ok(()))
        }
        Err(error) => Some(Err(error)),
    });
    ended.transpose()?;
    for failed in asked {
        let what = match failed.as_str() {
            "" => "the rebuild".to_owned(),
            failed => format!("the recovery for node \"{failed}\""),
        };
        let end = match left.contains(failed) {
            true => "is not ended yet: SELECT phase, error FROM spock.recovery_intents() tells why",
            false => "is aborted: restored",
        };
        screen.line(format!("{}: {what} that was under way at that moment {end}", live.name()));
    }
    Ok(())
}

fn names(rows: Rows) -> Vec<String> {
    rows.into_iter().flatten().flatten().collect()
}
