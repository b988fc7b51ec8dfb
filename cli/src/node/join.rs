//! The new node opens, every peer subscribes to it, and everybody receives from everybody.

use std::fs;

use spock_recovery_cluster::client::literal;

use super::closed;
use super::error::{Error, Result};
use super::site::Site;
use super::wire;
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::Live;
use crate::restore::site::write_bytes;
use crate::restore::{server, verify};

/// The settings of the open node.
pub fn settle(site: &Site) -> Result<()> {
    closed::stop(site)?;
    let (data, paths) = (&site.journal.pgdata, site.journal.paths());
    let own = fs::read(paths.settings()).map_err(Error::io("read", &paths.settings()))?;
    write_bytes(&data.join("postgresql.auto.conf"), &own, &site.user)?;
    for signal in ["recovery.signal", "standby.signal"] {
        let _ = fs::remove_file(data.join(signal));
    }
    Ok(())
}

/// Where it runs, nothing; it may have been killed since.
pub fn open(site: &Site, dsn: &Conninfo) -> Result<Live> {
    let journal = &site.journal;
    server::open(journal, &site.user, &journal.options, &journal.log)?;
    Ok(verify::meet(&journal.name, dsn)?)
}

/// Each begins where its slot does, before anybody could write on the new node.
pub fn join(site: &Site, dsn: &Conninfo) -> Result<()> {
    let mut mesh = site.mesh()?;
    for link in &site.journal.links {
        let live = mesh.node(&link.peer)?;
        let there =
            format!("SELECT count(*) FROM pg_subscription WHERE subname = {}", literal(&link.their_subscription));
        if live.value(&there)? == "0" {
            let [statement, shown] =
                wire::create_subscription(&link.their_subscription, dsn, &link.their_slot, &link.their_terms);
            live.query_secret(&statement, &shown)?;
        }
    }
    Ok(())
}

/// Healthy everywhere, and what each has written until now is everywhere.
pub fn verify(site: &Site, new: Live) -> Result<()> {
    let mut nodes = site.mesh()?.nodes;
    nodes.push(new);
    let mut findings = Vec::new();
    let step = site.screen.spinner("every node finds out who the new one is");
    for live in &mut nodes {
        verify::health(live, &site.screen, &mut findings)?;
    }
    drop(step);
    let step = site.screen.spinner("what was written until now arrives");
    verify::drain(&mut nodes)?;
    drop(step);
    findings.iter().for_each(|finding| site.screen.line(finding));
    match findings.len() {
        0 => Ok(()),
        count => Err(Error::Findings(count)),
    }
}
