//! What a replaced node has left on the others is removed, once its loss is recovered on all of them.

use spock_recovery_cluster::client::{identifier, literal};

use super::error::{Error, Result};
use super::facts::Facts;
use super::mesh::Mesh;
use super::providers;
use super::site::Site;
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::Live;

/// A line for each survivor that lacks something of the lost node, or of which nobody knows it, with what to do.
pub fn unrecovered(mesh: &mut Mesh, old: &str) -> Result<Vec<String>> {
    let alone = mesh.nodes.len() == 1;
    let source = mesh.source()?;
    let known = format!("SELECT count(*) FROM spock.node WHERE node_name = {} AND NOT is_local", literal(old));
    if source.value(&known)? == "0" {
        return Ok(Vec::new());
    }
    let plan = format!("SELECT target_node, outcome, reason FROM spock.recover_plan({})", literal(old));
    let mut findings = Vec::new();
    for row in source.query(&plan)? {
        let [Some(target), outcome, reason] = row.as_slice() else { continue };
        let reason = reason.as_deref().unwrap_or("no reason");
        match outcome.as_deref() {
            Some("zero_gap") => {}
            // Nobody else is left who could have more.
            None if alone && reason == "no_source" => {}
            Some("catch_up") => findings.push(format!(
                "node \"{target}\" lacks what another node has of node \"{old}\": run CALL spock.recover_failed_node({}, verb := true) on node \"{}\" first",
                literal(old),
                source.name()
            )),
            Some(outcome) => findings.push(format!(
                "what node \"{target}\" lacks of node \"{old}\" cannot be replayed ({outcome}, {reason}): what to do about that is in the \
                 reference, docs/reference/reasons.md; CALL spock.rebuild_run(target_node_name := {}, verb := true) rebuilds its tables",
                literal(target)
            )),
            None => findings.push(format!(
                "nobody knows what node \"{target}\" lacks of node \"{old}\" ({reason}): SELECT * FROM spock.recover_plan({}) on node \"{}\" \
                 must have an outcome for it",
                literal(old),
                source.name()
            )),
        }
    }
    Ok(findings)
}

/// On every node, the living one last: it is the one that is asked who the others are.
pub fn clear(site: &Site, dsn: &Conninfo) -> Result<()> {
    let Some(old) = site.journal.replaces.as_deref() else { return Ok(()) };
    let mut mesh = site.mesh()?;
    mesh.nodes.reverse();
    for live in &mut mesh.nodes {
        clear_node(site, live, old)?;
        // At once: from here on the connection string of a node of the same name is known here.
        providers::make_known(site, live, dsn)?;
    }
    site.say(format!("node \"{old}\" is out of the mesh"));
    Ok(())
}

fn clear_node(site: &Site, live: &mut Live, old: &str) -> Result<()> {
    for subscription in Facts::ask(live)?.to(old) {
        let name = identifier(&subscription.name);
        live.query(&format!("ALTER SUBSCRIPTION {name} DISABLE"))?;
        live.query(&format!("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"))?;
        live.query(&format!("DROP SUBSCRIPTION {name}"))?;
    }
    if let Some(slot) = site.journal.old_slots.get(live.name()) {
        drop_slot(live, slot)?;
    }
    live.query(&format!("SELECT spock.node_drop({}, true)", literal(old)))?;
    Ok(())
}

/// Does nothing where there is none.
pub fn drop_slot(live: &mut Live, slot: &str) -> Result<()> {
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = {}", literal(slot));
    match live.value(&active)?.as_str() {
        "t" => Err(Error::SlotInUse { slot: slot.to_owned(), node: live.name().to_owned() }),
        "f" => Ok(live.query(&format!("SELECT pg_drop_replication_slot({})", literal(slot))).map(drop)?),
        _ => Ok(()),
    }
}
