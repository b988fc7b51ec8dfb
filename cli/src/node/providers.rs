//! What every living node keeps for the new one, before its base backup begins: a slot, and by its recovery slot what others may lose.

use std::thread;
use std::time::Duration;

use spock_recovery_cluster::client::literal;

use super::error::{Error, Result};
use super::journal::Link;
use super::site::Site;
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::Live;
use crate::lsn::Lsn;
use crate::restore::server::Watch;

const LOOK: Duration = Duration::from_millis(100);

/// The new node as a peer: one that has not answered yet holds the recovery slots, so that it can be recovered as soon as it is there.
pub fn make_known(site: &Site, live: &mut Live, dsn: &Conninfo) -> Result<()> {
    let name = literal(&site.journal.name);
    if live.value(&format!("SELECT count(*) FROM spock.node WHERE node_name = {name}"))? == "0" {
        let [statement, shown] =
            [dsn.secret(), dsn.to_string()].map(|dsn| format!("SELECT spock.peer_create({name}, {})", literal(&dsn)));
        live.query_secret(&statement, &shown)?;
    }
    Ok(())
}

/// A slot on every provider; creating one waits for the transactions that run there.
pub fn make_slots(site: &mut Site, dsn: &Conninfo) -> Result<()> {
    let mut mesh = site.mesh()?;
    for at in 0..site.journal.links.len() {
        let link = site.journal.links[at].clone();
        let live = mesh.node(&link.peer)?;
        make_known(site, live, dsn)?;
        let step = site
            .screen
            .spinner(format!("slot \"{}\" on {}, which waits for running transactions", link.slot, link.peer));
        let begins = make_slot(live, &link)?;
        drop(step);
        site.say(format!("slot \"{}\" on node \"{}\" begins at {begins}", link.slot, link.peer));
        site.journal.links[at].begins = Some(begins);
    }
    Ok(())
}

fn make_slot(live: &mut Live, link: &Link) -> Result<Lsn> {
    let name = literal(&link.slot);
    let state = format!("SELECT confirmed_flush_lsn, active FROM pg_replication_slots WHERE slot_name = {name}");
    loop {
        match live.query(&state)?.first().map(Vec::as_slice) {
            None => {
                let failover = link.terms.failover;
                live.query(&format!(
                    "SELECT pg_create_logical_replication_slot({name}, 'pgoutput', false, false, {failover})"
                ))?;
            }
            Some([Some(begins), Some(active)]) if active == "f" => return Ok(begins.parse().unwrap_or_default()),
            // A session whose client was killed is still at it.
            Some(_) => thread::sleep(LOOK),
        }
    }
}

/// Waits until the living node has applied each provider beyond where the new node's slot begins: what lies before that must be in the
/// base backup.
pub fn pass(site: &Site) -> Result<()> {
    let mut mesh = site.mesh()?;
    for link in &site.journal.links {
        let (Some(inherited), Some(begins)) = (&link.inherited, link.begins) else { continue };
        let slot = format!("SELECT subslotname FROM pg_subscription WHERE subname = {}", literal(inherited));
        let slot = mesh.source()?.value(&slot)?;
        let provider = mesh.node(&link.peer)?;
        // What an idle node keeps to itself would move nobody.
        provider.query("SELECT pg_logical_emit_message(true, 'spockctl', '')")?;
        let step = site.screen.spinner(format!("{} passes {begins} of {}", site.journal.source, link.peer));
        let confirmed =
            format!("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = {}", literal(&slot));
        let mut watch = Watch::new();
        loop {
            let at: Lsn = provider.value(&confirmed)?.parse().unwrap_or_default();
            if at >= begins {
                break;
            }
            if !watch.moves(at.to_string()) {
                return Err(Error::StandsStill {
                    node: site.journal.source.clone(),
                    provider: link.peer.clone(),
                    subscription: inherited.clone(),
                    wanted: begins.to_string(),
                    at: at.to_string(),
                });
            }
            thread::sleep(LOOK);
        }
        drop(step);
    }
    // What was applied is on the living node's disk, and so in a backup that begins now.
    let source = mesh.source()?;
    source.query("SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'spockctl', ''); RESET synchronous_commit")?;
    Ok(())
}
